"""Campaigns as files of other annotation tools, and what was annotated there brought back.

A project of such a tool has one form, so pairs that differ in subtask or in their parts go to files of their own. Files
appear complete or not at all. Nothing is dropped silently: what a tool cannot show is counted and said.
"""

import asyncio
import base64
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from omnialign import names
from omnialign.content import media_file_name as media_name
from omnialign.errors import InvalidArgument
from omnialign.exchange import argilla, label_studio
from omnialign.exchange.label_studio_config import labeling_config
from omnialign.exchange.pairs import Pair, same, shown
from omnialign.exchange.reading import Imported, Source, read_json
from omnialign.exchange.refusals import Problem, Refusal, unreadable
from omnialign.exporting.folder import atomic_folder
from omnialign.v1.annotation_service_pb2 import Campaign, ImportedAnnotation, ImportResult, Item, Task
from omnialign.v1.content_pb2 import MODALITY_IMAGE, Media
from omnialign.v1.record_pb2 import Record

if TYPE_CHECKING:
    from omnialign.cli.output import Output
    from omnialign.client import AsyncClient

FORMATS = (label_studio.TOOL, argilla.TOOL)
IDS_AT_ONCE = 1000
MEDIA = "media"
LOCAL_FILES = "/data/local-files/?d=media/"
"""Where Label Studio finds files in the folder that it is started with."""


@dataclass
class Exported:
    """How much was exported."""

    tasks: Counter[str] = field(default_factory=Counter)
    """By file."""
    annotations: int = 0
    media: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """What the tool has no place for, or shows otherwise."""


@dataclass
class Brought:
    """What became of the annotations of a file."""

    added: int = 0
    unchanged: int = 0
    skipped: int = 0
    """Pairs that somebody skipped in the other tool."""
    refusals: list[Refusal] = field(default_factory=list)


async def export(client: "AsyncClient", name: str, folder: Path, *, tool: str, media_base: str = "") -> Exported:
    """Writes a campaign into a new folder. Raises AlreadyExists FOLDER_NOT_EMPTY, InvalidArgument, NotFound.

    With `media_base`, media are links under that address and no files.
    """
    campaign = await client.get_campaign(name)
    items = {item.record_id: item async for item in client.list_items(name)}
    done, projects, media = Exported(), dict[tuple[str, ...], _Project](), set[str]()
    with atomic_folder(folder) as partial, ExitStack() as files:
        link = _linking(tool, media_base, partial / MEDIA)
        async for record in client.stream_records(campaign.dataset_version):
            if record.id not in items:
                continue
            pair = _pair(campaign, items[record.id], shown(record))
            if pair.shape not in projects:
                project = _project_name(record.subtask, {one.title for one in projects.values()})
                projects[pair.shape] = files.enter_context(_project(partial, project, pair, campaign, tool))
            for medium in (one.media for one in pair.fields if one.media):
                if not media_base and medium.sha256 not in media:
                    (partial / MEDIA).mkdir(exist_ok=True)
                    await _write_medium(client, medium, partial / MEDIA)
                    media.add(medium.sha256)
            is_studio = tool == label_studio.TOOL
            projects[pair.shape].add(label_studio.task_of(pair, link) if is_studio else argilla.record_of(pair, link))
            _count(done, projects[pair.shape].name, pair, items[record.id], tool)
    done.media = len(media)
    return done


def detect(tasks: Sequence[Any], *, file: str) -> str:
    """The tool that wrote a list of tasks. Raises InvalidArgument FORMAT_UNKNOWN."""
    for task in tasks:
        if isinstance(task, dict) and "data" in task:
            return label_studio.TOOL
        if isinstance(task, dict) and "fields" in task:
            return argilla.TOOL
    what = (
        "it is neither Label Studio's JSON, a list of tasks with `data`, nor Argilla's, a list of records with `fields`"
    )
    raise unreadable(file, what, reason="FORMAT_UNKNOWN")


