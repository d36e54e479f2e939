"""How good a reward is, and how far it and the oracle part while a policy learns to get it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.experiment.bench import ITEMS_PER_REQUEST, Answered, Bench
from examples.tinyworld import oracle
from omnialign import checkers
from omnialign.v1 import critique_service_pb2, judge_service_pb2

ORACLE = "checker"
"""What the oracle is called among the terms of a reward."""
Rewards = dict[str, float]


async def order(bench: Bench, term: str, model: str) -> dict[str, Any]:
    """Of two answers of the base model to a held-out prompt, how often the reward puts the better one first.

    Counts the prompts of the validation split whose two answers can be read and differ by the oracle; a tie of the
    reward counts half. Returns `share` and `pairs`.
    """
    drawn = [await bench.answers(bench.base_model, "validation", draw=draw) for draw in (1, 2)]
    totals = [[oracle.total(feedback) for feedback in await bench.feedback(answered)] for answered in drawn]
    ask = {"reward_model": _by_reward_model, "critic": _by_critic}[term]
    numbers = [await ask(bench, model, answered) for answered in drawn]
    return in_order([one.record.id for one in drawn[0]], totals, numbers)


def in_order(ids: Sequence[str], totals: Sequence[Sequence[int]], numbers: Sequence[Rewards]) -> dict[str, Any]:
    """The share of pairs that two sets of rewards, by id, put in the order of the oracle's totals."""
    points = []
    for id_, one, other in zip(ids, *totals, strict=True):
        if one != other and all(id_ in rewards for rewards in numbers):
            first, second = (rewards[id_] for rewards in numbers)
            points.append(0.5 if first == second else float((first > second) == (one > other)))
    return {"share": fmean(points) if points else None, "pairs": len(points)}


def course(points: Sequence[Mapping[str, float]], *, term: str) -> dict[str, dict[str, float]]:
    """Means over the first and the last tenth of the steps: of the reward, the oracle's mark, KL, and answer length."""
    names = {"reward": f"rewards/{term}", "oracle": f"rewards/{ORACLE}", "kl": "kl", "tokens": "completions/length"}
    seen = [point for point in points if all(name in point for name in names.values())]
    tenth = max(len(seen) // 10, 1)
    return {
        word: {
            "first": fmean(point[name] for point in seen[:tenth]),
            "last": fmean(point[name] for point in seen[-tenth:]),
        }
        for word, name in names.items()
    }


async def _by_reward_model(bench: Bench, model: str, answered: Sequence[Answered]) -> Rewards:
    def ask(some: Sequence[Answered]) -> AsyncIterator[judge_service_pb2.ComputeRewardsResponse]:
        request = judge_service_pb2.ComputeRewardsRequest(model=model)
        for one in some:
            request.items.add(id=one.record.id, prompt=one.record.prompt, response=one.answer)
        return bench.client.compute_rewards(request)

    return {
        result.id: result.reward
        for some in _chunks(answered)
        async for result in ask(some)
        if not result.HasField("error")
    }


async def _by_critic(bench: Bench, model: str, answered: Sequence[Answered]) -> Rewards:
    def ask(some: Sequence[Answered]) -> AsyncIterator[critique_service_pb2.CritiqueResponse]:
        request = critique_service_pb2.CritiqueRequest(model=model)
        request.sampling.temperature = 0.0
        for one in some:
            request.items.add(
                id=one.record.id, prompt=one.record.prompt, response=one.answer, subtask=one.record.subtask
            )
        return bench.client.critique_items(request)

    found = {}
    for some in _chunks(answered):
        async for result in ask(some):
            share = checkers.share(result.feedback) if result.HasField("feedback") else None
            if share is not None:
                found[result.id] = share
    return found


def _chunks(answered: Sequence[Answered]) -> list[Sequence[Answered]]:
    """The answers that can be read, as many as a request takes."""
    read = [one for one in answered if one.answer is not None]
    return [read[start : start + ITEMS_PER_REQUEST] for start in range(0, len(read), ITEMS_PER_REQUEST)]
