"""`/v1/chat/completions`: a conversation in, messages out."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from omnialign.client import AsyncClient
from omnialign.v1.refinement_service_pb2 import GenerateResponse
from services.console.door.answers import Json, Reply, Usage, finish_reason, log_probs, message_of
from services.console.door.messages import Message, read_messages
from services.console.door.parameters import CHAT, Parameters, read_parameters

Results = AsyncGenerator[GenerateResponse, None]
KIND, STREAM_KIND, PREFIX = "chat.completion", "chat.completion.chunk", "chatcmpl"


def read(body: Mapping[str, Any]) -> tuple[Parameters, Sequence[Sequence[Message]]]:
    """The parameters of a request, and its one conversation. Raises what reading either raises."""
    return read_parameters(body, CHAT), [read_messages(body.get("messages"))]


async def whole(client: AsyncClient, parameters: Parameters, results: Results) -> Json:
    """All answers as one object."""
    reply, usage, choices, model = Reply(KIND, prefix=PREFIX, project=client.project), Usage(), list[Json](), ""
    async with aclosing(results):
        async for result in results:
            usage.add(result)
            model = result.response.generation.model
            message = await message_of(client, result)
            choices.append({"index": result.sample, "message": message, **_ending(result)})
    choices.sort(key=lambda choice: choice["index"])
    return reply.body(model, choices, usage=usage.body())


async def events(client: AsyncClient, parameters: Parameters, results: Results) -> AsyncGenerator[Json, None]:
    """The events of a stream: three for each answer, and at the end the counts if they were asked for."""
    reply, usage, model = Reply(STREAM_KIND, prefix=PREFIX, project=client.project), Usage(), ""
    counts = {"usage": None} if parameters.wants_usage else {}
    async with aclosing(results):
        async for result in results:
            usage.add(result)
            model = result.response.generation.model
            message = await message_of(client, result)
            for delta in _deltas(message, result):
                yield reply.body(model, [delta], **counts)
    if parameters.wants_usage:
        yield reply.body(model, [], usage=usage.body())


def _ending(result: GenerateResponse) -> Json:
    return {"logprobs": log_probs(result), "finish_reason": finish_reason(result)}


def _deltas(message: Json, result: GenerateResponse) -> Iterator[Json]:
    """The role, the content, and the end of an answer."""
    content = {name: value for name, value in message.items() if name not in ("role", "refusal")}
    begun: Json = {"index": result.sample, "logprobs": None, "finish_reason": None}
    yield {**begun, "delta": {"role": "assistant", "content": ""}}
    yield {**begun, "delta": content, "logprobs": log_probs(result)}
    yield {**begun, "delta": {}, "finish_reason": finish_reason(result)}
