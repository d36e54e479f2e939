"""Responses y ~ pi(x), and refinements y* ~ pi(x, y, c)."""

import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass

from omnialign.content import asked_of
from omnialign.errors import InvalidArgument, OmnialignError, to_status
from omnialign.modeling.inputs import Pieces, pieces, turns
from omnialign.modeling.prompts import render_agents, render_refinement, render_response
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1 import refinement_service_pb2 as pb
from services.inference.engine import EngineResult
from services.inference.item_loop import ItemLoop, ItemT, Prompt, ResultT, Task, derived_seed
from services.inference.media import MediaClient

MAX_RESPONSES = 4096
"""Most responses of one request: items times samples."""


class Writer:
    """Has a model write responses. `temperature` is that of requests without sampling parameters."""

    def __init__(self, loop: ItemLoop, *, temperature: float) -> None:
        self._loop, self._temperature = loop, temperature

    def generate(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse, None]:
        """A response or an error for each sample of each item.

        Raises InvalidArgument SAMPLES_TOO_MANY, JSON_SCHEMA_INVALID.
        """
        task = GenerateTask(request, self._loop.media)
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
        return self.result_type(id=item.id, response=await self.response(answer))

    async def response(self, answer: EngineResult) -> record_pb2.Response:
        """An answer as a response, once its media are stored. Raises its error."""
        if answer.error is not None:
            raise answer.error
        content = await self._media.store(answer.pieces)
        return record_pb2.Response(content=content, source=answer.info.model, generation=answer.info)


@dataclass(frozen=True)
class Sample:
    """One of the samples of an item, counted from 0."""

    item: pb.GenerateItem
    number: int

    @property
    def seed(self) -> int:
        """Seed of its random stream. Sample 0 is what a request for one response gets."""
        return derived_seed(self.item.seed, purpose=f"sample {self.number}") if self.number else self.item.seed


class GenerateTask(WritingTask[Sample, pb.GenerateResponse]):
    """Draws one sample of the answer to a prompt."""

    def __init__(self, request: pb.GenerateRequest, media: MediaClient) -> None:
        super().__init__(pb.GenerateResponse, media)
        self._num_samples, self._return_tokens = request.num_samples or 1, request.return_tokens
        self._stream_text = request.stream_text
        self._json_schema = checked_schema(request.json_schema)

    def works(self, items: Sequence[pb.GenerateItem]) -> Sequence[Sample]:
        """All samples, those of an item one after the other."""
        if len(items) * self._num_samples > MAX_RESPONSES:
            raise samples_too_many(len(items), self._num_samples)
        return [Sample(item, number) for item in items for number in range(self._num_samples)]

    def contents(self, item: Sample) -> Iterable[content_pb2.Content]:
        """The prompt, and what came before it."""
        return asked_of(item.item)

    def prompts(self, item: Sample, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """Asks for an answer."""
        prompt, instructed = pieces(item.item.prompt, media), item.item.instructed_modalities
        history = turns(item.item.history, media)
        return [
            Prompt(
                render_agents(prompt, instructed, history) if instructed else render_response(prompt, history),
                item.seed,
                self._json_schema,
                requires_schema=bool(self._json_schema),
                return_tokens=self._return_tokens,
                is_followed=self._stream_text,
            )
        ]

    def steps(self, item: Sample, before: Pieces, now: Pieces) -> Iterable[pb.GenerateResponse]:
        """A delta for each text that has grown."""
        for delta in text_deltas(before, now):
            yield pb.GenerateResponse(id=item.item.id, sample=item.number, delta=delta)

    async def result(self, item: Sample, answers: Sequence[EngineResult]) -> pb.GenerateResponse:
        """The response with its tokens. An answer that cannot be decoded has tokens too."""
        (answer,) = answers
        result = pb.GenerateResponse(id=item.item.id, sample=item.number, tokens=answer.tokens)
        try:
            result.response.CopyFrom(await self.response(answer))
        except OmnialignError as error:
            if error is not answer.error:  # of storing media
                raise
            result.error.CopyFrom(to_status(error))
        return result

    def failure(self, item: Sample, error: OmnialignError) -> pb.GenerateResponse:
        """The result of a sample that failed."""
        return pb.GenerateResponse(id=item.item.id, sample=item.number, error=to_status(error))


class RefineTask(WritingTask[pb.RefineItem, pb.RefineResponse]):
    """Rewrites one response in the light of its feedback."""

    def contents(self, item: pb.RefineItem) -> Iterable[content_pb2.Content]:
        """The prompt with what came before it, and the response."""
        return (*asked_of(item), item.response)

    def prompts(self, item: pb.RefineItem, media: Mapping[str, bytes]) -> Sequence[Prompt]:
        """Asks for a better response, given the feedback."""
        prompt, response = pieces(item.prompt, media), pieces(item.response, media)
        return [Prompt(render_refinement(prompt, response, item.feedback, turns(item.history, media)), item.seed)]


def text_deltas(before: Pieces, now: Pieces) -> Iterable[pb.TextDelta]:
    """What the texts of an answer that began with the pieces of `before` have more than they had."""
    for part, piece in enumerate(now):
        known = before[part] if part < len(before) else ""
        if isinstance(piece, str) and isinstance(known, str) and piece != known:
            yield pb.TextDelta(part=part, text=piece[len(known) :])


def checked_schema(text: str) -> str:
    """A JSON schema as text, or "" for none. Raises InvalidArgument JSON_SCHEMA_INVALID for what is no JSON object."""
    try:
        is_object = not text or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        message = 'The field json_schema is not a JSON object; write the schema as one, such as {"type": "object"}.'
        raise InvalidArgument(message, reason="JSON_SCHEMA_INVALID", violations=[("json_schema", "is no JSON object")])
    return text


def samples_too_many(num_items: int, num_samples: int) -> InvalidArgument:
    """The error for a request that asks for more responses than one call brings."""
    return InvalidArgument(
        f"The field num_samples asks for {num_samples} responses to each of {num_items} items, and a request gets at "
        f"most {MAX_RESPONSES} in all; send fewer items at a time.",
        reason="SAMPLES_TOO_MANY",
        metadata={"items": str(num_items), "num_samples": str(num_samples), "most": str(MAX_RESPONSES)},
    )
