"""Structured answers of feedback models and judges as JSON: one schema and one reader for each kind.

They are read into the same messages as sections (`omnialign.modeling.answers`). A reader accepts exactly what its
schema allows, apart from a ```json fence around it. So it makes no difference whether the engine constrained the model
to the schema or the model merely followed the prompt. An empty text abstains, as an empty section does.

The schemas use only what the strict modes of endpoints support: all fields are required, no others are allowed, and
strings have no maximum length. A model that rambles is stopped by `max_new_tokens`; its truncated JSON then abstains.
"""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from omnialign.modeling.answers import MAX_RATING, MIN_RATING, AnswerUnparsable, Judgement, Rating, rating_in_range
from omnialign.rubrics import MAX_SCORE, MIN_SCORE
from omnialign.v1 import record_pb2
from omnialign.v1.annotation_pb2 import Annotation

NOT_JSON = "ANSWER_NOT_JSON"
VERDICTS = {"first": 1, "second": 2, "equal": 0}
"""Words rather than numbers: models asked for the string "1" tend to write the number 1."""
SIDES = ("first", "second")
MAX_TEXT_CHARACTERS = 20_000
"""Longest text of an annotation, as a person's form has it."""

_FENCED = re.compile(r"```json\s(.*)```", re.DOTALL)
_TEXT = {"type": "string"}


def feedback_schema(rubric: Sequence[str]) -> str:
    """The schema of what `read_feedback` reads; the model states what is wrong before it scores."""
    return json.dumps(_strict({"critique": _TEXT, "refinement": _TEXT, "scores": _scores_schema(rubric)}))


def scores_schema(rubric: Sequence[str]) -> str:
    """The schema of what `read_scores` reads."""
    return json.dumps(_strict({"scores": _scores_schema(rubric)}))


def judgement_schema() -> str:
    """The schema of what `read_judgement` reads; the reason comes before the verdict."""
    return json.dumps(_strict({"reason": _TEXT, "preferred": {"type": "string", "enum": list(VERDICTS)}}))


def rating_schema() -> str:
    """The schema of what `read_rating` reads; the reason comes before the number."""
    return json.dumps(_strict({"reason": _TEXT, "rating": _whole_numbers(MIN_RATING, MAX_RATING)}))


def annotation_schema(rubric: Sequence[str]) -> str:
    """The schema of what `read_annotation` reads: the form of an annotator, critique and scores before the verdicts."""
    feedback = _strict({"critique": _TEXT, "refinement": _TEXT, "scores": _scores_schema(rubric)})
    winner = {"type": "string", "enum": list(VERDICTS)}
    fields: dict[str, Any] = dict.fromkeys(SIDES, feedback)
    fields["winners"] = _strict(dict.fromkeys(rubric, winner))
    return json.dumps(_strict(fields | {"reason": _TEXT, "preferred": {"type": "string", "enum": list(SIDES)}}))


def write_judgement(reason: str, preferred: int) -> str:
    """A verdict; `preferred` is 1, 2, or 0 for equal."""
    words = {number: word for word, number in VERDICTS.items()}
    return json.dumps({"reason": reason, "preferred": words[preferred]}, ensure_ascii=False)


def read_feedback(text: str, rubric: Sequence[str]) -> record_pb2.Feedback:
    """Critique, refinement advice and a score on every dimension of `rubric`. Raises AnswerUnparsable."""
    fields = _object(_parse(text), ("critique", "refinement", "scores"))
    critique, refinement = (_nonempty_text(fields, name) for name in ("critique", "refinement"))
    return record_pb2.Feedback(critique=critique, refinement=refinement, scores=_read_scores(fields, rubric))


def read_scores(text: str, rubric: Sequence[str]) -> record_pb2.Feedback:
    """A score on every dimension of `rubric`. Raises AnswerUnparsable."""
    return record_pb2.Feedback(scores=_read_scores(_object(_parse(text), ("scores",)), rubric))


def read_judgement(text: str) -> Judgement:
    """A verdict with its reason. Raises AnswerUnparsable."""
    fields = _object(_parse(text), ("reason", "preferred"))
    return Judgement(_verdict(fields.get("preferred"), VERDICTS), _nonempty_text(fields, "reason"))


def read_rating(text: str) -> Rating:
    """A whole number from 1 to 10 with its reason. Raises AnswerUnparsable."""
    fields = _object(_parse(text), ("reason", "rating"))
    score = fields.get("rating")
    if type(score) is not int:  # True is an int too
        raise AnswerUnparsable(f"The rating {repr(score)[:40]} is not a whole number.", reason="SCORE_INVALID")
    return Rating(rating_in_range(score), _nonempty_text(fields, "reason"))


