"""What an answer is worth: the weighted sum of reward terms.

Every term sees the prompt with the answer. One that has no number (a judge that abstains, a call that fails, a number
that is NaN or infinite) leaves the whole answer without a reward: it is never taken for a low one. An answer that
cannot be read is another matter. The policy wrote it, so judge, critic and checker give it their lowest score; a reward
model, whose scale has no end, gives none.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from omnialign import checkers
from omnialign.client import AsyncClient
from omnialign.content import asked_of, media_of
from omnialign.errors import OmnialignError, from_status
from omnialign.v1 import critique_service_pb2, generation_pb2, judge_service_pb2
from training import source
from training.client import SERVICE_RETRIES, TRANSIENT, connection_of, retry_while_away
from training.methods.rollout import RewardTerm
from training.rollout.answers import Answer
from training.spec import Spec

ITEMS_PER_REQUEST = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Missing:
    """There is no number, for an UPPER_SNAKE reason."""

    reason: str


Number = float | Missing
TermNumbers = Callable[[Sequence[Answer]], Awaitable[list[Number]]]
Asked = Sequence[tuple[str, Answer]]
"""Answers that can be read, by the ids that a request gives them."""


class Rewarder:
    """Rewards answers by the terms of a spec."""

    def __init__(self, spec: Spec, terms: Sequence[RewardTerm]) -> None:
        self._spec, self._terms = spec, terms
        self._names = term_names(terms)

    async def rewards(self, answers: Sequence[Answer]) -> tuple[list[Number], dict[str, float]]:
        """The reward of each answer, and the mean of each term before its weight.

        Raises a service's error if it stays away.
        """
        columns = await asyncio.gather(*(self._numbers(term, answers) for term in self._terms))
        totals = [weighted_sum(row, [term.weight for term in self._terms]) for row in zip(*columns, strict=True)]
        means = {}
        for name, column in zip(self._names, columns, strict=True):
            found = [number for number in column if isinstance(number, float)]
            means[name] = sum(found) / len(found) if found else math.nan
        return totals, means

    async def _numbers(self, term: RewardTerm, answers: Sequence[Answer]) -> list[Number]:
        by_source: Mapping[str, TermNumbers] = {
            "reward_model": partial(self._by_reward_model, term.reward_model),
            "judge": partial(self._by_judge, term.judge),
            "critic": partial(self._by_critic, term.critic),
            "checker": partial(self._by_checker, term.checker),
            "well_formed": _well_formed,
            "length_over": partial(_length_over, term.length_over),
        }
        numbers = await by_source[term.name](answers)
        return [_finite(number) for number in numbers]

    async def _by_reward_model(self, model: str, answers: Sequence[Answer]) -> list[Number]:
        """r(x, y) of each answer."""

        def ask(client: AsyncClient, some: Asked) -> AsyncIterator[Any]:
            items = [
                judge_service_pb2.RewardItem(
                    id=id_,
                    history=answer.prompt.record.history,
                    prompt=answer.prompt.record.prompt,
                    response=answer.content,
                )
                for id_, answer in some
            ]
            request = judge_service_pb2.ComputeRewardsRequest(
                model=model,
                items=items,
                media_policy=self._spec.media_policy.message(),
                deterministic=self._spec.settings.rollout.deterministic,
            )
            return client.compute_rewards(request, deadline_seconds=self._spec.rollout_timeout_seconds)

        return await self._by_service(
            self._spec.judge_address,
            answers,
            ask,
            read=lambda result: result.reward,
            unread=Missing("ANSWER_UNREADABLE"),
        )

    async def _by_judge(self, model: str, answers: Sequence[Answer]) -> list[Number]:
        """The mean of a judge's scores of each answer, as a share of the best."""

        def ask(client: AsyncClient, some: Asked) -> AsyncIterator[Any]:
            request = judge_service_pb2.ScoreResponseRequest(**self._reading(model, some))
            return client.score_responses(request, deadline_seconds=self._spec.rollout_timeout_seconds)

        return await self._by_service(self._spec.judge_address, answers, ask, read=_mean_score, unread=0.0)

    async def _by_critic(self, model: str, answers: Sequence[Answer]) -> list[Number]:
        """The mean of the scores that a feedback model gives each answer with its critique, as a share of the best."""

        def ask(client: AsyncClient, some: Asked) -> AsyncIterator[Any]:
            request = critique_service_pb2.CritiqueRequest(**self._reading(model, some))
            return client.critique_items(request, deadline_seconds=self._spec.rollout_timeout_seconds)

        return await self._by_service(self._spec.critique_address, answers, ask, read=_mean_score, unread=0.0)

    def _reading(self, model: str, some: Asked) -> dict[str, Any]:
        """The fields of a request for scores in words. They are read greedily: a draw would be noise in the reward."""
        items = [
            critique_service_pb2.CritiqueItem(
                id=id_,
                history=answer.prompt.record.history,
                prompt=answer.prompt.record.prompt,
                response=answer.content,
                subtask=answer.prompt.record.subtask,
            )
            for id_, answer in some
        ]
        sampling = generation_pb2.SamplingParams(
            temperature=0.0, deterministic=self._spec.settings.rollout.deterministic
        )
        return {
            "model": model,
            "sampling": sampling,
            "items": items,
            "media_policy": self._spec.media_policy.message(),
        }

    async def _by_service(
        self,
        address: str,
        answers: Sequence[Answer],
        ask: Callable[[AsyncClient, Asked], AsyncIterator[Any]],
        *,
        read: Callable[[Any], Number],
        unread: Number,
    ) -> list[Number]:
        """What `read` makes of the results of a service; `unread` for answers that cannot be read."""
        numbers: dict[str, Number] = {}
        asked = [(str(index), answer) for index, answer in enumerate(answers) if answer.content is not None]

        async def call(client: AsyncClient, some: Asked) -> None:
            async for result in ask(client, some):
                if result.HasField("error"):
                    error = from_status(result.error)
                    if isinstance(error, TRANSIENT):
                        raise error
                    numbers[result.id] = Missing(error.reason)
                else:
                    numbers[result.id] = read(result)

        async with AsyncClient(address, **connection_of(self._spec.job, token=self._spec.token)) as client:
            for start in range(0, len(asked), ITEMS_PER_REQUEST):
                some = asked[start : start + ITEMS_PER_REQUEST]
                await retry_while_away(
                    partial(call, client, some), policy=SERVICE_RETRIES, what="rewarding answers", transient=TRANSIENT
                )
        return [
            unread if answer.content is None else numbers.get(str(index), Missing("ANSWER_MISSING"))
            for index, answer in enumerate(answers)
        ]

    async def _by_checker(self, name: str, answers: Sequence[Answer]) -> list[Number]:
        """The mean of a program's scores of each answer, as a share of the best."""
        program = checkers.load([name])
        contents = [answer.content for answer in answers if answer.content is not None]
        asked = [content for answer in answers for content in asked_of(answer.prompt.record)]
        media = await source.provide_bytes(self._spec, kept=media_of(asked), passing=media_of(contents))

        async def check(answer: Answer) -> Number:
            if answer.content is None:
                return 0.0
            record = answer.prompt.record
            try:
                feedback = await checkers.check(program, record=record, response=answer.content, media=media)
            except OmnialignError as error:
                return Missing(error.reason)
            except Exception:
                log.warning("the checker %s failed on an answer to %s", name, record.id, exc_info=True)
                return Missing("CHECKER_FAILED")
            return _share(checkers.share(feedback))

        return [await check(answer) for answer in answers]


