"""Scores, and comparisons in both orders. An answer in another form than requested abstains."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from omnialign.modeling.answers import Judgement
from omnialign.modeling.inputs import pieces
from omnialign.modeling.prompts import Form, ask_judgement, ask_scores, render_comparison, render_score
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1 import judge_service_pb2 as pb
from services.inference.engine import EngineResult
from services.inference.item_loop import ItemLoop, Prompt, Task, derived_seed
from services.inference.structured_output import FeedbackTask, Reading, form_of, read_answer
from services.judge.verdict import verdict

IDENTICAL = "The two responses are identical."


class Judge:
    """Has a model judge responses."""

    def __init__(self, loop: ItemLoop) -> None:
        self._loop = loop

    def score(self, request: pb.ScoreResponseRequest) -> AsyncGenerator[pb.ScoreResponseResponse, None]:
        """Scores, an abstention or an error for each item."""
        form = form_of(request.answer_form, request.model)
        task = FeedbackTask(pb.ScoreResponseResponse, form, ask=ask_scores, render=render_score)
        return self._loop.run(request, task)

    def compare(self, request: pb.CompareResponsesRequest) -> AsyncGenerator[pb.CompareResponsesResponse, None]:
        """A verdict or an error for each item."""
        return self._loop.run(request, CompareTask(form_of(request.answer_form, request.model)))


class CompareTask(Task[pb.CompareItem, pb.CompareResponsesResponse]):
    """Asks a model which of two responses is better, once in each order."""

    def __init__(self, form: Form) -> None:
        super().__init__(pb.CompareResponsesResponse)
        self._question = ask_judgement(form)

    def contents(self, item: pb.CompareItem) -> Iterable[content_pb2.Content]:
        """The prompt and both responses."""
        return (item.prompt, item.baseline, item.candidate)

    def prompts(self, item: pb.CompareItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """Asks in both orders, each with its own random stream; identical responses need no asking."""
        if item.baseline == item.candidate:
            return []
        prompt, baseline, candidate = (
            pieces(content, media) for content in (item.prompt, item.baseline, item.candidate)
        )
        template, schema = self._question.template, self._question.json_schema
        forward = render_comparison(prompt, baseline, candidate, template=template)
        backward = render_comparison(prompt, candidate, baseline, template=template)
        return [
            Prompt(forward, item.seed, schema),
            Prompt(backward, derived_seed(item.seed, purpose="backward"), schema),
        ]

    async def result(self, item: pb.CompareItem, answers: Sequence[EngineResult]) -> pb.CompareResponsesResponse:
        """The verdict over both orders."""
        if not answers:
            return self.result_type(id=item.id, comparison=tie_of_identical())
        readings = [read_answer(answer, self._question.read) for answer in answers]
        return self.result_type(id=item.id, comparison=comparison_of(answers, readings))


def tie_of_identical() -> record_pb2.Comparison:
    """The comparison of a response with itself."""
    return record_pb2.Comparison(verdict=record_pb2.VERDICT_TIE, forward_reason=IDENTICAL, backward_reason=IDENTICAL)


def comparison_of(answers: Sequence[EngineResult], readings: Sequence[Reading[Judgement]]) -> record_pb2.Comparison:
    """The comparison that two answers make. The text of an answer that cannot be read stands in for its reason."""
    forward, backward = answers
    reasons = [
        reading.value.reason if reading.value is not None else reading.abstention.text if reading.abstention else ""
        for reading in readings
    ]
    preferred = [reading.value.preferred if reading.value is not None else None for reading in readings]
    return record_pb2.Comparison(
        verdict=verdict(preferred[0], preferred[1]),
        forward_reason=reasons[0],
        backward_reason=reasons[1],
        abstain_reason=next((reading.abstention.reason for reading in readings if reading.abstention), ""),
        forward_generation=forward.info,
        backward_generation=backward.info,
    )
