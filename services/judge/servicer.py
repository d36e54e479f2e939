"""Answers the calls of the JudgeService."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc

from omnialign.v1 import judge_service_pb2 as pb
from omnialign.v1 import judge_service_pb2_grpc
from services.judge.choices import Choices
from services.judge.judge import Judge
from services.judge.ratings import Ratings
from services.judge.rewards import Rewards


class JudgeServicer(judge_service_pb2_grpc.JudgeServiceServicer):
    """Passes each call on to what answers it: the judge, ratings, choices, or reward models."""

    def __init__(self, judge: Judge, ratings: Ratings, choices: Choices, rewards: Rewards) -> None:
        self._judge, self._ratings, self._choices, self._rewards = judge, ratings, choices, rewards

    async def ScoreResponse(  # noqa: N802
        self, request: pb.ScoreResponseRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.ScoreResponseResponse]:
        """Scores responses."""
        async with aclosing(self._judge.score(request)) as results:
            async for result in results:
                yield result

    async def CompareResponses(  # noqa: N802
        self, request: pb.CompareResponsesRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.CompareResponsesResponse]:
        """Compares candidates with baselines in both orders."""
        async with aclosing(self._judge.compare(request)) as results:
            async for result in results:
                yield result

    async def ComputeRewards(  # noqa: N802
        self, request: pb.ComputeRewardsRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.ComputeRewardsResponse]:
        """Computes rewards."""
        async with aclosing(self._rewards.compute(request)) as results:
            async for result in results:
                yield result

    async def ScoreUnderstanding(  # noqa: N802
        self, request: pb.ScoreUnderstandingRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.ScoreUnderstandingResponse]:
        """Rates answers to questions about media."""
        async with aclosing(self._ratings.understanding(request)) as results:
            async for result in results:
                yield result

    async def ScoreGeneration(  # noqa: N802
        self, request: pb.ScoreGenerationRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.ScoreGenerationResponse]:
        """Rates what was made to an instruction."""
        async with aclosing(self._ratings.generation(request)) as results:
            async for result in results:
                yield result

    async def AnswerQuestions(  # noqa: N802
        self, request: pb.AnswerQuestionsRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.AnswerQuestionsResponse]:
        """Answers multiple-choice questions."""
        async with aclosing(self._choices.answer(request)) as results:
            async for result in results:
                yield result
