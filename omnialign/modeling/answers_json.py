"""Answers of feedback models and judges as JSON: one schema and one reader for each.

They are read into the same messages as sections are (`omnialign.modeling.answers`). A reader takes what its schema
admits and no more, a ```json fence around it excepted: so it does not matter whether an engine held the model to the
schema or the model followed the prompt alone. A text that says nothing abstains, as an empty section does.

The schemas keep to what the strict modes of endpoints know: all fields are required, no others may be there, and texts
have no bound. What ends a model that rambles is `max_new_tokens`; the JSON that was cut off then abstains.
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from omnialign.modeling.answers import AnswerUnparsable, Judgement
from omnialign.modeling.rubrics import MAX_SCORE, MIN_SCORE
from omnialign.v1 import record_pb2

NOT_JSON = "ANSWER_NOT_JSON"
VERDICTS = {"first": 1, "second": 2, "equal": 0}
"""Words, because a model that should quote the number 1 is apt to write it bare."""

_FENCED = re.compile(r"```json\s(.*)```", re.DOTALL)
_TEXT = {"type": "string"}


def feedback_schema(rubric: Sequence[str]) -> str:
    """The schema that `read_feedback` reads by: what is wrong comes before how much it weighs."""
    return json.dumps(_strict({"critique": _TEXT, "refinement": _TEXT, "scores": _scores_schema(rubric)}))


def scores_schema(rubric: Sequence[str]) -> str:
    """The schema that `read_scores` reads by."""
    return json.dumps(_strict({"scores": _scores_schema(rubric)}))


def judgement_schema() -> str:
    """The schema that `read_judgement` reads by: the reason comes before the verdict."""
    return json.dumps(_strict({"reason": _TEXT, "preferred": {"type": "string", "enum": list(VERDICTS)}}))


def read_feedback(text: str, rubric: Sequence[str]) -> record_pb2.Feedback:
    """Critique, refinement advice and a score for every dimension of the rubric. Raises AnswerUnparsable."""
    fields = _object(_parse(text), ("critique", "refinement", "scores"))
    critique, refinement = (_said(fields, name) for name in ("critique", "refinement"))
    return record_pb2.Feedback(critique=critique, refinement=refinement, scores=_read_scores(fields, rubric))


def read_scores(text: str, rubric: Sequence[str]) -> record_pb2.Feedback:
    """Scores of every dimension of the rubric. Raises AnswerUnparsable."""
    return record_pb2.Feedback(scores=_read_scores(_object(_parse(text), ("scores",)), rubric))


def read_judgement(text: str) -> Judgement:
    """A verdict with its reason. Raises AnswerUnparsable."""
    fields = _object(_parse(text), ("reason", "preferred"))
    verdict = fields.get("preferred")
    if not isinstance(verdict, str) or verdict not in VERDICTS:
        found, known = repr(verdict)[:40], ", ".join(VERDICTS)
        raise AnswerUnparsable(f"The verdict {found} is not one of {known}.", reason="VERDICT_INVALID")
    return Judgement(VERDICTS[verdict], _said(fields, "reason"))


def _strict(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _scores_schema(rubric: Sequence[str]) -> dict[str, Any]:
    score = {"type": "integer", "enum": list(range(MIN_SCORE, MAX_SCORE + 1))}
    return _strict({name: _strict({"rationale": _TEXT, "score": score}) for name in rubric})


def _parse(text: str) -> Any:
    """The JSON value of an answer, without its fence."""
    fenced = _FENCED.fullmatch(text.strip())
    try:
        value = json.loads(fenced[1] if fenced else text, object_pairs_hook=_once)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text that a message can hold
    except (ValueError, RecursionError) as error:
        raise AnswerUnparsable("The answer is not JSON.", reason=NOT_JSON) from error
    return value


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise AnswerUnparsable("The answer repeats a field.", reason="SECTION_REPEATED")
    return fields


def _object(value: Any, known: Collection[str]) -> dict[str, Any]:
    """The fields of an object that has no others than those known."""
    if not isinstance(value, dict):
        raise AnswerUnparsable(f"The answer has {repr(value)[:40]} where an object belongs.", reason=NOT_JSON)
    if others := [name for name in value if name not in known]:
        raise AnswerUnparsable(f"The answer has a field {others[0][:40]!r}, which was not asked for.", reason=NOT_JSON)
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    if not isinstance(fields[name], str):
        raise AnswerUnparsable(f"The field {name!r} of the answer is no text.", reason=NOT_JSON)
    return str(fields[name]).strip()


def _said(fields: dict[str, Any], name: str) -> str:
    """A text that says something."""
    if name not in fields or not (text := _text(fields, name)):
        raise AnswerUnparsable(f"The answer says nothing in {name!r}.", reason="SECTION_MISSING")
    return text


def _read_scores(fields: dict[str, Any], rubric: Sequence[str]) -> list[record_pb2.DimensionScore]:
    scores = _object(fields.get("scores"), rubric)
    if missing := [name for name in rubric if name not in scores]:
        raise AnswerUnparsable(f"The answer does not score {', '.join(missing)}.", reason="DIMENSION_MISSING")
    return [_read_score(name, scores[name]) for name in rubric]


def _read_score(dimension: str, value: Any) -> record_pb2.DimensionScore:
    fields = _object(value, ("rationale", "score"))
    if len(fields) < 2 or type(fields["score"]) is not int:  # True is an int too
        raise AnswerUnparsable(f"The score of {dimension} lacks a whole number or its rationale.", reason=NOT_JSON)
    score, rationale = fields["score"], _text(fields, "rationale")
    if not MIN_SCORE <= score <= MAX_SCORE:
        raise AnswerUnparsable(f"The score {score} of {dimension} is not 0 to 3.", reason="SCORE_OUT_OF_RANGE")
    return record_pb2.DimensionScore(dimension=dimension, score=score, rationale=rationale)
