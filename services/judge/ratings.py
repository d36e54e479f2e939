"""Ratings from 1 to 10 of the answers to a benchmark."""

from collections.abc import AsyncGenerator, Iterable, Mapping

from omnialign.content import NAMES, asked_of, media_of, text_of
from omnialign.errors import InvalidArgument
from omnialign.modeling.answers import Rating
from omnialign.modeling.inputs import pieces, turns
from omnialign.modeling.prompts import (
    Form,
    Question,
    Rendered,
    ask_generation,
    ask_understanding,
    render_generation,
    render_understanding,
)
from omnialign.v1 import content_pb2, generation_pb2
from omnialign.v1 import judge_service_pb2 as pb
from services.inference.item_loop import ItemT, ResultT
from services.inference.structured_output import QuestionTask, form_of
from services.judge.retries import Retries


class Ratings:
    """Has a model rate responses."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries

    def understanding(
        self, request: pb.ScoreUnderstandingRequest
    ) -> AsyncGenerator[pb.ScoreUnderstandingResponse, None]:
        """A rating, an abstention or an error for each item."""
        task = UnderstandingTask(form_of(request.answer_form, request.model))
        return self._retries.run(request, task, method="ScoreUnderstanding")

    def generation(self, request: pb.ScoreGenerationRequest) -> AsyncGenerator[pb.ScoreGenerationResponse, None]:
        """A rating, an abstention or an error for each item."""
        task = GenerationTask(form_of(request.answer_form, request.model))
        return self._retries.run(request, task, method="ScoreGeneration")


class RatingTask(QuestionTask[ItemT, ResultT, Rating]):
    """Asks for a rating of one response."""

    def contents(self, item: ItemT) -> Iterable[content_pb2.Content]:
        """The prompt with what came before it, and the response."""
        return (*asked_of(item), item.response)

    def answered(self, item: ItemT, value: Rating, info: generation_pb2.GenerationInfo) -> ResultT:
        """The rating."""
        rating = pb.Rating(score=value.score, reason=value.reason, generation=info)
        return self.result_type(id=item.id, rating=rating)


class UnderstandingTask(RatingTask[pb.UnderstandingItem, pb.ScoreUnderstandingResponse]):
    """Asks how well a response answers a question about media."""

    def __init__(self, form: Form) -> None:
        super().__init__(pb.ScoreUnderstandingResponse)
        self._form = form

    def question(self, item: pb.UnderstandingItem) -> Question[Rating]:
        """Asks by the category of the item. Raises InvalidArgument CATEGORY_UNKNOWN."""
        return ask_understanding(self._form, item.category)

    def render(self, item: pb.UnderstandingItem, media: Mapping[str, bytes], template: str) -> Rendered:
        """Shows the question, the references and the response."""
        prompt, response = pieces(item.prompt, media), pieces(item.response, media)
        history = turns(item.history, media)
        return render_understanding(prompt, response, item.references, item.category, history, template=template)


class GenerationTask(RatingTask[pb.GenerationItem, pb.ScoreGenerationResponse]):
    """Asks how well a response in one modality follows an instruction."""

    def __init__(self, form: Form) -> None:
        super().__init__(pb.ScoreGenerationResponse)
        self._form = form

    def question(self, item: pb.GenerationItem) -> Question[Rating]:
        """Asks by the modality to rate."""
        return ask_generation(self._form, item.modality)

    def render(self, item: pb.GenerationItem, media: Mapping[str, bytes], template: str) -> Rendered:
        """Shows the instruction and the response. Raises InvalidArgument RESPONSE_MODALITY_MISSING."""
        require_modality(item.response, item.modality)
        prompt, response = pieces(item.prompt, media), pieces(item.response, media)
        return render_generation(prompt, response, item.modality, turns(item.history, media), template=template)


def require_modality(response: content_pb2.Content, modality: int) -> None:
    """Raises InvalidArgument RESPONSE_MODALITY_MISSING for a response that has nothing in the modality."""
    found = {medium.modality for medium in media_of([response])}
    if text_of(response).strip():
        found.add(content_pb2.MODALITY_TEXT)
    if modality not in found:
        name = NAMES[modality]
        message = f"The response has no {name}; rate it by what it has, or count the item as failed."
        raise InvalidArgument(message, reason="RESPONSE_MODALITY_MISSING", metadata={"modality": name})
