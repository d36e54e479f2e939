"""The table in docs/media.md is true of files of every line."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from omnialign.errors import InvalidArgument
from omnialign.modeling.decoding import decode_here
from omnialign.modeling.inputs import MediaBytes
from services.data.config import DataConfig
from services.data.media_types import modality_of
from services.data.media_validation import MediaLimits, validate
from tests.omnialign.media.policy import pictures, sounds, videos
from tests.omnialign.media.policy.made import Made

PAGE = Path(__file__).resolve().parents[3] / "docs" / "media.md"
LIMITS = MediaLimits.of(DataConfig(root=Path("unused")))
FILES = {**pictures.FILES, **sounds.FILES, **videos.FILES}


@dataclass(frozen=True)
class Line:
    """One line of the table; `codes` are the types or the reason, `said` what is in code in the last column."""

    name: str
    verdict: str
    codes: list[str]
    said: list[str]


def table() -> list[Line]:
    rows = [row.strip("|").split("|") for row in PAGE.read_text().splitlines() if row.startswith("| ")]
    found = [Line(name.strip(), verdict.strip(), _code(codes), _code(last)) for name, verdict, codes, last in rows]
    return [line for line in found if line.verdict]  # not the head


def _code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_each_line_has_files_and_each_file_a_line() -> None:
    assert [line.name for line in table()] == list(FILES)
    assert {line.verdict for line in table()} == {"taken", "converted", "refused"}


@pytest.mark.parametrize("line", table(), ids=lambda line: line.name)
def test_files_are_taken_converted_or_refused_as_the_table_says(line: Line, tmp_path: Path) -> None:
    path, types = tmp_path / "medium", set()
    for made in FILES[line.name]():
        path.write_bytes(made.data)
        if line.verdict == "refused":
            _is_refused(path, made, line)
        else:
            types.add(mime_type := validate(path, LIMITS, made.claim))
            _is_seen(made, mime_type, line)
    assert types == (set(line.codes) if line.verdict != "refused" else set())


def _is_refused(path: Path, made: Made, line: Line) -> None:
    with pytest.raises(InvalidArgument) as caught:
        validate(path, LIMITS, made.claim)
    assert [caught.value.reason] == line.codes
    assert all(f"`{command}`" in caught.value.message for command in line.said), caught.value.message
    assert ("`" in caught.value.message) == bool(line.said)


def _is_seen(made: Made, mime_type: str, line: Line) -> None:
    found = decode_here(MediaBytes(modality_of(mime_type), made.data), made.policy)
    assert (found.loss.reason if found.loss else "") == made.loss
    assert ([made.loss] if made.loss else []) == line.said
    made.check(found)
