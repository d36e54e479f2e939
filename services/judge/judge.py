"""Scores, and comparisons in both orders. What a judge wrote in another form than asked abstains."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from omnialign.errors import OmnialignError, to_status
from omnialign.modeling.answers import Judgement
from omnialign.modeling.inputs import MediaPolicy, pieces
from omnialign.modeling.prompts import Form, Question, ask_judgement, ask_scores, render_comparison, render_score
from omnialign.v1 import content_pb2, critique_service_pb2, judge_service_pb2, record_pb2
from services.inference.engine import EngineResult
from services.inference.item_loop import ItemLoop, Prompt, derived_seed, with_defaults
from services.inference.structured_output import Read, form_of, read_answer, rubric_of
from services.judge.config import JudgeConfig
from services.judge.verdict import verdict

ScoreItem = critique_service_pb2.CritiqueItem
ScoreResult = judge_service_pb2.ScoreResponseResponse
CompareItem = judge_service_pb2.CompareItem
CompareResult = judge_service_pb2.CompareResponsesResponse

IDENTICAL = "The two responses are identical."


class Judge:
    """Has a model judge."""

    def __init__(self, loop: ItemLoop, config: JudgeConfig) -> None:
        self._loop, self._config = loop, config

    def score(self, request: judge_service_pb2.ScoreResponseRequest) -> AsyncGenerator[ScoreResult, None]:
        """Scores, an abstention or an error for each item."""
        sampling = with_defaults(request.sampling, max_new_tokens=self._config.max_new_tokens)
        policy = MediaPolicy.of(request.media_policy)
        task = Scoring(form_of(request.answer_form, request.model))
        return self._loop.run(request.items, task=task, model=request.model, sampling=sampling, policy=policy)

    def compare(self, request: judge_service_pb2.CompareResponsesRequest) -> AsyncGenerator[CompareResult, None]:
        """A verdict or an error for each item."""
        sampling = with_defaults(request.sampling, max_new_tokens=self._config.max_new_tokens)
        policy = MediaPolicy.of(request.media_policy)
        task = Comparing(form_of(request.answer_form, request.model))
        return self._loop.run(request.items, task=task, model=request.model, sampling=sampling, policy=policy)


class Scoring:
    """The task of one response to score, in one form of answers."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def contents(self, item: ScoreItem) -> Iterable[content_pb2.Content]:
        """The prompt and the response."""
        return (item.prompt, item.response)

    def prompts(self, item: ScoreItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """Asks for a score on each dimension. Raises SUBTASK_UNKNOWN."""
        question, prompt, response = self._ask(item), pieces(item.prompt, media), pieces(item.response, media)
        rendered = render_score(prompt, response, rubric_of(item), template=question.template)
        return [Prompt(rendered, item.seed, question.json_schema)]

    async def result(self, item: ScoreItem, answers: Sequence[EngineResult]) -> ScoreResult:
        """The scores, or an abstention."""
        (answer,) = answers
        read = read_answer(answer, self._ask(item).read)
        if read.value is None:
            return ScoreResult(id=item.id, abstention=read.abstention)
        read.value.generation.CopyFrom(answer.info)
        return ScoreResult(id=item.id, feedback=read.value)

    def failure(self, item: ScoreItem, error: OmnialignError) -> ScoreResult:
        """An error of this item."""
        return ScoreResult(id=item.id, error=to_status(error))

    def _ask(self, item: ScoreItem) -> Question[record_pb2.Feedback]:
        return ask_scores(self._form, rubric_of(item))


class Comparing:
    """The task of one pair to compare, in one form of answers."""

    def __init__(self, form: Form) -> None:
        self._question = ask_judgement(form)

    def contents(self, item: CompareItem) -> Iterable[content_pb2.Content]:
        """The prompt and both responses."""
        return (item.prompt, item.baseline, item.candidate)

    def prompts(self, item: CompareItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
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

    async def result(self, item: CompareItem, answers: Sequence[EngineResult]) -> CompareResult:
        """The verdict over both orders."""
        if not answers:
            return CompareResult(id=item.id, comparison=tie_of_identical())
        reads = [read_answer(answer, self._question.read) for answer in answers]
        return CompareResult(id=item.id, comparison=comparison_of(answers, reads))

    def failure(self, item: CompareItem, error: OmnialignError) -> CompareResult:
        """An error of this item."""
        return CompareResult(id=item.id, error=to_status(error))


def tie_of_identical() -> record_pb2.Comparison:
    """The comparison of a response with itself."""
    return record_pb2.Comparison(verdict=record_pb2.VERDICT_TIE, forward_reason=IDENTICAL, backward_reason=IDENTICAL)


def comparison_of(answers: Sequence[EngineResult], reads: Sequence[Read[Judgement]]) -> record_pb2.Comparison:
    """The comparison that two answers make. An answer that cannot be read leaves its words as the reason."""
    forward, backward = answers
    reasons = [
        read.value.reason if read.value is not None else read.abstention.text if read.abstention else ""
        for read in reads
    ]
    preferred = [read.value.preferred if read.value is not None else None for read in reads]
    return record_pb2.Comparison(
        verdict=verdict(preferred[0], preferred[1]),
        forward_reason=reasons[0],
        backward_reason=reasons[1],
        abstain_reason=next((read.abstention.reason for read in reads if read.abstention), ""),
        forward_generation=forward.info,
        backward_generation=backward.info,
    )
