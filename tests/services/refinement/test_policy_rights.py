"""A training job opens, updates and asks policies of its project with its own token."""

import hashlib

import pytest
import yaml

from omnialign.client import AsyncClient
from omnialign.errors import NotFound, PermissionDenied
from services.inference.config import EngineConfig
from services.inference.factory import open_engine
from services.refinement.__main__ import RefinementConfig, wire
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.auth.tokens import JobTokens
from services.runtime.config import ServerConfig
from services.runtime.connections import ClientConfig
from services.runtime.server import Server
from tests.services.inference import model_factory
from tests.services.refinement.test_policies import answers, folder_of

JOB = "projects/demo/trainingJobs/mine"


@pytest.fixture
async def server(tmp_path):
    """The refinement service behind tokens; models are folders, so that it needs no other service."""
    roles = {"reader": {"demo": "reader"}, "peer": {"*": "service"}}
    entries = [{"name": n, "sha256": hashlib.sha256(n.encode()).hexdigest(), "roles": r} for n, r in roles.items()]
    tokens, key, own = tmp_path / "tokens.yaml", tmp_path / "job.key", tmp_path / "own"
    tokens.write_text(yaml.safe_dump({"tokens": entries}))
    key.write_text("k" * 40)
    own.write_text("peer")  # with which it calls its replicas, itself among them
    auth = AuthConfig(tokens_file=tokens, job_key_file=key)
    found = Server(ServerConfig(), name="guarded", auth=auth, clients=ClientConfig(token_file=own))
    address, config = found.bind(), EngineConfig(threads=1, policy_folder=tmp_path / "policies")
    async with (
        open_engine(found, config, data_address=address) as engine,
        wire(found, RefinementConfig(address, policy_replicas=(address,)), engine=engine),
    ):
        await found.start()
        found.set_serving()
        yield found
        await found.stop(0)


async def test_a_job_trains_a_policy_of_its_project_and_a_reader_only_looks(server, tmp_path):
    base = model_factory.random_model(tmp_path / "base")
    trained = model_factory.random_model(tmp_path / "trained", seed=1)
    token = JobTokens(tmp_path / "job.key").make(JOB, inputs=[base], lifetime_seconds=60)
    async with (
        AsyncClient(server.address, project="demo", token=token) as job,
        AsyncClient(server.address, project="demo", token="reader") as reader,
    ):
        with pytest.raises(NotFound):
            await job.open_policy("run", trained)  # no input of the job
        name = (await job.open_policy("run", base)).name
        with pytest.raises(PermissionDenied) as small:
            await reader.update_policy("run", folder_of(trained), version=1)
        assert small.value.reason == "ROLE_TOO_SMALL"
        with pytest.raises(PermissionDenied) as place:
            await job.update_policy("run", trained, version=1)
        assert place.value.reason == "POLICY_URI_NOT_ALLOWED"  # nobody has said which folders may be read
        assert (await job.update_policy("run", folder_of(trained), version=1)).version == 1
        assert (await reader.get_policy("run")).version == 1
        assert (await answers(job, name))[0] == f"{name}/versions/1"
        with pytest.raises(NotFound):
            await job.close_policy("projects/elsewhere/policies/run")
        await job.close_policy("run")
