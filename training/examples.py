"""Records to examples: what each method and target learns from a record.

An example is a prompt with its answers: one answer for sft; the chosen and the rejected one, in that order, for dpo.
The prompts are the very templates that the services use, so a trained model meets what it was trained on.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from omnialign.errors import FailedPrecondition, OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.adapters.features import joint_shape
from omnialign.modeling.answers import write_feedback, write_judgement, write_scores
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaPolicy, ModelInputs, Pieces, Turn, pieces
from omnialign.modeling.prompts import render_comparison, render_critique, render_response, render_score
from omnialign.modeling.rubrics import rubric
from omnialign.v1 import record_pb2
from training.tokens import Example, MediaRef


@dataclass(frozen=True)
class Sample:
    """An example before it is tokenised."""

    turns: tuple[Turn, ...]
    answers: tuple[Pieces, ...]


class Dropped(Exception):
    """A record that gives no example; the argument is an UPPER_SNAKE reason."""


def samples(record: record_pb2.Record, *, media: Mapping[str, bytes], method: str, target: str) -> tuple[Sample, ...]:
    """The samples that a record gives. Raises `Dropped` when it has nothing to learn from."""
    if record.HasField("quarantine"):
        raise Dropped("QUARANTINED")
    reader = _Reader(record, media)
    if method == "dpo":
        return (_pair(reader),)
    return {"": _response, "response": _response, "feedback": _feedback, "judgement": _judgement}[target](reader)


@dataclass
class Tally:
    """What went wrong while examples were made, by UPPER_SNAKE reason."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Records and samples that gave no example."""
    media_losses: Counter[str] = field(default_factory=Counter)
    """Media that the policy let be used in part, such as sounds that were cut."""
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    """Shapes of features that the rows of a batch must share, in families that cannot fill them up."""


def encode(sample: Sample, *, adapter: Adapter, max_length: int, policy: MediaPolicy = NO_BOUNDS) -> Example:
    """The token ids of a sample and what media it has; the prompt ends open, every answer ends with the end token.

    Raises `Dropped` (TOO_LONG) when the prompt and any answer exceed `max_length` tokens: a cut answer would teach
    the model to stop in the middle of a picture, and a cut prompt would leave features without their places.
    """
    return _encode(sample, adapter=adapter, max_length=max_length, policy=policy)[0]


def _encode(sample: Sample, *, adapter: Adapter, max_length: int, policy: MediaPolicy) -> tuple[Example, ModelInputs]:
    inputs = adapter.encode(sample.turns, policy)
    answers = [list(adapter.encode_answer(answer, policy)) for answer in sample.answers]
    if len(inputs.ids) + max(len(answer) for answer in answers) > max_length:
        raise Dropped("TOO_LONG")
    return Example(prompt=inputs.ids, answers=answers, media=_refs(sample.turns) if inputs.features else ()), inputs


def _refs(turns: Iterable[Turn]) -> tuple[MediaRef, ...]:
    media = (piece for turn in turns for piece in turn.pieces if isinstance(piece, MediaBytes))
    return tuple(MediaRef(medium.sha256, medium.modality) for medium in media)


def examples(
    records: Iterable[tuple[record_pb2.Record, Mapping[str, bytes]]],
    *,
    adapter: Adapter,
    method: str,
    target: str,
    max_length: int,
    tally: Tally,
    policy: MediaPolicy = NO_BOUNDS,
) -> Iterator[Example]:
    """The examples of records, each with the bytes of its media; what is dropped or cut goes to the tally."""
    for record, media in records:
        try:
            found = samples(record, media=media, method=method, target=target)
        except (Dropped, OmnialignError) as error:
            tally.dropped[_reason(error)] += 1
            continue
        for sample in found:
            try:
                example, inputs = _encode(sample, adapter=adapter, max_length=max_length, policy=policy)
            except (Dropped, OmnialignError) as error:
                tally.dropped[_reason(error)] += 1
                continue
            tally.media_losses.update(loss.reason for loss in inputs.losses)
            if shape := joint_shape(inputs):
                tally.shapes.add(shape)
            yield example


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, OmnialignError) else str(error)


