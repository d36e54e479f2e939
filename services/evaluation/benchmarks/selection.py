"""`selection`: whether a model answers in the modalities that people would have chosen.

The score of an answer is α, the share of people who voted for the combination of modalities in it: a rule, no judge. An
answer in all three of text, a visual and an auditory modality scores α / 3, so that saying everything in every way does
not pay (arXiv 2412.15838; the published script leaves this rule out). An empty answer chose nothing, and nobody voted
for that: 0.
"""

from collections.abc import Mapping

from omnialign.combinations import check_shares, combination, combination_of, media_among
from omnialign.errors import InvalidArgument
from services.evaluation.benchmarks.benchmark import Benchmark, assess
from services.evaluation.job import Part
from services.pipeline.item_calls import extended
from services.pipeline.kind import JobContext, Outcome, Record, Records

SELECTION = "selection"
VISUAL = ("i", "v")


class Selection(Benchmark):
    """Instructions with the votes of people for each combination of modalities."""

    name = "selection"
    main = SELECTION

    @classmethod
    def problem(cls, item: Record) -> str:
        """An item needs votes, whose shares add up to 1."""
        if not item.benchmark_item.selection_shares:
            return "SHARES_MISSING"
        try:
            check_shares(item.benchmark_item.selection_shares)
        except InvalidArgument as error:
            return error.reason
        return ""

    @classmethod
    def media(cls, item: Record) -> str:
        """Those that people could vote for."""
        return media_among(item.benchmark_item.selection_shares)

    async def score(self, context: JobContext, part: Part, records: Records) -> Outcome:
        """The share of votes for what each model chose."""
        outcome = Outcome([extended(record) for record in records])
        for record in outcome.records:
            chosen = combination_of(record.responses[-1].content)
            share = selection_score(chosen, record.benchmark_item.selection_shares)
            assess(record, SELECTION, share, rationale=f"The answer is {chosen or 'empty'}.")
        return outcome


def selection_score(chosen: str, shares: Mapping[str, float], *, third: bool = True) -> float:
    """α of the combination `chosen`, 0 to 1; a third of it for all three modalities, unless `third` is off.

    Where the votes name one visual modality, images or videos, the other one counts as the same: voters were asked for
    something to look at. Raises InvalidArgument (SHARES_INVALID).
    """
    check_shares(shares)
    named = [letter for letter in VISUAL if any(letter in votes for votes in shares)]
    if len(named) == 1:
        chosen = combination(named[0] if letter in VISUAL else letter for letter in chosen)
    share = shares.get(chosen, 0.0)
    is_everything = {"t", "a"} <= set(chosen) and not set(VISUAL).isdisjoint(chosen)
    return share / 3 if third and is_everything else share
