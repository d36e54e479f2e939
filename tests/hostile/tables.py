"""Tables that unpack to far more than they seem to hold, and rows that cost more than linear time."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def tables() -> Mapping[str, Callable[[Path], Path]]:
    """Functions that write a hostile data file into a folder, by what is hostile about it."""
    return {
        "row of 240,000 columns": wide_row,
        "lines of 240,000 columns": wide_lines,
        "parquet with a huge dictionary": huge_dictionary,
        "parquet of 20,000 columns": wide_parquet,
        "parquet with one value of 500 MB": one_large_value,
        "list nested 100,000 deep": deep_list,
        "number of a million digits": long_number,
        "text of a hundred million characters": long_text,
        "not a table at all": noise,
    }


def wide_row(folder: Path) -> Path:
    """One JSON object with a great many keys."""
    return _json(folder, [{f"column {index}": index for index in range(240_000)} | {"question": "?"}])


def wide_lines(folder: Path) -> Path:
    """The same for JSON lines."""
    path = folder / "train.jsonl"
    path.write_text(json.dumps({f"response_{index}": "a" for index in range(240_000)}) + "\n")
    return path


def huge_dictionary(folder: Path) -> Path:
    """Few bytes on disk: a dictionary of one long text, that every row refers to."""
    text = "a" * 2_000_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), pa.array([text]))
    return _parquet(folder, pa.table({"question": column}))


def wide_parquet(folder: Path) -> Path:
    """A great many columns of one row."""
    return _parquet(folder, pa.table({f"column {index}": [index] for index in range(20_000)}))


def one_large_value(folder: Path) -> Path:
    """A value that compresses to almost nothing."""
    return _parquet(folder, pa.table({"question": pa.array(["a" * 500_000_000], pa.large_string())}))


def deep_list(folder: Path) -> Path:
    """JSON that recursion cannot read."""
    path = folder / "train.json"
    path.write_text('[{"question": ' + "[" * 100_000 + "]" * 100_000 + "}]")
    return path


def long_number(folder: Path) -> Path:
    """A number whose conversion takes quadratic time."""
    path = folder / "train.json"
    path.write_text('[{"question": ' + "9" * 1_000_000 + "}]")
    return path


def long_text(folder: Path) -> Path:
    """A row larger than any row may be."""
    path = folder / "train.jsonl"
    path.write_text('{"question": "' + "a" * 100_000_000 + '"}\n')
    return path


def noise(folder: Path) -> Path:
    """Bytes that begin and end like a Parquet file."""
    path = folder / "train.parquet"
    path.write_bytes(b"PAR1" + b"\xff" * 100_000 + b"PAR1")
    return path


def _json(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "train.json"
    path.write_text(json.dumps(rows))
    return path


def _parquet(folder: Path, table: pa.Table) -> Path:
    path = folder / "train.parquet"
    pq.write_table(table, path, compression="zstd")
    return path