async def bring(
    client: "AsyncClient",
    name: str,
    path: Path,
    *,
    tool: str = "",
    from_campaign: str = "",
    people: Mapping[str, str] | None = None,
) -> Brought:
    """Submits what a file has of a campaign; `from_campaign` is the one that the tasks name, if it is another.

    Raises InvalidArgument for a file that cannot be read, and NotFound.
    """
    path, data, tasks = await asyncio.to_thread(_read, path)
    tool = tool or detect(tasks, file=path.name)
    campaign = await client.get_campaign(name)
    items = {item.record_id: item async for item in client.list_items(name)}
    pairs = dict[str, Pair]()
    ids = sorted(items.keys() & set(_records_in(tasks, tool)))
    for start in range(0, len(ids), IDS_AT_ONCE):
        async for record in client.stream_records(campaign.dataset_version, ids=ids[start : start + IDS_AT_ONCE]):
            pair = _pair(campaign, items[record.id], shown(record))
            pairs[record.id] = pair
    source = Source(from_campaign or campaign.name, pairs, len(items), people or {})
    read = label_studio.read_tasks if tool == label_studio.TOOL else argilla.read_records
    done, new = Brought(), list[Imported]()
    for found in read(tasks, source, file=path.name):
        if found is None:
            done.skipped += 1
        elif isinstance(found, Refusal):
            done.refusals.append(found)
        elif _is_there(found):
            done.unchanged += 1
        else:
            new.append(found)
    messages = [_message(one) for one in new]
    digest = hashlib.sha256(data).hexdigest()
    results = await client.import_annotations(name, messages, tool=tool, file_sha256=digest)
    for one, result in zip(new, results, strict=True):
        done.added += result.state == ImportResult.STATE_ADDED
        done.unchanged += result.state == ImportResult.STATE_UNCHANGED
        if result.state == ImportResult.STATE_REFUSED:
            problem = Problem(
                "annotation", result.message, "an annotation that the campaign has room for", result.reason
            )
            done.refusals.append(Refusal(path.name, one.task, one.annotator, problem))
    return done


def report_export(done: Exported, folder: Path, *, out: "Output") -> None:
    """Says what was exported, and what the tool has no place for."""
    left_out = {what: count for what, count in done.left_out.items() if count}
    counts = {"tasks": dict(done.tasks), "annotations": done.annotations, "media": done.media, "left_out": left_out}
    out.record({"folder": str(folder), **counts})
    for file, count in done.tasks.items():
        out.say(f"{folder / file}: {count} tasks")
    out.say(f"{done.annotations} annotations, {done.media} media files")
    for what, count in left_out.items():
        out.say(f"{count} {what}.")


def report_import(done: Brought, *, out: "Output") -> None:
    """Says what was taken, and each thing that was not."""
    for refusal in done.refusals:
        one = refusal.problem
        where = {"file": refusal.file, "task": refusal.task, "annotator": refusal.annotator, "place": one.place}
        out.record({"refused": where | {"found": one.found, "wanted": one.wanted, "reason": one.reason}})
        out.say(f"refused: {refusal}")
    counts = {"added": done.added, "unchanged": done.unchanged, "skipped": done.skipped}
    out.record({**counts, "refusals": len(done.refusals)})
    out.say(f"Added {done.added} annotations; {done.unchanged} were there already, {len(done.refusals)} problems.")
    if done.skipped:
        out.say(f"{done.skipped} were skipped, discarded or left as a draft there, and are as before here.")


class _Project:
    """A list in a file, written one by one."""

    def __init__(self, title: str, name: str, file: TextIO) -> None:
        self.title, self.name, self._file, self._before = title, name, file, "[\n"

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes one more."""
        self._file.write(self._before + json.dumps(row, ensure_ascii=False))
        self._before = ",\n"


def _project_name(subtask: str, taken: Collection[str]) -> str:
    """A name for files. A subtask of somebody's own may be any text, such as a path."""
    base = subtask if re.fullmatch("[a-z0-9]+", subtask) else "pairs"
    return next(name for n in itertools.count(1) if (name := base if n == 1 else f"{base}-{n}") not in taken)


