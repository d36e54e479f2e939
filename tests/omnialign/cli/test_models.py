"""`omnialign models`, and how local files get to a server that is elsewhere."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from omnialign.cli.uploads import is_loopback
from omnialign.client import Client


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"a": np.zeros((2, 3), np.float32)}, folder / "model.safetensors")
    return folder


def test_a_folder_of_this_machine_is_registered_where_it_is(run, model):
    result = run("models", "register", "base", model, "--json")
    assert json.loads(result.stdout)["uri"] == model.as_uri()


def test_a_folder_can_be_sent_and_fetched(run, model, tmp_path):
    sent = run("models", "register", "sent", model, "--upload")
    assert "6 parameters" in sent.stdout, sent.output
    fetched = run("models", "download", "sent", tmp_path / "fetched")
    assert fetched.exit_code == 0, fetched.output
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "fetched" / name).read_bytes() == (model / name).read_bytes()


def test_a_model_is_deleted_and_with_force_too_if_something_depends_on_it(run, model):
    run("models", "register", "unwanted", model)
    save_file({"a": np.ones((2, 3), np.float32)}, model / "model.safetensors")
    run("models", "register", "unwanted", model)
    run("models", "register", "derived", model, "--source", "projects/default/models/unwanted/versions/1")
    refused = run("models", "delete", "unwanted")
    assert (refused.exit_code, "HAS_DEPENDENTS" in refused.stderr) == (1, True)
    assert "models/derived/versions/1 depend on projects/default/models/unwanted" in refused.stderr
    assert run("models", "delete", "unwanted/2").stdout == "Deleted projects/default/models/unwanted/versions/2\n"
    assert run("models", "delete", "unwanted", "--force").stdout.count("Deleted") == 1
    gone = run("models", "show", "unwanted")
    assert "There is no projects/default/models/unwanted. [MODEL_VERSION_NOT_FOUND]" in gone.stderr


def test_a_model_of_a_job_that_has_not_ended_is_not_deleted_without_force(run, server, model):
    run("models", "register", "needed", model)
    job, name = "projects/default/alignmentJobs/needs", "projects/default/models/needed/versions/1"
    with Client(server.address) as client:
        client.begin_use(job, [name], ttl_seconds=60)
        assert f"alignmentJobs/needs depend on {name}" in run("models", "delete", "needed").stderr
        assert f"used by\t{job}" in run("models", "show", "needed").stdout
        client.end_use(job)
    assert run("models", "delete", "needed").exit_code == 0


def test_a_folder_that_is_not_there_is_one_sentence(run, tmp_path):
    result = run("models", "register", "base", tmp_path / "nowhere", "--upload")
    assert result.exit_code == 1
    assert "SOURCE_MISSING" in result.stderr


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:50051", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("grpcs://127.0.0.1:50051", True),
        ("omnialign.example:443", False),
        ("grpcs://omnialign.example:443", False),
        ("192.0.2.7:50051", False),
        ("dns:///omnialign:50051", False),
    ],
)
def test_only_loopback_is_this_machine(address, here):
    assert is_loopback(address) is here


def test_a_server_of_this_machine_that_may_not_read_the_folder_is_sent_the_files(run, model, monkeypatch):
    monkeypatch.setattr("omnialign.cli.uploads.SEEN", frozenset())
    monkeypatch.setattr("omnialign.cli.uploads.NOT_SEEN", frozenset({"SOURCE_EMPTY"}))
    result = run("models", "register", "forwarded", model, "--json")
    assert json.loads(result.stdout)["uri"] != model.as_uri(), result.output
