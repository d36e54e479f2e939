"""`preference`: judges, or reward models, choose between the two answers of annotated pairs.

A judge is asked in both orders. It is right if it prefers in both what people preferred; if its orders disagree, or it
finds the answers equal, it is half right, as a coin would be. A reward model is right if it gives the preferred answer
the higher reward.

Where a judge's log-probabilities can be had, or rewards, there is a `confidence`: the probability that it gives to the
answer that people preferred, sigmoid of the mean margin of both orders, or of the difference of the rewards. A judge
flips with the order if its two margins disagree; one without log-probabilities, if its words prefer one answer in one
order and the other in the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from omnialign.v1 import judge_service_pb2, record_pb2
from services.evaluation.benchmarks.benchmark import Benchmark, Subject, assess, sigmoid
from services.evaluation.benchmarks.pairwise import judge_of
from services.evaluation.job import SCORE, BenchmarkSpec, Part, Spec, parts_of
from services.evaluation.works import JUDGE, annotated_pair_of, judged_by, number_of, seeds_of_items
from services.pipeline.item_calls import ItemCall, extended
from services.pipeline.kind import JobContext, Outcome, Record, Records
from services.pipeline.model_calls import comparison_call
from services.pipeline.quarantine import rejected

ACCURACY, UNDECIDED, ORDER_FLIP, CONFIDENCE = "accuracy", "undecided", "order_flip", "confidence"

SIGNS = {record_pb2.VERDICT_WIN: 1, record_pb2.VERDICT_LOSS: -1}

RewardCall = ItemCall[judge_service_pb2.RewardItem, judge_service_pb2.ComputeRewardsResponse]


class Preference(Benchmark):
    """How often a judge or a reward model agrees with people."""

    name = "preference"
    main = ACCURACY
    needs = frozenset({"judges"})
    is_answered = False
    tests_models = False
    judges_may_reward = True

    @classmethod
    def problem(cls, item: Record) -> str:
        """An item needs two answers, and a preference."""
        if len(item.responses) < 2:
            return "RESPONSES_MISSING"
        return "" if item.preference.preferred else "PREFERENCE_MISSING"

    @classmethod
    def subjects(cls, plan: Spec, part: BenchmarkSpec) -> Sequence[Subject]:
        """Each judge."""
        return [Subject(judge=number) for number in range(1, len(part.judges) + 1)]

    @classmethod
    def tasks(cls, plan: Spec, part: Part, records: Sequence[Record]) -> Iterator[Record]:
        """Each pair, for each judge."""
        pairs = (annotated_pair_of(item, part) for item in records)
        yield from (judged_by(pair, number) for pair in pairs for number in range(1, len(part.spec.judges) + 1))

    async def score(self, context: JobContext, part: Part, records: Records) -> Outcome:
        """The `accuracy` of the choice, and whether it is `undecided`."""
        if _rewards(context, part, number_of(records[0], JUDGE)):
            return await self._reward(context, part, records)
        judge = replace(judge_of(part, records[0]), with_margins=True)
        call = comparison_call(
            stage=SCORE, judge=lambda context: judge, seed=seeds_of_items(SCORE), settle=lambda record: False
        )
        outcome = await self._caller.run(context, records, call)
        for record in outcome.records:
            _assess(record, judge.model)
        return outcome

    async def _reward(self, context: JobContext, part: Part, records: Records) -> Outcome:
        model = part.spec.judges[number_of(records[0], JUDGE) - 1].model
        items = [
            judge_service_pb2.RewardItem(
                id=f"{record.id}/{side}", history=record.history, prompt=record.prompt, response=response.content
            )
            for record in records
            for side, response in enumerate(record.responses, start=1)
        ]
        answers = await self._caller.ask(context, items, call=reward_call(model))
        outcome = Outcome()
        for record in map(extended, records):
            sides = [answers[f"{record.id}/{side}"] for side in (1, 2)]
            if failed := [answer for answer in sides if answer.WhichOneof("result") == "error"]:
                outcome.rejected.append(rejected(record, failed[0], stage=SCORE))
                continue
            margin = sides[1].reward - sides[0].reward
            _assess_choice(record, 0 if margin == 0 else 2 if margin > 0 else 1, judge=model)
            _assess_confidence(record, margin, judge=model)
            outcome.records.append(record)
        return outcome


def _rewards(context: JobContext, part: Part, judge: int) -> bool:
    """Whether a judge is a reward model."""
    parts = zip(parts_of(context.plan), context.job.manifest.benchmarks, strict=True)
    return any(identity.judges[judge - 1].reward_model for one, identity in parts if one.id == part.id)


def reward_call(model: str) -> RewardCall:
    """Asks a reward model; the items are made by the caller."""
    return ItemCall(
        service="judge",
        rpc="compute_rewards",
        answer=judge_service_pb2.ComputeRewardsResponse,
        stage=SCORE,
        build=lambda context, record: judge_service_pb2.RewardItem(),
        request=lambda context, items: judge_service_pb2.ComputeRewardsRequest(
            model=model,
            media_policy=context.plan.media_policy,
            deterministic=context.plan.sampling.deterministic,
            items=items,
        ),
        apply=lambda context, record, answer: record,
    )


def _assess(record: Record, judge: str) -> None:
    comparison = record.comparison
    if comparison.verdict == record_pb2.VERDICT_ABSTAIN:
        for aspect in (ACCURACY, UNDECIDED, ORDER_FLIP):
            assess(record, aspect, 0.0, abstain_reason=comparison.abstain_reason or "ABSTAINED", judge=judge)
        return
    chosen = {record_pb2.VERDICT_WIN: 2, record_pb2.VERDICT_LOSS: 1}.get(comparison.verdict, 0)
    words = "\n".join(filter(None, (comparison.forward_reason, comparison.backward_reason)))
    _assess_choice(record, chosen, judge=judge, rationale=words)
    margins = _margins(comparison)
    orders = margins or [SIGNS.get(said, 0) for said in (comparison.forward_verdict, comparison.backward_verdict)]
    assess(record, ORDER_FLIP, float(orders[0] * orders[1] < 0), judge=judge)
    if margins:
        _assess_confidence(record, sum(margins) / 2, judge=judge)


def _margins(comparison: record_pb2.Comparison) -> list[float]:
    """The margins of both orders; empty where the judge has none."""
    if comparison.HasField("forward_margin") and comparison.HasField("backward_margin"):
        return [comparison.forward_margin, comparison.backward_margin]
    return []


def _assess_confidence(record: Record, margin: float, *, judge: str) -> None:
    """`margin` is positive if the second answer is the better one, in nats."""
    towards = margin if record.preference.preferred == 2 else -margin
    assess(record, CONFIDENCE, sigmoid(towards), judge=judge)


def _assess_choice(record: Record, chosen: int, *, judge: str, rationale: str = "") -> None:
    """`chosen` is the answer 1 or 2, or 0 for neither."""
    right = 0.5 if chosen == 0 else float(chosen == record.preference.preferred)
    assess(record, ACCURACY, right, rationale=rationale, judge=judge)
    assess(record, UNDECIDED, float(chosen == 0), judge=judge)
