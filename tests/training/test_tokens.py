"""The file of examples gives back what was put in, and stays small."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.errors import DataLoss
from training.examples import Example, MediaRef, load_examples, save_examples

ids = st.lists(st.integers(0, 2**31 - 1), max_size=5)
refs = st.builds(MediaRef, st.binary(min_size=32, max_size=32).map(bytes.hex), st.integers(1, 4))
made = st.builds(Example, ids, st.lists(ids, min_size=1, max_size=3), st.lists(refs, max_size=3).map(tuple))


@settings(max_examples=40, deadline=None)
@given(st.lists(made, max_size=6))
def test_examples_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]):
    path = tmp_path_factory.mktemp("examples") / "examples.npz"
    save_examples(path, examples)
    assert load_examples(path) == examples


def test_a_medium_takes_the_room_of_its_digest(tmp_path: Path):
    plain = [Example([1] * 20, [[2] * 10])] * 100
    save_examples(tmp_path / "plain.npz", plain)
    save_examples(tmp_path / "media.npz", [Example(e.prompt, e.answers, (MediaRef("ab" * 32, 2),)) for e in plain])
    more = (tmp_path / "media.npz").stat().st_size - (tmp_path / "plain.npz").stat().st_size
    assert more == 100 * 33


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 400))
def test_a_damaged_file_is_a_typed_error(tmp_path_factory: pytest.TempPathFactory, kept: int):
    path = tmp_path_factory.mktemp("examples") / "examples.npz"
    save_examples(path, [Example([1, 2], [[3]], (MediaRef("ab" * 32, 2),))])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataLoss) as caught:
        load_examples(path)
    assert caught.value.reason == "EXAMPLES_UNREADABLE"
