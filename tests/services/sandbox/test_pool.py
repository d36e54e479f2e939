"""The sandbox: children that crash, compute, wait or fill the memory fail their own task and nobody else's."""

import importlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from omnialign.errors import Internal, InvalidArgument, OmnialignError, Unavailable
from services.sandbox.limits import Limits
from services.sandbox.pool import DEATHS_BEFORE_REFUSAL, Sandbox

tasks = importlib.import_module("tests.services.sandbox.tasks")
LIMITS = Limits(cpu_seconds=0.5, wall_seconds=60, memory_bytes=256 << 20)


def refusal(cause: str) -> OmnialignError:
    return InvalidArgument(f"its process {cause}", reason="KILLED", metadata={"cause": cause})


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    found = Sandbox(places=2, limits=LIMITS)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("task", "cause"),
    [
        ("crash", "crashed (SIGSEGV)"),
        ("compute_for_ever", "used up its processor time"),
        ("fill_memory", "used up its memory"),
    ],
)
def test_a_task_whose_process_dies_is_refused_and_the_next_one_runs(sandbox: Sandbox, task: str, cause: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        sandbox.call(getattr(tasks, task), refusal=refusal)
    assert refused.value.metadata == {"cause": cause}
    assert sandbox.call(tasks.double, np.arange(3), refusal=refusal).tolist() == [0, 2, 4]


def test_a_task_that_hangs_is_ended_when_its_time_is_up(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgument, match="took too long"):
        sandbox.call(tasks.wait_for_ever, refusal=refusal, limits=Limits(wall_seconds=0.2))


def test_an_error_of_the_task_arrives_with_its_reason_and_metadata(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgument, match="no picture") as refused:
        sandbox.call(tasks.refuse, "no picture", refusal=refusal)
    assert (refused.value.reason, refused.value.metadata) == ("MEDIA_UNDECODABLE", {"found": "no picture"})


def test_an_unforeseen_error_of_the_task_is_internal_and_named(sandbox: Sandbox) -> None:
    with pytest.raises(Internal, match="ZeroDivisionError") as failed:
        sandbox.call(tasks.fail, refusal=refusal)
    assert failed.value.reason == "SANDBOX_TASK_FAILED"


def test_a_process_serves_many_tasks(sandbox: Sandbox) -> None:
    found = {sandbox.call(tasks.process, refusal=refusal) for _ in range(10)}
    assert len(found) == 1


def test_a_process_keeps_the_memory_of_a_picture_for_the_next_one() -> None:
    with_one = Sandbox(places=1, limits=LIMITS)
    faults = [with_one.call(tasks.faults_of_a_picture, refusal=refusal) for _ in range(3)]
    with_one.close()
    assert faults[-1] < faults[0] / 10


def test_large_arrays_arrive_whole_and_may_be_changed(sandbox: Sandbox) -> None:
    numbers = np.arange(500_000)
    found = sandbox.call(tasks.double, numbers, refusal=refusal)
    found += 1
    assert np.array_equal(found, 2 * numbers + 1)


def test_a_child_has_no_variables_that_may_hold_secrets(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert "AWS_SECRET_ACCESS_KEY" not in sandbox.call(tasks.environment, refusal=refusal)


def test_a_result_that_would_run_code_where_it_is_loaded_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgument) as refused:
        sandbox.call(tasks.forge, refusal=refusal)
    assert refused.value.reason == "KILLED"


def test_items_arrive_one_by_one_and_each_has_the_limits_to_itself(sandbox: Sandbox) -> None:
    assert list(sandbox.iterate(tasks.count, 5, refusal=refusal)) == list(range(5))


def test_items_before_a_crash_are_delivered(sandbox: Sandbox) -> None:
    found = []
    with pytest.raises(InvalidArgument, match="SIGSEGV"):
        for item in sandbox.iterate(tasks.count_and_crash, 3, refusal=refusal):
            found.append(item)
    assert found == [0, 1, 2]


def test_a_reader_that_stops_early_leaves_no_child_behind(sandbox: Sandbox) -> None:
    items = sandbox.iterate(tasks.count, 5, refusal=refusal)
    assert next(items) == 0
    items.close()
    assert sandbox.call(tasks.double, np.arange(2), refusal=refusal).tolist() == [0, 2]


def test_bytes_that_ended_two_processes_are_refused_without_a_third(sandbox: Sandbox) -> None:
    for _ in range(DEATHS_BEFORE_REFUSAL):
        with pytest.raises(InvalidArgument, match="SIGSEGV"):
            sandbox.call(tasks.crash, refusal=refusal, key="digest")
    with pytest.raises(InvalidArgument, match="ended 2 times before"):
        sandbox.call(tasks.process, refusal=refusal, key="digest")


def test_a_reader_that_takes_its_time_holds_no_place_and_is_not_ended() -> None:
    """An import reads a batch of rows and decodes their media, in other children, before it wants the next batch."""
    sandbox = Sandbox(places=1, limits=Limits(wall_seconds=0.3))
    try:
        items = sandbox.iterate(tasks.count, 2, refusal=refusal)
        assert next(items) == 0
        with pytest.raises(InvalidArgument, match="took too long"):  # longer than the reader's own time
            sandbox.call(tasks.wait_for_ever, refusal=refusal)
        assert next(items) == 1
    finally:
        sandbox.close()


def test_slow_tasks_do_not_keep_quick_ones_waiting() -> None:
    """Twice as many endless tasks as places run; a quick one is served while all of them still do."""
    sandbox, threads = Sandbox(places=2, limits=Limits(cpu_seconds=60)), ThreadPoolExecutor(4)
    try:
        endless = [threads.submit(sandbox.call, tasks.wait_for_ever, refusal=refusal) for _ in range(4)]
        assert sandbox.call(tasks.double, np.arange(2), refusal=refusal).tolist() == [0, 2]
        assert not any(task.done() for task in endless)
    finally:
        sandbox.close()
        threads.shutdown()


def test_a_closed_sandbox_fails_what_runs_and_refuses_what_comes() -> None:
    sandbox = Sandbox(places=1)
    started, failures = threading.Event(), list[OmnialignError]()

    def run() -> None:
        items = sandbox.iterate(tasks.count, 1 << 30, refusal=refusal)
        next(items)
        started.set()
        try:
            list(items)
        except OmnialignError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    sandbox.close()
    thread.join()
    assert [error.reason for error in failures] == ["KILLED"]
    with pytest.raises(Unavailable) as refused:
        sandbox.call(tasks.process, refusal=refusal)
    assert refused.value.reason == "SANDBOX_CLOSED"
