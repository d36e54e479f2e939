"""Answers the calls of the CritiqueService."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc

from omnialign.v1 import critique_service_pb2 as pb
from omnialign.v1 import critique_service_pb2_grpc
from services.critique.critic import Critic


class CritiqueServicer(critique_service_pb2_grpc.CritiqueServiceServicer):
    """Passes each call on to the critic."""

    def __init__(self, critic: Critic) -> None:
        self._critic = critic

    async def Critique(  # noqa: N802
        self, request: pb.CritiqueRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.CritiqueResponse]:
        """Criticises responses."""
        async with aclosing(self._critic.critique(request)) as results:
            async for result in results:
                yield result
