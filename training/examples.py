"""Records to examples: what each method and target learns from a record.

An example is a prompt with its answers: one answer for sft; the chosen and the rejected one, in that order, for dpo.
The prompts are the very templates that the services use, so a trained model meets what it was trained on.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from omnialign.errors import FailedPrecondition, OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.answers import write_feedback, write_judgement, write_scores
from omnialign.modeling.messages import Pieces, Turn, pieces
from omnialign.modeling.prompts import render_comparison, render_critique, render_response, render_score
from omnialign.modeling.rubrics import rubric
from omnialign.v1 import record_pb2
from training.tokens import Example


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


def encode(sample: Sample, *, adapter: Adapter, max_length: int) -> Example:
    """The token ids of a sample; the prompt ends open, every answer ends with the end token.

    Raises `Dropped` (TOO_LONG) when the prompt and any answer exceed `max_length` tokens: a cut answer would teach
    the model to stop in the middle of a picture.
    """
    prompt = adapter.encode(sample.turns).ids
    answers = [list(adapter.encode_answer(answer)) for answer in sample.answers]
    if len(prompt) + max(len(answer) for answer in answers) > max_length:
        raise Dropped("TOO_LONG")
    return Example(prompt=prompt, answers=answers)


def examples(
    records: Iterable[tuple[record_pb2.Record, Mapping[str, bytes]]],
    *,
    adapter: Adapter,
    method: str,
    target: str,
    max_length: int,
    dropped: Counter[str],
) -> Iterator[Example]:
    """The examples of records, each with the bytes of its media; what is dropped is counted by reason."""
    for record, media in records:
        try:
            found = samples(record, media=media, method=method, target=target)
        except (Dropped, OmnialignError) as error:
            dropped[error.reason if isinstance(error, OmnialignError) else str(error)] += 1
            continue
        for sample in found:
            try:
                yield encode(sample, adapter=adapter, max_length=max_length)
            except (Dropped, OmnialignError) as error:
                dropped[error.reason if isinstance(error, OmnialignError) else str(error)] += 1


def require_examples(count: int, *, dataset: str, dropped: Counter[str]) -> None:
    """Raises `FailedPrecondition` (NO_EXAMPLES) with the dropped counts when there is nothing to train on."""
    if count == 0:
        counts = ", ".join(f"{reason}: {number}" for reason, number in sorted(dropped.items())) or "no records"
        raise FailedPrecondition(
            f"{dataset} gives no training example; dropped {counts}",
            reason="NO_EXAMPLES",
            metadata={"dataset": dataset, "dropped": counts},
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
