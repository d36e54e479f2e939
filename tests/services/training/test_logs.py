"""What jobs print is read while they run, and afterwards."""

from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import NotFound
from services.training.launcher import LogPart
from services.training.process_groups import LOG_PART_BYTES, log_part

NAME = "projects/default/trainingJobs/tune"


async def lines_of(client: AsyncClient, **options: object) -> list[str]:
    return [line async for line in client.training_log(NAME, **options)]


async def end(client: AsyncClient) -> None:
    async for _ in client.watch_training_job(NAME):
        pass


async def test_lines_come_as_they_are_printed_until_the_job_ends(serve, spec, program, tmp_path: Path):
    go_on = tmp_path / "go"
    told = f"print('first', flush=True)\nwait_for({str(go_on)!r})\nprint('second', flush=True)\nfinish()"
    async with serve(program(told)) as client:
        await client.create_training_job("tune", spec)
        seen = []
        async for line in client.training_log(NAME, follow=True):
            seen.append(line)
            go_on.touch()
        assert seen == ["first", "second"]


async def test_the_log_of_an_ended_job_is_whole_or_its_last_lines(serve, spec, program):
    async with serve(program("print('\\n'.join(f'line {i}' for i in range(60_000)))\nfinish()")) as client:
        await client.create_training_job("tune", spec)
        await end(client)
        wanted = [f"line {i}" for i in range(60_000)]
        assert await lines_of(client) == wanted
        assert await lines_of(client, tail_lines=3) == wanted[-3:]
        assert await lines_of(client, tail_lines=3, follow=True) == wanted[-3:]


async def test_a_log_whose_file_is_gone_is_the_tail_kept_with_the_job(serve, spec, program, tmp_path: Path):
    async with serve(program("print('the end')\nfinish()")) as client:
        await client.create_training_job("tune", spec)
        await end(client)
        for log in (tmp_path / "training").rglob("log.txt"):
            log.unlink()
        assert await lines_of(client) == ["the end"]
        with pytest.raises(NotFound):
            await anext(client.training_log(NAME + "-other"))


def test_a_line_that_has_no_end_yet_is_left_for_the_next_part(tmp_path: Path):
    log = tmp_path / "log.txt"
    log.write_bytes("one\ntwö".encode())
    part = log_part(log, position=0)
    assert part == LogPart(["one"], 4)
    log.write_bytes("one\ntwö and\n".encode())
    assert log_part(log, position=part.position).lines == ["twö and"]


def test_a_line_longer_than_a_part_is_passed_over_and_not_read_for_ever(tmp_path: Path):
    log = tmp_path / "log.txt"
    log.write_bytes(b"x" * (LOG_PART_BYTES + 10) + b"\nnext\n")
    first = log_part(log, position=0)
    assert first.position == LOG_PART_BYTES
    assert log_part(log, position=first.position).lines[-1] == "next"
