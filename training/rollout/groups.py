"""Draws and rewards the answers of a step: the groups that advantages are computed within.

A group is the answers to one prompt. An answer without a number leaves its group, and a group with fewer than
`smallest` left is dropped; both are counted. With `max_redraws`, a group whose rewards are all equal teaches nothing
and is drawn again from other seeds (the dynamic sampling of DAPO, Yu et al. 2025).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition
from training.client import connection_of
from training.methods.rollout import OnlineSettings
from training.rollout.answers import Answer, Prompt, Rewarded, Rollout
from training.rollout.client import RolloutClient
from training.rollout.handover import HandOver
from training.rollout.rewards import Missing, Number, Rewarder
from training.spec import Spec


class Sampler:
    """Draws the groups of a step."""

    def __init__(
        self,
        spec: Spec,
        settings: OnlineSettings,
        *,
        handover: HandOver,
        max_redraws: int,
        on_answer: Callable[[], None],
        unwritable: Iterable[int] = (),
    ) -> None:
        """`unwritable` are ids that no answer may hold, as the model's adapter has them."""
        self._spec, self._max_redraws = spec, max_redraws
        self._smallest = min(settings.samples_per_prompt, 2)
        self._rewarder = Rewarder(spec, settings.rollout.rewards)
        self._client = RolloutClient(
            spec,
            settings.rollout,
            num_samples=settings.samples_per_prompt,
            handover=handover,
            on_answer=on_answer,
            unwritable=unwritable,
        )

    async def draw(self, prompts: Sequence[Prompt], *, step: int) -> Rollout:
        """The rewarded answers to prompts.

        Raises `FailedPrecondition` (REWARDS_MISSING) when no group is left, and a service's error if it stays away.
        """
        connection = connection_of(self._spec.job, token=self._spec.token)
        async with AsyncClient(self._spec.refinement_address, **connection) as client:
            rollout = Rollout([], num_prompts=len(prompts))
            left = list(prompts)
            for draw in range(self._max_redraws + 1):
                groups = await self._groups(client, left, rollout, step=step, draw=draw)
                is_last = draw == self._max_redraws
                left = [p for p, group in zip(left, groups, strict=True) if not is_last and is_flat(group)]
                rollout.redrawn_groups += len(left)
                again = {prompt.row for prompt in left}
                rollout.groups += [group for group in groups if group and group[0].row not in again]
                if not left:
                    break
        if prompts and not rollout.groups:
            raise rewards_missing(rollout.dropped, num_prompts=len(prompts))
        rollout.groups.sort(key=lambda group: group[0].row)
        return rollout

    async def _groups(
        self, client: AsyncClient, prompts: Sequence[Prompt], rollout: Rollout, *, step: int, draw: int
    ) -> list[list[Rewarded]]:
        """The group of each prompt, empty if too few answers have a number; what is lost is counted in `rollout`."""
        drawn, failed = await self._client.draw(client, prompts, step=step, draw=draw)
        rollout.dropped.update(failed)
        answers = [answer for group in drawn for answer in group]
        rewards, rollout.terms = await self._rewarder.rewards(answers)
        for reward in rewards:
            if isinstance(reward, Missing):
                rollout.dropped[reward.reason] += 1
        groups = grouped(prompts, answers, rewards, smallest=self._smallest)
        rollout.dropped_groups += sum(not group for group in groups)
        return groups


def grouped(
    prompts: Sequence[Prompt], answers: Sequence[Answer], rewards: Sequence[Number], *, smallest: int
) -> list[list[Rewarded]]:
    """The answers to each prompt that have a reward; none of a prompt that has fewer than `smallest` of them."""
    found: dict[int, list[Rewarded]] = {prompt.row: [] for prompt in prompts}
    for answer, reward in zip(answers, rewards, strict=True):
        if not isinstance(reward, Missing):
            found[answer.prompt.row].append(rewarded(answer, reward))
    return [group if len(group) >= smallest else [] for group in found.values()]


def rewarded(answer: Answer, reward: float) -> Rewarded:
    """An answer with its reward, without its content."""
    return Rewarded(answer.prompt.row, answer.ids, answer.log_probs, reward, answer.step)


def is_flat(group: Sequence[Rewarded]) -> bool:
    """Whether all rewards of a group are equal, so that no answer is better than another; not of one that is empty."""
    return len({answer.reward for answer in group}) == 1


def rewards_missing(dropped: Counter[str], *, num_prompts: int) -> FailedPrecondition:
    """The error for a step in which nothing has a reward."""
    counts = ", ".join(f"{reason}: {number}" for reason, number in dropped.most_common()) or "no answers"
    return FailedPrecondition(
        f"no answer to the {num_prompts} prompts of a step got a reward ({counts}): look at the judge, the reward "
        "model or the checker that the reason names",
        reason="REWARDS_MISSING",
        metadata={"prompts": str(num_prompts), "dropped": counts},
    )
