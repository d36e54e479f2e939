"""How far annotators agree, and how well each knows the quality items."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, zip_longest

from omnialign.agreement import Level, krippendorff_alpha
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import (
    AnnotatorReport,
    Answer,
    DimensionAgreement,
    GetAgreementResponse,
    Task,
)


def agreement(answers: Mapping[int, Sequence[Answer]], known: Mapping[int, int]) -> GetAgreementResponse:
    """The agreement over all final answers; `known` has the known answer of each quality item, by number."""
    submitted = {number: _annotations(found) for number, found in answers.items()}
    shared = [found for found in submitted.values() if len(found) > 1]
    report = GetAgreementResponse(item_count=len(shared))
    for name in sorted({name for found in shared for annotation in found for name in annotation.winners}):
        scores = [_scores(found, name, side) for found in shared for side in (0, 1)]
        winners = [[one.winners[name] for one in found if name in one.winners] for found in shared]
        report.dimensions.append(
            DimensionAgreement(
                dimension=name,
                score_alpha=_alpha(scores, Level.ORDINAL),
                winner_alpha=_alpha(winners, Level.NOMINAL),
            )
        )
    preferred = [[annotation.preferred for annotation in found] for found in shared]
    pairs = [one == other for votes in preferred for one, other in combinations(votes, 2)]
    report.pair_count = len(pairs)
    if pairs:
        report.pairwise_agreement = sum(pairs) / len(pairs)
    if (alpha := _alpha(preferred, Level.NOMINAL)) is not None:
        report.preferred_alpha = alpha
    report.annotators.extend(_annotators(answers, known))
    if num_submitted := sum(one.submitted_count for one in report.annotators):
        report.first_shown_share = sum(one.first_shown_count for one in report.annotators) / num_submitted
    return report


def _annotators(answers: Mapping[int, Sequence[Answer]], known: Mapping[int, int]) -> list[AnnotatorReport]:
    found = dict[str, AnnotatorReport]()
    for number, of_item in answers.items():
        for answer in of_item:
            report = found.setdefault(answer.annotator, AnnotatorReport(annotator=answer.annotator))
            report.submitted_count += answer.state == Task.STATE_SUBMITTED
            report.first_shown_count += answer.annotation.preferred == (2 if answer.swapped else 1)
            report.skipped_count += answer.state == Task.STATE_SKIPPED
            report.flagged_count += answer.state == Task.STATE_FLAGGED
            if answer.state == Task.STATE_SUBMITTED and number in known:
                report.quality_count += 1
                report.quality_right_count += answer.annotation.preferred == known[number]
    return [found[name] for name in sorted(found)]


def _alpha(units: Iterable[Sequence[int]], level: Level) -> float | None:
    """Alpha of the ratings of each unit. Who gave which does not matter to it, so that the rows need not be people."""
    return krippendorff_alpha(list(zip_longest(*units)), level)


def _scores(annotations: Sequence[Annotation], dimension: str, side: int) -> list[int]:
    found = (score for one in annotations for score in one.feedback[side].scores)
    return [score.score for score in found if score.dimension == dimension]


def _annotations(answers: Iterable[Answer]) -> list[Annotation]:
    return [answer.annotation for answer in answers if answer.state == Task.STATE_SUBMITTED]