@contextmanager
def _project(folder: Path, name: str, pair: Pair, campaign: Campaign, tool: str) -> Iterator[_Project]:
    """The files of one form: what the tool must know of it, and the list of its tasks."""
    if tool == label_studio.TOOL:
        config = labeling_config(pair, instructions=campaign.instructions)
        (folder / f"{name}.xml").write_text(config, encoding="utf-8")
        path = folder / f"{name}.json"
    else:
        hidden = folder / name / ".argilla"
        hidden.mkdir(parents=True)
        settings = argilla.settings_of(pair, instructions=campaign.instructions, overlap=campaign.overlap)
        dataset = argilla.dataset_of(f"{names.id_of(campaign.name)}-{name}")
        for hidden_file, value in (("settings.json", settings), ("dataset.json", dataset)):
            (hidden / hidden_file).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        path = folder / name / argilla.RECORDS
    with path.open("w", encoding="utf-8") as file:
        yield _Project(name, str(path.relative_to(folder)), file)
        file.write("\n]\n")


def _read(path: Path) -> tuple[Path, bytes, list[Any]]:
    """The file that is meant, its bytes and its tasks."""
    path = path / argilla.RECORDS if path.is_dir() else path
    return path, *read_json(path)


async def _write_medium(client: "AsyncClient", medium: Media, folder: Path) -> None:
    data = await client.get_media(medium.sha256)
    await asyncio.to_thread((folder / media_name(medium)).write_bytes, data)


def _linking(tool: str, media_base: str, folder: Path) -> Callable[[Media], str]:
    """How media stand in a task. Raises InvalidArgument MEDIA_BASE_INVALID."""
    schemes = "https?" if tool == argilla.TOOL else "[a-z][a-z0-9+.-]*"
    if media_base and not re.fullmatch(rf"{schemes}://[^\s\x00-\x1f]+", media_base):
        message = f"--media-base {media_base!r} is no address that {tool} opens, such as https://media.example.org/x."
        raise InvalidArgument(message, reason="MEDIA_BASE_INVALID", metadata={"media_base": media_base})

    def link(medium: Media) -> str:
        name = media_name(medium)
        if media_base:
            return f"{media_base.rstrip('/')}/{name}"
        if tool == label_studio.TOOL:
            return LOCAL_FILES + name
        if medium.modality != MODALITY_IMAGE:
            return f"{MEDIA}/{name}"
        return f"data:{medium.mime_type};base64,{base64.b64encode((folder / name).read_bytes()).decode()}"

    return link


def _pair(campaign: Campaign, item: Item, record: Record) -> Pair:
    rubric = next(one for one in campaign.rubrics if one.subtask == item.subtask)
    submitted = [answer for answer in item.answers if answer.state == Task.STATE_SUBMITTED]
    return Pair(campaign.name, item.name, record, rubric, submitted)


def _count(done: Exported, file: str, pair: Pair, item: Item, tool: str) -> None:
    done.tasks[file] += 1
    done.annotations += len(pair.answers)
    done.left_out["skips and flags stay in the campaign"] += len(item.answers) - len(pair.answers)
    if tool != argilla.TOOL:
        return
    for one in pair.fields:
        if one.kind not in argilla.SHOWN:
            done.left_out[f"parts are a link to {one.kind}, which Argilla does not play"] += 1
    marks = sum(len(feedback.marks) for answer in pair.answers for feedback in answer.annotation.feedback)
    done.left_out["marks are lines of text, because Argilla has no regions"] += marks


def _records_in(tasks: Sequence[Any], tool: str) -> Iterator[str]:
    """The record ids that a file names."""
    place = "data" if tool == label_studio.TOOL else "metadata"
    for task in tasks:
        facts = task.get(place) if isinstance(task, dict) else None
        record = facts.get("record") if isinstance(facts, dict) else None
        if isinstance(record, str):
            yield record


def _is_there(found: Imported) -> bool:
    """Whether the campaign has the annotation already, which the tool may have rounded."""
    own = (answer.annotation for answer in found.pair.answers if answer.annotator == found.annotator)
    return any(same(annotation, found.annotation) for annotation in own)


def _message(found: Imported) -> ImportedAnnotation:
    message = ImportedAnnotation(item=found.pair.item, annotator=found.annotator, annotation=found.annotation)
    if found.answer_time is not None:
        message.answer_time.CopyFrom(found.answer_time)
    return message
