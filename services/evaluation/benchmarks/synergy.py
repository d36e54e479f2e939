"""`synergy`: how well the modalities of an answer go together, pair by pair, by a judge that was trained for it.

The judge is a reward model. It sees the prompt, and of the answer two modalities at a time; the score of a pair is
sigmoid(r), between 0 and 1. Pairs that an answer does not have are not scored; an answer with one modality has none.

How far such a judge can be trusted is measured within the same evaluation: on annotated pairs of answers that it has
not learnt from, as the benchmark `preference` does (`job.pairs_beside`).
"""

import itertools
from collections.abc import Iterator

from omnialign.combinations import ORDER, combination_of, media_among
from omnialign.content import LETTERS
from omnialign.v1 import content_pb2, judge_service_pb2
from services.evaluation.benchmarks.benchmark import Benchmark, assess, sigmoid
from services.evaluation.benchmarks.pairwise import judge_of
from services.evaluation.benchmarks.preference import reward_call
from services.evaluation.composites import synergy
from services.evaluation.job import SCORE, Part
from services.pipeline.item_calls import extended
from services.pipeline.kind import JobContext, Outcome, Record, Records
from services.pipeline.quarantine import rejected


class Synergy(Benchmark):
    """Answers in several modalities."""

    name = "synergy"
    needs = frozenset({"judges", "annotated_pairs"})
    judges_must_reward = True
    judges_may_reward = True

    @classmethod
    def media(cls, item: Record) -> str:
        """Those that people could vote for, or else those that the subtask names."""
        return media_among(item.benchmark_item.selection_shares or (item.subtask.partition("2")[2],))

    async def score(self, context: JobContext, part: Part, records: Records) -> Outcome:
        """The score of each pair of modalities in each answer."""
        judge = judge_of(part, records[0])
        items = [
            judge_service_pb2.RewardItem(
                id=f"{record.id}/{pair}", history=record.history, prompt=record.prompt, response=shown
            )
            for record in records
            for pair, shown in pairs_of(record.responses[-1].content)
        ]
        answers = await self._caller.ask(context, items, call=reward_call(judge.model)) if items else {}
        outcome = Outcome()
        for record in map(extended, records):
            found = {pair: answers[f"{record.id}/{pair}"] for pair, _ in pairs_of(record.responses[-1].content)}
            if failed := [answer for answer in found.values() if answer.WhichOneof("result") == "error"]:
                outcome.rejected.append(rejected(record, failed[0], stage=SCORE))
                continue
            for pair, answer in found.items():
                assess(record, synergy(*pair), sigmoid(answer.reward), judge=judge.model)
            outcome.records.append(record)
        return outcome


def pairs_of(message: content_pb2.Content) -> Iterator[tuple[str, content_pb2.Content]]:
    """Each two modalities of a message, such as `ti`, with the parts that are in one of them."""
    for first, second in itertools.combinations(sorted(combination_of(message), key=ORDER.index), 2):
        kept = [part for part in message.parts if _letter(part) in (first, second)]
        yield first + second, content_pb2.Content(parts=kept)


def _letter(part: content_pb2.Part) -> str:
    if part.WhichOneof("part") == "text":
        return "t"
    return next(letter for letter, modality in LETTERS.items() if modality == part.media.modality)
