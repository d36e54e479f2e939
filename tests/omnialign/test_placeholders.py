"""Media stand where the markers of a text say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.placeholders import place
from omnialign.v1.content_pb2 import Media


def media(count: int) -> list[Media]:
    return [Media(sha256=str(number)) for number in range(1, count + 1)]


def shown(text: str, count: int, *, media_first: bool = True) -> list[str]:
    parts = place(text, media(count), "image", media_first=media_first)
    return [part if isinstance(part, str) else f"#{part.sha256}" for part in parts]


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("no marker", 2, ["#1", "#2", "no marker"]),
        ("<image>\nask", 1, ["#1", "ask"]),
        ("ask\n<image>", 1, ["ask", "#1"]),
        ("is <image> like <IMAGE>?", 2, ["is ", "#1", " like ", "#2", "?"]),
        ("<image>\nwhich one?", 3, ["#1", "#2", "#3", "which one?"]),
        ("<image 2> before <image 1>", 2, ["#2", " before ", "#1"]),
        ("<image_1>, I mean <image_1>", 1, ["#1", ", I mean <image_1>"]),
        ("<image> <img>", 2, ["#1", "#2"]),
        ("a tag <video>", 1, ["#1", "a tag <video>"]),
        ("<image>", 0, ["<image>"]),
    ],
)
def test_markers_are_replaced(text: str, count: int, expected: list[str]) -> None:
    assert shown(text, count) == expected


def test_media_of_an_answer_without_markers_come_last() -> None:
    assert shown("here", 1, media_first=False) == ["here", "#1"]


@given(st.lists(st.sampled_from(["<image>", "word", "<video>", " ", "\n", "<"])))
def test_as_many_markers_as_media_are_replaced_in_order(pieces: list[str]) -> None:
    count = pieces.count("<image>")
    numbers = iter(range(1, count + 1))
    expected = "".join(f"#{next(numbers)}" if piece == "<image>" else piece.strip() for piece in pieces)
    assert "".join("".join(shown("".join(pieces), count)).split()) == expected
