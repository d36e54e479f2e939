"""Tasks of Label Studio, with the annotations that exist, and the annotations that it gives back.

A task's `data` has the parts of the pair and the facts by which its results find back. Each answer is one result; a
mark is a region, whose note is a result with the same id. Label Studio says of an annotation that it imported who
brought it, when, and which number it had: by that number it is its author's again.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from omnialign.exchange.label_studio_config import FRAMES_PER_SECOND, MARKS, NO_DIMENSION, PAIR, mark_name, note_name
from omnialign.exchange.pairs import TEXT, Field, Pair, field_of, mark_fields
from omnialign.exchange.questions import SIDES, annotation_of, answers_of
from omnialign.exchange.reading import (
    ANSWERS,
    Imported,
    Source,
    annotator_of,
    check_fields,
    is_unicode,
    objects,
    pair_of,
    people_of,
    people_text,
    refusals,
    time_of,
    time_text,
)
from omnialign.exchange.refusals import Problem, Refusal, Refused, found_text
from omnialign.names import id_of
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Answer
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Mark, Region, TimeSpan

TOOL = "label-studio"
MAX_NOTE_CHARACTERS = 2000
FRACTION_DIGITS = 9
EDGES = {"x": "left", "y": "top", "width": "width", "height": "height"}

Result = dict[str, Any]


def task_of(pair: Pair, link: Callable[[Media], str]) -> dict[str, Any]:
    """A pair as a task."""
    parts = {field.name: link(field.media) if field.media else field.text for field in pair.fields}
    answers = dict(enumerate(pair.answers, start=1))
    data = {PAIR: f"{id_of(pair.campaign)}: {pair.record.id}", **pair.facts(), **parts}
    data[ANSWERS] = people_text({str(number): answer for number, answer in answers.items()})
    return {"data": data, "annotations": [_annotation_of(answer, pair, number) for number, answer in answers.items()]}


def read_tasks(tasks: Sequence[Any], source: Source, *, file: str) -> Iterator[Imported | Refusal | None]:
    """What is taken of the tasks of a file, and what is not; None for a pair that somebody skipped there."""
    for number, task in enumerate(tasks, start=1):
        try:
            if not isinstance(task, dict):
                raise Refused([Problem("task", found_text(task), "an object with `data`", "TASK_INVALID")])
            pair = pair_of(task.get("data"), source, place="data")
            check_fields(task["data"], pair, place="data")
            annotations = objects(task.get("annotations", []), place="annotations")
            people = people_of(task["data"], place="data")
        except Refused as error:
            yield from refusals(error, file=file, task=number)
            continue
        for position, annotation in enumerate(annotations, start=1):
            if annotation.get("was_cancelled"):
                yield None
                continue
            who = f"number {position}"
            try:
                known = people.get(str(annotation.get("import_id")), {})
                who = _annotator(known.get("annotator") or annotation.get("completed_by"), source)
                moment = _time(known, annotation)
                yield Imported(number, pair, who, _annotation(annotation, pair), moment)
            except Refused as error:
                yield from refusals(error, file=file, task=number, annotator=who)


def _annotation_of(answer: Answer, pair: Pair, number: int) -> dict[str, Any]:
    results = [
        _answer_result(question.name, question.choices is None, text)
        for question, text in answers_of(answer.annotation, pair.rubric)
    ]
    for side, feedback in zip(SIDES, answer.annotation.feedback, strict=False):
        for place, mark in enumerate(feedback.marks):
            results += _mark_results(mark, side, pair, region=f"mark_{side}_{place}")
    when = time_text(answer.answer_time)
    who = {"id": number, "completed_by": {"email": answer.annotator}}
    times = {"created_at": when, "updated_at": when}
    return {**who, "was_cancelled": False, "ground_truth": False, **times, "result": results}


def _answer_result(name: str, is_text: bool, answer: str) -> Result:
    kind, value = ("textarea", {"text": [answer]}) if is_text else ("choices", {"choices": [answer]})
    return {"id": name, "from_name": name, "to_name": PAIR, "type": kind, "value": value, "origin": "manual"}


def _mark_results(mark: Mark, side: int, pair: Pair, *, region: str) -> list[Result]:
    field = field_of(mark, side, pair)
    if field is None or field.kind == TEXT:
        return []  # the service takes no such mark
    place = _place(mark, field)
    base = {"id": region, "to_name": field.name, "origin": "manual"}
    kind = MARKS[field.kind].lower()
    label = {kind: [mark.dimension or NO_DIMENSION]}
    results = [base | {"from_name": mark_name(side, field), "type": kind, "value": place | label}]
    if mark.note:
        results.append(
            base | {"from_name": note_name(field), "type": "textarea", "value": place | {"text": [mark.note]}}
        )
    return results


def _place(mark: Mark, field: Field) -> dict[str, Any]:
    if field.kind == "image":
        edges = {name: _percent(getattr(mark.region, edge)) for name, edge in EDGES.items()}
        return edges | {"rotation": 0}
    start, end = mark.span.start_seconds, mark.span.end_seconds
    if field.kind == "video":
        return {"ranges": [{"start": _frame(start), "end": _frame(end)}]}
    return {"start": start, "end": end, "channel": 0}


def _annotation(annotation: Mapping[str, Any], pair: Pair) -> Annotation:
    """What the results of an annotation say. Raises Refused."""
    results = objects(annotation.get("result"), place="result")
    marks = {mark_name(side, field): (side, field) for side in SIDES for field in mark_fields(pair, side)}
    notes = {note_name(field) for field in pair.fields if field.kind != TEXT}
    places = Counter(str(one.get("from_name")) for one in results)
    answers, found, problems = dict[str, Any](), list[tuple[int, Mark]](), list[Problem]()
    words = {one.get("id"): one for one in results if one.get("from_name") in notes and isinstance(one.get("id"), str)}
    for one in results:
        name = one.get("from_name")
        try:
            if not isinstance(name, str):
                raise Refused([Problem("result.from_name", found_text(name), "the name of a question")])
            if name in marks:
                side, field = marks[name]
                note = words.get(one.get("id"), {}) if isinstance(one.get("id"), str) else {}
                found.append((side, _mark(one, note, side, field, pair)))
            elif name not in notes:
                if places[name] > 1:
                    raise Refused([Problem(name, f"{places[name]} answers", "one answer")])
                answers[name] = _answer(one, name)
        except Refused as error:
            problems += error.problems
    made, wrong = annotation_of(answers, pair.rubric)
    refused = {problem.place for problem in problems}
    problems += [problem for problem in wrong if problem.place not in refused]
    if problems:
        raise Refused(list(dict.fromkeys(problems)))
    for side, mark in found:
        made.feedback[side - 1].marks.append(mark)
    return made


def _answer(result: Result, name: str) -> Any:
    """The value of an answer: what was chosen, or the lines of a text."""
    value = result.get("value")
    if not isinstance(value, dict):
        raise Refused([Problem(name, found_text(value), "a value with `choices` or `text`")])
    if "choices" in value:
        chosen = value["choices"]
        if not isinstance(chosen, list) or len(chosen) != 1:
            raise Refused([Problem(name, found_text(chosen), "a list with one choice")])
        return chosen[0]
    return _lines(value.get("text"), name)


def _lines(text: Any, name: str) -> str:
    lines = text if isinstance(text, list) else [text]
    if not all(isinstance(line, str) for line in lines):
        raise Refused([Problem(name, found_text(text), "a text, or a list of texts")])
    return "\n".join(lines)


def _mark(result: Result, note: Result, side: int, field: Field, pair: Pair) -> Mark:
    name, value, kind = mark_name(side, field), result.get("value"), MARKS[field.kind].lower()
    if not isinstance(value, dict):
        raise Refused([Problem(name, found_text(value), "the value of a region")])
    labels = value.get(kind)
    dimensions = [NO_DIMENSION, *(dimension.name for dimension in pair.rubric.dimensions)]
    if not isinstance(labels, list) or len(labels) != 1 or labels[0] not in dimensions:
        raise Refused([Problem(f"{name}.{kind}", found_text(labels), "one of " + ", ".join(dimensions))])
    words = _lines(note["value"].get("text"), note_name(field)) if isinstance(note.get("value"), dict) else ""
    if len(words) > MAX_NOTE_CHARACTERS or not is_unicode(words):
        raise Refused([Problem(note_name(field), found_text(words), f"a text of up to {MAX_NOTE_CHARACTERS}")])
    mark = Mark(in_prompt=field.message == 0, part=field.part, note=words)
    mark.dimension = "" if labels[0] == NO_DIMENSION else labels[0]
    if field.kind == "image":
        mark.region.CopyFrom(_region(value, name))
    else:
        mark.span.CopyFrom(_span(value, field, name))
    return mark


def _region(value: Mapping[str, Any], name: str) -> Region:
    if value.get("rotation") not in (0, None):
        raise Refused([Problem(f"{name}.rotation", found_text(value["rotation"]), "0: regions are upright")])
    edges = {edge: _number(value.get(key), f"{name}.{key}") for key, edge in EDGES.items()}
    fractions = {edge: float(round(Decimal(repr(found)) / 100, FRACTION_DIGITS)) for edge, found in edges.items()}
    right, bottom = fractions["left"] + fractions["width"], fractions["top"] + fractions["height"]
    if max(right, bottom) > 1 + 1e-6 or not (fractions["width"] > 0 and fractions["height"] > 0):
        shown = found_text({key: value.get(key) for key in EDGES})
        raise Refused([Problem(name, shown, "a rectangle within the picture, in per cent of it")])
    return Region(**fractions)


def _span(value: Mapping[str, Any], field: Field, name: str) -> TimeSpan:
    scale, offset = 1.0, 0.0
    if field.kind == "video":
        ranges = value.get("ranges")
        if not isinstance(ranges, list) or len(ranges) != 1 or not isinstance(ranges[0], dict):
            raise Refused([Problem(f"{name}.ranges", found_text(ranges), "a list with one range of frames")])
        value, scale, offset = ranges[0], FRAMES_PER_SECOND, 1.0
    ends = (_number(value.get(key), f"{name}.{key}") for key in ("start", "end"))
    start, end = ((found - offset) / scale for found in ends)
    if start < 0 or end < start:
        raise Refused([Problem(name, found_text(dict(value)), "a stretch that begins at 0 or later and then ends")])
    return TimeSpan(start_seconds=start, end_seconds=end)


def _number(value: Any, place: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    if not is_number or not math.isfinite(value) or value < 0:
        raise Refused([Problem(place, found_text(value), "a number from 0 on")])
    return float(value)


def _percent(fraction: float) -> float:
    return float(round(Decimal(repr(fraction)), FRACTION_DIGITS) * 100)


def _frame(seconds: float) -> int:
    return round(seconds * FRAMES_PER_SECOND) + 1


def _time(known: Mapping[str, Any], annotation: Mapping[str, Any]) -> Timestamp | None:
    """When; Label Studio keeps only the number of an annotation that it imported, and not its time."""
    if known:
        return time_of(known.get("time"), place=f"data.{ANSWERS}")
    return time_of(annotation.get("updated_at") or annotation.get("created_at"), place="updated_at")


def _annotator(given: Any, source: Source) -> str:
    """An e-mail address, or the number of a user where an export has no more."""
    if isinstance(given, dict):
        given = given.get("email") or given.get("id")
    return annotator_of(given, source, place="completed_by")
