"""Responses that people or models rated: UltraFeedback and VLFeedback, HelpSteer and HelpSteer3.

Their ratings are on scales of their own, so a request must declare the scale; a rating that is `N/A` gives no score.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from omnialign.v1.record_pb2 import Feedback, Record
from services.data.importing.benchmarks.values import Given
from services.data.importing.columns import SIDES, Row
from services.data.importing.feedback import read_score, text
from services.data.importing.formats.exchanges import (
    Answer,
    answers_on_sides,
    asked,
    fill_messages,
    one_of,
    refuse_unsupported,
    whole,
)
from services.data.importing.formats.messages import (
    ASSISTANT,
    ROLES,
    USER,
    Message,
    answer_to,
    read_answer,
)
from services.data.importing.formats.spelling import TOOLS, Spelling
from services.data.importing.refusal import described, refusal
from services.data.importing.scales import as_integer

_UNSUPPORTED = {"tools": TOOLS}
ULTRAFEEDBACK = Spelling(prompt=("instruction", "prompt"), unsupported=_UNSUPPORTED)
COMPLETIONS = "completions"
ULTRAFEEDBACK_COLUMNS = (*ULTRAFEEDBACK.columns, COMPLETIONS, "models", "source")
MAX_RESPONSES = 64
NO_RATING = ("", "n/a", "na", "none")
COMPLETION_FIELDS = ("model", "response", "critique", "annotations")
RATING, RATIONALES = "Rating", ("Rationale", "Rationale For Rating")

HELPSTEER = Spelling(prompt=("prompt",), answer=("response",), unsupported=_UNSUPPORTED)
DIMENSIONS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
HELPSTEER_COLUMNS = (*HELPSTEER.columns, *DIMENSIONS)
TURN = "<extra_id_1>"
"""What HelpSteer writes between the messages of a conversation."""

HELPSTEER3 = Spelling(prompt=("context", "prompt"), unsupported=_UNSUPPORTED)
RESPONSE = "response{k}"
PREFERENCE, INDIVIDUAL = "overall_preference", "individual_preference"
OPINION_FIELDS = ("reasoning", *(f"feedback{side}" for side in SIDES))
STRENGTH = 3
HELPSTEER3_LABELS = ("domain", "language")
HELPSTEER3_COLUMNS = (
    *HELPSTEER3.columns,
    *(RESPONSE.format(k=side) for side in SIDES),
    PREFERENCE,
    INDIVIDUAL,
    *HELPSTEER3_LABELS,
)


def fill_ultrafeedback(record: Record, row: Row, given: Given) -> None:
    """A prompt and its completions, each with ratings on some dimensions, their reasons and a critique."""
    refuse_unsupported(row, ULTRAFEEDBACK)
    messages = whole(row, ULTRAFEEDBACK, asked(row, given, ULTRAFEEDBACK), "instruction")
    completions = list(_completions(row.get(COMPLETIONS)))
    answers = [
        Answer(Message(ASSISTANT, _text(one, "response", number), COMPLETIONS, number), COMPLETIONS)
        for number, one in enumerate(completions, 1)
    ]
    fill_messages(record, row, given, ULTRAFEEDBACK, messages, answers)
    for number, (one, response) in enumerate(zip(completions, record.responses, strict=True), 1):
        response.source = _text(one, "model", number, needed=False)
        found = Feedback(critique=_text(one, "critique", number, needed=False))
        _add_annotations(found, one.get("annotations"), number, given)
        if found.ByteSize():
            response.feedback.CopyFrom(found)


def fill_helpsteer(record: Record, row: Row, given: Given) -> None:
    """A prompt and one response with ratings on five dimensions."""
    refuse_unsupported(row, HELPSTEER)
    messages = whole(row, HELPSTEER, list(_turns(asked(row, given, HELPSTEER))), "prompt")
    column = one_of(row, HELPSTEER.answer)
    if not column:
        raise refusal("RESPONSE_MISSING", "the row has no response, and text is taken", column="response")
    if isinstance(row[column], str) and TURN in row[column]:
        raise refusal("MESSAGES_INVALID", f"the response holds {TURN}, and one message is taken", column=column)
    said = read_answer(row[column], column, given.ignored)
    answer = Answer(answer_to(messages.all, said, column), column)
    fill_messages(record, row, given, HELPSTEER, messages, [answer])
    for name in DIMENSIONS:
        _add_score(record.responses[0].feedback, name, row.get(name), "", given, column=name)


def fill_helpsteer3(record: Record, row: Row, given: Given) -> None:
    """A prompt and two responses, by how much which is better (-3 to 3), and what people said of each."""
    refuse_unsupported(row, HELPSTEER3)
    messages = asked(row, given, HELPSTEER3)
    answers = list(answers_on_sides(row, given, messages, RESPONSE))
    fill_messages(record, row, given, HELPSTEER3, whole(row, HELPSTEER3, messages, "context"), answers)
    for name in HELPSTEER3_LABELS:
        if label := text(row, name):
            record.labels[name] = label
    said = list(_opinions(row.get(INDIVIDUAL)))
    for side, response in zip(SIDES, record.responses, strict=True):
        if critique := _joined(said, f"feedback{side}"):
            response.feedback.critique = critique
    strength = as_integer(row.get(PREFERENCE))
    if strength is None or strength == 0 or abs(strength) > STRENGTH:
        shown = described(row.get(PREFERENCE)) if strength is None else strength
        message = f"the preference is {shown}, and -3 to -1 for response1 or 1 to 3 for response2 is taken"
        raise refusal("LABEL_INVALID", message, column=PREFERENCE)
    record.preference.preferred = 1 if strength < 0 else 2
    record.preference.reason = _joined(said, "reasoning")


def unread_of_ultrafeedback(row: Row) -> Iterator[str]:
    """The fields of completions and of their ratings that hold a value and are not read."""
    for one in _objects(row.get(COMPLETIONS)):
        yield from _others(one, COMPLETIONS, COMPLETION_FIELDS)
        for ratings in _objects(one.get("annotations")):
            for rating in (each for found in ratings.values() for each in _objects(found)):
                yield from _others(rating, f"{COMPLETIONS}.annotations", (RATING, *RATIONALES))


def unread_of_helpsteer3(row: Row) -> Iterator[str]:
    """The fields of what each person said that hold a value and are not read; a score may repeat the overall one."""
    for one in _objects(row.get(INDIVIDUAL)):
        repeats = one.get("score") == row.get(PREFERENCE)
        yield from _others(one, INDIVIDUAL, (*OPINION_FIELDS, "score") if repeats else OPINION_FIELDS)


def _objects(found: Any) -> list[Mapping[str, Any]]:
    """The objects in a list, or the one that a value is."""
    return [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, Mapping)]


def _others(found: Mapping[str, Any], column: str, read: tuple[str, ...]) -> Iterator[str]:
    there = (key for key, value in found.items() if key not in read and value not in (None, "", []))
    return (f"{column}.{str(key)[:100]}" for key in there)


def _turns(messages: list[Message]) -> Iterator[Message]:
    """The messages, of which a text may hold several; each but the first begins with its role on a line of its own."""
    for message in messages:
        first, *others = message.content.split(TURN) if isinstance(message.content, str) else [message.content]
        yield replace(message, content=first.removesuffix("\n") if others else first)
        for number, one in enumerate(others, 2):
            name, _, said = one.partition("\n")
            role = ROLES.get(name.strip().lower())
            if role not in (USER, ASSISTANT):
                text = f"message {number} is of the role {name[:40]!r}, and User or Assistant is taken after {TURN}"
                raise refusal("ROLE_UNKNOWN", text, column=message.column)
            yield Message(role, said.removesuffix("\n") if number <= len(others) else said, message.column, number)


def _completions(found: Any) -> Iterator[Mapping[str, Any]]:
    """The completions of a row: objects in a list, or as `datasets` may keep them, an object of lists."""
    if isinstance(found, Mapping) and isinstance(found.get("response"), list):
        found = [_at(found, index) for index in range(len(found["response"][: MAX_RESPONSES + 1]))]
    if not isinstance(found, list) or not 0 < len(found) <= MAX_RESPONSES:
        there = f"{len(found)} completions" if isinstance(found, list) else described(found)
        message = f"the column holds {there}, and a list of 1 to {MAX_RESPONSES} objects is taken"
        raise refusal("RESPONSE_MISSING", message, column=COMPLETIONS)
    for number, one in enumerate(found, 1):
        if not isinstance(one, Mapping):
            message = f"completion {number} is {described(one)}, and an object with a response is taken"
            raise refusal("RESPONSE_MISSING", message, column=COMPLETIONS)
        yield one


def _at(found: Any, index: int) -> Any:
    """One of the values in an object of lists, whose lists may lie in objects within it."""
    if isinstance(found, Mapping):
        return {key: _at(one, index) for key, one in found.items()}
    return found[index] if isinstance(found, list) and index < len(found) else None


def _text(found: Mapping[str, Any], key: str, number: int, *, needed: bool = True) -> str:
    said = found.get(key)
    if said is None and not needed:
        return ""
    if not isinstance(said, str):
        message = f"completion {number} has {described(said)} as its {key}, and text is taken"
        raise refusal("TEXT_EXPECTED", message, column=COMPLETIONS)
    return said


def _add_annotations(feedback: Feedback, found: Any, number: int, given: Given) -> None:
    """The rating and its reason on each dimension."""
    if found is None:
        return
    if not isinstance(found, Mapping):
        message = f"the annotations of completion {number} are {described(found)}, and an object is taken"
        raise refusal("SCORE_INVALID", message, column=COMPLETIONS)
    for name, one in found.items():
        one = one[0] if isinstance(one, list) and len(one) == 1 else one
        if one is None:
            continue
        if not isinstance(one, Mapping):
            message = (
                f"completion {number} has {described(one)} for {str(name)[:64]}, and an object with Rating is taken"
            )
            raise refusal("SCORE_INVALID", message, column=COMPLETIONS)
        reasons = [one.get(key) for key in RATIONALES]
        reason = "\n".join(reason for reason in reasons if isinstance(reason, str) and reason.strip())
        dimension = "_".join(str(name).lower().split())
        _add_score(feedback, dimension, one.get(RATING), reason, given, column=COMPLETIONS)


def _add_score(feedback: Feedback, dimension: str, found: Any, reason: str, given: Given, *, column: str) -> None:
    if found is None or (isinstance(found, str) and found.strip().lower() in NO_RATING):
        return
    feedback.scores.add(dimension=dimension, score=read_score(found, given.scales, column, dimension), rationale=reason)


def _opinions(found: Any) -> Iterator[Mapping[str, Any]]:
    """What each person said. Raises LABEL_INVALID."""
    for one in found if isinstance(found, list) else [] if found is None else [found]:
        if not isinstance(one, Mapping):
            message = f"an individual preference is {described(one)}, and an object is taken"
            raise refusal("LABEL_INVALID", message, column=INDIVIDUAL)
        yield one


def _joined(said: list[Mapping[str, Any]], key: str) -> str:
    """What people said, each a paragraph."""
    found = [one[key] for one in said if one.get(key) is not None]
    if not all(isinstance(one, str) for one in found):
        raise refusal("TEXT_EXPECTED", f"{key} holds something else than text, which is taken", column=INDIVIDUAL)
    return "\n\n".join(one.strip() for one in found if one.strip())
