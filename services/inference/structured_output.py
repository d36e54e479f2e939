"""Structured answers of feedback models and judges: in which form to ask, and reading a value or an abstention.

An answer that is not in the requested form becomes an abstention that says why. It never becomes a number.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from omnialign.content import asked_of
from omnialign.modeling.adapters import AnswerMalformed
from omnialign.modeling.answers import AnswerUnparsable
from omnialign.modeling.inputs import Pieces, Turn, pieces, turns
from omnialign.modeling.prompts import Form, Question, Rendered
from omnialign.rubrics import rubric
from omnialign.v1 import content_pb2, critique_service_pb2, generation_pb2, record_pb2
from services.inference.engine import EngineResult
from services.inference.item_loop import ItemT, Prompt, ResultT, Task
from services.inference.media import text_of
from services.inference.model_uri import is_endpoint_model, parse_endpoint_model

T = TypeVar("T")
Item = critique_service_pb2.CritiqueItem


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What was read from an answer: `value`, or None and the abstention."""

    value: T | None
    abstention: critique_service_pb2.Abstention | None = None


def read_answer(answer: EngineResult, reader: Callable[[str], T]) -> Reading[T]:
    """The value that `reader` finds in an answer. An answer in the wrong form abstains; any other error is raised."""
    text = text_of(answer.pieces)
    try:
        if answer.error is not None:
            raise answer.error
        if answer.info.finish_reason == generation_pb2.FINISH_REASON_LENGTH:
            raise AnswerUnparsable("The answer was cut off before its end.", reason="ANSWER_TRUNCATED")
        if not all(isinstance(piece, str) for piece in answer.pieces):
            raise AnswerUnparsable("The answer has media beside its text.")
        return Reading(reader(text))
    except (AnswerUnparsable, AnswerMalformed) as error:
        abstention = critique_service_pb2.Abstention(reason=error.reason, text=text, generation=answer.info)
        return Reading(None, abstention)


def form_of(requested: Form, model: str) -> Form:
    """The form to ask a model for: the requested one, or the one that the model is likely to know.

    A model that is asked through a chat was not trained on sections. Raises InvalidArgument MODEL_NAME_INVALID.
    """
    if requested != generation_pb2.ANSWER_FORM_UNSPECIFIED:
        return requested
    is_chat = is_endpoint_model(model) and not parse_endpoint_model(model).adapter
    return generation_pb2.ANSWER_FORM_JSON if is_chat else generation_pb2.ANSWER_FORM_SECTIONS


class QuestionTask(Task[ItemT, ResultT], Generic[ItemT, ResultT, T]):
    """Puts one question about each item to a model; an answer that is not in the requested form abstains."""

    @abstractmethod
    def question(self, item: ItemT) -> Question[T]:
        """How the item is asked about. May raise OmnialignError."""

    @abstractmethod
    def render(self, item: ItemT, media: Mapping[str, bytes], template: str) -> Rendered:
        """The prompt. May raise OmnialignError."""

    @abstractmethod
    def answered(self, item: ItemT, value: T, info: generation_pb2.GenerationInfo) -> ResultT:
        """The result that holds the value of an answer."""

    def prompts(self, item: ItemT, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """The one prompt of an item."""
        question = self.question(item)
        return [Prompt(self.render(item, media, question.template), item.seed, question.json_schema)]

    async def result(self, item: ItemT, answers: Sequence[EngineResult]) -> ResultT:
        """The value, or an abstention. Raises the answer's error."""
        (answer,) = answers
        reading = read_answer(answer, self.question(item).read)
        if reading.value is None:
            return self.result_type(id=item.id, abstention=reading.abstention)
        return self.answered(item, reading.value, answer.info)


class RenderFeedbackPrompt(Protocol):
    """Renders the prompt that asks for feedback on a response."""

    def __call__(
        self, prompt: Pieces, response: Pieces, rubric: Sequence[str], history: Sequence[Turn], *, template: str
    ) -> Rendered:
        """The rendered prompt."""
        ...


class FeedbackTask(QuestionTask[Item, ResultT, record_pb2.Feedback]):
    """Asks a model for feedback on one response, on the dimensions of a rubric.

    Critiques and scores differ in what `ask` asks for, in how `render` words it, and in the type of their results.
    """

    def __init__(
        self,
        result_type: Callable[..., ResultT],
        form: Form,
        *,
        ask: Callable[[Form, Sequence[str]], Question[record_pb2.Feedback]],
        render: RenderFeedbackPrompt,
    ) -> None:
        super().__init__(result_type)
        self._form, self._ask, self._render = form, ask, render

    def contents(self, item: Item) -> Iterable[content_pb2.Content]:
        """The prompt with what came before it, and the response."""
        return (*asked_of(item), item.response)

    def question(self, item: Item) -> Question[record_pb2.Feedback]:
        """Asks for feedback on the dimensions of the item. Raises InvalidArgument SUBTASK_UNKNOWN."""
        return self._ask(self._form, rubric_of(item))

    def render(self, item: Item, media: Mapping[str, bytes], template: str) -> Rendered:
        """The prompt on the dimensions of the item."""
        prompt, response = pieces(item.prompt, media), pieces(item.response, media)
        return self._render(prompt, response, rubric_of(item), turns(item.history, media), template=template)

    def answered(self, item: Item, value: record_pb2.Feedback, info: generation_pb2.GenerationInfo) -> ResultT:
        """The feedback."""
        value.generation.CopyFrom(info)
        return self.result_type(id=item.id, feedback=value)


def rubric_of(item: Item) -> Sequence[str]:
    """The dimensions to score: the item's own, or those of its subtask. Raises InvalidArgument SUBTASK_UNKNOWN."""
    return tuple(item.rubric) or rubric(item.subtask)
