"""What feedback models and judges are asked: the template, the schema and the reader of one form of answers, together.

Whoever asks takes all three from here, so that nobody asks in one form and reads in another, or has to know the forms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from omnialign.modeling import answers, answers_json
from omnialign.modeling.answers import Judgement
from omnialign.v1 import generation_pb2, record_pb2

T = TypeVar("T")
Form: TypeAlias = generation_pb2.AnswerForm.ValueType


@dataclass(frozen=True)
class Question(Generic[T]):
    """`template` names the prompt template, `read` reads what was answered, or raises AnswerUnparsable.

    `json_schema` is what engines that can hold the answer to; it is empty for sections.
    """

    template: str
    read: Callable[[str], T]
    json_schema: str = ""


def ask_feedback(form: Form, rubric: Sequence[str]) -> Question[record_pb2.Feedback]:
    """Asks for critique, refinement advice and scores; a form that is not JSON is sections."""
    if form == generation_pb2.ANSWER_FORM_JSON:
        read = partial(answers_json.read_feedback, rubric=rubric)
        return Question("critique_json", read, answers_json.feedback_schema(rubric))
    return Question("critique", partial(answers.read_feedback, rubric=rubric))


def ask_scores(form: Form, rubric: Sequence[str]) -> Question[record_pb2.Feedback]:
    """Asks for scores alone."""
    if form == generation_pb2.ANSWER_FORM_JSON:
        read = partial(answers_json.read_scores, rubric=rubric)
        return Question("score_json", read, answers_json.scores_schema(rubric))
    return Question("score", partial(answers.read_scores, rubric=rubric))


def ask_judgement(form: Form) -> Question[Judgement]:
    """Asks which of two responses is better."""
    if form == generation_pb2.ANSWER_FORM_JSON:
        return Question("comparison_json", answers_json.read_judgement, answers_json.judgement_schema())
    return Question("comparison", answers.read_judgement)
