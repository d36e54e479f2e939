"""Reading what another tool wrote: a file of bounded size, and tasks that are those of the campaign, unchanged.

Nothing that a file names is opened: media are told by the digest in their link.
"""

import datetime
import json
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from omnialign.errors import OmnialignError
from omnialign.exchange.pairs import Pair
from omnialign.exchange.refusals import Problem, Refusal, Refused, found_text, unreadable
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Answer

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_ANNOTATOR_CHARACTERS = 200
ANSWERS = "answers"
"""The fact by which annotations that the export wrote are told from those of the tool's own users."""


@dataclass(frozen=True)
class Imported:
    """An annotation that is taken."""

    task: int
    """The place of its task in the file, from 1."""
    pair: Pair
    annotator: str
    annotation: Annotation
    answer_time: Timestamp | None = None


@dataclass(frozen=True)
class Source:
    """The campaign that tasks may be of, and its pairs by record id."""

    campaign: str
    pairs: Mapping[str, Pair]
    """Those that the file may name."""
    pair_count: int
    """Of the whole campaign."""
    names: Mapping[str, str]
    """Who is meant by an id that is no name."""


def read_json(path: Path, *, limit_bytes: int = MAX_FILE_BYTES) -> tuple[bytes, list[Any]]:
    """The bytes and the tasks of a file. Raises InvalidArgument FILE_UNREADABLE, FILE_TOO_LARGE, FORMAT_UNKNOWN."""
    name = path.name
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise unreadable(name, "it is no file")
        if found.st_size > limit_bytes:
            size, limit = (f"{count / 1024**2:,.0f} MiB" for count in (found.st_size, limit_bytes))
            message = f"it has {size}, and up to {limit} are taken; import the tasks in parts"
            raise unreadable(name, message, reason="FILE_TOO_LARGE")
        data = path.read_bytes()
        tasks = json.loads(data)
    except OmnialignError:
        raise
    except RecursionError as error:
        raise unreadable(name, "its JSON is nested too deeply") from error
    except (OSError, ValueError) as error:  # no JSON, no UTF-8, a number of thousands of digits
        raise unreadable(name, " ".join(str(error).split()).rstrip(".")[:300]) from error
    if not isinstance(tasks, list):
        raise unreadable(name, f"it is a {type(tasks).__name__} and not a list of tasks", reason="FORMAT_UNKNOWN")
    return data, tasks


def pair_of(facts: Any, source: Source, *, place: str) -> Pair:
    """The pair that a task is about, by the facts that it carries. Raises Refused."""
    if not isinstance(facts, dict):
        raise Refused([Problem(place, found_text(facts), "the facts that the export wrote", "TASK_UNKNOWN")])
    campaign, record = facts.get("campaign"), facts.get("record")
    if campaign != source.campaign:
        wanted = f"{source.campaign}; to take the tasks of another campaign over the same pairs, name it with --from"
        raise Refused([Problem(f"{place}.campaign", found_text(campaign), wanted, "TASK_OF_OTHER_CAMPAIGN")])
    pair = source.pairs.get(record) if isinstance(record, str) else None
    if pair is None:
        wanted = f"the id of one of the {source.pair_count} pairs of the campaign"
        raise Refused([Problem(f"{place}.record", found_text(record), wanted, "TASK_UNKNOWN")])
    if facts.get("digest") != pair.digest:
        raise Refused([Problem(f"{place}.digest", found_text(facts.get("digest")), pair.digest, "PAIR_CHANGED")])
    return pair


def check_fields(fields: Mapping[str, Any], pair: Pair, *, place: str, embeds_images: bool = False) -> None:
    """Raises Refused if a part of the pair was changed in the other tool.

    A link to a medium has the medium's digest in it. A tool that embeds images writes them
    anew, so that their bytes say nothing.
    """
    problems = list[Problem]()
    for field in pair.fields:
        value = fields.get(field.name)
        if field.media is None:
            is_same, wanted = value == field.text, found_text(field.text)
        elif embeds_images and field.kind == "image" and isinstance(value, str) and value.startswith("data:image/"):
            continue
        else:
            wanted = f"a link to {field.media.sha256[:12]}..."
            is_same = isinstance(value, str) and ".." not in value and field.media.sha256 in value
        if not is_same:
            problems.append(Problem(f"{place}.{field.name}", found_text(value), wanted, "PAIR_CHANGED"))
    if problems:
        raise Refused(problems)


def annotator_of(given: Any, source: Source, *, place: str) -> str:
    """Who annotated. Raises Refused."""
    given = str(given) if isinstance(given, int) and not isinstance(given, bool) else given
    name = source.names.get(given, given) if isinstance(given, str) else given
    is_name = isinstance(name, str) and name.strip() and len(name) <= MAX_ANNOTATOR_CHARACTERS and is_unicode(name)
    if not is_name:
        wanted = f"a name, e-mail address or id of up to {MAX_ANNOTATOR_CHARACTERS} characters"
        raise Refused([Problem(place, found_text(given), wanted, "ANNOTATOR_MISSING")])
    return str(name)


def people_of(facts: Mapping[str, Any], *, place: str) -> dict[str, dict[str, Any]]:
    """Who made the annotations that the export wrote, by the id that they had there. Raises Refused."""
    text = facts.get(ANSWERS) or "{}"
    try:
        people = json.loads(text)
        if not isinstance(people, dict) or not all(isinstance(one, dict) for one in people.values()):
            raise ValueError("no object of objects")
    except (TypeError, ValueError, RecursionError) as error:
        wanted = "what the export wrote, or nothing"
        raise Refused([Problem(f"{place}.{ANSWERS}", found_text(text), wanted, "TASK_INVALID")]) from error
    return people


def people_text(answers: Mapping[str, Answer]) -> str:
    """What `people_of` reads back, for answers by the id that they get."""
    people = {key: {"annotator": one.annotator, "time": time_text(one.answer_time)} for key, one in answers.items()}
    return json.dumps(people, ensure_ascii=False)


def time_of(given: Any, *, place: str) -> Timestamp | None:
    """When, if the file says so. Raises Refused."""
    if given is None:
        return None
    made = Timestamp()
    try:
        moment = datetime.datetime.fromisoformat(given)
        made.FromDatetime(moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC))
        if made.seconds < 0:
            raise ValueError("before 1970")
    except (TypeError, ValueError, OverflowError) as error:
        problem = Problem(place, found_text(given), "a time such as 2026-11-30T09:00:00Z", "TIME_INVALID")
        raise Refused([problem]) from error
    return made


def time_text(moment: Timestamp) -> str:
    """A time as files have it."""
    return moment.ToDatetime(tzinfo=datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def is_unicode(text: str) -> bool:
    """Whether a text can be stored: JSON may hold half of a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def refusals(error: Refused, *, file: str, task: int, annotator: str = "") -> Iterable[Refusal]:
    """The problems of a task or annotation, with where they are."""
    return [Refusal(file, task, annotator, problem) for problem in error.problems]


def objects(value: Any, *, place: str) -> Sequence[dict[str, Any]]:
    """A list of objects. Raises Refused."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise Refused([Problem(place, found_text(value), "a list of objects", "TASK_INVALID")])
    return value
