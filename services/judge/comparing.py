"""Comparisons: which of two responses a model calls better, asked once in each order."""

from collections.abc import Iterable, Mapping, Sequence

from omnialign.content import asked_of
from omnialign.modeling.answers import Judgement
from omnialign.modeling.inputs import pieces, turns
from omnialign.modeling.prompts import Form, Rendered, ask_judgement, render_comparison
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1 import judge_service_pb2 as pb
from services.inference.engine import EngineResult
from services.inference.item_loop import Prompt, Task, derived_seed
from services.inference.structured_output import Reading, read_answer
from services.judge.verdict import FIRST, SECOND, said, verdict

IDENTICAL = "The two responses are identical."


class CompareTask(Task[pb.CompareItem, pb.CompareResponsesResponse]):
    """Asks a model which of two responses is better, once in each order."""

    def __init__(self, form: Form) -> None:
        super().__init__(pb.CompareResponsesResponse)
        self._question = ask_judgement(form)

    def contents(self, item: pb.CompareItem) -> Iterable[content_pb2.Content]:
        """The prompt with what came before it, and both responses."""
        return (*asked_of(item), item.baseline, item.candidate)

    def prompts(self, item: pb.CompareItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """Asks in both orders, each with its own random stream; identical responses need no asking."""
        if item.baseline == item.candidate:
            return []
        forward, backward = in_both_orders(item, media, template=self._question.template)
        schema = self._question.json_schema
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


def in_both_orders(item: pb.CompareItem, media: Mapping[str, bytes], *, template: str) -> tuple[Rendered, Rendered]:
    """The question with the baseline shown first, and with the candidate shown first."""
    prompt, baseline, candidate = (pieces(content, media) for content in (item.prompt, item.baseline, item.candidate))
    history = turns(item.history, media)
    return (
        render_comparison(prompt, baseline, candidate, history, template=template),
        render_comparison(prompt, candidate, baseline, history, template=template),
    )


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
        forward_verdict=said(preferred[0], candidate=SECOND),
        backward_verdict=said(preferred[1], candidate=FIRST),
        forward_reason=reasons[0],
        backward_reason=reasons[1],
        abstain_reason=next((reading.abstention.reason for reading in readings if reading.abstention), ""),
        forward_generation=forward.info,
        backward_generation=backward.info,
    )
