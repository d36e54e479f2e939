"""Argilla's SDK, as it comes from PyPI, loads our datasets and writes them anew, and those come back."""

import json

import pytest

from omnialign import rubrics
from omnialign.client import Client
from tests.exchange.conftest import again

pytestmark = pytest.mark.exchange


@pytest.mark.parametrize("subtask", rubrics.SUBTASKS)
def test_a_dataset_that_argilla_loaded_and_wrote_anew_comes_back(server, run, campaign, script, tmp_path, subtask):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert run("annotate", "export", campaign.name, "--format", "argilla", "--output", ours).exit_code == 0
    theirs.mkdir()
    settings = json.loads(script("argilla", "argilla_sdk.py", ours / subtask, theirs).splitlines()[-1])
    assert "preferred" in settings["questions"] and settings["fields"]
    with Client(server.address) as client:
        before = {(item.record_id, a.annotator): a for item in client.list_items(campaign.name) for a in item.answers}
    again(server, campaign)
    done = run("annotate", "import", campaign.name, theirs)
    assert "Added 2 annotations; 0 were there already, 0 problems." in done.output
    with Client(server.address) as client:
        after = {(item.record_id, a.annotator): a for item in client.list_items(campaign.name) for a in item.answers}
    assert len(after) == 2
    for key, answer in after.items():
        assert answer == before[key]
    assert "2 were there already" in run("annotate", "import", campaign.name, theirs).output
