"""What a record teaches: the prompts and answers that each method and target takes from it, before they are tokenised.

A sample has one answer or, where pairs are read, the chosen and the rejected one. The prompts come from the templates
that the services use too, so a trained model later meets exactly what it was trained on.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from omnialign.modeling.answers import (
    MAX_RATING,
    MIN_RATING,
    write_feedback,
    write_judgement,
    write_rating,
    write_scores,
)
from omnialign.modeling.inputs import MediaBytes, Pieces, Turn, pieces, turns
from omnialign.modeling.prompts import (
    render_comparison,
    render_critique,
    render_generation,
    render_refinement,
    render_response,
    render_score,
    render_understanding,
)
from omnialign.rubrics import MAX_SCORE, rubric
from omnialign.v1 import content_pb2, record_pb2
from training.methods import METHODS


@dataclass(frozen=True)
class Sample:
    """A prompt and its answers, as content."""

    turns: tuple[Turn, ...]
    answers: tuple[Pieces, ...]
    value: float = 0.0
    """What was annotated beside the answers, for methods that learn from a number."""
    record: bytes = b""
    """The record without its responses, serialised, for methods that have services answer its prompt."""
    teacher_turns: tuple[Turn, ...] = ()
    """The prompt of a teacher that is shown more than the student; empty for methods without one."""


class Dropped(Exception):
    """A record or sample that gives no example; the argument is an UPPER_SNAKE reason."""


def samples_of(
    record: record_pb2.Record,
    *,
    media: Mapping[str, bytes],
    method: str,
    target: str,
    settings: Any = None,
    dropped: Counter[str] | None = None,
) -> tuple[Sample, ...]:
    """The samples that a record gives. `media` maps digests to bytes; `settings` are the method's own.

    Responses that give no sample beside others that do are counted in `dropped`. Raises `Dropped` when there is nothing
    to learn from: QUARANTINED, NO_RESPONSE, NO_FEEDBACK, NO_PREFERENCE, NO_PAIR, PAIR_IDENTICAL, RATINGS_EQUAL,
    NO_LABEL, NO_REFINEMENT, NO_REFERENCES, NO_ASSESSMENT. Media that cannot be used raise their own typed errors.
    """
    if record.HasField("quarantine"):
        raise Dropped("QUARANTINED")
    own = settings or METHODS[method].settings()
    reader = _Reader(record, media, settings=own, dropped=Counter() if dropped is None else dropped)
    return ROWS[METHODS[method].rows](reader, target)


class _Reader:
    """A record with the bytes of its media filled in."""

    def __init__(
        self, record: record_pb2.Record, media: Mapping[str, bytes], *, settings: Any, dropped: Counter[str]
    ) -> None:
        self.record, self.settings, self.dropped = record, settings, dropped
        self.history, self.prompt = turns(record.history, media), pieces(record.prompt, media)
        self.responses = [pieces(response.content, media) for response in record.responses]

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The prompt, with what came before it, as the policy is asked."""
        return render_response(self.prompt, self.history).turns

    @cached_property
    def rubric(self) -> tuple[str, ...]:
        """The dimensions of the record's subtask. Raises InvalidArgument SUBTASK_UNKNOWN."""
        return rubric(self.record.subtask)

    def preferred(self) -> int:
        """The annotated preference, 1 or 2; 0 without one."""
        return self.record.preference.preferred if self.record.HasField("preference") else 0

    def pair_preferred(self) -> int:
        """The annotated preference; otherwise 2 for a pair of the gate, whose second response won; 0 for neither."""
        won = self.record.comparison.verdict == record_pb2.VERDICT_WIN
        return self.preferred() or (2 if won else 0)


def _pair(reader: _Reader, target: str) -> tuple[Sample, ...]:
    """The preferred response over the other."""
    if len(reader.responses) < 2:
        raise Dropped("NO_PAIR")
    if not reader.pair_preferred():
        raise Dropped("NO_PREFERENCE")
    chosen = reader.pair_preferred() - 1
    if reader.responses[chosen] == reader.responses[1 - chosen]:
        raise Dropped("PAIR_IDENTICAL")
    return (Sample(reader.turns, (reader.responses[chosen], reader.responses[1 - chosen])),)


