"""The CritiqueService: language feedback c ~ p_phi(c | x, y), or an abstention where it cannot be read."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc

from omnialign.modeling.prompts import ask_feedback, render_critique
from omnialign.v1 import critique_service_pb2 as pb
from omnialign.v1 import critique_service_pb2_grpc
from services.inference.item_loop import ItemLoop
from services.inference.structured_output import FeedbackTask, form_of


class Critic:
    """Has a model criticise responses."""

    def __init__(self, loop: ItemLoop) -> None:
        self._loop = loop

    def critique(self, request: pb.CritiqueRequest) -> AsyncGenerator[pb.CritiqueResponse, None]:
        """Feedback, an abstention or an error for each item."""
        form = form_of(request.answer_form, request.model)
        task = FeedbackTask(pb.CritiqueResponse, form, ask=ask_feedback, render=render_critique)
        return self._loop.run(request, task)


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
