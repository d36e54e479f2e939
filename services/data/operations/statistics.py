"""What a dataset holds, in numbers, found in one pass: of each record and medium a few bytes are kept."""

from array import array
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import numpy as np

from omnialign import names
from omnialign.agreement import Level, alpha_of_pairs
from omnialign.content import NAMES, media_of
from omnialign.v1.content_pb2 import Content
from omnialign.v1.data_service_pb2 import GetDatasetStatisticsRequest, GetDatasetStatisticsResponse
from omnialign.v1.dataset_operations_pb2 import DatasetStatistics, MediaTypeStatistics, RatingAgreement
from omnialign.v1.record_pb2 import VERDICT_LOSS, VERDICT_WIN, Record, Verdict
from services.data.datasets import Datasets
from services.data.objects.base import run_in_pool
from services.data.operations import statistics_page
from services.data.operations.content import content_key, messages
from services.data.operations.tallies import OTHERS, Kinds, Numbers
from services.data.selection import Selection

SCORES = 4
PREFERENCE_SCORES, PREFERENCE_VERDICT = "preference and scores", "preference and verdict"
MAX_VALUES = 64
"""Different ratings of one thing whose agreement is told; what is rated more finely is left out."""


async def statistics(
    datasets: Datasets, request: GetDatasetStatisticsRequest, *, pool: ThreadPoolExecutor
) -> AsyncIterator[GetDatasetStatisticsResponse]:
    """Progress after each batch, and at last the statistics, with their page if it is wanted."""
    is_version = names.matches(request.name, names.DATASET_VERSION)
    found = await (datasets.get_version if is_version else datasets.get)(request.name)
    collector, progress = Collector(), GetDatasetStatisticsResponse(record_count=found.record_count)
    yield progress
    async for batch in datasets.stream(found.name, Selection()):
        await run_in_pool(pool, collector.add, batch)
        progress.records_read += len(batch)
        yield progress
    progress.statistics.CopyFrom(await run_in_pool(pool, collector.result))
    if request.with_page:
        progress.page = (await run_in_pool(pool, statistics_page.render, found.name, progress.statistics)).encode()
    yield progress


class Collector:
    """Counts records."""

    def __init__(self) -> None:
        self._made = DatasetStatistics()
        self._subtasks, self._splits, self._verdicts = Kinds(), Kinds(), Kinds()
        self._prompt_modalities, self._response_modalities, self._history_modalities = Kinds(), Kinds(), Kinds()
        self._prompts, self._responses, self._critiques, self._history = Numbers(), Numbers(), Numbers(), Numbers()
        self._scores: dict[str, list[int]] = {}
        self._contents, self._prompt_keys = array("Q"), array("Q")
        self._media, self._media_sizes, self._media_types = array("Q"), array("Q"), array("H")
        self._type_numbers: dict[str, int] = {}
        self._ratings = _Ratings()

    def add(self, records: Iterable[Record]) -> None:
        """Counts a batch."""
        for record in records:
            self._add(record)

    def _add(self, record: Record) -> None:
        self._made.record_count += 1
        self._subtasks.add(record.subtask)
        self._splits.add(record.split)
        self._contents.append(_short(content_key(record)))
        self._prompt_keys.append(_short(content_key(record, prompt_only=True)))
        self._add_message(record.prompt, self._prompts, self._prompt_modalities)
        self._made.continued_count += bool(record.history)
        self._made.history_message_count += len(record.history)
        for earlier in record.history:
            self._add_message(earlier.content, self._history, self._history_modalities)
        for response in record.responses:
            self._made.response_count += 1
            self._add_message(response.content, self._responses, self._response_modalities)
            self._add_feedback(response.feedback.critique, response.feedback.refinement)
            for score in response.feedback.scores:
                if not score.unscored and 0 <= score.score < SCORES:
                    self._counts_of(score.dimension)[score.score] += 1
        for medium in media_of(messages(record)):
            kind = medium.mime_type if len(self._type_numbers) < 1000 else OTHERS
            self._media.append(int(medium.sha256[:16] or "0", 16))
            self._media_sizes.append(max(0, medium.size_bytes))
            self._media_types.append(self._type_numbers.setdefault(kind, len(self._type_numbers)))
        self._add_preference(record)
        self._ratings.add(record)

    def _add_message(self, message: Content, lengths: Numbers, modalities: Kinds) -> None:
        texts = [part.text for part in message.parts if part.WhichOneof("part") == "text"]
        if texts:
            lengths.add(sum(map(len, texts)))
        kinds = {NAMES.get(medium.modality, OTHERS) for medium in media_of([message])}
        for kind in kinds | ({"text"} if texts else set()):
            modalities.add(kind)

    def _add_feedback(self, critique: str, refinement: str) -> None:
        if critique:
            self._made.critique_count += 1
            self._critiques.add(len(critique))
        self._made.refinement_count += bool(refinement)

    def _counts_of(self, dimension: str) -> list[int]:
        kind = dimension if dimension in self._scores or len(self._scores) < MAX_VALUES else OTHERS
        return self._scores.setdefault(kind, [0] * SCORES)

    def _add_preference(self, record: Record) -> None:
        preferences = self._made.preferences
        preferences.first += record.preference.preferred == 1
        preferences.second += record.preference.preferred == 2
        preferences.none += len(record.responses) > 1 and not record.preference.preferred
        if record.comparison.verdict:
            self._verdicts.add(Verdict.Name(record.comparison.verdict).removeprefix("VERDICT_").lower())

    def result(self) -> DatasetStatistics:
        """The statistics of what was added."""
        made = self._made
        for counts, kinds in (
            (made.subtask_counts, self._subtasks),
            (made.split_counts, self._splits),
            (made.prompt_modalities, self._prompt_modalities),
            (made.response_modalities, self._response_modalities),
            (made.history_modalities, self._history_modalities),
            (made.verdict_counts, self._verdicts),
        ):
            counts.update(kinds.counts)
        made.prompt_characters.CopyFrom(self._prompts.distribution())
        made.response_characters.CopyFrom(self._responses.distribution())
        made.history_characters.CopyFrom(self._history.distribution())
        made.critique_characters.CopyFrom(self._critiques.distribution())
        for dimension, numbers in self._scores.items():
            made.scores[dimension].counts.extend(numbers)
        made.duplicate_count = _repeated(self._contents)
        made.repeated_prompt_count = _repeated(self._prompt_keys)
        self._add_media(made)
        made.agreements.extend(self._ratings.agreements())
        return made

    def _add_media(self, made: DatasetStatistics) -> None:
        types, sizes = np.array(self._media_types, dtype=np.int64), np.array(self._media_sizes, dtype=np.int64)
        _, firsts = np.unique(np.array(self._media, dtype=np.uint64), return_index=True)
        numbers = Numbers()
        for size in sizes[firsts].tolist():
            numbers.add(size)
        made.media_bytes.CopyFrom(numbers.distribution())
        count = len(self._type_numbers)
        uses, objects = np.bincount(types, minlength=count), np.bincount(types[firsts], minlength=count)
        held = [int(sizes[firsts][types[firsts] == number].sum()) for number in range(count)]
        found = [
            MediaTypeStatistics(
                mime_type=kind, use_count=int(uses[n]), object_count=int(objects[n]), size_bytes=held[n]
            )
            for kind, n in self._type_numbers.items()
        ]
        made.media_types.extend(sorted(found, key=lambda one: (-one.size_bytes, one.mime_type)))


