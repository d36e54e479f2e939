"""With authentication an annotator is who they are, and sees only their own work."""

import hashlib

import pytest
import yaml

from omnialign.client import AsyncClient
from omnialign.errors import NotFound, OmnialignError, PermissionDenied
from omnialign.v1.annotation_service_pb2 import Adjudication, Campaign
from services.annotation.__main__ import wire
from services.annotation.config import AnnotationConfig
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.config import ServerConfig
from services.runtime.connections import ClientConfig
from services.runtime.server import Server
from tests.services.annotation.conftest import filled, pair

ROLES = {"ann": "annotator", "bob": "annotator", "rea": "reader", "sub": "submitter"}


@pytest.fixture
async def people(tmp_path):
    """A client for each person, and one of another project."""
    roles = {name: {"default": role} for name, role in ROLES.items()}
    roles |= {"eve": {"other": "admin"}, "annotation": {"*": "service"}}
    entries = [
        {"name": name, "sha256": hashlib.sha256(f"token-{name}".encode()).hexdigest(), "roles": granted}
        for name, granted in roles.items()
    ]
    (tmp_path / "tokens.yaml").write_text(yaml.safe_dump({"tokens": entries}))
    (tmp_path / "own-token").write_text("token-annotation")
    server = Server(
        ServerConfig(),
        name="secured",
        auth=AuthConfig(tokens_file=tmp_path / "tokens.yaml"),
        clients=ClientConfig(token_file=tmp_path / "own-token"),
    )
    address = server.bind()
    config = AnnotationConfig(root=tmp_path / "annotation", data_address=address, refinement_address=address)
    async with wire_data(server, DataConfig(root=tmp_path / "data")), wire(server, config):
        await server.start()
        server.set_serving()
        clients = {name: AsyncClient(address, token=f"token-{name}") for name in roles}
        yield clients
        for client in clients.values():
            await client.close()
        await server.stop(0)


async def refusal(call) -> str:
    with pytest.raises(OmnialignError) as caught:
        await call
    return caught.value.reason


async def test_annotators_annotate_and_nothing_else(people):
    owner, ann, bob = people["sub"], people["ann"], people["bob"]
    dataset = await owner.create_dataset("pairs")
    await owner.append_records(dataset.name, [pair(1)])
    version = await owner.commit_version(dataset.name)
    made = await owner.create_campaign("people", Campaign(dataset_version=version.name, overlap=2))
    task = (await ann.lease_task(made.name)).task
    assert await refusal(bob.submit_task(task.name, filled(task.rubric), revision=0)) == "TASK_NOT_LEASED"
    with pytest.raises(PermissionDenied) as caught:
        await bob.submit_task(task.name, filled(task.rubric), revision=0, annotator="ann")
    assert caught.value.reason == "PERSON_NOT_CALLER"
    await ann.submit_task(task.name, filled(task.rubric, words="projects/other/words"), revision=0)
    theirs = (await bob.lease_task(made.name)).task
    await bob.submit_task(theirs.name, filled(task.rubric, preferred=2), revision=0)
    # What others wrote is hidden from annotators, and deciding is not theirs.
    for call in (
        anext(ann.list_items(made.name)),
        ann.adjudicate_item(f"{made.name}/items/1", Adjudication(left_out=True, reason="x")),
        ann.commit_campaign(made.name),
        people["rea"].lease_task(made.name),
    ):
        assert await refusal(call) == "ROLE_TOO_SMALL"
    (item,) = [item async for item in owner.list_items(made.name)]
    assert [answer.annotator for answer in item.answers] == ["ann", "bob"]
    decided = await owner.adjudicate_item(item.name, Adjudication(annotator="ann", reason="she is right"))
    assert decided.adjudication.adjudicator == "sub"
    assert (await owner.commit_campaign(made.name)).committed_count == 1


async def test_a_campaign_of_another_project_is_not_there(people):
    owner, eve = people["sub"], people["eve"]
    dataset = await owner.create_dataset("pairs")
    await owner.append_records(dataset.name, [pair(1)])
    version = await owner.commit_version(dataset.name)
    made = await owner.create_campaign("people", Campaign(dataset_version=version.name))
    for call in (
        eve.get_campaign(made.name),
        eve.lease_task(made.name),
        eve.get_agreement(made.name),
        anext(eve.list_campaigns()),
        AsyncClient.create_campaign(eve, "theirs", Campaign(dataset_version=version.name)),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason == "NOT_FOUND"
