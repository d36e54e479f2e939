"""Answers the calls of the RefinementService."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc

from omnialign.v1 import refinement_service_pb2 as pb
from omnialign.v1 import refinement_service_pb2_grpc
from services.refinement.writer import Writer


class RefinementServicer(refinement_service_pb2_grpc.RefinementServiceServicer):
    """Passes each call on to the writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def Generate(  # noqa: N802
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Answers prompts."""
        async with aclosing(self._writer.generate(request)) as results:
            async for result in results:
                yield result

    async def Refine(  # noqa: N802
        self, request: pb.RefineRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.RefineResponse]:
        """Rewrites responses with feedback."""
        async with aclosing(self._writer.refine(request)) as results:
            async for result in results:
                yield result
