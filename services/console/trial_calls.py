"""Carries out a trial: answers side by side, then what a feedback model says of each and a judge of the two.

Everything comes as soon as it is there. Whoever stops reading cancels what is still under way.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from omnialign.client import AsyncClient
from omnialign.client.asking import ITEM, only_result
from omnialign.content import subtask_of
from omnialign.errors import OmnialignError
from omnialign.v1 import critique_service_pb2, judge_service_pb2, refinement_service_pb2
from omnialign.v1.record_pb2 import Response
from services.console.door.answers import SentText
from services.console.trial import Trial
from services.runtime.errors import as_omnialign_error

DRAFTS_EVERY_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of one call: its result, or why there is none. Neither, if there was nothing to ask about."""

    place: str
    """`answer1`, `answer2`, `critique1`, `critique2` or `judgement`."""
    result: Any = None
    error: OmnialignError | None = None
    seconds: float = 0.0
    """How long it took, seen from here; of an answer that was there already, as its service measured it."""

    @property
    def kind(self) -> str:
        """The place without its side."""
        return self.place.rstrip("12")

    @property
    def side(self) -> int:
        """The side that it is about; 0 for both."""
        return int(self.place[-1]) if self.place[-1].isdigit() else 0


@dataclass(frozen=True)
class Draft:
    """What has been written so far of the answer in a place."""

    place: str
    side: int
    text: str


def places(trial: Trial) -> list[str]:
    """The places of all outcomes that a trial will have."""
    found = [f"answer{side}" for side in trial.models]
    if trial.critic:
        found += [f"critique{side}" for side in trial.models]
    return [*found, "judgement"] if trial.judge and len(trial.models) > 1 else found


async def outcomes(
    client: AsyncClient, trial: Trial, *, deadline_seconds: float
) -> AsyncGenerator[Outcome | Draft, None]:
    """The outcomes of a trial in the order in which they are there; of answers also drafts, at most twice a second."""
    calls, answers = _Calls(client, trial, deadline_seconds), dict[int, Response | None]()
    pending = {asyncio.create_task(calls.answer(side)) for side in trial.models}
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=DRAFTS_EVERY_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            for outcome in (task.result() for task in done):
                yield outcome
                if outcome.kind != "answer":
                    continue
                answers[outcome.side] = outcome.result
                if trial.critic:
                    pending.add(asyncio.create_task(calls.critique(outcome.side, outcome.result)))
                if trial.judge and len(answers) > 1:
                    pending.add(asyncio.create_task(calls.judgement(answers)))
            for side in [side for side in calls.drafts if side not in answers]:
                yield Draft(f"answer{side}", side, calls.drafts.pop(side))
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


@dataclass(frozen=True)
class _Calls:
    client: AsyncClient
    trial: Trial
    deadline_seconds: float
    drafts: dict[int, str] = field(default_factory=dict)
    """What has been written of answers, by side, where that is more than was taken from here."""

    async def answer(self, side: int) -> Outcome:
        """y ~ pi(x), unless it is there already."""
        place = f"answer{side}"
        if (kept := self.trial.answers.get(side)) is not None:
            return Outcome(place, kept, seconds=kept.generation.latency.ToTimedelta().total_seconds())
        return await _timed(place, self._answer(side))

    async def critique(self, side: int, answer: Response | None) -> Outcome:
        """c ~ p(c | x, y), or the abstention of the feedback model."""
        place = f"critique{side}"
        return Outcome(place) if answer is None else await _timed(place, self._critique(answer))

    async def judgement(self, answers: dict[int, Response | None]) -> Outcome:
        """The comparison of the two answers, asked in both orders; the first one is the baseline."""
        if answers[1] is None or answers[2] is None:
            return Outcome("judgement")
        return await _timed("judgement", self._judgement(answers[1], answers[2]))

    async def _answer(self, side: int) -> Any:
        trial = self.trial
        request = refinement_service_pb2.GenerateRequest(
            model=await self.client.find_model(trial.models[side]),
            sampling=trial.sampling,
            items=[refinement_service_pb2.GenerateItem(id=ITEM, prompt=trial.prompt, seed=trial.seed)],
            stream_text=True,
        )
        calls = self.client.generate_items(request, deadline_seconds=self.deadline_seconds)
        return (await only_result(self._finished(side, calls))).response

    async def _finished(self, side: int, calls: Any) -> AsyncGenerator[Any, None]:
        """Results without the deltas, which become drafts."""
        text, written = "", SentText()
        async with aclosing(calls) as results:
            async for result in results:
                if result.HasField("delta"):
                    text += written.next(result.delta)
                    self.drafts[side] = text
                else:
                    yield result

    async def _critique(self, answer: Response) -> Any:
        trial = self.trial
        item = critique_service_pb2.CritiqueItem(
            id=ITEM,
            prompt=trial.prompt,
            response=answer.content,
            subtask=subtask_of(trial.prompt, answer.content),
            seed=trial.seed,
        )
        request = critique_service_pb2.CritiqueRequest(model=await self.client.find_model(trial.critic), items=[item])
        found = await only_result(self.client.critique_items(request, deadline_seconds=self.deadline_seconds))
        return getattr(found, found.WhichOneof("result"))

    async def _judgement(self, baseline: Response, candidate: Response) -> Any:
        trial = self.trial
        item = judge_service_pb2.CompareItem(
            id=ITEM,
            prompt=trial.prompt,
            baseline=baseline.content,
            candidate=candidate.content,
            subtask=subtask_of(trial.prompt, candidate.content),
            seed=trial.seed,
        )
        request = judge_service_pb2.CompareResponsesRequest(
            model=await self.client.find_model(trial.judge), items=[item]
        )
        calls = self.client.compare_responses(request, deadline_seconds=self.deadline_seconds)
        return (await only_result(calls)).comparison


async def _timed(place: str, work: Awaitable[Any]) -> Outcome:
    started = time.monotonic()
    try:
        return Outcome(place, await work, seconds=time.monotonic() - started)
    except Exception as error:  # every kind of failure is a sentence in its place
        return Outcome(place, error=as_omnialign_error(error), seconds=time.monotonic() - started)
