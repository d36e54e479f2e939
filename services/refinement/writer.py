"""Responses y ~ pi(x) and refinements y* ~ pi(x, y, c)."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any

from omnialign.errors import OmnialignError, to_status
from omnialign.modeling.inputs import MediaPolicy, pieces
from omnialign.modeling.prompts import render_refinement, render_response
from omnialign.v1 import content_pb2, generation_pb2, record_pb2, refinement_service_pb2
from services.inference.engine import EngineResult
from services.inference.item_loop import ItemLoop, Prompt, Task, with_defaults
from services.refinement.config import RefinementConfig

GenerateItem = refinement_service_pb2.GenerateItem
GenerateResult = refinement_service_pb2.GenerateResponse
RefineItem = refinement_service_pb2.RefineItem
RefineResult = refinement_service_pb2.RefineResponse


class Writer:
    """Has a model write."""

    def __init__(self, loop: ItemLoop, config: RefinementConfig) -> None:
        self._loop, self._config = loop, config

    def generate(self, request: refinement_service_pb2.GenerateRequest) -> AsyncGenerator[GenerateResult, None]:
        """A response or an error for each item."""
        return self._run(request, Responding(self._loop))

    def refine(self, request: refinement_service_pb2.RefineRequest) -> AsyncGenerator[RefineResult, None]:
        """A refined response or an error for each item."""
        return self._run(request, Refining(self._loop))

    def _run(self, request: Any, task: Task[Any, Any]) -> AsyncGenerator[Any, None]:
        policy = MediaPolicy.of(request.media_policy)
        return self._loop.run(
            request.items, task=task, model=request.model, sampling=self._sampling(request), policy=policy
        )

    def _sampling(
        self, request: refinement_service_pb2.GenerateRequest | refinement_service_pb2.RefineRequest
    ) -> generation_pb2.SamplingParams:
        """The request's parameters; the service's own when it has none."""
        temperature = 0.0 if request.HasField("sampling") else self._config.temperature
        return with_defaults(request.sampling, max_new_tokens=self._config.max_new_tokens, temperature=temperature)


class Responding:
    """The task of one prompt to answer."""

    def __init__(self, loop: ItemLoop) -> None:
        self._loop = loop

    def contents(self, item: GenerateItem) -> Iterable[content_pb2.Content]:
        """The prompt."""
        return (item.prompt,)

    def prompts(self, item: GenerateItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """Asks for an answer."""
        return [Prompt(render_response(pieces(item.prompt, media)), item.seed)]

    async def result(self, item: GenerateItem, answers: Sequence[EngineResult]) -> GenerateResult:
        """The answer with its media stored."""
        return GenerateResult(id=item.id, response=await stored_response(self._loop, answers))

    def failure(self, item: GenerateItem, error: OmnialignError) -> GenerateResult:
        """An error of this item."""
        return GenerateResult(id=item.id, error=to_status(error))


class Refining:
    """The task of one response to refine."""

    def __init__(self, loop: ItemLoop) -> None:
        self._loop = loop

    def contents(self, item: RefineItem) -> Iterable[content_pb2.Content]:
        """The prompt and the response."""
        return (item.prompt, item.response)

    def prompts(self, item: RefineItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """Asks for a better response, given the feedback."""
        prompt, response = pieces(item.prompt, media), pieces(item.response, media)
        return [Prompt(render_refinement(prompt, response, item.feedback), item.seed)]

    async def result(self, item: RefineItem, answers: Sequence[EngineResult]) -> RefineResult:
        """The refinement with its media stored."""
        return RefineResult(id=item.id, response=await stored_response(self._loop, answers))

    def failure(self, item: RefineItem, error: OmnialignError) -> RefineResult:
        """An error of this item."""
        return RefineResult(id=item.id, error=to_status(error))


async def stored_response(loop: ItemLoop, answers: Sequence[EngineResult]) -> record_pb2.Response:
    """The one answer as a response. Raises the answer's error."""
    (answer,) = answers
    if answer.error is not None:
        raise answer.error
    return record_pb2.Response(
        content=await loop.media.store(answer.pieces), source=answer.info.model, generation=answer.info
    )
