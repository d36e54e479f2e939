"""The format of packs: what is written is read again, and anything else is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.data.packs import MAX_TYPE_CHARACTERS, PackDamaged, ReadRange, ending, entries_of, read_entries

MEDIA = st.lists(
    st.tuples(
        st.binary(min_size=32, max_size=32),
        st.binary(max_size=40),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=MAX_TYPE_CHARACTERS),
    ),
    max_size=12,
)


def reader(pack: bytes) -> ReadRange:
    return lambda start, length: pack[start : start + length]


def packed(media: list[tuple[bytes, bytes, str]]) -> bytes:
    _, end = ending(entries_of([(sha256, len(data), kind) for sha256, data, kind in media]))
    return b"".join(data for _, data, _ in media) + end


@settings(max_examples=60, deadline=None)
@given(MEDIA)
def test_a_pack_tells_where_each_medium_lies(media: list[tuple[bytes, bytes, str]]) -> None:
    pack = packed(media)
    entries = read_entries(len(pack), reader(pack))
    found = [(e.sha256, pack[e.offset : e.offset + e.size_bytes], e.mime_type) for e in entries]
    assert found == media


@settings(max_examples=60, deadline=None)
@given(MEDIA, st.data())
def test_a_pack_that_was_cut_off_or_changed_in_its_index_is_refused(
    media: list[tuple[bytes, bytes, str]], data: st.DataObject
) -> None:
    pack = packed(media)
    content = sum(len(bytes_) for _, bytes_, _ in media)
    place = data.draw(st.integers(content, len(pack) - 1))
    changed = bytearray(pack)
    changed[place] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(changed), pack[: data.draw(st.integers(0, len(pack) - 1))]):
        with pytest.raises(PackDamaged):
            read_entries(len(damaged), reader(damaged))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_other_bytes_are_no_pack(data: bytes) -> None:
    with pytest.raises(PackDamaged):
        read_entries(len(data), reader(data))


def test_the_same_media_in_the_same_order_have_the_same_name() -> None:
    one = [(b"a" * 32, 3, "image/png"), (b"b" * 32, 4, "image/png")]
    assert ending(entries_of(one)) == ending(entries_of(one))
    assert ending(entries_of(one))[0] != ending(entries_of(one[::-1]))[0]
