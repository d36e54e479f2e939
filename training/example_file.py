"""The file of examples: one Arrow file per run, written while records are read, and mapped into memory by every rank.

An example is made when it is asked for, so that a rank holds those of a batch and not those of the dataset: its memory
does not grow with the data, and nothing is read through before the first step. What decides about examples without
reading them, such as lengths, stands in columns of its own.
"""

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from omnialign.errors import DataLoss
from training.examples import Example, MediaRef, prompt_hash
from training.files import staging_name, sync_folder

GROUP_ROWS = 1024
"""Examples that are written together, and so in memory while the file is made."""
KEPT_READS = 32
"""Examples that are read before a rank gives back the pages of the file that it has touched."""
IDS = pa.list_(pa.int32())
MEDIA = pa.list_(pa.struct([("sha256", pa.binary(32)), ("modality", pa.int8())]))
SCHEMA = pa.schema(
    [
        ("prompt", IDS),
        ("answers", pa.list_(IDS)),
        ("media", MEDIA),
        ("value", pa.float64()),
        ("record", pa.binary()),
        ("teacher_prompt", IDS),
        ("teacher_media", MEDIA),
        ("length", pa.int32()),
        ("prompt_length", pa.int32()),
        ("prompt_hash", pa.uint64()),
    ]
)


class ExampleWriter:
    """Takes examples one after the other; see `writing`."""

    def __init__(self, sink: pa.OSFile) -> None:
        self._writer = pa.ipc.new_file(sink, SCHEMA)
        self._waiting: list[dict[str, Any]] = []
        self.count = 0
        """Examples taken."""

    def add(self, examples: Iterable[Example]) -> None:
        """Takes more examples."""
        for example in examples:
            self._waiting.append(_document(example))
            self.count += 1
            if len(self._waiting) == GROUP_ROWS:
                self._flush()

    def close(self) -> None:
        """Writes what is left, and the end of the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._waiting, schema=SCHEMA))
            self._waiting = []


@contextlib.contextmanager
def writing(path: Path) -> Iterator[ExampleWriter]:
    """A new file of examples, which appears at the end of the block; an error within leaves what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = staging_name(path)
    try:
        with staged.open("wb") as file:
            writer = ExampleWriter(pa.PythonFile(file))
            yield writer
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Writes a file of examples, atomically."""
    with writing(path) as writer:
        writer.add(examples)


def _document(example: Example) -> dict[str, Any]:
    return {
        "prompt": example.prompt,
        "answers": example.answers,
        "media": _named(example.media),
        "value": example.value,
        "record": example.record,
        "teacher_prompt": example.teacher_prompt,
        "teacher_media": _named(example.teacher_media),
        "length": example.length,
        "prompt_length": len(example.prompt),
        "prompt_hash": prompt_hash(example),
    }


def _named(refs: Iterable[MediaRef]) -> list[dict[str, Any]]:
    return [{"sha256": bytes.fromhex(ref.sha256), "modality": ref.modality} for ref in refs]


class Examples(Sequence[Example]):
    """The examples of a file, or some of them in an order of their own; each is made when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Maps the file. Raises `DataLoss` (EXAMPLES_UNREADABLE) if it is damaged."""
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.py_buffer(self._map))
            groups = [reader.get_batch(at) for at in range(reader.num_record_batches)]
            for group in groups:
                group.validate()
            self._groups = [{name: group.column(name) for name in SCHEMA.names} for group in groups]
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataLoss(f"{path} is not a file of examples: {error}", reason="EXAMPLES_UNREADABLE") from error
        self._reads = 0
        self.path = path
        self.rows: NDArray[np.int64] = np.arange(sum(group.num_rows for group in groups))
        """The number of each example in the file."""

    def select(self, places: NDArray[np.int64]) -> "Examples":
        """The examples at these places, in this order; nothing is copied."""
        found = copy(self)
        found.rows = self.rows[places]
        return found

    def __add__(self, more: "Examples") -> "Examples":
        """These examples, and then those of another choice of the same file."""
        found = copy(self)
        found.rows = np.concatenate([self.rows, more.rows])
        return found

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Example:  # type: ignore[override]  # no slices: they are for `select`
        number, row = divmod(int(self.rows[place]), len(self._groups[0]["value"]))
        column = self._groups[number]
        self._reads += 1
        if self._reads % KEPT_READS == 0:  # or all of the file would count as memory of this rank at last
            self._map.madvise(mmap.MADV_DONTNEED)
        return Example(
            prompt=_ids(column["prompt"][row]),
            answers=[_ids(answer) for answer in column["answers"][row]],
            media=_refs(column["media"][row]),
            value=column["value"][row].as_py(),
            record=column["record"][row].as_py(),
            teacher_prompt=_ids(column["teacher_prompt"][row]),
            teacher_media=_refs(column["teacher_media"][row]),
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`Example.length` of each, (examples,)."""
        return self._numbers("length").astype(np.int64)

    @property
    def prompt_lengths(self) -> NDArray[np.int64]:
        """Tokens of each prompt, (examples,)."""
        return self._numbers("prompt_length").astype(np.int64)

    @property
    def values(self) -> NDArray[np.float64]:
        """`Example.value` of each, (examples,)."""
        return self._numbers("value")

    @property
    def prompt_hashes(self) -> NDArray[np.uint64]:
        """`prompt_hash` of each, (examples,)."""
        return self._numbers("prompt_hash")

    def _numbers(self, name: str) -> NDArray[Any]:
        if not self._groups:
            return np.empty(0, dtype=SCHEMA.field(name).type.to_pandas_dtype())
        return np.concatenate([group[name].to_numpy() for group in self._groups])[self.rows]

    def modalities(self) -> frozenset[int]:
        """The modalities whose features the examples of the whole file need."""
        media = self._media_chunks()
        return frozenset(int(found) for chunk in media for found in chunk.field("modality").unique().to_pylist())

    def digests(self) -> Iterator[str]:
        """The media of the whole file, by digest; one may come several times."""
        for chunk in self._media_chunks():
            yield from (digest.hex() for digest in chunk.field("sha256").unique().to_pylist())

    def _media_chunks(self) -> Iterator[pa.StructArray]:
        for name in ("media", "teacher_media"):
            yield from (group[name].flatten() for group in self._groups)


def _ids(found: pa.ListScalar) -> list[int]:
    ids: list[int] = found.values.to_numpy().tolist()
    return ids


def _refs(found: pa.ListScalar) -> tuple[MediaRef, ...]:
    return tuple(MediaRef(ref["sha256"].hex(), ref["modality"]) for ref in found.as_py())
