"""Scores made of other scores: AMU, AMG and overall of a model, strengths of models, and what judges agree on.

A composite of which a part was not measured is left out. With several judges, the first of each benchmark counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from omnialign.agreement import interval_alpha
from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.modeling.benchmark_items import CATEGORIES
from omnialign.statistics import calibration_error, calibration_of_pairs
from omnialign.v1 import evaluation_service_pb2
from services.evaluation import composites
from services.evaluation.benchmarks.benchmark import Subject
from services.evaluation.benchmarks.preference import ACCURACY
from services.evaluation.estimates import Statistic, estimate, only
from services.evaluation.job import Spec, pairs_beside, parts_of
from services.evaluation.pairwise import Games, strengths
from services.evaluation.samples import Sample
from services.evaluation.scores import ALL, Key, score_named, set_estimate

AMU, AMG, OVERALL, STRENGTH, AGREEMENT = "amu", "amg", "overall", "strength", "agreement"
CALIBRATION = "calibration_error"
RATED = {"amu": "understanding", "instruction_following": "following", "pairwise": "win_rate", "synergy": ""}
"""What several judges of a benchmark may agree on; of `synergy`, the scores of all pairs."""
MIN_JUDGES = 2
MIN_RANKED = 3
"""Fewer models need no ranking: the win rate says it."""

Parts = dict[str, Sample]
BenchmarkScore = evaluation_service_pb2.BenchmarkScore


def summaries_of(plan: Spec, samples: Mapping[Key, Sample]) -> Iterator[BenchmarkScore]:
    """The composites of each model, and the strengths by each judge."""
    for model in range(1, len(plan.models) + 1):
        for is_ablated in (False, True):
            understanding = _understanding(plan, samples, model, is_ablated=is_ablated)
            subject = Subject(model, is_ablated=is_ablated)
            yield from _composite(plan, AMU, subject, understanding, composites.amu)
        for measure, parts, statistic in composites_of(plan, samples, model):
            if measure != AMU:
                yield from _composite(plan, measure, Subject(model), parts, statistic)
    yield from _strengths(plan, samples)
    yield from _agreements(plan, samples)
    yield from _agreements_with_people(plan, samples)
    yield from _calibrations(plan, samples)


def composites_of(plan: Spec, samples: Mapping[Key, Sample], model: int) -> Iterator[tuple[str, Parts, Statistic]]:
    """What AMU, AMG and overall of a model are made of, and how; parts that were not measured are left out."""
    understanding, generation = _understanding(plan, samples, model), _generation(plan, samples, model)
    yield AMU, understanding, composites.amu
    yield AMG, generation, composites.amg
    yield OVERALL, understanding | generation, composites.overall


def _understanding(plan: Spec, samples: Mapping[Key, Sample], model: int, *, is_ablated: bool = False) -> Parts:
    """The categories of `amu`."""
    found: Parts = {}
    for part in parts_of(plan):
        if part.spec.name == "amu":
            subject = Subject(model, 1, is_ablated=is_ablated)
            keys = {group: Key(part.id, subject, "understanding", group) for group in CATEGORIES}
            found |= {group: samples[key] for group, key in keys.items() if key in samples and group not in found}
    return found


def _generation(plan: Spec, samples: Mapping[Key, Sample], model: int) -> Parts:
    """Selection, instruction following by modality, and synergy by pair."""
    names = {part.id: part.spec.name for part in parts_of(plan)}
    found: Parts = {}
    for key, sample in samples.items():
        if key.subject.model != model or key.subject.judge > 1 or not sample.counts.judged:
            continue
        match names[key.benchmark], bool(key.group):
            case "instruction_following", True:
                found.setdefault(composites.following(key.group), sample)
            case "selection", False:
                found.setdefault(composites.SELECTION, sample)
            case "synergy", False:
                found.setdefault(key.measure, sample)
    return found


def _composite(
    plan: Spec, measure: str, subject: Subject, parts: Parts, statistic: Statistic
) -> Iterator[BenchmarkScore]:
    if not parts:
        return
    try:
        found = estimate(parts, statistic, seed=plan.seed)
    except InvalidArgument:  # a part was not measured
        return
    score = score_named(plan, Key(measure, subject, measure, ALL))
    score.judged = sum(sample.counts.judged for sample in parts.values())
    score.abstained = sum(sample.counts.abstained for sample in parts.values())
    score.failed = sum(sample.counts.failed for sample in parts.values())
    set_estimate(score, found)
    yield score


def _calibrations(plan: Spec, samples: Mapping[Key, Sample]) -> Iterator[BenchmarkScore]:
    """How far the confidence of each judge of annotated pairs is from its accuracy (expected calibration error)."""
    for key, sample in samples.items():
        if key.measure == "confidence" and len(sample):
            confidence = sample.means
            score = score_named(plan, replace(key, measure=CALIBRATION))
            score.judged = len(confidence)
            score.value = calibration_error(calibration_of_pairs(confidence, np.ones_like(confidence)))
            yield score


def _agreements(plan: Spec, samples: Mapping[Key, Sample]) -> Iterator[BenchmarkScore]:
    """How far the judges of a benchmark agree, if there are several."""
    for part in parts_of(plan):
        if part.spec.name not in RATED or len(part.spec.judges) < MIN_JUDGES:
            continue
        wanted = RATED[part.spec.name]
        units: dict[Key, dict[int, Sample]] = {}
        for key, sample in samples.items():
            if key.benchmark == part.id and key.group == ALL and wanted in ("", key.measure):
                unit = replace(key, subject=replace(key.subject, judge=0))
                units.setdefault(unit, {})[key.subject.judge] = sample
        tables = [_ratings(by_judge, num_judges=len(part.spec.judges)) for by_judge in units.values()]
        table = np.hstack(tables) if tables else np.empty((0, 0))
        alpha = interval_alpha(table)
        score = score_named(plan, Key(part.id, Subject(), AGREEMENT, ALL))
        score.judged = int(((~np.isnan(table)).sum(axis=0) >= MIN_JUDGES).sum())
        if alpha is not None:
            score.value = alpha
        yield score


def _ratings(by_judge: Mapping[int, Sample], *, num_judges: int) -> NDArray[np.float64]:
    """The mean rating by each judge, numbered from 1, of each item: (judges, items), NaN where there is none."""
    items = np.unique(np.concatenate([sample.keys for sample in by_judge.values()]))
    table = np.full((num_judges, len(items)), np.nan)
    for judge, sample in by_judge.items():
        table[judge - 1, np.searchsorted(items, sample.keys)] = sample.means
    return table


def _agreements_with_people(plan: Spec, samples: Mapping[Key, Sample]) -> Iterator[BenchmarkScore]:
    """How often each judge of a benchmark chose as people did, on the annotated pairs beside it."""
    parts = parts_of(plan)
    for part in parts:
        beside = next(
            (one.id for one in parts if part.spec.annotated_pairs and one.spec == pairs_beside(part.spec)), ""
        )
        for judge in range(1, len(part.spec.judges) + 1):
            sample = samples.get(Key(beside, Subject(judge=judge), ACCURACY, ALL))
            if sample is not None:
                score = score_named(plan, Key(part.id, Subject(judge=judge), AGREEMENT, ALL))
                counts = sample.counts
                score.judged, score.abstained, score.failed = counts.judged, counts.abstained, counts.failed
                set_estimate(score, estimate({ALL: sample}, only, seed=plan.seed))
                yield score


def _strengths(plan: Spec, samples: Mapping[Key, Sample]) -> Iterator[BenchmarkScore]:
    """Bradley-Terry over all models, for each judge; nothing where a model has no finite strength."""
    for part in parts_of(plan):
        for judge in range(1, len(part.spec.judges) + 1):
            games = [
                Games(str(key.subject.model), str(key.subject.baseline), sample.keys, sample.means)
                for key, sample in samples.items()
                if key.benchmark == part.id
                and key.measure == "win_rate"
                and key.group == ALL
                and key.subject.judge == judge
                and len(sample)
            ]
            if len({name for played in games for name in (played.first, played.second)}) < MIN_RANKED:
                continue
            try:
                found = strengths(games)
            except FailedPrecondition:  # a model that took every point, or none, has no finite strength
                continue
            for model, strength in found.items():
                score = score_named(plan, Key(part.id, Subject(int(model), judge), STRENGTH, ALL))
                score.value, (score.low, score.high) = strength.value, strength.interval
                score.judged = sum(len(played.items) for played in games)
                yield score