def read_annotation(text: str, rubric: Sequence[str]) -> Annotation:
    """A complete annotation of a pair, as a person would submit it, marks apart. Raises AnswerUnparsable."""
    fields = _object(_parse(text), (*SIDES, "winners", "reason", "preferred"))
    annotation = Annotation(reason=_short_text(fields, "reason"))
    for side in SIDES:
        given = _object(fields.get(side), ("critique", "refinement", "scores"))
        critique, refinement = (_short_text(given, name) for name in ("critique", "refinement"))
        annotation.feedback.add(critique=critique, refinement=refinement, scores=_read_scores(given, rubric))
        _check_length(score.rationale for score in annotation.feedback[-1].scores)
    winners = _object(fields.get("winners"), rubric)
    if missing := [name for name in rubric if name not in winners]:
        raise AnswerUnparsable(f"The answer has no winner of {', '.join(missing)}.", reason="DIMENSION_MISSING")
    annotation.winners.update({name: _verdict(winners[name], VERDICTS) for name in rubric})
    annotation.preferred = _verdict(fields.get("preferred"), SIDES)
    return annotation


def _strict(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with exactly these fields."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _scores_schema(rubric: Sequence[str]) -> dict[str, Any]:
    score = _whole_numbers(MIN_SCORE, MAX_SCORE)
    return _strict({name: _strict({"rationale": _TEXT, "score": score}) for name in rubric})


def _whole_numbers(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "enum": list(range(least, most + 1))}


def _parse(text: str) -> Any:
    """The JSON value of an answer, without the fence."""
    fenced = _FENCED.fullmatch(text.strip())
    try:
        value = json.loads(
            fenced[1] if fenced else text,
            object_pairs_hook=_unique_fields,
            parse_int=_integer,
            parse_constant=_constant,
        )
        json.dumps(value, ensure_ascii=False).encode()  # fails on a lone surrogate, which protobuf cannot hold
    except (ValueError, RecursionError) as error:
        raise AnswerUnparsable("The answer is not JSON.", reason=NOT_JSON) from error
    return value


def _integer(text: str) -> int:
    if text == "-0":
        raise ValueError("zero has no sign")
    return int(text)


def _constant(name: str) -> float:
    raise ValueError(f"{name} is Python's, not JSON's")


def _unique_fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise AnswerUnparsable("The answer repeats a field.", reason="SECTION_REPEATED")
    return fields


def _object(value: Any, known: Collection[str]) -> dict[str, Any]:
    """The fields of an object. Raises AnswerUnparsable for anything else, and for a field that is not in `known`."""
    if not isinstance(value, dict):
        raise AnswerUnparsable(f"The answer has {repr(value)[:40]} where an object belongs.", reason=NOT_JSON)
    if others := [name for name in value if name not in known]:
        raise AnswerUnparsable(f"The answer has a field {others[0][:40]!r}, which was not asked for.", reason=NOT_JSON)
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    if not isinstance(fields[name], str):
        raise AnswerUnparsable(f"The field {name!r} of the answer is not a string.", reason=NOT_JSON)
    return str(fields[name]).strip()


def _nonempty_text(fields: dict[str, Any], name: str) -> str:
    """A text field that is not empty."""
    if name not in fields or not (text := _text(fields, name)):
        raise AnswerUnparsable(f"The answer has no text in {name!r}.", reason="SECTION_MISSING")
    return text


def _short_text(fields: dict[str, Any], name: str) -> str:
    """A text field that is not empty, and not longer than a person's may be."""
    text = _nonempty_text(fields, name)
    _check_length([text])
    return text


def _check_length(texts: Iterable[str]) -> None:
    if any(len(text) > MAX_TEXT_CHARACTERS for text in texts):
        message = f"A text of the answer is longer than {MAX_TEXT_CHARACTERS} characters."
        raise AnswerUnparsable(message, reason="ANSWER_TOO_LONG")


def _verdict(value: Any, words: Collection[str]) -> int:
    """The number of one of `words`."""
    if not isinstance(value, str) or value not in words:
        found, known = repr(value)[:40], ", ".join(words)
        raise AnswerUnparsable(f"The verdict {found} is not one of {known}.", reason="VERDICT_INVALID")
    return VERDICTS[value]


def _read_scores(fields: dict[str, Any], rubric: Sequence[str]) -> list[record_pb2.DimensionScore]:
    scores = _object(fields.get("scores"), rubric)
    if missing := [name for name in rubric if name not in scores]:
        raise AnswerUnparsable(f"The answer does not score {', '.join(missing)}.", reason="DIMENSION_MISSING")
    return [_read_score(name, scores[name]) for name in rubric]


def _read_score(dimension: str, value: Any) -> record_pb2.DimensionScore:
    fields = _object(value, ("rationale", "score"))
    if len(fields) < 2 or type(fields["score"]) is not int:  # True is an int too
        raise AnswerUnparsable(f"The score of {dimension} lacks an integer or its rationale.", reason=NOT_JSON)
    score, rationale = fields["score"], _text(fields, "rationale")
    if not MIN_SCORE <= score <= MAX_SCORE:
        raise AnswerUnparsable(f"The score {score} of {dimension} is not 0 to 3.", reason="SCORE_OUT_OF_RANGE")
    return record_pb2.DimensionScore(dimension=dimension, score=score, rationale=rationale)
