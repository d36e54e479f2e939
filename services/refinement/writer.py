"""Responses y ~ pi(x), and refinements y* ~ pi(x, y, c)."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

from omnialign.modeling.inputs import pieces
from omnialign.modeling.prompts import render_refinement, render_response
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1 import refinement_service_pb2 as pb
from services.inference.engine import EngineResult
from services.inference.item_loop import ItemLoop, ItemT, Prompt, ResultT, Task
from services.inference.media import MediaClient


class Writer:
    """Has a model write responses. `temperature` is that of requests without sampling parameters."""

    def __init__(self, loop: ItemLoop, *, temperature: float) -> None:
        self._loop, self._temperature = loop, temperature

    def generate(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse, None]:
        """A response or an error for each item."""
        task = GenerateTask(pb.GenerateResponse, self._loop.media)
        return self._loop.run(request, task, temperature=self._temperature_of(request))

    def refine(self, request: pb.RefineRequest) -> AsyncGenerator[pb.RefineResponse, None]:
        """A refined response or an error for each item."""
        task = RefineTask(pb.RefineResponse, self._loop.media)
        return self._loop.run(request, task, temperature=self._temperature_of(request))

    def _temperature_of(self, request: pb.GenerateRequest | pb.RefineRequest) -> float:
        # A request with sampling parameters means them: there, a temperature of 0 is greedy decoding.
        return 0.0 if request.HasField("sampling") else self._temperature


class WritingTask(Task[ItemT, ResultT]):
    """Asks a model for one response, and stores the media in it."""

    def __init__(self, result_type: type[ResultT], media: MediaClient) -> None:
        super().__init__(result_type)
        self._media = media

    async def result(self, item: ItemT, answers: Sequence[EngineResult]) -> ResultT:
        """The response, once its media are stored. Raises the answer's error."""
        (answer,) = answers
        if answer.error is not None:
            raise answer.error
        content = await self._media.store(answer.pieces)
        response = record_pb2.Response(content=content, source=answer.info.model, generation=answer.info)
        return self.result_type(id=item.id, response=response)


class GenerateTask(WritingTask[pb.GenerateItem, pb.GenerateResponse]):
    """Answers one prompt."""

    def contents(self, item: pb.GenerateItem) -> Iterable[content_pb2.Content]:
        """The prompt."""
        return (item.prompt,)

    def prompts(self, item: pb.GenerateItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """Asks for an answer."""
        return [Prompt(render_response(pieces(item.prompt, media)), item.seed)]


class RefineTask(WritingTask[pb.RefineItem, pb.RefineResponse]):
    """Rewrites one response in the light of its feedback."""

    def contents(self, item: pb.RefineItem) -> Iterable[content_pb2.Content]:
        """The prompt and the response."""
        return (item.prompt, item.response)

    def prompts(self, item: pb.RefineItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """Asks for a better response, given the feedback."""
        prompt, response = pieces(item.prompt, media), pieces(item.response, media)
        return [Prompt(render_refinement(prompt, response, item.feedback), item.seed)]
