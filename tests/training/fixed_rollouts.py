"""Rollouts without services: the answers of the examples in place of an engine's, for runs that must be comparable."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from training.example_file import Examples
from training.rollout.answers import Prompt, Rewarded, Rollout
from training.rollout.groups import Sampler
from training.rollout.handover import HandOver

ENGINE_LOG_PROB = -6.0
"""What the tokens are said to have had where they were drawn."""
REWARDS = (1.0, 0.0)


@contextmanager
def fixed_rollouts() -> Iterator[None]:
    """Within it, each prompt gets the two answers of its example, and the weights are written but handed to nobody."""
    with (
        patch.object(Sampler, "draw", _draw),
        patch.object(HandOver, "bring", _nothing),
        patch.object(HandOver, "close", _nothing),
    ):
        yield


async def _draw(self: Sampler, prompts: Sequence[Prompt], *, step: int) -> Rollout:
    (file,) = self._spec.cache_dir.glob("examples-*.arrow")
    examples = Examples(file)
    groups = [
        [
            Rewarded(prompt.row, ids, [ENGINE_LOG_PROB] * len(ids), reward, step)
            for ids, reward in zip(examples[prompt.row].answers, REWARDS, strict=True)
        ]
        for prompt in prompts
    ]
    return Rollout(groups, num_prompts=len(prompts))


async def _nothing(self: HandOver, *given: int) -> None:
    return None
