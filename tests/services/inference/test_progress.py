"""Progress of an answer: what is told of it never changes later, however the model goes on."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.modeling.inputs import MediaBytes
from omnialign.v1 import content_pb2, generation_pb2
from services.inference import progress, stop_strings
from services.inference.codec_pool import CodecPool
from services.inference.progress import Progress, begins_with, settled

ALPHABET = "ab .é漢🙂"
PICTURE = MediaBytes(content_pb2.MODALITY_IMAGE, b"pixels")


class Utf8:
    """A tokenizer whose ids are bytes, and which trims white space as adapters do."""

    def decode(self, ids):
        text = bytes(ids).decode(errors="replace").strip()
        return (text,) if text else ()


@given(text=st.text(ALPHABET, max_size=30), stops=st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3))
def test_each_step_begins_with_the_one_before_and_the_answer_with_the_last(text, stops):
    ids, told = text.encode(), ()
    for count in range(len(ids) + 1):
        if stops and count and stop_strings.is_met(Utf8(), ids[:count], stops):
            ids = ids[:count]
            break
        now = settled(Utf8().decode(ids[:count]), stops)
        assert begins_with(now, told)
        told = now
    assert begins_with(stop_strings.cut(Utf8().decode(ids), stops), told)


@pytest.mark.parametrize(
    ("pieces", "before", "expected"),
    [
        (("ab",), (), True),
        (("ab",), ("a",), True),
        (("ab", PICTURE), ("ab",), True),
        (("ab", PICTURE, "c"), ("ab", PICTURE), True),
        (("b",), ("a",), False),
        (("a",), ("ab",), False),
        (("abc", PICTURE, "c"), ("ab", PICTURE), False),
        ((PICTURE,), ("ab",), False),
        ((), ("a",), False),
    ],
)
def test_what_begins_with_what(pieces, before, expected):
    assert begins_with(pieces, before) is expected


async def test_the_newest_ids_are_told_and_nothing_after_the_close(monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0)
    told, is_told = [], asyncio.Event()

    def on_progress(pieces):
        told.append(pieces)
        is_told.set()

    codecs = CodecPool(1)
    try:
        request = SimpleNamespace(on_progress=on_progress, sampling=generation_pb2.SamplingParams(stop=["##"]))
        followed = Progress(codecs, Utf8(), request)
        for count in range(1, 6):
            followed.note(b"abcd#"[:count])
        await is_told.wait()
        assert told == [("abcd",)]
        followed.note(b"abcd#e")
        followed.close()
        followed.note(b"abcd#ef")
        await codecs.run(lambda: None)  # the one thread has done all that was asked of it before
        assert told == [("abcd",)]
    finally:
        codecs.close()
