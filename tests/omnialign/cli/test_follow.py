"""Calls that tell how far they are, and have their result last."""

import io
from collections.abc import AsyncIterator

import pytest

from omnialign.cli.follow import last_message
from omnialign.cli.output import Output
from omnialign.errors import DataLoss


async def counted(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_the_last_message_is_the_result_and_every_one_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    seen = list[int]()
    assert await last_message(counted(3), out=Output(), doing="counting", text=str, see=seen.append) == 2
    assert seen == [0, 1, 2]
    assert capsys.readouterr().out == ""  # no terminal


async def test_a_terminal_shows_how_far_the_call_is() -> None:
    out, file = Output(), io.StringIO()
    vars(out)["console"] = type(out.console)(file=file, force_terminal=True, width=80)
    await last_message(counted(3), out=out, doing="counting", text="{} of 3".format)
    assert "2 of 3" in file.getvalue()


async def test_a_call_that_ends_without_a_result_is_an_error() -> None:
    with pytest.raises(DataLoss) as caught:
        await last_message(counted(0), out=Output(), doing="counting", text=str)
    assert caught.value.reason == "ANSWER_MISSING"
