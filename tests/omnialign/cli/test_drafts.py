"""`omnialign annotate draft` and `drafts`, against the real service and a model that knows no form."""

import json

import pytest
import yaml

from omnialign.cli import annotation_form
from omnialign.client import Client
from omnialign.errors import InvalidArgument
from omnialign.v1.annotation_pb2 import ORIGIN_ACCEPTED, ORIGIN_REJECTED, Annotation, ModelDraft
from omnialign.v1.annotation_service_pb2 import Task
from tests.services.annotation.conftest import pair

ENDPOINT = "http://127.0.0.1:9/v1#judge"
"""Nobody asks there: the null services answer for any model."""


@pytest.fixture
def campaign(server, run, request):
    """A campaign of two pairs, named after the test."""
    name = request.node.name.replace("_", "-")[-40:].strip("-")
    with Client(server.address) as client:
        dataset = client.create_dataset(f"{name}-pairs")
        client.append_records(dataset.name, [pair(1), pair(2)])
        client.commit_version(dataset.name)
    made = run("annotate", "create", f"{name}-pairs", "--id", name)
    assert made.exit_code == 0, made.output
    return name


def test_a_model_drafts_and_its_job_is_watched_to_its_end(run, campaign):
    done = run("annotate", "draft", campaign, "--endpoint", ENDPOINT, "--id", f"{campaign}-d", "--watch")
    assert done.exit_code == 0, done.output
    assert "pairs: 2 of 2; 28 of 2,000,000 tokens used; 2 parts abstained" in done.output
    shown = json.loads(run("annotate", "drafts", "show", f"{campaign}-d", "--json").output)
    assert shown["spec"]["model"] == f"openai+{ENDPOINT}"
    items = [json.loads(line) for line in run("annotate", "items", campaign, "--json").output.splitlines()]
    found = [abstention["reason"] for item in items for abstention in item["drafts"][0]["abstentions"]]
    assert found == ["ANSWER_NOT_JSON"] * 2
    again = run("annotate", "draft", campaign, "--endpoint", ENDPOINT)
    assert again.exit_code == 1
    assert "DRAFTS_COMPLETE" in again.output
    assert f"{campaign}-d\tsucceeded\t{campaign}" in run("annotate", "drafts", "list").output
    assert run("annotate", "drafts", "delete", f"{campaign}-d").exit_code == 0
    assert run("annotate", "drafts", "show", f"{campaign}-d").exit_code == 1


def test_a_budget_is_given_and_an_ended_job_takes_no_other(run, campaign):
    job = f"{campaign}-d"
    made = run("annotate", "draft", campaign, "--endpoint", ENDPOINT, "--id", job, "--tokens", 1000, "--watch")
    assert "28 of 1,000 tokens used" in made.output
    refused = run("annotate", "drafts", "resume", job, "--tokens", 2000)
    assert refused.exit_code == 1
    assert "JOB_STATE" in refused.output
    assert f"{job} is succeeded" in run("annotate", "drafts", "cancel", job).output


def test_one_of_model_and_endpoint_is_given(run, campaign):
    for words in ((), ("--model", "a", "--endpoint", ENDPOINT)):
        refused = run("annotate", "draft", campaign, *words)
        assert refused.exit_code == 2
        assert "give one of --model and --endpoint" in refused.output
    unknown = run("annotate", "draft", campaign, "--model", "nobody@2")
    assert "models/nobody/versions/2" in unknown.output


def test_a_form_begins_with_a_draft_and_models_are_compared_with_people(run, server, campaign, tmp_path):
    """The null model says nothing that can be read, so the form begins empty and nothing agrees."""
    made = run("annotate", "draft", campaign, "--endpoint", ENDPOINT, "--id", f"{campaign}-d", "--start", "--watch")
    assert made.exit_code == 0, made.output
    shown = json.loads(run("annotate", "show", campaign, "--json").output)
    assert shown["start_from"] == f"openai+{ENDPOINT}"
    form_file = tmp_path / "form.yaml"
    assert run("annotate", "next", campaign, "--form", form_file, "--as", "ann").exit_code == 0
    assert "origins" not in form_file.read_text()
    said = run("annotate", "drafts", "agreement", campaign).output
    assert f"openai+{ENDPOINT}: 2 pairs, and it abstains on the better response of 2" in said
    (model,) = json.loads(run("annotate", "drafts", "agreement", campaign, "--json").output)["models"]
    assert model["draft_count"] in ("2", 2)


def test_the_form_of_a_started_task_asks_about_each_part_and_the_rest_can_be_accepted(tmp_path):
    drafted = Annotation(preferred=1, reason="because", draft_model="m", winners={"clarity": 1})
    task = Task(name="t", annotation=drafted, draft=ModelDraft(model="m", annotation=drafted))
    task.rubric.dimensions.add(name="clarity", description="Is it clear?")
    path = tmp_path / "form.yaml"
    annotation_form.write(path, task)
    assert "# It begins with a draft of m" in path.read_text()
    values = yaml.safe_load(path.read_text())
    assert values["origins"] == {"winner.clarity": None, "preferred": None, "reason": None}
    values["origins"]["reason"] = "rejected"
    path.write_text(yaml.safe_dump(values))
    _, _, annotation = annotation_form.read(path)
    assert (annotation.draft_model, dict(annotation.origins)) == ("m", {"reason": ORIGIN_REJECTED})
    annotation_form.accept_rest(annotation)
    accepted = {"winner.clarity": ORIGIN_ACCEPTED, "preferred": ORIGIN_ACCEPTED}
    assert dict(annotation.origins) == {"reason": ORIGIN_REJECTED, **accepted}
    values["origins"]["reason"] = "perhaps"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(InvalidArgument) as caught:
        annotation_form.read(path)
    assert caught.value.reason == "FORM_INVALID"
