"""`/v1/chat/completions`: a conversation in, messages out."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from omnialign.client import AsyncClient
from omnialign.v1.refinement_service_pb2 import GenerateResponse
from services.console.door.answers import Json, Reply, SentText, Usage, finish_reason, log_probs, message_of
from services.console.door.messages import Message, read_messages
from services.console.door.parameters import CHAT, Parameters, read_parameters

Results = AsyncGenerator[GenerateResponse, None]
KIND, STREAM_KIND, PREFIX = "chat.completion", "chat.completion.chunk", "chatcmpl"


def read(body: Mapping[str, Any]) -> tuple[Parameters, Sequence[Sequence[Message]]]:
    """The parameters of a request, and its one conversation. Raises what reading either raises."""
    return read_parameters(body, CHAT), [read_messages(body.get("messages"))]


async def whole(client: AsyncClient, model: str, parameters: Parameters, results: Results) -> Json:
    """All answers as one object."""
    reply, usage, choices = Reply(KIND, prefix=PREFIX, model=model, project=client.project), Usage(), list[Json]()
    async with aclosing(results):
        async for result in results:
            usage.add(result)
            message = await message_of(client, result)
            choices.append({"index": result.sample, "message": message, **_ending(result)})
    choices.sort(key=lambda choice: choice["index"])
    return reply.body(choices, usage=usage.body())


async def events(
    client: AsyncClient, model: str, parameters: Parameters, results: Results
) -> AsyncGenerator[Json, None]:
    """The events of a stream: of each answer the role, what it says as it is written, and the end; then the counts."""
    reply, usage = Reply(STREAM_KIND, prefix=PREFIX, model=model, project=client.project), Usage()
    counts = {"usage": None} if parameters.wants_usage else {}
    answers = defaultdict[int, _StreamedAnswer](_StreamedAnswer)  # by number of the sample
    async with aclosing(results):
        async for result in results:
            answer = answers[result.sample]
            if result.HasField("delta"):
                deltas = answer.grow(result)
            else:
                usage.add(result)
                deltas = answer.end(result, await message_of(client, result))
            for delta in deltas:
                yield reply.body([{"index": result.sample, "logprobs": None, "finish_reason": None, **delta}], **counts)
    if parameters.wants_usage:
        yield reply.body([], usage=usage.body())


class _StreamedAnswer:
    """The choices, but for their indices, that one answer sends in turn."""

    def __init__(self) -> None:
        self._sent, self._has_begun = SentText(), False

    def grow(self, result: GenerateResponse) -> Iterator[Json]:
        """What a delta adds."""
        yield from self._begin()
        yield {"delta": {"content": self._sent.next(result.delta)}}

    def end(self, result: GenerateResponse, message: Json) -> Iterator[Json]:
        """What was not sent yet of the whole message, and why it ended."""
        yield from self._begin()
        rest = {name: value for name, value in message.items() if name not in ("role", "refusal", "content")}
        if text := self._sent.rest(message["content"] or ""):
            rest["content"] = text
        if rest or result.HasField("tokens"):
            yield {"delta": rest, "logprobs": log_probs(result)}
        yield {"delta": {}, "finish_reason": finish_reason(result)}

    def _begin(self) -> Iterator[Json]:
        if not self._has_begun:
            self._has_begun = True
            yield {"delta": {"role": "assistant", "content": ""}}


def _ending(result: GenerateResponse) -> Json:
    return {"logprobs": log_probs(result), "finish_reason": finish_reason(result)}
