"""Records as text on a terminal, and as JSON lines with their media in a folder.

An export folder appears complete or not at all.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omnialign.cli.output import to_json_dict
from omnialign.content import NAMES, media_file_name, media_of
from omnialign.errors import AlreadyExists
from omnialign.v1 import content_pb2, record_pb2

if TYPE_CHECKING:
    from omnialign.client import AsyncClient


file_name = media_file_name
VERDICTS = {
    record_pb2.VERDICT_WIN: "the second is better",
    record_pb2.VERDICT_TIE: "tie",
    record_pb2.VERDICT_LOSS: "the first is better",
    record_pb2.VERDICT_ABSTAIN: "abstained",
}


def record_text(record: record_pb2.Record) -> str:
    """A record in a few lines: prompt, responses with their feedback, preference, verdict, labels."""
    return "\n".join(_lines(record)) + "\n"


def content_text(content: content_pb2.Content) -> str:
    """A message with each medium as `[image sha256:0123456789ab, 1,234 bytes]`."""
    return " ".join(_part(part) for part in content.parts) or "(empty)"


def _part(part: content_pb2.Part) -> str:
    if part.WhichOneof("part") == "text":
        return part.text
    kind = NAMES.get(part.media.modality, "media")
    return f"[{kind} sha256:{part.media.sha256[:12]}, {part.media.size_bytes:,} bytes]"


def _lines(record: record_pb2.Record) -> Iterator[str]:
    yield f"■ {record.id}  {record.subtask}  {record.split}".rstrip()
    yield f"  prompt      {_indented(content_text(record.prompt))}"
    for number, response in enumerate(record.responses, start=1):
        yield f"  response {number}  {_indented(content_text(response.content))}"
        yield from _feedback(response.feedback)
    if record.HasField("preference"):
        yield f"  preferred   {record.preference.preferred}  {_indented(record.preference.reason)}".rstrip()
    if record.HasField("comparison"):
        yield f"  judge       {VERDICTS.get(record.comparison.verdict, '')} {record.comparison.abstain_reason}".rstrip()
    if record.labels:
        yield "  labels      " + ", ".join(f"{key}={value}" for key, value in sorted(record.labels.items()))
    if record.HasField("quarantine"):
        yield f"  quarantined {record.quarantine.reason} in {record.quarantine.stage}: {record.quarantine.message}"


def _feedback(feedback: record_pb2.Feedback) -> Iterator[str]:
    if feedback.scores:
        yield "    scores    " + ", ".join(f"{s.dimension} {s.score}" for s in feedback.scores)
    if feedback.critique:
        yield f"    critique  {_indented(feedback.critique)}"
    if feedback.refinement:
        yield f"    advice    {_indented(feedback.refinement)}"


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 14)


@dataclass(frozen=True)
class ExportCounts:
    """How much was exported."""

    records: int
    media: int


async def export(
    records: AsyncIterable[record_pb2.Record], folder: Path, *, client: "AsyncClient", with_media: bool = True
) -> ExportCounts:
    """Writes records and media into a new folder. Raises AlreadyExists FOLDER_NOT_EMPTY."""
    with atomic_folder(folder) as partial:
        return await _write(partial, records, client if with_media else None)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill: it is renamed to `folder` at the end, or removed on an error."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = f"'{folder}' exists already and is not empty; choose another folder."
        raise AlreadyExists(message, reason="FOLDER_NOT_EMPTY", metadata={"folder": str(folder)})
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield partial
        partial.chmod(0o755)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


async def _write(folder: Path, records: AsyncIterable[record_pb2.Record], client: "AsyncClient | None") -> ExportCounts:
    media: dict[str, content_pb2.Media] = {}
    count = 0
    with (folder / "records.jsonl").open("w", encoding="utf-8") as lines:
        async for record in records:
            lines.write(json.dumps(to_json_dict(record), ensure_ascii=False) + "\n")
            for medium in media_of([record.prompt, *(response.content for response in record.responses)]):
                media[medium.sha256] = medium
            count += 1
    if client is None:
        return ExportCounts(count, 0)
    (folder / "media").mkdir()
    for medium in media.values():
        (folder / "media" / file_name(medium)).write_bytes(await client.get_media(medium.sha256))
    return ExportCounts(count, len(media))
