"""Language feedback c ~ p_phi(c | x, y): read from what the feedback model wrote, or an abstention."""

from collections.abc import AsyncGenerator

from omnialign.modeling.prompts import ask_feedback, render_critique
from omnialign.v1 import critique_service_pb2 as pb
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
