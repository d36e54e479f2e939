"""Margins: by how much a model would rather have called one response better than the other, after the reason it gave.

A greedy answer tells which verdict is likeliest and not by how much, so that two orders which disagree by a hair throw
away what the judge is sure of. Here the same answer is read twice, ending with one verdict and with the other.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from omnialign.content import asked_of
from omnialign.modeling.answers import Judgement
from omnialign.modeling.inputs import Pieces
from omnialign.modeling.prompts import Form, ask_judgement, write_judgement
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1 import judge_service_pb2 as pb
from services.inference.engine import EngineResult
from services.inference.item_loop import Prompt, Task
from services.judge.comparing import in_both_orders
from services.judge.verdict import FIRST, SECOND


class MarginTask(Task[pb.CompareItem, pb.CompareResponsesResponse]):
    """Weighs the two verdicts of each order; `judged` are the comparisons with their reasons, by item."""

    def __init__(self, form: Form, judged: Mapping[str, record_pb2.Comparison]) -> None:
        super().__init__(pb.CompareResponsesResponse)
        self._form, self._judged = form, judged

    def contents(self, item: pb.CompareItem) -> Iterable[content_pb2.Content]:
        """The prompt with what came before it, and both responses."""
        return (*asked_of(item), item.baseline, item.candidate)

    def prompts(self, item: pb.CompareItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """The question in both orders, each with the two answers that its reason may end as."""
        forward, backward = in_both_orders(item, media, template=ask_judgement(self._form).template)
        comparison = self._judged[item.id]
        return [
            Prompt(forward, seed=0, choices=self._choices(comparison.forward_reason)),
            Prompt(backward, seed=0, choices=self._choices(comparison.backward_reason)),
        ]

    async def result(self, item: pb.CompareItem, answers: Sequence[EngineResult]) -> pb.CompareResponsesResponse:
        """The comparison with its margins. Raises the error of an answer."""
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        (first, second), (first_backward, second_backward) = (answer.choice_log_probs for answer in answers)
        comparison = self._judged[item.id]
        margins = second - first, first_backward - second_backward  # the candidate was shown second, then first
        if all(map(math.isfinite, margins)):  # a model can rule out a verdict, and then there is no margin
            comparison.forward_margin, comparison.backward_margin = margins
        return self.result_type(id=item.id, comparison=comparison)

    def _choices(self, reason: str) -> tuple[Pieces, Pieces]:
        """The answers that prefer the response shown first and second."""
        first, second = (write_judgement(self._form, Judgement(place, reason)) for place in (FIRST, SECOND))
        return (first,), (second,)
