"""TensorBoard event files, read back record by record."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

from tensorboardX.proto.event_pb2 import Event, SessionLog

from training.tensorboard import FOLDER, TensorBoard


def events(file: Path) -> Iterator[Event]:
    """The events of a file: each behind its length and a checksum, and before another checksum."""
    data = file.read_bytes()
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]


def scalars(output_dir: Path) -> dict[str, dict[int, float]]:
    """The measures by name and step, as TensorBoard shows them."""
    found: dict[str, dict[int, float]] = {}
    for file in sorted((output_dir / FOLDER).iterdir()):
        for event in events(file):
            if event.session_log.status == SessionLog.START:  # type: ignore[attr-defined]  # no stubs
                found = {n: {s: v for s, v in steps.items() if s < event.step} for n, steps in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def train(output_dir: Path, *, after: int, until: int) -> None:
    """An attempt that makes some steps, and evaluates every second."""
    board, state = TensorBoard(output_dir), Mock(global_step=after)
    board.on_train_begin(Mock(), state, Mock())
    for number in range(after + 1, until + 1):
        state.global_step = number
        board.on_log(Mock(), state, Mock(), logs={"loss": 1 / number, "rewards/margins": number, "note": "words"})
        if number % 2 == 0:
            board.on_evaluate(Mock(), state, Mock(), metrics={"eval/loss": 2 / number})
    board.on_log(Mock(), state, Mock(), logs={"train_runtime": 3.0})
    board.on_train_end(Mock(), state, Mock())


def test_steps_and_evaluations_are_written(tmp_path: Path):
    train(tmp_path, after=0, until=4)
    assert scalars(tmp_path) == {
        "loss": {1: 1.0, 2: 0.5, 3: struct.unpack("f", struct.pack("f", 1 / 3))[0], 4: 0.25},
        "rewards/margins": {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0},
        "eval/loss": {2: 1.0, 4: 0.5},
    }


def test_an_attempt_that_goes_on_adds_a_file_and_replaces_the_steps_after_its_checkpoint(tmp_path: Path):
    train(tmp_path, after=0, until=5)
    train(tmp_path, after=2, until=3)
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    found = scalars(tmp_path)
    assert list(found["loss"]) == [1, 2, 3]
    assert list(found["eval/loss"]) == [2]


def test_a_loss_that_is_no_number_is_shown_as_such(tmp_path: Path):
    board = TensorBoard(tmp_path)
    board.on_train_begin(Mock(), Mock(global_step=0), Mock())
    board.on_log(Mock(), Mock(global_step=1), Mock(), logs={"loss": math.nan})
    board.on_train_end(Mock(), Mock(), Mock())
    assert math.isnan(scalars(tmp_path)["loss"][1])
