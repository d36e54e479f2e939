"""Answers the calls of the JudgeService."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc

from omnialign.errors import FailedPrecondition
from omnialign.v1 import judge_service_pb2 as pb
from omnialign.v1 import judge_service_pb2_grpc
from services.judge.judge import Judge


class JudgeServicer(judge_service_pb2_grpc.JudgeServiceServicer):
    """Passes each call on to the judge."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

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
        """Refuses: no engine runs reward models yet."""
        raise FailedPrecondition("no engine here runs reward models", reason="REWARD_UNSUPPORTED")
        yield  # what makes this a stream