class _Ratings:
    """Several ratings of one thing: of a dimension or aspect by several, and of a pair by people, scores and judges."""

    def __init__(self) -> None:
        self._pairs: dict[str, dict[tuple[float, float], float]] = defaultdict(lambda: defaultdict(float))
        self._items, self._equal, self._compared = Kinds(), Kinds(), Kinds()

    def add(self, record: Record) -> None:
        for response in record.responses:
            rated = defaultdict[str, list[float]](list)
            for score in response.feedback.scores:
                if not score.unscored:
                    rated[score.dimension].append(score.score)
            for assessment in response.assessments:
                if not assessment.abstain_reason:
                    rated[assessment.aspect].append(round(assessment.score, 2))
            for what, ratings in rated.items():
                self._add(what, ratings)
        preferred = record.preference.preferred
        if preferred and len(record.responses) > 1:
            first, second = (
                sum(score.score for score in response.feedback.scores) for response in record.responses[:2]
            )
            if first != second:
                self._add(PREFERENCE_SCORES, [preferred, 1 if first > second else 2])
            verdict = {VERDICT_WIN: 2, VERDICT_LOSS: 1}.get(record.comparison.verdict)
            if verdict is not None:
                self._add(PREFERENCE_VERDICT, [preferred, verdict])

    def _add(self, what: str, ratings: list[float]) -> None:
        if len(ratings) < 2 or (what not in self._pairs and len(self._pairs) >= MAX_VALUES):
            return
        self._items.add(what)
        for pair in permutations(ratings, 2):
            if pair in self._pairs[what] or len(self._pairs[what]) < MAX_VALUES**2:
                self._pairs[what][pair] += 1 / (len(ratings) - 1)
            self._compared.add(what)
            self._equal.add(what, pair[0] == pair[1])

    def agreements(self) -> Iterable[RatingAgreement]:
        for what, pairs in sorted(self._pairs.items()):
            level = Level.NOMINAL if what in (PREFERENCE_SCORES, PREFERENCE_VERDICT) else Level.INTERVAL
            share = self._equal.counts[what] / self._compared.counts[what]
            found = RatingAgreement(what=what, item_count=self._items.counts[what], equal_share=share)
            if (alpha := alpha_of_pairs(pairs, level)) is not None:
                found.alpha = alpha
            yield found


def _short(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def _repeated(keys: "array[int]") -> int:
    return len(keys) - len(np.unique(np.array(keys, dtype=np.uint64)))
