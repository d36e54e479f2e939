"""Rewards: what a reward model gives responses. A reward that is no number is an error of its item."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from omnialign.content import asked_of
from omnialign.modeling.inputs import pieces, turns
from omnialign.modeling.prompts import render_response
from omnialign.v1 import content_pb2, generation_pb2
from omnialign.v1 import judge_service_pb2 as pb
from services.inference.engine import EngineResult
from services.inference.item_loop import ItemLoop, Prompt, Task, UnsampledRequest


class Rewards:
    """Has a reward model give rewards to responses."""

    def __init__(self, loop: ItemLoop) -> None:
        self._loop = loop

    def compute(self, request: pb.ComputeRewardsRequest) -> AsyncGenerator[pb.ComputeRewardsResponse, None]:
        """A reward or an error for each item."""
        sampling = generation_pb2.SamplingParams(deterministic=request.deterministic)
        unsampled = UnsampledRequest(request.model, request.items, request.media_policy, sampling)
        return self._loop.run(unsampled, RewardTask(pb.ComputeRewardsResponse))


class RewardTask(Task[pb.RewardItem, pb.ComputeRewardsResponse]):
    """Asks for the reward of one response."""

    def contents(self, item: pb.RewardItem) -> Iterable[content_pb2.Content]:
        """The prompt with what came before it, and the response."""
        return (*asked_of(item), item.response)

    def prompts(self, item: pb.RewardItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """The prompt as the trainer shows it, with the response as its answer."""
        rendered = render_response(pieces(item.prompt, media), turns(item.history, media))
        return [Prompt(rendered, seed=0, answer=pieces(item.response, media))]

    async def result(self, item: pb.RewardItem, answers: Sequence[EngineResult]) -> pb.ComputeRewardsResponse:
        """The reward. Raises the answer's error."""
        (answer,) = answers
        if answer.error is not None:
            raise answer.error
        return self.result_type(id=item.id, reward=answer.reward)
