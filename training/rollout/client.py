"""Draws answers from the policy with RefinementService.Generate.

The seed of an answer follows from the run's seed, the step, the prompt and the number of the draw, so answers that were
half-drawn when the trainer died are drawn again alike. A request that breaks is repeated as a whole, for as long as a
service may take to restart.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from omnialign.client import AsyncClient
from omnialign.errors import DataLoss, OmnialignError, from_status
from omnialign.v1 import generation_pb2, refinement_service_pb2
from training.client import SERVICE_RETRIES, TRANSIENT, retry_while_away
from training.methods.rollout import RolloutSettings
from training.rollout.answers import Answer, Prompt
from training.rollout.handover import HandOver, version_name
from training.spec import Spec

ANSWERS_PER_REQUEST = 64
CONCURRENT_REQUESTS = 8
LOST = ("POLICY_NOT_FOUND", "POLICY_STALE")
"""Reasons of a service that does not hold the weights that were handed over."""
MAX_RESTORES = 5
"""How often one request has the weights handed over again."""


class RolloutClient:
    """Draws `num_samples` answers to each prompt from the version that was handed over last."""

    def __init__(
        self,
        spec: Spec,
        settings: RolloutSettings,
        *,
        num_samples: int,
        handover: HandOver,
        on_answer: Callable[[], None],
        unwritable: Iterable[int] = (),
    ) -> None:
        """`unwritable` are ids that no answer may hold, as the model's adapter has them."""
        self._spec, self._settings, self._num_samples = spec, settings, num_samples
        self._unwritable = frozenset(unwritable)
        self._handover, self._on_answer = handover, on_answer

    async def draw(
        self, client: AsyncClient, prompts: Sequence[Prompt], *, step: int, draw: int
    ) -> tuple[list[list[Answer]], Counter[str]]:
        """The answers to each prompt in order of the samples, and the failed ones by reason.

        Raises the service's error if it stays away.
        """
        size = max(ANSWERS_PER_REQUEST // self._num_samples, 1)
        slots, restoring = asyncio.Semaphore(CONCURRENT_REQUESTS), asyncio.Lock()

        async def ask(some: Sequence[Prompt]) -> list[refinement_service_pb2.GenerateResponse]:
            async with slots:
                return await self._ask(client, self._request(some, step=step, draw=draw), restoring)

        chunks = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        results = [result for part in await asyncio.gather(*map(ask, chunks)) for result in part]
        by_row = {prompt.row: prompt for prompt in prompts}
        found: dict[int, list[Answer]] = {prompt.row: [] for prompt in prompts}
        failed: Counter[str] = Counter()
        for result in sorted(results, key=lambda result: (int(result.id), result.sample)):
            if self._unwritable.intersection(result.tokens.ids):  # an engine that lets them through
                failed["ANSWER_HAS_PLACEHOLDER"] += 1
            elif result.tokens.ids:
                found[int(result.id)].append(_answer(by_row[int(result.id)], result, step=self._handover.step))
            else:
                failed[from_status(result.error).reason if result.HasField("error") else "ANSWER_EMPTY"] += 1
        return [found[prompt.row] for prompt in prompts], failed

    async def _ask(
        self, client: AsyncClient, request: refinement_service_pb2.GenerateRequest, restoring: asyncio.Lock
    ) -> list[refinement_service_pb2.GenerateResponse]:
        """The results of one request, which gets the weights handed over again if the service has lost them."""
        restores = 0
        while True:
            try:
                return await retry_while_away(
                    partial(self._results, client, request),
                    policy=SERVICE_RETRIES,
                    what="drawing answers",
                    transient=TRANSIENT,
                )
            except OmnialignError as error:
                if error.reason not in LOST or restores == MAX_RESTORES:
                    raise
            restores += 1
            async with restoring:
                await self._handover.restore(client)

    async def _results(
        self, client: AsyncClient, request: refinement_service_pb2.GenerateRequest
    ) -> list[refinement_service_pb2.GenerateResponse]:
        """One result for each answer. Raises what concerns all of them, and `DataLoss` (ANSWER_MISSING)."""
        found = []
        async for result in client.generate_items(request, deadline_seconds=self._spec.rollout_timeout_seconds):
            if result.HasField("error"):
                error = from_status(result.error)
                if error.reason in LOST or isinstance(error, TRANSIENT):
                    raise error
            found.append(result)
            self._on_answer()
        if len(found) != len(request.items) * request.num_samples:
            raise DataLoss("The service ended the call without all answers; ask again.", reason="ANSWER_MISSING")
        return found

    def _request(self, prompts: Sequence[Prompt], *, step: int, draw: int) -> refinement_service_pb2.GenerateRequest:
        settings = self._settings
        seed = self._spec.hyperparameters.seed
        return refinement_service_pb2.GenerateRequest(
            model=version_name(self._handover.name, self._handover.version),
            sampling=generation_pb2.SamplingParams(
                temperature=settings.temperature,
                max_new_tokens=settings.max_new_tokens,
                deterministic=settings.deterministic,
            ),
            items=[
                refinement_service_pb2.GenerateItem(
                    id=str(prompt.row),
                    history=prompt.record.history,
                    prompt=prompt.record.prompt,
                    seed=answer_seed(seed, step, prompt.row, draw),
                )
                for prompt in prompts
            ],
            media_policy=self._spec.media_policy.message(),
            num_samples=self._num_samples,
            return_tokens=True,
        )


def answer_seed(seed: int, step: int, row: int, draw: int) -> int:
    """The seed of the answers to a prompt in a step; the service derives those of the samples from it."""
    digest = hashlib.blake2b(f"{seed}/{step}/{row}/{draw}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _answer(prompt: Prompt, result: refinement_service_pb2.GenerateResponse, *, step: int) -> Answer:
    # A result with tokens and an error wrote what cannot be read.
    is_read, info = result.HasField("response"), result.response.generation
    return Answer(
        prompt=prompt,
        ids=list(result.tokens.ids),
        log_probs=list(result.tokens.log_probs),
        content=result.response.content if is_read else None,
        is_finished=is_read and info.finish_reason == generation_pb2.FINISH_REASON_END,
        step=step,
    )
