"""Examples: prompts and answers as token ids, made from records; `example_file` keeps them.

Media that the model reads as features stand in an example by digest alone: the file stays small, and the features are
loaded when their batch is made (`training.media`).
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omnialign.errors import FailedPrecondition, OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.adapters.features import joint_shape
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaPolicy, ModelInputs, Turn
from omnialign.v1 import record_pb2
from training.samples import Dropped, Sample, samples_of

MAX_DROPPED_FRACTION = 0.5
"""Share of examples that may be dropped for a fault, where a spec does not say."""
TEACH_NOTHING = frozenset(
    {
        "QUARANTINED",
        "NO_RESPONSE",
        "NO_FEEDBACK",
        "NO_PREFERENCE",
        "NO_PAIR",
        "PAIR_IDENTICAL",
        "RATINGS_EQUAL",
        "NO_LABEL",
        "LABELLED_BAD",
        "NO_REFINEMENT",
        "SCORE_BETWEEN",
        "NO_REFERENCES",
        "NO_ASSESSMENT",
        "NO_RATIONALE",
        "MODALITIES_MIXED",
    }
)
"""Reasons that are no fault: the record is good, but holds nothing that the method learns."""


@dataclass(frozen=True)
class MediaRef:
    """A medium by its digest. `modality` is a value of `omnialign.v1.Modality`."""

    sha256: str
    modality: int


@dataclass(frozen=True)
class Example:
    """A prompt and its answers as token ids; in a pair the answers are chosen, then rejected."""

    prompt: list[int]
    answers: list[list[int]]
    media: tuple[MediaRef, ...] = ()
    """The prompt's media in reading order, if the model reads them as features; empty if it reads them as ids."""
    value: float = 0.0
    """What was annotated beside the answers, for methods that learn from a number."""
    record: bytes = b""
    """The record without its responses, serialised, for methods that have services answer its prompt."""

    teacher_prompt: list[int] = field(default_factory=list)
    """The prompt of a teacher that is shown more than the student; empty for methods without one."""
    teacher_media: tuple[MediaRef, ...] = ()
    """The media of `teacher_prompt`, as `media`."""

    @property
    def length(self) -> int:
        """Tokens of the longer prompt with its longest answer, if it has any."""
        return max(len(self.prompt), len(self.teacher_prompt)) + longest(self.answers)


def longest(answers: Sequence[Sequence[int]]) -> int:
    """Tokens of the longest answer; 0 of none."""
    return max((len(answer) for answer in answers), default=0)


def prompt_hash(example: Example) -> int:
    """64 bits of the hash of an example's prompt, media included: examples of one prompt have the same."""
    digest = hashlib.sha256(np.asarray(example.prompt, dtype="<i8").tobytes())
    for ref in example.media:
        digest.update(bytes.fromhex(ref.sha256))
    return int.from_bytes(digest.digest()[:8], "big")


@dataclass
class Tally:
    """What was lost while examples were made, by UPPER_SNAKE reason."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Records and samples that gave no example."""
    media_losses: Counter[str] = field(default_factory=Counter)
    """Media that were used in part, as the policy allows; for example, audio that was cut."""
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    """Feature shapes that all rows of a batch must share, in families that cannot pad them."""


def make_examples(
    records: Iterable[tuple[record_pb2.Record, Mapping[str, bytes]]],
    *,
    adapter: Adapter,
    method: str,
    target: str,
    max_length: int,
    tally: Tally,
    policy: MediaPolicy = NO_BOUNDS,
    settings: Any = None,
) -> Iterator[Example]:
    """The examples of `records`, each given with the bytes of its media; losses are counted in `tally`.

    `settings` are the method's own.

    A bad record costs itself and never the run: `require_examples` decides later whether enough is left.
    """
    for record, media in records:
        try:
            found = samples_of(
                record, media=media, method=method, target=target, settings=settings, dropped=tally.dropped
            )
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


