"""Every name inside stored messages, on a real data service: whoever reads them sees nothing of another project."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from omnialign.client import AsyncClient
from omnialign.client.context import CURRENT_CALL, Call
from omnialign.content import content
from omnialign.errors import NotFound
from omnialign.v1 import content_pb2, data_service_pb2, record_pb2
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.auth.stored_names import may_follow
from services.runtime.config import ServerConfig
from services.runtime.context import Caller, Role
from services.runtime.server import Server
from tests.services.runtime.auth.conftest import Guarded

SECRET = "what the other project keeps to itself"
OWN, FOREIGN = "projects/demo", "projects/elsewhere"
TABLE, FOREIGN_TABLE = f"{OWN}/datasets/own", f"{FOREIGN}/datasets/secret"
FOREIGN_NAMES = (
    FOREIGN_TABLE,
    f"{FOREIGN_TABLE}/versions/1",
    f"{FOREIGN}/alignmentJobs/loop",
    f"{FOREIGN}/models/base/versions/1",
)
BOUNDED = {"id", "subtask", "split", "sha256", "mime_type"}
"""Fields that the contract bounds so that no name fits in."""


def text_fields(kind: Descriptor, *, depth: int = 6) -> Iterator[tuple[str, ...]]:
    """The path of each text field within a message, following the first item of a repeated one."""
    for field in kind.fields:
        if field.type == field.TYPE_STRING and field.name not in BOUNDED and not field.is_repeated:
            yield (field.name,)
        elif (inner := field.message_type) is not None and depth and not inner.GetOptions().map_entry:
            yield from ((field.name, *path) for path in text_fields(inner, depth=depth - 1))


def put(message: Any, path: tuple[str, ...], text: str) -> None:
    """Sets the text field at the end of a path."""
    *steps, last = path
    for step in steps:
        holder = getattr(message, step)
        message = holder.add() if hasattr(holder, "add") else holder
        if isinstance(message, record_pb2.Mark):
            message.span.SetInParent()  # a mark without a place is none
        if isinstance(message, content_pb2.EarlierMessage):
            message.role = content_pb2.ROLE_USER
    setattr(message, last, text)


PATHS = sorted(set(text_fields(record_pb2.Record.DESCRIPTOR)))


@pytest.fixture
async def address(tmp_path: Path, guarded: Guarded) -> AsyncIterator[str]:
    """A data service with the tables of two projects, which hold records of the same ids."""
    for token, roles in (
        ("reader", {"demo": "reader"}),
        ("both", {"demo": "submitter", "elsewhere": "submitter"}),
        ("service", {"*": "service"}),
    ):
        guarded.grant(token, roles=roles)
    server = Server(ServerConfig(), name="data", auth=AuthConfig(tokens_file=guarded.tokens_file))
    async with wire(server, DataConfig(root=tmp_path / "state")):
        await server.start()
        server.set_serving()
        yield server.address
        await server.stop(0)


async def fill(client: AsyncClient, other: AsyncClient) -> list[str]:
    """Stores a record per text field and foreign name in one project, and as many secrets in the other; their ids."""
    await client.create_dataset("own")
    await other.create_dataset("secret")
    records: list[record_pb2.Record] = []
    for index, path in enumerate(PATHS):
        for number, name in enumerate(FOREIGN_NAMES):
            record = record_pb2.Record(id=f"r-{index}-{number}", prompt=content("own"))
            put(record, path, name)
            if record.HasField("preference"):
                record.preference.preferred = 1
            for score in record.responses[0].feedback.scores if record.responses else ():
                score.dimension = score.dimension or "clarity"
            for assessment in record.responses[0].assessments if record.responses else ():
                assessment.aspect = assessment.aspect or "understanding"
            for question in record.benchmark_item.questions:
                question.id, question.question = question.id or "1", question.question or "Which?"
                question.choices.extend(["this", "that"])
                question.correct = 1
            records.append(record)
    ids = [record.id for record in records]
    await client.append_records(TABLE, records)
    await other.append_records(FOREIGN_TABLE, [record_pb2.Record(id=one, prompt=content(SECRET)) for one in ids])
    await other.commit_version(FOREIGN_TABLE)
    loop = f"{FOREIGN}/alignmentJobs/loop"
    await other.add_lineage([edge(f"{FOREIGN_TABLE}/versions/1", loop), edge(loop, FOREIGN_TABLE)])
    return ids


def edge(source: str, target: str) -> data_service_pb2.LineageEdge:
    return data_service_pb2.LineageEdge(source=source, target=target, relation="made_from")


def reveals(answer: Message) -> bool:
    return SECRET.encode() in answer.SerializeToString()


def test_the_walk_knows_the_fields_of_a_record() -> None:
    assert ("responses", "generation", "model") in PATHS
    assert ("responses", "feedback", "generation", "model") in PATHS
    assert ("comparison", "backward_generation", "template") in PATHS
    assert len(PATHS) >= 20


async def test_no_name_in_a_record_or_an_edge_leads_a_reader_into_another_project(address: str) -> None:
    async with (
        AsyncClient(address, project="demo", token="both") as writer,
        AsyncClient(address, project="elsewhere", token="both") as other,
        AsyncClient(address, project="demo", token="reader") as reader,
        AsyncClient(address, project="demo", token="service") as service,
    ):
        ids = await fill(writer, other)
        await writer.add_lineage([edge(TABLE, name) for name in FOREIGN_NAMES])
        await writer.add_lineage([edge(name, TABLE) for name in FOREIGN_NAMES])
        for one in ids[:: len(FOREIGN_NAMES)]:
            for client in (reader, service):
                found = await client.get_lineage(f"{TABLE}/records/{one}")
                assert [appearance.dataset for appearance in found.records] == [TABLE]
                assert not reveals(found)
        with pytest.raises(NotFound):
            await reader.get_lineage(f"{FOREIGN_TABLE}/records/{ids[0]}")
        # Whoever has a role in both projects sees both, as before.
        assert reveals(await writer.get_lineage(f"{TABLE}/records/{ids[0]}"))


@pytest.mark.parametrize(
    ("who", "sees"),
    [
        (Caller("person", {"demo": Role.READER}), False),
        (Caller("person of both", {"demo": Role.READER, "elsewhere": Role.READER}), True),
        (Caller("person of all", {"*": Role.READER}), True),
        (Caller("service", {"*": Role.SERVICE}), False),
        (Caller("job", {"elsewhere": Role.READER}, job="projects/demo/trainingJobs/j"), False),
        (None, False),
    ],
)
def test_a_stored_name_is_followed_with_the_rights_of_whoever_asks(who: Caller | None, sees: bool) -> None:
    call = CURRENT_CALL.set(Call("id", None, "", None, caller=who))
    try:
        assert [may_follow(name, holder=TABLE) for name in FOREIGN_NAMES] == [sees] * 4
        assert may_follow(f"{OWN}/datasets/other", holder=f"{TABLE}/records/a/b")
        for text in ("", "own", "projects/", "projects/demo/../elsewhere/datasets/secret", "file:///etc"):
            assert not may_follow(text, holder=TABLE)
    finally:
        CURRENT_CALL.reset(call)