def require_examples(count: int, *, dataset: str, dropped: Counter[str]) -> None:
    """Raises `FailedPrecondition` (NO_EXAMPLES) with the dropped counts when there is nothing to train on."""
    if count == 0:
        counts = ", ".join(f"{reason}: {number}" for reason, number in sorted(dropped.items())) or "no records"
        raise FailedPrecondition(
            f"{dataset} gives no training example; dropped {counts}",
            reason="NO_EXAMPLES",
            metadata={"dataset": dataset, "dropped": counts},
        )


def require_joinable(shapes: Collection[tuple[int, ...]], *, rows_per_batch: int) -> None:
    """Raises `FailedPrecondition` (FEATURES_DIFFER) when a batch may hold videos that the model cannot take together.

    It would end the run when chance puts two of them into one batch, hours later.
    """
    if len(shapes) > 1 and rows_per_batch > 1:
        found = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
        raise FailedPrecondition(
            f"this model takes videos of one shape together, and the data's are {found}; set max_frames in "
            "media_policy so that all have as many frames, or micro_batch_size to 1",
            reason="FEATURES_DIFFER",
            metadata={"shapes": found},
        )


class _Reader:
    """A record with its media in place."""

    def __init__(self, record: record_pb2.Record, media: Mapping[str, bytes]) -> None:
        self.record = record
        self.prompt = pieces(record.prompt, media)
        self.responses = [pieces(response.content, media) for response in record.responses]
        self.rubric = rubric(record.subtask)

    def preferred(self) -> int:
        """1 or 2 by annotation, 0 where there is none."""
        return self.record.preference.preferred if self.record.HasField("preference") else 0


def _pair(reader: _Reader) -> Sample:
    if len(reader.responses) < 2:
        raise Dropped("NO_PAIR")
    chosen = (reader.preferred() or 2) - 1
    if reader.responses[chosen] == reader.responses[1 - chosen]:
        raise Dropped("PAIR_IDENTICAL")
    turns = render_response(reader.prompt).turns
    return Sample(turns, (reader.responses[chosen], reader.responses[1 - chosen]))


def _response(reader: _Reader) -> tuple[Sample, ...]:
    preferred = reader.preferred() or 1
    if len(reader.responses) < preferred:
        raise Dropped("NO_RESPONSE")
    return (Sample(render_response(reader.prompt).turns, (reader.responses[preferred - 1],)),)


def _feedback(reader: _Reader) -> tuple[Sample, ...]:
    found = [
        Sample(
            render_critique(reader.prompt, content, reader.rubric).turns,
            ((write_feedback(response.feedback, reader.rubric),),),
        )
        for content, response in zip(reader.responses, reader.record.responses, strict=True)
        if response.HasField("feedback")
    ]
    if not found:
        raise Dropped("NO_FEEDBACK")
    return tuple(found)


def _judgement(reader: _Reader) -> tuple[Sample, ...]:
    """The comparison of the first two responses in both orders, and the scores of every scored response."""
    found = []
    if reader.preferred() and len(reader.responses) >= 2:
        found = [_comparison(reader, first=0), _comparison(reader, first=1)]
    for content, response in zip(reader.responses, reader.record.responses, strict=True):
        if response.feedback.scores:
            scores = write_scores(response.feedback, reader.rubric)
            found.append(Sample(render_score(reader.prompt, content, reader.rubric).turns, ((scores,),)))
    if not found:
        raise Dropped("NO_PREFERENCE")
    return tuple(found)


def _comparison(reader: _Reader, *, first: int) -> Sample:
    """The comparison with response `first` (0 or 1) shown first; the words follow the order shown."""
    second = 1 - first
    rendered = render_comparison(reader.prompt, reader.responses[first], reader.responses[second])
    critiques = [reader.record.responses[index].feedback.critique.strip() for index in (first, second)]
    reason = " ".join(f"response {shown}: {words}" for shown, words in enumerate(critiques, start=1) if words)
    preferred = 1 if reader.preferred() - 1 == first else 2
    return Sample(rendered.turns, ((write_judgement(reason, preferred),),))
