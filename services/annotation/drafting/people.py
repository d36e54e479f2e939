"""How far a model agrees with the people who annotated the same pairs.

Each annotation of a person beside the model's draft of the pair is a unit with two ratings. Those of people who began
from the draft are apart: they have seen what they are compared with.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

from omnialign.agreement import Level, krippendorff_alpha
from omnialign.v1.annotation_pb2 import Annotation, ModelDraft
from omnialign.v1.annotation_service_pb2 import (
    AgreementWithPeople,
    Answer,
    GetModelAgreementResponse,
    ModelAgreement,
    ModelDimensionAgreement,
    PartAgreement,
    Task,
)

Unit = tuple[int | None, int]
"""What the model says, None if it abstains, and what a person says."""
Compared = Sequence[tuple[Annotation, Annotation]]
"""What the model says of a pair, and what a person says."""


def model_agreement(
    drafts: Mapping[int, Sequence[ModelDraft]], answers: Mapping[int, Sequence[Answer]]
) -> GetModelAgreementResponse:
    """The agreement of each model with people, in order of name, over what is submitted so far."""
    by_model: dict[str, dict[int, Annotation]] = {}
    for number, found in drafts.items():
        for draft in found:
            by_model.setdefault(draft.model, {})[number] = draft.annotation
    return GetModelAgreementResponse(models=[_of_model(name, by_model[name], answers) for name in sorted(by_model)])


def _of_model(model: str, drafts: Mapping[int, Annotation], answers: Mapping[int, Sequence[Answer]]) -> ModelAgreement:
    compared = [
        (draft, answer.annotation)
        for number, draft in sorted(drafts.items())
        for answer in answers.get(number, ())
        if answer.state == Task.STATE_SUBMITTED
    ]
    return ModelAgreement(
        model=model,
        draft_count=len(drafts),
        undecided_count=sum(not draft.preferred for draft in drafts.values()),
        independent=_with_people([pair for pair in compared if pair[1].draft_model != model]),
        from_draft=_with_people([pair for pair in compared if pair[1].draft_model == model]),
    )


def _with_people(compared: Compared) -> AgreementWithPeople:
    names = sorted({name for _, person in compared for name in person.winners})
    preferred = [(draft.preferred or None, person.preferred) for draft, person in compared]
    return AgreementWithPeople(
        annotation_count=len(compared),
        preferred=_part(preferred, Level.NOMINAL),
        dimensions=[
            ModelDimensionAgreement(
                dimension=name,
                winner=_part(list(_winners(compared, name)), Level.NOMINAL),
                scores=_part(list(_scores(compared, name)), Level.ORDINAL),
            )
            for name in names
        ],
    )


def _part(units: Sequence[Unit], level: Level) -> PartAgreement:
    both = [(model, person) for model, person in units if model is not None]
    found = PartAgreement(count=len(both), abstained_count=len(units) - len(both))
    if both:
        found.rate = sum(model == person for model, person in both) / len(both)
    if (alpha := krippendorff_alpha(list(zip_longest(*both)), level)) is not None:
        found.alpha = alpha
    return found


def _winners(compared: Compared, name: str) -> Iterator[Unit]:
    for draft, person in compared:
        if name in person.winners:
            yield draft.winners.get(name), person.winners[name]


def _scores(compared: Compared, name: str) -> Iterator[Unit]:
    for draft, person in compared:
        for side, feedback in enumerate(person.feedback):
            for score in _of_dimension(feedback.scores, name):
                own = list(_of_dimension(draft.feedback[side].scores, name)) if side < len(draft.feedback) else []
                yield (own[0] if own else None), score


def _of_dimension(scores: Iterable[object], name: str) -> Iterator[int]:
    return (score.score for score in scores if score.dimension == name)  # type: ignore[attr-defined]
