"""Scores, and comparisons in both orders. An answer in another form than requested abstains."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from omnialign.modeling.prompts import ask_scores, render_score
from omnialign.v1 import judge_service_pb2 as pb
from omnialign.v1 import record_pb2
from services.inference.item_loop import ItemLoop, UnsampledRequest
from services.inference.model_uri import is_endpoint_model
from services.inference.structured_output import FeedbackTask, form_of
from services.judge.comparing import CompareTask
from services.judge.margins import MarginTask


class Judge:
    """Has a model judge responses."""

    def __init__(self, loop: ItemLoop) -> None:
        self._loop = loop

    def score(self, request: pb.ScoreResponseRequest) -> AsyncGenerator[pb.ScoreResponseResponse, None]:
        """Scores, an abstention or an error for each item."""
        form = form_of(request.answer_form, request.model)
        task = FeedbackTask(pb.ScoreResponseResponse, form, ask=ask_scores, render=render_score)
        return self._loop.run(request, task)

    async def compare(self, request: pb.CompareResponsesRequest) -> AsyncGenerator[pb.CompareResponsesResponse, None]:
        """A verdict or an error for each item; with margins where they were asked for and can be had."""
        form = form_of(request.answer_form, request.model)
        with_margins = request.with_margins and not is_endpoint_model(request.model)
        judged: dict[str, record_pb2.Comparison] = {}
        async with aclosing(self._loop.run(request, CompareTask(form))) as results:
            async for result in results:
                if with_margins and _has_verdicts(result.comparison):
                    judged[result.id] = result.comparison
                else:
                    yield result
        if not judged:
            return
        # All at once when all reasons are written, because a deterministic call is one batch.
        items = [item for item in request.items if item.id in judged]
        weighing = UnsampledRequest(request.model, items, request.media_policy, request.sampling)
        async with aclosing(self._loop.run(weighing, MarginTask(form, judged))) as results:
            async for result in results:
                yield result


def _has_verdicts(comparison: record_pb2.Comparison) -> bool:
    """Whether the judge was asked, and its answers could be read."""
    return comparison.HasField("forward_generation") and comparison.verdict != record_pb2.VERDICT_ABSTAIN
