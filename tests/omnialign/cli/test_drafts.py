"""`omnialign annotate draft` and `drafts`, against the real service and a model that knows no form."""

import json

import pytest

from omnialign.client import Client
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
    assert "2 of 2 pairs; 28 of 2,000,000 tokens used; 2 parts abstained" in done.output
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
