"""Answers the calls of the RefinementService and the PolicyService."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from omnialign.v1 import policy_service_pb2, policy_service_pb2_grpc, refinement_service_pb2_grpc
from omnialign.v1 import refinement_service_pb2 as pb
from services.refinement.policies import Policies
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


class PolicyServicer(policy_service_pb2_grpc.PolicyServiceServicer):
    """Passes each call on to the policies."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def OpenPolicy(  # noqa: N802
        self, request: policy_service_pb2.OpenPolicyRequest, context: Any
    ) -> policy_service_pb2.Policy:
        """Opens a policy."""
        return await self._policies.open(request)

    async def UpdatePolicy(  # noqa: N802
        self, request_iterator: AsyncIterator[policy_service_pb2.UpdatePolicyRequest], context: Any
    ) -> policy_service_pb2.Policy:
        """Replaces the weights of a policy."""
        return await self._policies.update(request_iterator)

    async def GetPolicy(  # noqa: N802
        self, request: policy_service_pb2.GetPolicyRequest, context: Any
    ) -> policy_service_pb2.Policy:
        """Reads a policy."""
        return self._policies.get(request.name)

    async def ClosePolicy(  # noqa: N802
        self, request: policy_service_pb2.ClosePolicyRequest, context: Any
    ) -> policy_service_pb2.ClosePolicyResponse:
        """Closes a policy."""
        await self._policies.close(request)
        return policy_service_pb2.ClosePolicyResponse()
