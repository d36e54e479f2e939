"""`/v1/completions`: prompts in, texts out. Each prompt is what a user says, for a model that answers conversations."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from omnialign.client import AsyncClient
from omnialign.content import text_of
from omnialign.v1 import content_pb2
from omnialign.v1.refinement_service_pb2 import ROLE_USER, GenerateResponse
from services.console.door.answers import Json, Reply, Usage, finish_reason
from services.console.door.bodies import text_at
from services.console.door.errors import invalid
from services.console.door.messages import Message
from services.console.door.parameters import COMPLETION, Parameters, read_parameters

Results = AsyncGenerator[GenerateResponse, None]
KIND, PREFIX = "text_completion", "cmpl"
MAX_PROMPTS = 64


def read(body: Mapping[str, Any]) -> tuple[Parameters, Sequence[Sequence[Message]]]:
    """The parameters of a request, and a conversation for each prompt. Raises what reading either raises."""
    parameters = replace(read_parameters(body, COMPLETION), modalities=frozenset({content_pb2.MODALITY_TEXT}))
    prompts = body.get("prompt")
    texts = prompts if isinstance(prompts, list) else [prompts]
    if not 1 <= len(texts) <= MAX_PROMPTS:
        raise invalid("prompt", f"must be a string or a list of 1 to {MAX_PROMPTS} strings")
    if any(isinstance(text, int | list) for text in texts):
        raise invalid("prompt", "must be text: ids of tokens are not taken, for each model has its own")
    return parameters, [[Message(ROLE_USER, (text_at(text, "prompt"),))] for text in texts]


async def whole(client: AsyncClient, parameters: Parameters, results: Results) -> Json:
    """All answers as one object."""
    reply, usage, choices, model = Reply(KIND, prefix=PREFIX, project=client.project), Usage(), list[Json](), ""
    async with aclosing(results):
        async for result in results:
            usage.add(result)
            model = result.response.generation.model
            choices.append(_choice(result, parameters))
    choices.sort(key=lambda choice: choice["index"])
    return reply.body(model, choices, usage=usage.body())


async def events(client: AsyncClient, parameters: Parameters, results: Results) -> AsyncGenerator[Json, None]:
    """The events of a stream: one for each answer, and at the end the counts if they were asked for."""
    reply, usage, model = Reply(KIND, prefix=PREFIX, project=client.project), Usage(), ""
    counts = {"usage": None} if parameters.wants_usage else {}
    async with aclosing(results):
        async for result in results:
            usage.add(result)
            model = result.response.generation.model
            yield reply.body(model, [_choice(result, parameters)], **counts)
    if parameters.wants_usage:
        yield reply.body(model, [], usage=usage.body())


def _choice(result: GenerateResponse, parameters: Parameters) -> Json:
    index = int(result.id) * parameters.num_samples + result.sample
    text = text_of(result.response.content)
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason(result)}