def _rated_pair(reader: _Reader, target: str) -> tuple[Sample, ...]:
    """As `_pair`, with how much better the chosen response is rated as its value.

    A record that nobody has compared gives its best-rated response over its worst-rated one.
    """
    ratings = [_rating(response.feedback) for response in reader.record.responses]
    if reader.pair_preferred() or reader.record.HasField("comparison") or len(reader.responses) < 2:
        (pair,) = _pair(reader, target)
        chosen, rejected = ratings[reader.pair_preferred() - 1], ratings[2 - reader.pair_preferred()]
        value = 0.0 if chosen is None or rejected is None else max(chosen - rejected, 0.0)
        return (replace(pair, value=value),)
    rated = [(rating, index) for index, rating in enumerate(ratings) if rating is not None]
    if len(rated) < 2:
        raise Dropped("NO_PREFERENCE")
    (best, chosen_at), (worst, rejected_at) = max(rated), min(rated)
    if best == worst:
        raise Dropped("RATINGS_EQUAL")
    if reader.responses[chosen_at] == reader.responses[rejected_at]:
        raise Dropped("PAIR_IDENTICAL")
    answers = (reader.responses[chosen_at], reader.responses[rejected_at])
    return (Sample(reader.turns, answers, value=best - worst),)


def _rating(feedback: record_pb2.Feedback) -> float | None:
    """The mean score as a share of the best one; None without scores."""
    scores = [score.score for score in feedback.scores]
    return sum(scores) / (len(scores) * MAX_SCORE) if scores else None


def _labelled(reader: _Reader, target: str) -> tuple[Sample, ...]:
    """Each answer as good (1) or bad (0): the preferred response and the other; else as labelled, or by mean scores."""
    preferred = reader.pair_preferred()
    if preferred and len(reader.responses) >= 2:
        pair = reader.responses[:2]
        if pair[0] == pair[1]:
            raise Dropped("PAIR_IDENTICAL")
        return tuple(Sample(reader.turns, (y,), value=float(at == preferred)) for at, y in enumerate(pair, start=1))
    ratings = [_rating(response.feedback) for response in reader.record.responses]
    good, bad = reader.settings.good_score, reader.settings.bad_score
    found, between = list[Sample](), 0
    for y, response, rating in zip(reader.responses, reader.record.responses, ratings, strict=True):
        if response.HasField("good"):
            found.append(Sample(reader.turns, (y,), value=float(response.good)))
        elif rating is not None and bad < rating * MAX_SCORE < good:
            between += 1
        elif rating is not None:
            found.append(Sample(reader.turns, (y,), value=float(rating * MAX_SCORE >= good)))
    if not found and not between:
        raise Dropped("NO_LABEL")
    reader.dropped["SCORE_BETWEEN"] += between
    return tuple(found)


def _prompt(reader: _Reader, target: str) -> tuple[Sample, ...]:
    """The prompt alone: its answers are drawn while the policy learns."""
    whole = reader.record
    record = record_pb2.Record(id=whole.id, subtask=whole.subtask, history=whole.history, prompt=whole.prompt)
    return (Sample(reader.turns, (), record=record.SerializeToString(deterministic=True)),)


def _critiqued(reader: _Reader, target: str) -> tuple[Sample, ...]:
    """For each response with feedback, the response or its refinement, which a teacher with the feedback reads too."""
    along = reader.settings.along
    won = reader.record.comparison.verdict == record_pb2.VERDICT_WIN
    found: list[Sample] = []
    has_feedback = False
    for index, response in enumerate(reader.record.responses):
        if not (response.feedback.critique or response.feedback.refinement):
            continue
        has_feedback = True
        shown = render_refinement(reader.prompt, reader.responses[index], response.feedback, reader.history).turns
        # In a pair of the gate, the second response is the refinement of the first.
        refined = reader.responses[1:2] if index == 0 and won else []
        answers = {"response": [reader.responses[index]], "refinement": refined}
        for kind in ("response", "refinement") if along == "both" else (along,):
            found += [Sample(reader.turns, (answer,), teacher_turns=shown) for answer in answers[kind]]
    if not found:
        raise Dropped("NO_REFINEMENT" if has_feedback else "NO_FEEDBACK")
    return tuple(found)


def _answer(reader: _Reader, target: str) -> tuple[Sample, ...]:
    """What an answer is depends on the target."""
    return _ANSWERS[target or "response"](reader)


def _response(reader: _Reader) -> tuple[Sample, ...]:
    """The preferred response, that of a pair of the gate included; otherwise the first."""
    preferred = reader.pair_preferred() or 1
    if len(reader.responses) < preferred:
        raise Dropped("NO_RESPONSE")
    response = reader.record.responses[preferred - 1]
    if response.HasField("good") and not response.good and not reader.pair_preferred():
        raise Dropped("LABELLED_BAD")
    return (Sample(reader.turns, (reader.responses[preferred - 1],)),)


