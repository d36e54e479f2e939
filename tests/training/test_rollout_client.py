"""Answers as the engine sends them: what teaches nothing is dropped and counted by reason."""

from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from omnialign.content import content
from omnialign.errors import DataLoss, to_status
from omnialign.v1 import generation_pb2, record_pb2, refinement_service_pb2
from tests.training.test_spec import GOOD, read
from training.methods.rollout import RolloutSettings
from training.rollout.answers import Prompt
from training.rollout.client import RolloutClient

PLACEHOLDER = 9
DRAWN = ([5, 6, 2], [5, PLACEHOLDER, 2], [], [7])
"""Ids of the answers to a prompt; the last one cannot be read."""


class Engine:
    """Answers each prompt with `DRAWN`."""

    async def generate_items(self, request: Any, **options: Any) -> AsyncIterator[Any]:
        for item in request.items:
            for sample, ids in enumerate(DRAWN):
                tokens = generation_pb2.GeneratedTokens(ids=ids, log_probs=[-1.0] * len(ids))
                result = refinement_service_pb2.GenerateResponse(id=item.id, sample=sample, tokens=tokens)
                if ids == DRAWN[-1]:
                    result.error.CopyFrom(to_status(DataLoss("It breaks off.", reason="ANSWER_MALFORMED")))
                else:
                    result.response.content.CopyFrom(content("words"))
                yield result


async def test_an_answer_with_a_placeholder_of_media_is_dropped_and_counted():
    client = RolloutClient(
        read(GOOD),
        RolloutSettings(),
        num_samples=len(DRAWN),
        handover=SimpleNamespace(name="projects/p/policies/x", version=1, step=0),  # type: ignore[arg-type]  # what is read of it
        on_answer=lambda: None,
        unwritable=[PLACEHOLDER],
    )
    prompts = [Prompt(row, record_pb2.Record(prompt=content("?"))) for row in range(2)]
    found, failed = await client.draw(Engine(), prompts, step=0, draw=0)  # type: ignore[arg-type]  # stands for the client
    assert [[list(answer.ids) for answer in answers] for answers in found] == [[DRAWN[0], DRAWN[3]]] * 2
    assert failed == Counter(ANSWER_HAS_PLACEHOLDER=2, ANSWER_EMPTY=2)
