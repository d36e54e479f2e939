"""Records as responses that people rated: UltraFeedback and VLFeedback, HelpSteer and HelpSteer3, Argilla.

Scores are written as they are, 0 to 3, and never on the scale of the published data.
"""

from collections.abc import Iterator

from omnialign.content import ROLES, asked_of, media_of
from omnialign.exporting.exchanges import asked_columns, lost_labels, lost_of_models
from omnialign.exporting.rows import Row, Unwritable, check_history, text_in, unblanked, with_place
from omnialign.v1.record_pb2 import Record, Response

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""The dimensions of HelpSteer, each a column."""
TURN = "<extra_id_1>"
"""What HelpSteer writes between the messages of a conversation."""


def ultrafeedback_row(record: Record) -> Row:
    """UltraFeedback: an instruction and its completions, each with ratings, their reasons and a critique."""
    if not record.responses:
        raise Unwritable("a row of ultrafeedback has completions, and the record no response")
    if record.history:
        raise Unwritable("a row of ultrafeedback has one instruction, and messages came before the prompt")
    completions = [_completion(response) for response in record.responses]
    row = asked_columns(record.prompt, "instruction", *(one["response"] for one in completions))
    return with_place(record, row | {"completions": completions})


def helpsteer_row(record: Record) -> Row:
    """HelpSteer: one response, rated on five dimensions."""
    if len(record.responses) != 1:
        raise Unwritable(f"a row of helpsteer has one response, and the record {len(record.responses)}")
    (response,) = record.responses
    scores = {score.dimension: score.score for score in response.feedback.scores if score.dimension in HELPSTEER}
    if "helpfulness" not in scores:
        raise Unwritable("nobody rated its helpfulness, and a row of helpsteer has that")
    said = text_in(response.content, "the response")
    row = asked_columns(record.prompt, "prompt", said)
    messages = [*_earlier(record), {"role": "user", "content": row["prompt"]}]
    if any(TURN in text for text in (said, *(one["content"] for one in messages))):
        raise Unwritable(f"a text holds {TURN}")
    if messages[0]["role"] != "user" or any(one["role"] == "system" for one in messages):
        raise Unwritable("a row of helpsteer begins with a message of the user, and has none of a system")
    turns = [messages[0]["content"], *(f"{one['role'].title()}\n{one['content']}" for one in messages[1:])]
    return with_place(record, row | {"prompt": f"\n{TURN}".join(turns), "response": said} | scores)


def helpsteer3_row(record: Record) -> Row:
    """HelpSteer3: two responses, which is better (by the least strength: a record has none), and why."""
    first, second = _two(record, "helpsteer3")
    texts = [text_in(response.content, "a response") for response in (first, second)]
    asked = asked_columns(record.prompt, "context", *texts)
    said: Row = {"reasoning": unblanked(record.preference.reason, "its reason")}
    for side, response in enumerate((first, second), 1):
        said[f"feedback{side}"] = unblanked(response.feedback.critique, "a critique")
    strength = -1 if _preferred(record) == 1 else 1
    context = [*_earlier(record), {"role": "user", "content": asked["context"]}]
    row = asked | {"context": context, "overall_preference": strength}
    row |= {f"response{side}": text for side, text in enumerate(texts, 1)}
    if any(said.values()):
        row["individual_preference"] = [{"score": strength} | {name: one or None for name, one in said.items()}]
    return with_place(record, row)


def argilla_row(record: Record) -> Row:
    """Argilla: two responses, and the name of the one that was preferred."""
    texts = [text_in(response.content, "a response") for response in _two(record, "argilla")]
    row = asked_columns(record.prompt, "prompt", *texts)
    if earlier := _earlier(record):
        row["prompt"] = [*earlier, {"role": "user", "content": row["prompt"]}]
    row |= {f"response_{side}": text for side, text in enumerate(texts, 1)}
    answer = f"response_{_preferred(record)}"
    return with_place(record, row | {"preference.responses": [answer], "preference.responses.status": ["submitted"]})


def lost_of_ultrafeedback(record: Record) -> Iterator[str]:
    """What of a record no completion has a place for."""
    if record.HasField("preference"):
        yield "preferences"
    yield from _lost(record, "refinement", "marks")


def lost_of_helpsteer(record: Record) -> Iterator[str]:
    """What of a record no row of HelpSteer has a place for."""
    scores = [score for response in record.responses for score in response.feedback.scores]
    if any(score.dimension not in HELPSTEER for score in scores):
        yield "scores on other dimensions"
    if any(score.rationale for score in scores):
        yield "rationales"
    yield from _lost(record, "critique", "refinement", "marks", "source")


def lost_of_helpsteer3(record: Record) -> Iterator[str]:
    """What of a record no row of HelpSteer3 has a place for."""
    if record.preference.dimensions:
        yield "dimensions of preferences"
    yield from _lost(record, "scores", "refinement", "marks", "source")


def lost_of_argilla(record: Record) -> Iterator[str]:
    """What of a record no row of Argilla has a place for."""
    if record.preference.reason or record.preference.dimensions:
        yield "reasons and dimensions of preferences"
    yield from _lost(record, "scores", "critique", "refinement", "marks", "source")


_SHOWN = {"scores": "scores", "critique": "critiques", "refinement": "advice", "marks": "marks"}


def _lost(record: Record, *fields: str) -> Iterator[str]:
    """Those of the fields of feedback, and the source, that a response of the record has."""
    for field in fields:
        if field == "source":
            if any(response.source for response in record.responses):
                yield "sources of responses"
        elif any(getattr(response.feedback, field) for response in record.responses):
            yield _SHOWN[field]
    yield from lost_labels(record)
    yield from lost_of_models(record)


def _completion(response: Response) -> Row:
    feedback = response.feedback
    ratings = dict[str, Row]()
    for score in feedback.scores:
        if score.dimension != "_".join(score.dimension.lower().split()):
            raise Unwritable("the name of a dimension has capitals or blanks")
        if score.rationale and not score.rationale.strip():
            raise Unwritable("a rationale is blank")
        ratings[score.dimension] = {"Rating": str(score.score), "Rationale": score.rationale}
    if len(ratings) != len(feedback.scores):
        raise Unwritable("a response has two scores on one dimension")
    return {
        "model": response.source,
        "response": text_in(response.content, "a response"),
        "critique": feedback.critique,
        "annotations": ratings,
    }


def _earlier(record: Record) -> list[Row]:
    """The messages before the prompt as texts with their roles. Raises Unwritable for media in any of them."""
    check_history(record)
    if record.history and any(media_of(asked_of(record))):
        raise Unwritable("it has media, and messages before its prompt")
    return [
        {"role": ROLES[one.role], "content": text_in(one.content, "a message before its prompt")}
        for one in record.history
    ]


def _two(record: Record, form: str) -> tuple[Response, Response]:
    if len(record.responses) != 2:
        raise Unwritable(f"a row of {form} has two responses, and the record {len(record.responses)}")
    return record.responses[0], record.responses[1]


def _preferred(record: Record) -> int:
    if not record.preference.preferred:
        raise Unwritable("nobody said which of its two responses is better")
    return record.preference.preferred