def _feedback(reader: _Reader) -> tuple[Sample, ...]:
    """One critique for each response that has feedback."""
    found = [
        Sample(
            render_critique(reader.prompt, content, reader.rubric, reader.history).turns,
            ((write_feedback(response.feedback, reader.rubric),),),
        )
        for content, response in zip(reader.responses, reader.record.responses, strict=True)
        if response.HasField("feedback")
    ]
    if not found:
        raise Dropped("NO_FEEDBACK")
    return tuple(found)


def _judgement(reader: _Reader) -> tuple[Sample, ...]:
    """The comparison of the first two responses, and the scores and ratings of every response that has some."""
    found = []
    if reader.preferred() and len(reader.responses) >= 2:
        # Both orders, so that the judge cannot learn to prefer a position.
        found = [_comparison(reader, first=0), _comparison(reader, first=1)]
    for content, response in zip(reader.responses, reader.record.responses, strict=True):
        if response.feedback.scores:
            scores = write_scores(response.feedback, reader.rubric)
            rendered = render_score(reader.prompt, content, reader.rubric, reader.history)
            found.append(Sample(rendered.turns, ((scores,),)))
    found += [*_understanding_ratings(reader), *_generation_ratings(reader)]
    if not found:
        raise Dropped("NO_PREFERENCE")
    return tuple(found)


def _comparison(reader: _Reader, *, first: int) -> Sample:
    """The comparison that shows response `first` (0 or 1) first. Reason and verdict follow the order shown."""
    second = 1 - first
    shown = reader.responses[first], reader.responses[second]
    rendered = render_comparison(reader.prompt, *shown, reader.history)
    critiques = [reader.record.responses[index].feedback.critique.strip() for index in (first, second)]
    reason = " ".join(f"response {shown}: {words}" for shown, words in enumerate(critiques, start=1) if words)
    preferred = 1 if reader.preferred() - 1 == first else 2
    return Sample(rendered.turns, ((write_judgement(reason, preferred),),))


def _understanding(reader: _Reader) -> tuple[Sample, ...]:
    """The ratings of every response that was held against answers of people."""
    if not reader.record.benchmark_item.references:
        raise Dropped("NO_REFERENCES")
    return _some(_understanding_ratings(reader))


def _generation(reader: _Reader) -> tuple[Sample, ...]:
    """The ratings of every response by how well it follows the prompt."""
    return _some(_generation_ratings(reader))


def _some(found: list[Sample]) -> tuple[Sample, ...]:
    if not found:
        raise Dropped("NO_ASSESSMENT")
    return tuple(found)


def _understanding_ratings(reader: _Reader) -> list[Sample]:
    item = reader.record.benchmark_item
    asked = item.references, item.category, reader.history
    return [
        Sample(render_understanding(reader.prompt, response, *asked).turns, ((rating,),))
        for response, rating in _ratings(reader, "understanding")
        if item.references
    ]


def _generation_ratings(reader: _Reader) -> list[Sample]:
    found = []
    for response, rating in _ratings(reader, "instruction_following"):
        media = {piece.modality for piece in response if isinstance(piece, MediaBytes)}
        if len(media) > 1:  # nothing says which of them was rated
            reader.dropped["MODALITIES_MIXED"] += 1
        else:
            modality = media.pop() if media else content_pb2.MODALITY_TEXT
            rendered = render_generation(reader.prompt, response, modality, reader.history)
            found.append(Sample(rendered.turns, ((rating,),)))
    return found


def _ratings(reader: _Reader, aspect: str) -> Iterator[tuple[Pieces, str]]:
    """Each rated response with the answer that a judge would write. An abstention is none."""
    for response, annotated in zip(reader.responses, reader.record.responses, strict=True):
        for found in annotated.assessments:
            if found.aspect != aspect or found.abstain_reason:
                continue
            if not found.rationale.strip():
                reader.dropped["NO_RATIONALE"] += 1
            elif not (found.score.is_integer() and MIN_RATING <= found.score <= MAX_RATING):
                reader.dropped["RATING_INVALID"] += 1
            else:
                yield response, write_rating(found.rationale.strip(), int(found.score))


_ANSWERS: Mapping[str, Callable[[_Reader], tuple[Sample, ...]]] = {
    "response": _response,
    "feedback": _feedback,
    "judgement": _judgement,
    "understanding": _understanding,
    "generation": _generation,
}

ROWS: Mapping[str, Callable[[_Reader, str], tuple[Sample, ...]]] = {
    "answer": _answer,
    "pair": _pair,
    "rated_pair": _rated_pair,
    "labelled": _labelled,
    "prompt": _prompt,
    "critiqued": _critiqued,
}
"""How the samples of a record are made, by what a method's rows are."""