def encode_sample(sample: Sample, *, adapter: Adapter, max_length: int, policy: MediaPolicy = NO_BOUNDS) -> Example:
    """The token ids of a sample. The prompt is left open, every answer ends with the end token.

    Raises `Dropped` (TOO_LONG) when the prompt with any answer exceeds `max_length` tokens. Nothing is ever cut: a cut
    answer would teach the model to stop in the middle of a picture, and a cut prompt would leave features without
    their placeholder tokens.
    """
    return _encode(sample, adapter=adapter, max_length=max_length, policy=policy)[0]


def _encode(sample: Sample, *, adapter: Adapter, max_length: int, policy: MediaPolicy) -> tuple[Example, ModelInputs]:
    inputs = adapter.encode(sample.turns, policy)
    shown = adapter.encode(sample.teacher_turns, policy) if sample.teacher_turns else None
    example = Example(
        prompt=inputs.ids,
        answers=[list(adapter.encode_answer(answer, policy)) for answer in sample.answers],
        media=_refs(sample.turns) if inputs.features else (),
        value=sample.value,
        record=sample.record,
        teacher_prompt=shown.ids if shown else [],
        teacher_media=_refs(sample.teacher_turns) if shown and shown.features else (),
    )
    if example.length > max_length:
        raise Dropped("TOO_LONG")
    return example, inputs


def _refs(turns: Iterable[Turn]) -> tuple[MediaRef, ...]:
    media = (piece for turn in turns for piece in turn.pieces if isinstance(piece, MediaBytes))
    return tuple(MediaRef(medium.sha256, medium.modality) for medium in media)


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, OmnialignError) else str(error)


def require_examples(count: int, *, dataset: str, dropped: Counter[str]) -> None:
    """Raises `FailedPrecondition` (NO_EXAMPLES), with the dropped counts, when there is nothing to train on."""
    if count == 0:
        counts = ", ".join(f"{reason}: {number}" for reason, number in sorted(dropped.items())) or "no records"
        raise FailedPrecondition(
            f"{dataset} gives no training example; dropped {counts}",
            reason="NO_EXAMPLES",
            metadata={"dataset": dataset, "dropped": counts},
        )


def require_few_dropped(count: int, *, dropped: Counter[str], max_fraction: float) -> None:
    """Raises `FailedPrecondition` (TOO_MANY_DROPPED) when too large a share was dropped for a fault.

    What is left would no longer be the data that was meant: of too long examples, only the short ones.
    """
    faults = Counter({reason: number for reason, number in dropped.items() if reason not in TEACH_NOTHING})
    limit = max_fraction or MAX_DROPPED_FRACTION
    if faults.total() > limit * (count + faults.total()):
        counts = ", ".join(f"{reason}: {number}" for reason, number in faults.most_common())
        raise FailedPrecondition(
            f"{faults.total()} of {count + faults.total()} examples are dropped ({counts}), more than the share of "
            f"{limit:g} that may be: mend the data, raise max_length for TOO_LONG, or raise max_dropped_fraction",
            reason="TOO_MANY_DROPPED",
            metadata={"examples": str(count), "dropped": counts, "max_dropped_fraction": f"{limit:g}"},
        )


def require_batchable(shapes: Collection[tuple[int, ...]], *, rows_per_batch: int) -> None:
    """Raises `FailedPrecondition` (FEATURES_DIFFER) when a batch could hold videos that the model cannot stack.

    Checked before the first step, because otherwise the run ends hours later, when chance puts two such videos into
    one batch.
    """
    if len(shapes) > 1 and rows_per_batch > 1:
        found = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
        raise FailedPrecondition(
            f"this model takes only videos of one shape in a batch, and the data has {found}; set max_frames in "
            "media_policy so that all videos have equally many frames, or set micro_batch_size to 1",
            reason="FEATURES_DIFFER",
            metadata={"shapes": found},
        )
