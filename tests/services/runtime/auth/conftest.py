"""A real server with all services, whose handlers only say that they were reached, behind a file of tokens."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from omnialign.errors import Aborted
from omnialign.v1 import (
    alignment_service_pb2,
    alignment_service_pb2_grpc,
    annotation_service_pb2,
    annotation_service_pb2_grpc,
    critique_service_pb2,
    critique_service_pb2_grpc,
    data_service_pb2,
    data_service_pb2_grpc,
    evaluation_service_pb2,
    evaluation_service_pb2_grpc,
    judge_service_pb2,
    judge_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    refinement_service_pb2,
    refinement_service_pb2_grpc,
    training_service_pb2,
    training_service_pb2_grpc,
)
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.auth.policy import POLICY
from services.runtime.auth.tokens import JobTokens
from services.runtime.config import ServerConfig
from services.runtime.server import Server

SERVICES = (
    (data_service_pb2, data_service_pb2_grpc, "DataService"),
    (refinement_service_pb2, refinement_service_pb2_grpc, "RefinementService"),
    (policy_service_pb2, policy_service_pb2_grpc, "PolicyService"),
    (critique_service_pb2, critique_service_pb2_grpc, "CritiqueService"),
    (judge_service_pb2, judge_service_pb2_grpc, "JudgeService"),
    (training_service_pb2, training_service_pb2_grpc, "TrainingService"),
    (alignment_service_pb2, alignment_service_pb2_grpc, "AlignmentService"),
    (evaluation_service_pb2, evaluation_service_pb2_grpc, "EvaluationService"),
    (annotation_service_pb2, annotation_service_pb2_grpc, "AnnotationService"),
)
METHODS: dict[str, MethodDescriptor] = {
    f"/omnialign.v1.{service}/{method.name}": method
    for module, _, service in SERVICES
    for method in module.DESCRIPTOR.services_by_name[service].methods
}
KEY = "k" * 40


class Reached:
    """A servicer of any service: every call that gets to it is ABORTED (`REACHED`)."""

    def __getattr__(self, name: str) -> Any:
        method = next((method for path, method in METHODS.items() if path.endswith(f"/{name}")), None)
        if method is None:
            raise AttributeError(name)

        async def one(request: Any, context: Any) -> Any:
            await _read(request)
            raise Aborted("The handler was reached", reason="REACHED")

        async def many(request: Any, context: Any) -> AsyncIterator[Any]:
            await _read(request)
            raise Aborted("The handler was reached", reason="REACHED")
            yield

        return many if method.server_streaming else one


async def _read(request: Any) -> None:
    if not isinstance(request, Message):
        async for _ in request:
            pass


@dataclass
class Answer:
    """How a call ended."""

    code: str
    reason: str
    status: bytes
    details: list[Any]

    @property
    def passed(self) -> bool:
        """Whether authorisation let the call through: what comes after it answered."""
        return self.reason in ("REACHED", "REQUEST_INVALID")


class Guarded:
    """The server, its file of tokens, and calls of any method of it."""

    def __init__(self, folder: Path) -> None:
        self.tokens_file = folder / "tokens.yaml"
        self.key_file = folder / "job.key"
        self.key_file.write_text(KEY)
        self.entries: list[dict[str, Any]] = []
        self.server: Server = None  # type: ignore[assignment]
        self.channel: Any = None

    def grant(self, token: str, **more: Any) -> None:
        """Adds a token to the file: `grant("secret", roles={"demo": "reader"})`."""
        entry = {"name": f"bearer of {token}", "sha256": hashlib.sha256(token.encode()).hexdigest(), **more}
        self.entries.append(entry)
        self.tokens_file.write_text(yaml.safe_dump({"tokens": self.entries}))

    async def start(self, **settings: Any) -> None:
        auth = AuthConfig(tokens_file=self.tokens_file, job_key_file=self.key_file, **settings)
        assert list(auth.problems()) == []
        self.server = Server(ServerConfig(), name="guarded", auth=auth)
        for _, stubs, name in SERVICES:
            self.server.add(getattr(stubs, f"add_{name}Servicer_to_server"), Reached(), f"omnialign.v1.{name}")
        await self.server.start()
        self.server.set_serving()
        self.channel = grpc.aio.insecure_channel(self.server.address)

    async def stop(self) -> None:
        if self.server:
            await self.channel.close()
            await self.server.stop(0)

    async def call(self, path: str, *requests: Message, token: str | None = None) -> Answer:
        """Calls a method with a request, or a stream of them."""
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        return await self.call_with(path, *requests, metadata=metadata)

    async def call_with(self, path: str, *requests: Message, metadata: tuple[tuple[str, str], ...]) -> Answer:
        """Calls a method with metadata as they are."""
        method = METHODS[path]
        kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        answers = message_factory.GetMessageClass(method.output_type)
        make = getattr(self.channel, kind)
        stub = make(path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=answers.FromString)
        call = stub(iter(requests) if method.client_streaming else requests[0], timeout=10, metadata=metadata)
        try:
            if method.server_streaming:
                async for _ in call:
                    pass
            else:
                await call
        except grpc.aio.AioRpcError as failure:
            return _answer(failure)
        raise AssertionError("a handler of this server never succeeds")

    def job_token(self, job: str, *inputs: str, lifetime_seconds: float = 60) -> str:
        """The token of a training job."""
        return JobTokens(self.key_file).make(job, inputs=inputs, lifetime_seconds=lifetime_seconds)

    def failures(self, reason: str) -> float:
        """The count of refused calls."""
        return self.server.registry.get_sample_value("omnialign_auth_failures_total", {"reason": reason}) or 0.0


def _answer(failure: grpc.aio.AioRpcError) -> Answer:
    status = rpc_status.from_call(failure) or status_pb2.Status()
    info, details = error_details_pb2.ErrorInfo(), []
    for detail in status.details:
        detail.Unpack(info)
        details.append(detail)
    return Answer(failure.code().name, info.reason, status.SerializeToString(deterministic=True), details)


def request_of(path: str, resource: str) -> Message:
    """A request of a method about a resource, with nothing else in it."""
    message = message_factory.GetMessageClass(METHODS[path].input_type)()
    *steps, last = POLICY[path].field.split(".")
    holder = message
    for step in steps:
        holder = getattr(holder, step)
    setattr(holder, last, resource)
    return message


def name_for(path: str, project: str, identity: str = "thing") -> str:
    """A name that fits the method's field well enough."""
    return f"projects/{project}" if POLICY[path].field.endswith("parent") else f"projects/{project}/things/{identity}"


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    """Not started yet: grant, then `await guarded.start()`."""
    found = Guarded(tmp_path)
    yield found
    await found.stop()


@pytest.fixture
async def people(guarded: Guarded) -> Guarded:
    """A server that knows a person of each kind; their tokens are what they are called."""
    await start_with_people(guarded)
    return guarded


async def start_with_people(guarded: Guarded) -> None:
    """Grants a token to a person of each kind, and starts the server."""
    for role in ("reader", "annotator", "submitter", "admin"):
        guarded.grant(role, roles={"demo": role})
    guarded.grant("stranger", roles={"elsewhere": "admin"})
    guarded.grant("root", roles={"*": "admin"})
    guarded.grant("service", roles={"*": "service"})
    guarded.grant("late", roles={"demo": "admin"}, expires=datetime(2020, 1, 1, tzinfo=UTC))
    await guarded.start()
