"""Hostile files and calls against a running stack: only workers die, and nobody else notices.

The stack is a process of its own with the real data and alignment services; a job with null models runs meanwhile.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import psutil
import pytest

from omnialign.client import AsyncClient
from omnialign.errors import Internal, OmnialignError
from omnialign.v1 import alignment_service_pb2, data_service_pb2_grpc
from tests.chaos.stack_process import StackProcess, await_end
from tests.chaos.test_kill_anything import submit_null
from tests.hostile import media, models, tables
from tests.hostile.watch import Watch

pytestmark = [pytest.mark.hostile, pytest.mark.timeout(1800)]

COMMAND = ("-m", "tests.chaos.null_stack", "{root}", "{port}")
MAX_P99_SECONDS = 2.0
MAX_MEMORY_RATIO = 1.5
LONGEST_SECONDS = 300.0
Job = alignment_service_pb2.AlignmentJob
Attack = Callable[[AsyncClient, Path], Awaitable[object]]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[StackProcess]:
    found = StackProcess(tmp_path / "stack", COMMAND)
    await found.start()
    try:
        yield found
    finally:
        found.kill()


@functools.cache
def attacks() -> dict[str, Attack]:
    """Every hostile file and call, by what is hostile about it."""
    found: dict[str, Attack] = {}
    for name, (modality, data) in media.media().items():
        found[name] = _upload(modality, data)
    for name, write in tables.tables().items():
        found[name] = _import(write)
    for name, spoil in models.folders().items():
        found[name] = _register(spoil)
    return found


def _upload(modality: int, data: bytes) -> Attack:
    async def attack(client: AsyncClient, folder: Path) -> None:
        del folder
        await client.upload_media(data, modality=modality)

    return attack


def _import(write: Callable[[Path], Path]) -> Attack:
    async def attack(client: AsyncClient, folder: Path) -> None:
        source = await asyncio.to_thread(write, folder)
        async for _ in client.import_dataset("hostile", source.as_uri(), subtask="t2t"):
            pass

    return attack


def _register(spoil: Callable[[Path], object]) -> Attack:
    async def attack(client: AsyncClient, folder: Path) -> None:
        """Registers the folder and, if that is accepted, has a pre-flight read it."""
        target = await asyncio.to_thread(models.copy, folder / "model")
        await asyncio.to_thread(spoil, target)
        model = await client.register_model(f"hostile-{abs(hash(folder.name)) % 10**6}", target.as_uri())
        spec = alignment_service_pb2.AlignmentSpec(base_model=model.name, dataset=await _world(client))
        await client.create_alignment_job("hostile", spec, validate_only=True)

    return attack


async def _world(client: AsyncClient) -> str:
    async for dataset in client.list_datasets():
        if dataset.name.endswith("/world"):
            return f"{dataset.name}/versions/1"
    raise AssertionError("the job's dataset is missing")


async def attack(stack: StackProcess, name: str, folder: Path, seen: dict[str, str]) -> None:
    """Runs one attack, and notes how it ended: a reason, or "" if it was accepted. Nothing but a typed end is right."""
    await asyncio.to_thread(folder.mkdir, parents=True)
    async with AsyncClient(stack.address, project="attacker", deadline_seconds=LONGEST_SECONDS) as client:
        try:
            await attacks()[name](client, folder)
            seen[name] = ""
        except OmnialignError as error:
            assert not isinstance(error, Internal), f"{name}: {error}"
            assert error.reason not in ("UNKNOWN", "DEADLINE_EXCEEDED"), f"{name}: {error}"
            seen[name] = error.reason
    assert stack.process is not None
    assert stack.process.poll() is None, f"{name} ended the services: {(stack.root / 'stack.log').read_text()[-2000:]}"


async def counts_of(stack: StackProcess, job: Job) -> list[tuple[int, int, int]]:
    ended = await await_end(stack, job)
    assert ended.state == Job.STATE_SUCCEEDED, ended.error
    return [(stage.completed, stage.total, stage.quarantined) for stage in ended.stages]


async def test_hostile_files_one_by_one_and_together_harm_nobody_else(stack: StackProcess, tmp_path: Path) -> None:
    assert stack.process is not None
    async with AsyncClient(stack.address) as client:
        calm = await counts_of(stack, await submit_null(client, tmp_path / "calm"))
    seen: dict[str, str] = {}
    process = psutil.Process(stack.process.pid)
    async with AsyncClient(stack.address, project="victim") as victim, Watch(victim, process).watching() as watch:
        async with AsyncClient(stack.address, project="attacker") as attacker:
            await submit_null(attacker, tmp_path / "attacker")
        async with AsyncClient(stack.address, project="busy") as client:
            job = await submit_null(client, tmp_path / "busy")
        for number, name in enumerate(attacks()):
            await attack(stack, name, tmp_path / "one" / str(number), seen)
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(attacks()):
                group.create_task(attack(stack, name, tmp_path / "together" / str(number), seen))
        assert await counts_of(stack, job) == calm
    report = "\n".join(f"{name}: {reason or 'accepted'}" for name, reason in seen.items())
    print(f"{report}\np99 {watch.p99_seconds:.2f} s of {len(watch.seconds)} calls, memory x {watch.memory_ratio:.2f}")
    assert watch.p99_seconds < MAX_P99_SECONDS
    assert watch.memory_ratio < MAX_MEMORY_RATIO


async def test_silent_streams_do_not_lock_out_others(stack: StackProcess, tmp_path: Path) -> None:
    """As many streams as a service takes calls at once, none of which ever sends its first message."""
    assert stack.process is not None
    async with contextlib.AsyncExitStack() as open_calls:
        channels = [await open_calls.enter_async_context(grpc.aio.insecure_channel(stack.address)) for _ in range(4)]
        silent = [data_service_pb2_grpc.DataServiceStub(channels[n % 4]).UploadMedia() for n in range(300)]
        try:
            process = psutil.Process(stack.process.pid)
            async with (
                AsyncClient(stack.address, project="victim") as victim,
                Watch(victim, process).watching() as watch,
            ):
                await asyncio.sleep(2.0)
        finally:
            for call in silent:
                call.cancel()
    assert len(watch.seconds) > 5
    assert watch.p99_seconds < MAX_P99_SECONDS
