"""A training job among services that want TLS both ways and tokens: what it may do with its own, and nothing else."""

import json

import pytest
import yaml

from omnialign.client import AsyncClient
from omnialign.errors import NotFound, PermissionDenied
from omnialign.v1.training_service_pb2 import TrainingJob, TrainingProgress
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.auth.tokens import digest
from services.runtime.config import ServerConfig
from services.runtime.connections import ClientConfig
from services.runtime.server import Server
from services.training.__main__ import wire
from services.training.config import TrainingConfig
from tests.certificates import Authority

PROGRAM = """
from omnialign.client import Client
from omnialign.errors import OmnialignError
from omnialign.v1.training_service_pb2 import TrainingProgress
from training.client import connection_of

def tried(call):
    try:
        call()
    except OmnialignError as error:
        return error.reason
    return ""

with Client(spec["training_address"], **connection_of(spec["job"], token=spec["token"])) as client:
    told = {
        "report": tried(lambda: client.report_progress(spec["job"], TrainingProgress(completed_steps=1))),
        "report for another": tried(lambda: client.report_progress(spec["job"] + "0", TrainingProgress())),
        "dataset": tried(lambda: list(client.stream_records(spec["dataset"]))),
        "its size": tried(lambda: client.get_dataset(spec["dataset"])),
        "another size": tried(lambda: client.get_dataset(spec["dataset"] + "0")),
        "another dataset": tried(lambda: list(client.stream_records(spec["dataset"] + "0"))),
        "model": tried(lambda: client.get_model_version("projects/demo/models/base/versions/1")),
        "another model": tried(lambda: client.get_model_version("projects/demo/models/base/versions/2")),
        "jobs": tried(lambda: list(client.list_training_jobs())),
        "write": tried(lambda: client.create_dataset("mine")),
    }
(output / "told.json").write_text(json.dumps(told))
finish()
"""


async def test_a_jobs_token_opens_its_own_doors_alone(tmp_path, spec, program, monkeypatch):
    ca = Authority(tmp_path / "ca")
    pair, mine = ca.issue("server"), ca.issue("client")
    names = ("root", "submitter", "stranger", "service")
    roles = ({"*": "admin"}, {"demo": "submitter"}, {"elsewhere": "admin"}, {"*": "service"})
    entries = [{"name": n, "sha256": digest(n), "roles": r} for n, r in zip(names, roles, strict=True)]
    for name, text in (("tokens", yaml.safe_dump({"tokens": entries})), ("key", "k" * 40), ("own", "service")):
        (tmp_path / name).write_text(text)
    peers = ClientConfig(ca.file, mine.certificate, mine.key, token_file=tmp_path / "own")
    for field in ("ca_file", "certificate_file", "key_file"):  # the process of the job finds them in its environment
        monkeypatch.setenv(f"OMNIALIGN_PEER_{field.upper()}", str(getattr(peers, field)))
    server = Server(
        ServerConfig(tls_certificate_file=pair.certificate, tls_key_file=pair.key, tls_client_ca_file=ca.file),
        name="test",
        auth=AuthConfig(tokens_file=tmp_path / "tokens", job_key_file=tmp_path / "key"),
        clients=peers,
    )
    config = TrainingConfig(root=tmp_path / "training", command=program(PROGRAM), poll_seconds=0.05)
    how = {"project": "demo", "ca_file": ca.file, "certificate_file": mine.certificate, "key_file": mine.key}
    async with wire_data(server, DataConfig(root=tmp_path / "data")), wire(server, config):
        await server.start()
        server.set_serving()
        async with (
            AsyncClient(server.address, token="root", **how) as root,
            AsyncClient(server.address, token="submitter", **how) as submitter,
            AsyncClient(server.address, token="stranger", **how) as stranger,
        ):
            with pytest.raises(PermissionDenied) as caught:
                await submitter.register_model("base", spec.base_model)
            assert caught.value.reason == "LOCATION_FORBIDDEN"
            spec.base_model = (await root.register_model("base", spec.base_model)).name
            spec.dataset = (await submitter.create_dataset("pairs")).name
            created = await submitter.create_training_job("tune", spec)
            with pytest.raises(NotFound):
                await stranger.cancel_training_job(created.name)
            with pytest.raises(PermissionDenied):
                await submitter.report_progress(created.name, TrainingProgress())
            events = [event async for event in submitter.watch_training_job(created.name)]
            job = events[-1].training_job
            assert job.state == TrainingJob.STATE_SUCCEEDED, job
            assert job.model == "projects/demo/models/aligned/versions/1"
        await server.stop(0)
    told = json.loads(next((tmp_path / "training").rglob("told.json")).read_text())
    assert told == {
        "report": "",
        "report for another": "NOT_FOUND",
        "dataset": "",
        "its size": "",
        "another size": "NOT_FOUND",
        "another dataset": "NOT_FOUND",
        "model": "",
        "another model": "NOT_FOUND",
        "jobs": "NOT_FOUND",
        "write": "NOT_FOUND",
    }
