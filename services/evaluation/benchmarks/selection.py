"""`selection`: whether a model answers in the modalities that people would have chosen.

The score is the share of people who voted for the combination of modalities in the answer (`selection_score`): a rule,
no judge.
"""

from omnialign.combinations import check_shares, combination_of, media_among
from omnialign.errors import InvalidArgument
from services.evaluation.benchmarks.benchmark import Benchmark, assess
from services.evaluation.job import Part
from services.evaluation.selection import selection_score
from services.pipeline.item_calls import extended
from services.pipeline.kind import JobContext, Outcome, Record, Records

SELECTION = "selection"


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
