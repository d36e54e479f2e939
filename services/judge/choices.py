"""Multiple-choice questions about what a model is shown."""

from collections.abc import AsyncGenerator, Iterable, Mapping

from omnialign.modeling.inputs import pieces, turns
from omnialign.modeling.prompts import Question, Rendered, ask_choice, render_choice
from omnialign.v1 import content_pb2, generation_pb2
from omnialign.v1 import judge_service_pb2 as pb
from services.inference.structured_output import QuestionTask
from services.judge.retries import Retries


class Choices:
    """Has a model answer multiple-choice questions."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries

    def answer(self, request: pb.AnswerQuestionsRequest) -> AsyncGenerator[pb.AnswerQuestionsResponse, None]:
        """A choice, an abstention or an error for each item."""
        return self._retries.run(request, ChoiceTask(pb.AnswerQuestionsResponse), method="AnswerQuestions")


class ChoiceTask(QuestionTask[pb.QuestionItem, pb.AnswerQuestionsResponse, int]):
    """Asks one question."""

    def contents(self, item: pb.QuestionItem) -> Iterable[content_pb2.Content]:
        """What the question is about, and what came before it."""
        return (*(message.content for message in item.history), item.shown)

    def question(self, item: pb.QuestionItem) -> Question[int]:
        """Asks for one of the choices of the item."""
        return ask_choice(item.choices)

    def render(self, item: pb.QuestionItem, media: Mapping[str, bytes], template: str) -> Rendered:
        """Shows what the question is about, the question and the choices."""
        shown, history = pieces(item.shown, media), turns(item.history, media)
        return render_choice(shown, item.question, item.choices, history, template=template)

    def answered(
        self, item: pb.QuestionItem, value: int, info: generation_pb2.GenerationInfo
    ) -> pb.AnswerQuestionsResponse:
        """The choice."""
        return self.result_type(id=item.id, choice=pb.Choice(number=value, generation=info))