def term_names(terms: Sequence[RewardTerm]) -> list[str]:
    """Names that tell the terms apart in logs: their sources, numbered where one is there more than once."""
    sources = [term.name for term in terms]
    return [
        name if sources.count(name) == 1 else f"{name}_{sources[:index].count(name) + 1}"
        for index, name in enumerate(sources)
    ]


def weighted_sum(numbers: Sequence[Number], weights: Sequence[float]) -> Number:
    """Σ w · number, missing as soon as one of the numbers is; those of weight 0 are only measured, and may be."""
    total = 0.0
    for number, weight in zip(numbers, weights, strict=True):
        if not weight:
            continue
        if isinstance(number, Missing):
            return number
        total += weight * number
    return _finite(total)


def _finite(number: Number) -> Number:
    if isinstance(number, Missing) or math.isfinite(number):
        return number
    return Missing("REWARD_NOT_FINITE")


def _share(share: float | None) -> Number:
    return Missing("SCORES_MISSING") if share is None else share


def _mean_score(
    result: judge_service_pb2.ScoreResponseResponse | critique_service_pb2.CritiqueResponse,
) -> Number:
    """The mean of the scores of a judge or a feedback model; missing where it abstains."""
    if result.HasField("abstention"):
        return Missing(result.abstention.reason or "ABSTAINED")
    return _share(checkers.share(result.feedback))


async def _well_formed(answers: Sequence[Answer]) -> list[Number]:
    return [
        float(answer.is_finished and answer.content is not None and bool(answer.content.parts)) for answer in answers
    ]


async def _length_over(bound: int, answers: Sequence[Answer]) -> list[Number]:
    return [-float(max(len(answer.ids) - bound, 0)) for answer in answers]
