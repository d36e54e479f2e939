"""Datasets of Argilla 2 on disk, with the responses that exist, and the records that it gives back.

Argilla shows texts and pictures. Sounds and videos are links in a text, and marks are lines of a text, each a JSON
object as in the form of `omnialign annotate next`. Its users are UUIDs without a name, and its responses have no time:
both are in the metadata of a record, which come back with it.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from omnialign.exchange.pairs import TEXT, Pair
from omnialign.exchange.questions import SIDES, Kind, Question, annotation_of, answers_of, questions
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
)
from omnialign.exchange.refusals import Problem, Refusal, Refused, found_text
from omnialign.v1.annotation_service_pb2 import Answer
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Mark

TOOL = "argilla"
RECORDS = "records.json"
"""The file of a dataset with its records."""
USERS = uuid.UUID("6f0b8a52-4d0e-5d43-9b0c-0a1a7d8f2f61")
"""Names become ids of users under it."""
SUBMITTED = "submitted"
MAX_TITLE = 500
MAX_DESCRIPTION = 1000
MAX_GUIDELINES = 10_000
FACTS = ("campaign", "record", "subtask", "digest")
MARKS_HELP = (
    'One mark a line: {"part": 0, "in_prompt": true, "note": "noise", "span": {"start_seconds": 1, "end_seconds": 2}}'
)
SHOWN = {"text": "text", "image": "image"}


def user_id(annotator: str) -> str:
    """The id of a user for a name; an id stays what it is."""
    try:
        return str(uuid.UUID(annotator))
    except ValueError:
        return str(uuid.uuid5(USERS, annotator))


def marks_name(side: int) -> str:
    """The question with the marks of feedback on a response."""
    return f"marks_{side}"


def settings_of(pair: Pair, *, instructions: str = "", overlap: int = 1) -> dict[str, Any]:
    """The settings of a dataset of pairs of this shape, as `rg.Settings.from_json` reads them."""
    fields = [_field(field.name, SHOWN.get(field.kind, TEXT), field.kind) for field in pair.fields]
    asked = [_question(question, pair) for question in questions(pair.rubric)]
    asked += [_text_question(marks_name(side), f"Marks for response {side}", MARKS_HELP, False) for side in SIDES]
    # Argilla opens guidelines that are the path of a file; these never are.
    guidelines = f"Score, criticise and compare the two responses.\n\n{instructions}"[:MAX_GUIDELINES]
    metadata = [
        {"name": name, "title": name, "visible_for_annotators": False, "settings": {"type": "terms", "values": None}}
        for name in FACTS
    ]
    distribution = {"strategy": "overlap", "min_submitted": max(overlap, 1)}
    shared = {"vectors": [], "metadata": metadata, "allow_extra_metadata": True, "distribution": distribution}
    return {"guidelines": guidelines, "questions": asked, "fields": fields, **shared}


def dataset_of(name: str) -> dict[str, Any]:
    """The dataset beside its settings, as `rg.Dataset.from_disk` reads it."""
    return {"name": name}


def record_of(pair: Pair, link: Callable[[Media], str]) -> dict[str, Any]:
    """A pair as a record."""
    fields = {field.name: link(field.media) if field.media else field.text for field in pair.fields}
    responses = dict[str, list[dict[str, Any]]]()
    people = dict[str, Answer]()
    for answer in pair.answers:
        user = user_id(answer.annotator)
        people[user] = answer
        for name, value in _values(answer, pair):
            responses.setdefault(name, []).append({"value": value, "user_id": user, "status": SUBMITTED})
    metadata: dict[str, str] = pair.facts()
    if people:
        metadata[ANSWERS] = people_text(people)
    shared: dict[str, Any] = {"suggestions": {}, "responses": responses, "vectors": {}}
    return {"id": pair.record.id, "fields": fields, "metadata": metadata, **shared, "_server_id": None}


def read_records(records: Sequence[Any], source: Source, *, file: str) -> Iterator[Imported | Refusal | None]:
    """What is taken of the records of a file, and what is not; None for a draft and what was discarded there."""
    for number, record in enumerate(records, start=1):
        try:
            if not isinstance(record, dict):
                raise Refused([Problem("record", found_text(record), "an object with `fields`", "TASK_INVALID")])
            pair = pair_of(record.get("metadata"), source, place="metadata")
            fields = record.get("fields")
            check_fields(fields if isinstance(fields, dict) else {}, pair, place="fields", embeds_images=True)
            people = people_of(record["metadata"], place="metadata")
            by_user = _by_user(record.get("responses"))
        except Refused as error:
            yield from refusals(error, file=file, task=number)
            continue
        for user, answers in by_user.items():
            if not answers:
                yield None
                continue
            who = user
            try:
                known = people.get(user, {})
                who = annotator_of(known.get("annotator") or user, source, place="responses.user_id")
                moment = time_of(known.get("time"), place=f"metadata.{ANSWERS}")
                yield Imported(number, pair, who, _annotation(answers, pair), moment)
            except Refused as error:
                yield from refusals(error, file=file, task=number, annotator=who)


def _values(answer: Answer, pair: Pair) -> Iterator[tuple[str, Any]]:
    """The answers to the questions of the dataset, in Argilla's types."""
    for question, text in answers_of(answer.annotation, pair.rubric):
        yield question.name, int(text) if question.kind == Kind.SCORE else text
    for side, feedback in zip(SIDES, answer.annotation.feedback, strict=False):
        if feedback.marks:
            yield marks_name(side), "\n".join(_mark_line(mark) for mark in feedback.marks)


