"""Conditions that must look into a record: on its media, its texts and its scores."""

from collections.abc import Callable, Iterator

from omnialign.content import contents_of
from omnialign.v1.content_pb2 import MODALITY_TEXT
from omnialign.v1.data_service_pb2 import RecordFilter
from omnialign.v1.record_pb2 import DimensionScore, Record


def matcher(wanted: RecordFilter) -> Callable[[Record], bool] | None:
    """Whether a record meets what a filter says of its content; None for a filter that says nothing of it."""
    conditions = list[Callable[[Record], bool]]()
    if wanted.modalities:
        modalities = set(wanted.modalities)
        conditions.append(lambda record: not modalities.isdisjoint(_modalities(record)))
    if wanted.text:
        text = wanted.text.casefold()
        conditions.append(lambda record: any(text in one.casefold() for one in _texts(record)))
    if wanted.dimension or wanted.HasField("min_score") or wanted.HasField("max_score"):
        conditions.append(lambda record: any(_is_within(score, wanted) for score in _scores(record)))
    return (lambda record: all(holds(record) for holds in conditions)) if conditions else None


def _modalities(record: Record) -> Iterator[int]:
    for message in contents_of(record):
        for part in message.parts:
            yield MODALITY_TEXT if part.WhichOneof("part") == "text" else part.media.modality


def _texts(record: Record) -> Iterator[str]:
    for message in contents_of(record):
        yield from (part.text for part in message.parts if part.WhichOneof("part") == "text")
    for response in record.responses:
        yield from (response.feedback.critique, response.feedback.refinement)
    yield from (score.rationale for score in _scores(record))
    yield record.preference.reason


def _scores(record: Record) -> Iterator[DimensionScore]:
    for response in record.responses:
        yield from response.feedback.scores


def _is_within(score: DimensionScore, wanted: RecordFilter) -> bool:
    least = wanted.min_score if wanted.HasField("min_score") else 0
    most = wanted.max_score if wanted.HasField("max_score") else 3
    return wanted.dimension in ("", score.dimension) and not score.unscored and least <= score.score <= most
