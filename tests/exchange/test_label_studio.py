"""Label Studio's SDK and server, as they come from PyPI, take what we export, and what they give back comes back."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from omnialign import rubrics
from omnialign.client import Client
from tests.exchange.conftest import again, python_of
from tests.label_studio_server import EMAIL, LabelStudio, label_studio

pytestmark = pytest.mark.exchange


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    python_of("label-studio")
    with label_studio(tmp_path_factory.mktemp("studio")) as found:
        yield found


@pytest.fixture
def exported(run, campaign, tmp_path) -> Path:
    """The campaign, exported with links."""
    folder = tmp_path / "out"
    words = ("--format", "label-studio", "--media-base", "https://media.example.org")
    done = run("annotate", "export", campaign.name, folder, *words)
    assert done.exit_code == 0, done.output
    return folder


def answers(server, campaign):
    """All that was submitted, by record and annotator."""
    with Client(server.address) as client:
        return {(item.record_id, a.annotator): a for item in client.list_items(campaign.name) for a in item.answers}


def test_its_sdk_finds_configurations_tasks_and_annotations_valid(exported, script):
    found = json.loads(script("label-studio", "label_studio_sdk_check.py", exported))
    assert found["problems"] == []
    assert found["valid"] == dict.fromkeys(sorted(rubrics.SUBTASKS), 2)


@pytest.mark.slow
def test_what_its_server_imported_and_exported_comes_back(server, run, campaign, exported, studio, tmp_path):
    before = answers(server, campaign)
    again(server, campaign)
    for subtask in rubrics.SUBTASKS:
        project = studio.project(subtask, (exported / f"{subtask}.xml").read_text())
        done = studio.load(project, json.loads((exported / f"{subtask}.json").read_text()))
        assert (done["task_count"], done["annotation_count"]) == (1, 2)
        path = tmp_path / f"project-{subtask}.json"
        path.write_text(json.dumps(studio.export(project)))
        back = run("annotate", "import", campaign.name, path)
        assert "Added 2 annotations; 0 were there already, 0 problems." in back.output
        assert "2 were there already" in run("annotate", "import", campaign.name, path).output
    after = answers(server, campaign)
    assert after.keys() == before.keys()
    for key, answer in after.items():
        assert (answer.answer_time, answer.annotation.reason) == (
            before[key].answer_time,
            before[key].annotation.reason,
        )


@pytest.mark.slow
def test_what_somebody_annotated_there_is_submitted_here_as_theirs(server, run, campaign, exported, studio, tmp_path):
    """Through its interface for programs; make bench-people does it in a browser."""
    again(server, campaign)
    (task,) = json.loads((exported / "ti2t.json").read_text())
    annotation = task["annotations"].pop()
    task["annotations"] = []
    project = studio.project("fresh", (exported / "ti2t.xml").read_text())
    studio.load(project, [task])
    (there,) = studio.export(project)
    studio.call("POST", f"/api/tasks/{there['id']}/annotations", {"result": annotation["result"], "lead_time": 9.5})
    path = tmp_path / "fresh.json"
    path.write_text(json.dumps(studio.export(project)))
    (number,) = {str(one["completed_by"]) for one in studio.export(project)[0]["annotations"]}
    done = run("annotate", "import", campaign.name, path, "--annotator", f"{number}={EMAIL}")
    assert "Added 1 annotations" in done.output
    ((_, annotator),) = answers(server, campaign)
    assert annotator == EMAIL


@pytest.mark.slow
def test_its_server_refuses_a_configuration_with_a_tag_too_many(exported, studio):
    """It checks what it is given, so that what it took above means something."""
    config = (exported / "t2t.xml").read_text().replace('toName="pair"', 'toName="elsewhere"', 1)
    with pytest.raises(AssertionError, match="elsewhere"):
        studio.project("broken", config)
