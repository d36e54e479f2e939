"""The file of examples: what is written comes back, one by one, and a rank's memory does not grow with the data."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.errors import DataLoss
from tests.training.in_process import kept
from training import example_file
from training.example_file import Examples, write_examples, writing
from training.examples import Example, MediaRef, prompt_hash

MEASURE = """
import sys
from pathlib import Path
from training.batch_order import BatchOrder
from training.example_file import Examples

for path in sys.argv[1:]:
    examples = Examples(Path(path))
    order = BatchOrder(examples.lengths, batch_size=16, num_passes=1, num_ranks=1, rank=0, seed=0)
    for batch in order:
        for row in batch:
            examples[row]
    print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
"""
"""Reads an epoch of each file in the order of training, and says what memory is resident then, in KiB."""

ids = st.lists(st.integers(0, 2**31 - 1), max_size=5)
refs = st.lists(st.builds(MediaRef, st.binary(min_size=32, max_size=32).map(bytes.hex), st.integers(1, 4)), max_size=3)
made = st.builds(
    Example,
    ids,
    st.lists(ids, max_size=3),
    refs.map(tuple),
    value=st.floats(-9, 9),
    record=st.binary(max_size=9),
    teacher_prompt=ids,
    teacher_media=refs.map(tuple),
)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few examples have several groups."""
    monkeypatch.setattr(example_file, "GROUP_ROWS", 4)


@settings(max_examples=40)
@given(st.lists(made, max_size=11))
def test_examples_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]):
    found = kept(examples, tmp_path_factory.mktemp("examples"))
    assert list(found) == examples
    assert found.lengths.tolist() == [example.length for example in examples]
    assert found.prompt_lengths.tolist() == [len(example.prompt) for example in examples]
    assert found.values.tolist() == [example.value for example in examples]
    assert found.prompt_hashes.tolist() == [prompt_hash(example) for example in examples]
    named = [ref for example in examples for ref in (*example.media, *example.teacher_media)]
    assert found.modalities() == {ref.modality for ref in named}
    assert set(found.digests()) == {ref.sha256 for ref in named}


def test_a_selection_of_a_selection_keeps_its_order_and_the_numbers_of_the_file(tmp_path: Path):
    some = kept([Example([at] * at, [[7]]) for at in range(10)], tmp_path).select(np.array([8, 3, 5, 1]))
    again = some.select(np.array([2, 0]))
    assert [example.prompt[0] for example in again] == [5, 8]
    assert again.rows.tolist() == again.prompt_lengths.tolist() == [5, 8]


def test_a_file_that_is_not_finished_leaves_the_one_before(tmp_path: Path):
    path = tmp_path / "examples.arrow"
    write_examples(path, [Example([1], [[2]])])

    def failing() -> Iterator[Example]:
        yield from [Example([3], [[4]])] * 9
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"), writing(path) as writer:
        writer.add(failing())
    assert [example.prompt for example in Examples(path)] == [[1]]
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=20)
@given(st.integers(0, 1500))
def test_a_damaged_file_is_a_typed_error(tmp_path_factory: pytest.TempPathFactory, kept_bytes: int):
    path = tmp_path_factory.mktemp("examples") / "examples.arrow"
    write_examples(path, [Example([1, 2], [[3]], (MediaRef("ab" * 32, 2),))])
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(DataLoss) as caught:
        Examples(path)
    assert caught.value.reason == "EXAMPLES_UNREADABLE"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    example = Example(list(range(200)), [list(range(100))])  # 1.2 kB
    paths = [tmp_path / str(count) for count in (5_000, 60_000)]
    for path in paths:
        write_examples(path, (example for _ in range(int(path.name))))
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    few, many = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    more_on_disk = (paths[1].stat().st_size - paths[0].stat().st_size) / 1024
    assert more_on_disk > 60_000
    assert many - few < more_on_disk / 6
