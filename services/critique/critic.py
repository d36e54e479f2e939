"""Language feedback c ~ p_phi(c | x, y), read from what the feedback model wrote or not at all."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from omnialign.errors import OmnialignError, to_status
from omnialign.modeling.inputs import MediaPolicy, pieces
from omnialign.modeling.prompts import Form, Question, ask_feedback, render_critique
from omnialign.v1 import content_pb2, critique_service_pb2, record_pb2
from services.critique.config import CritiqueConfig
from services.inference.engine import EngineResult
from services.inference.item_loop import ItemLoop, Prompt, with_defaults
from services.inference.structured_output import form_of, read_answer, rubric_of

Item = critique_service_pb2.CritiqueItem
Result = critique_service_pb2.CritiqueResponse


class Critic:
    """Has a model criticise."""

    def __init__(self, loop: ItemLoop, config: CritiqueConfig) -> None:
        self._loop, self._config = loop, config

    def critique(self, request: critique_service_pb2.CritiqueRequest) -> AsyncGenerator[Result, None]:
        """Feedback, an abstention or an error for each item."""
        sampling = with_defaults(request.sampling, max_new_tokens=self._config.max_new_tokens)
        policy = MediaPolicy.of(request.media_policy)
        task = Criticising(form_of(request.answer_form, request.model))
        return self._loop.run(request.items, task=task, model=request.model, sampling=sampling, policy=policy)


class Criticising:
    """The task of one response to criticise (`services.inference.item_loop.Task`), in one form of answers."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def contents(self, item: Item) -> Iterable[content_pb2.Content]:
        """The prompt and the response."""
        return (item.prompt, item.response)

    def prompts(self, item: Item, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """Asks for feedback on the dimensions of the item. Raises SUBTASK_UNKNOWN."""
        question, prompt, response = self._ask(item), pieces(item.prompt, media), pieces(item.response, media)
        rendered = render_critique(prompt, response, rubric_of(item), template=question.template)
        return [Prompt(rendered, item.seed, question.json_schema)]

    async def result(self, item: Item, answers: Sequence[EngineResult]) -> Result:
        """The feedback, or an abstention where the answer is not in the asked form."""
        (answer,) = answers
        read = read_answer(answer, self._ask(item).read)
        if read.value is None:
            return Result(id=item.id, abstention=read.abstention)
        read.value.generation.CopyFrom(answer.info)
        return Result(id=item.id, feedback=read.value)

    def failure(self, item: Item, error: OmnialignError) -> Result:
        """An error of this item."""
        return Result(id=item.id, error=to_status(error))

    def _ask(self, item: Item) -> Question[record_pb2.Feedback]:
        return ask_feedback(self._form, rubric_of(item))
