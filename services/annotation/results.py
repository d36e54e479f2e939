"""What comes out for an item: the better response, and the annotation that goes into the record.

The majority of its annotators decides, or the adjudicator. A record gets one annotation whole, so that scores, reasons,
critique and advice belong together: of those that prefer the better response, the one that is nearest to all others,
which is to say with the least sum of differences in scores and winners.
"""

import datetime
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Answer, Task
from omnialign.v1.record_pb2 import Preference, Record
from services.annotation.drafting.origins import counted
from services.annotation.store import Entry

CAMPAIGN_LABEL = "annotation_campaign"
ANNOTATORS_LABEL = "annotators"
DRAFT_LABEL = "draft_model"
ORIGINS_LABEL = "draft_origins"
AUTHOR_LABEL = "annotation_author"
TIME_LABEL = "annotation_time"
SIDES_LABEL = "annotation_sides"
SWAPPED = "swapped"
"""The author saw the second response first: where their texts number the responses, they mean what they saw."""
ADJUDICATOR_LABEL = "adjudicator"
ADJUDICATION_LABEL = "adjudication_reason"


class Left(enum.Enum):
    """Why an item is not committed."""

    OPEN = "open"
    """Seats are not submitted yet."""
    UNDECIDED = "undecided"
    """No response has a majority."""
    SET_ASIDE = "set_aside"
    """It was flagged, or adjudicated to be left out."""


@dataclass(frozen=True)
class Outcome:
    """The annotation of a record, and what its labels say of it."""

    annotation: Annotation
    labels: Mapping[str, str]


def outcome(entry: Entry, answers: Sequence[Answer]) -> Outcome | Left:
    """What comes out for an item that is no quality item."""
    submitted = [answer for answer in answers if answer.state == Task.STATE_SUBMITTED]
    if entry.adjudication is not None:
        return _adjudicated(entry, submitted)
    if entry.flagged:
        return Left.SET_ASIDE
    if len(submitted) < entry.num_seats:
        return Left.OPEN
    votes = [answer.annotation.preferred for answer in submitted]
    preferred = max((1, 2), key=votes.count)
    if 2 * votes.count(preferred) <= len(votes):
        return Left.UNDECIDED
    chosen = nearest([answer for answer in submitted if answer.annotation.preferred == preferred], submitted)
    return Outcome(chosen.annotation, _labels(entry, submitted, author=chosen))


def nearest(candidates: Sequence[Answer], answers: Sequence[Answer]) -> Answer:
    """The candidate whose annotation differs least from all answers; the first that came of several."""
    return min(candidates, key=lambda one: sum(distance(one.annotation, other.annotation) for other in answers))


def distance(one: Annotation, other: Annotation) -> int:
    """Differences of scores, plus one for each dimension with another winner."""
    scores, others = _scores(one), _scores(other)
    winners = sum(one.winners[name] != other.winners[name] for name in one.winners if name in other.winners)
    return winners + sum(abs(scores[key] - others[key]) for key in scores if key in others)


def annotated(record: Record, found: Outcome) -> Record:
    """The record with an outcome in it."""
    made = Record()
    made.CopyFrom(record)
    for response, feedback in zip(made.responses, found.annotation.feedback, strict=False):
        response.feedback.CopyFrom(feedback)
    # The typed record has no ties: a dimension on which the responses are equal has no winner.
    winners = {name: side for name, side in found.annotation.winners.items() if side}
    preference = Preference(preferred=found.annotation.preferred, reason=found.annotation.reason, dimensions=winners)
    made.preference.CopyFrom(preference)
    made.ClearField("comparison")
    made.labels.update(found.labels)
    if found.annotation.draft_model:
        made.labels.update({DRAFT_LABEL: found.annotation.draft_model, ORIGINS_LABEL: counted(found.annotation)})
    return made


def _adjudicated(entry: Entry, submitted: Sequence[Answer]) -> Outcome | Left:
    decision = entry.adjudication
    if decision is None or decision.WhichOneof("decision") == "left_out":
        return Left.SET_ASIDE
    author = Answer(annotator=decision.adjudicator, annotation=decision.annotation)
    if decision.WhichOneof("decision") == "annotator":
        author = next(answer for answer in submitted if answer.annotator == decision.annotator)
    labels = _labels(entry, submitted, author=author) | {
        ADJUDICATOR_LABEL: decision.adjudicator,
        ADJUDICATION_LABEL: decision.reason,
        TIME_LABEL: _time(decision.adjudicate_time.ToMicroseconds()),
    }
    return Outcome(author.annotation, labels)


def _labels(entry: Entry, submitted: Sequence[Answer], *, author: Answer) -> dict[str, str]:
    last_us = max((answer.answer_time.ToMicroseconds() for answer in submitted), default=0)
    return {
        CAMPAIGN_LABEL: entry.campaign,
        ANNOTATORS_LABEL: ",".join(sorted(answer.annotator for answer in submitted)),
        AUTHOR_LABEL: author.annotator,
        TIME_LABEL: _time(last_us),
        **({SIDES_LABEL: SWAPPED} if author.swapped else {}),
    }


def _time(microseconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(microseconds // 1_000_000, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _scores(annotation: Annotation) -> dict[tuple[int, str], int]:
    sides = enumerate(annotation.feedback)
    return {(side, score.dimension): score.score for side, feedback in sides for score in feedback.scores}