def _annotation(answers: Mapping[str, Any], pair: Pair) -> Any:
    names = {marks_name(side): side for side in SIDES}
    made, problems = annotation_of({k: v for k, v in answers.items() if k not in names}, pair.rubric)
    for name, side in names.items():
        try:
            made.feedback[side - 1].marks.extend(_marks(answers.get(name), name))
        except Refused as error:
            problems += error.problems
    if problems:
        raise Refused(problems)
    return made


def _by_user(responses: Any) -> dict[str, dict[str, Any]]:
    """The answers of each user by the name of their question. Raises Refused."""
    if not isinstance(responses or {}, dict):
        raise Refused([Problem("responses", found_text(responses), "lists of answers by question", "TASK_INVALID")])
    found = dict[str, dict[str, Any]]()
    for question, answers in (responses or {}).items():
        for answer in objects(answers, place=f"responses.{question}"):
            user = answer.get("user_id")
            if not isinstance(user, str) or user in ("", "None"):
                wanted = "the id of a user"
                raise Refused([Problem(f"responses.{question}.user_id", found_text(user), wanted, "ANNOTATOR_MISSING")])
            of_user = found.setdefault(user, {})
            if question in of_user:
                raise Refused([Problem(f"responses.{question}", f"two answers of {user}", "one answer of each user")])
            if answer.get("status", SUBMITTED) == SUBMITTED:  # `to_disk` leaves it out
                of_user[question] = answer.get("value")
    return found


def _mark_line(mark: Mark) -> str:
    return json.dumps(json_format.MessageToDict(mark, preserving_proto_field_name=True), ensure_ascii=False)


def _marks(text: Any, name: str) -> list[Mark]:
    """The marks in the lines of a text. Raises Refused."""
    if text is None:
        return []
    if not isinstance(text, str) or not is_unicode(text):
        raise Refused([Problem(name, found_text(text), "lines of JSON")])
    marks = list[Mark]()
    for line in filter(str.strip, text.splitlines()):
        try:
            marks.append(json_format.Parse(line, Mark()))
        except (json_format.ParseError, ValueError, RecursionError) as error:
            raise Refused([Problem(name, found_text(line), MARKS_HELP)]) from error
    return marks


def _field(name: str, kind: str, shown: str) -> dict[str, Any]:
    title = name.replace("_", " ").capitalize()
    title = title if shown in SHOWN else f"{title} (a link to {shown}, which Argilla does not play)"
    settings: dict[str, Any] = {"type": "image"} if kind == "image" else {"type": "text", "use_markdown": False}
    return {"name": name, "title": title, "required": True, "settings": settings}


def _question(question: Question, pair: Pair) -> dict[str, Any]:
    described = {one.name: one for one in pair.rubric.dimensions}.get(question.dimension)
    description = described.description if described else ""
    if question.choices is None:
        return _text_question(question.name, question.title, "", question.is_required)
    if question.kind == Kind.SCORE:
        words = "; ".join(question.choices.values())
        settings: dict[str, Any] = {"type": "rating", "options": [{"value": int(value)} for value in question.choices]}
        description = f"{description} {words}".strip()
    else:
        options = [{"value": value, "text": words, "description": None} for value, words in question.choices.items()]
        settings = {"type": "label_selection", "options": options, "visible_options": None}
    return _asked(question.name, question.title, description, question.is_required, settings)


def _text_question(name: str, title: str, description: str, is_required: bool) -> dict[str, Any]:
    return _asked(name, title, description, is_required, {"type": "text", "use_markdown": False})


def _asked(name: str, title: str, description: str, is_required: bool, settings: dict[str, Any]) -> dict[str, Any]:
    words = {"title": title[:MAX_TITLE], "description": description[:MAX_DESCRIPTION] or None}
    return {"name": name, **words, "required": is_required, "settings": settings}
