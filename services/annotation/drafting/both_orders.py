"""What a model says of a pair that it was asked about in both orders: what it said twice, and abstentions for the rest.

An answer is read by the schema of the form alone (`answers_json.read_annotation`). One that cannot be read makes the
model abstain on the whole pair; where two that can be read disagree about a winner, a score or the better response, it
abstains on that part. Nothing is averaged or guessed.
"""

from collections.abc import Iterator, Sequence

from omnialign.content import text_of
from omnialign.errors import from_status
from omnialign.modeling.answers import AnswerUnparsable
from omnialign.modeling.answers_json import read_annotation
from omnialign.v1 import content_pb2
from omnialign.v1.annotation_pb2 import Annotation, DraftAbstention, ModelDraft
from omnialign.v1.generation_pb2 import FINISH_REASON_LENGTH
from omnialign.v1.record_pb2 import DimensionScore, Feedback
from omnialign.v1.refinement_service_pb2 import GenerateResponse
from services.annotation.sides import turned

DISAGREE = "ORDERS_DISAGREE"
WHOLE = ""
"""The part of an abstention on everything."""
MALFORMED = "ANSWER_"
"""Error reasons that begin with this are the model's fault, not the pair's."""


def draft_of(forward: GenerateResponse, backward: GenerateResponse, rubric: Sequence[str]) -> ModelDraft:
    """What a model says of a pair, by its answers in the record's order and in the other one."""
    draft = ModelDraft()
    for answer, info in ((forward, draft.forward_generation), (backward, draft.backward_generation)):
        if answer.WhichOneof("result") == "response":
            info.CopyFrom(answer.response.generation)
    try:
        one, other = _read(forward, rubric), turned(_read(backward, rubric))
    except AnswerUnparsable as error:
        draft.abstentions.add(part=WHOLE, reason=error.reason)
        return draft
    draft.annotation.CopyFrom(one)
    draft.abstentions.extend(_strip(draft.annotation, other))
    return draft


def is_readable_error(answer: GenerateResponse) -> bool:
    """Whether an error is the model's fault, on which it abstains, and not the pair's."""
    return from_status(answer.error).reason.startswith(MALFORMED)


def _read(answer: GenerateResponse, rubric: Sequence[str]) -> Annotation:
    """Raises AnswerUnparsable."""
    if answer.WhichOneof("result") == "error":
        raise AnswerUnparsable(answer.error.message, reason=from_status(answer.error).reason)
    response = answer.response
    if response.generation.finish_reason == FINISH_REASON_LENGTH:
        raise AnswerUnparsable("The answer was cut off before its end.", reason="ANSWER_TRUNCATED")
    return read_annotation(_text(response.content), rubric)


def _text(message: content_pb2.Content) -> str:
    if any(part.WhichOneof("part") == "media" for part in message.parts):
        raise AnswerUnparsable("The answer has media beside its text.")
    return text_of(message)


def _strip(annotation: Annotation, other: Annotation) -> Iterator[DraftAbstention]:
    """Takes out of an annotation what the other one says otherwise; yields an abstention for each part."""
    for name in sorted(annotation.winners):
        if annotation.winners[name] != other.winners[name]:
            del annotation.winners[name]
            yield DraftAbstention(part=f"winner.{name}", reason=DISAGREE)
    for side, (feedback, again) in enumerate(zip(annotation.feedback, other.feedback, strict=True), start=1):
        yield from _strip_scores(feedback, again, side=side)
    if annotation.preferred != other.preferred:
        annotation.preferred, annotation.reason = 0, ""
        yield DraftAbstention(part="preferred", reason=DISAGREE)


def _strip_scores(feedback: Feedback, other: Feedback, *, side: int) -> Iterator[DraftAbstention]:
    scores = {score.dimension: score.score for score in other.scores}
    kept: list[DimensionScore] = []
    for score in feedback.scores:
        if score.score == scores[score.dimension]:
            kept.append(score)
        else:
            yield DraftAbstention(part=f"score.{side}.{score.dimension}", reason=DISAGREE)
    del feedback.scores[:]
    feedback.scores.extend(kept)
