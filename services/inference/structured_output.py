"""Reading the structured answers of feedback models and judges: a value, or an abstention that says why not.

Also in which form to ask for them, and on which dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from omnialign.modeling.adapters import AnswerMalformed
from omnialign.modeling.answers import AnswerUnparsable
from omnialign.modeling.prompts import Form
from omnialign.modeling.rubrics import rubric
from omnialign.v1 import critique_service_pb2, generation_pb2
from services.inference.engine import EngineResult
from services.inference.media import text_of
from services.inference.model_uri import is_endpoint_model, parse

T = TypeVar("T")


@dataclass(frozen=True)
class Read(Generic[T]):
    """What was read: `value`, or None with the abstention."""

    value: T | None
    abstention: critique_service_pb2.Abstention | None = None


def read_answer(answer: EngineResult, reader: Callable[[str], T]) -> Read[T]:
    """The value that `reader` finds in an answer. An answer in the wrong form abstains; any other error is raised."""
    text = text_of(answer.pieces)
    try:
        if answer.error is not None:
            raise answer.error
        return Read(reader(text))
    except (AnswerUnparsable, AnswerMalformed) as error:
        abstention = critique_service_pb2.Abstention(reason=error.reason, text=text, generation=answer.info)
        return Read(None, abstention)


def form_of(wanted: Form, model: str) -> Form:
    """The form to ask a model for: the one that is wanted, or the one that the model is likely to know.

    A model that is asked for chats was not trained on sections. Raises InvalidArgument MODEL_NAME_INVALID.
    """
    if wanted != generation_pb2.ANSWER_FORM_UNSPECIFIED:
        return wanted
    is_chat = is_endpoint_model(model) and not parse(model).adapter
    return generation_pb2.ANSWER_FORM_JSON if is_chat else generation_pb2.ANSWER_FORM_SECTIONS


def rubric_of(item: critique_service_pb2.CritiqueItem) -> Sequence[str]:
    """The dimensions to score: the item's own, or those of its subtask. Raises InvalidArgument SUBTASK_UNKNOWN."""
    return tuple(item.rubric) or rubric(item.subtask)
