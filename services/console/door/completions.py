"""`/v1/completions`: prompts in, texts out. Each prompt is what a user says, for a model that answers conversations."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from omnialign.client import AsyncClient
from omnialign.content import text_of
from omnialign.v1 import content_pb2
from omnialign.v1.content_pb2 import ROLE_USER
from omnialign.v1.refinement_service_pb2 import GenerateResponse
from services.console.door.answers import Json, Reply, SentText, Usage, finish_reason
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


async def whole(client: AsyncClient, model: str, parameters: Parameters, results: Results) -> Json:
    """All answers as one object."""
    reply, usage, choices = Reply(KIND, prefix=PREFIX, model=model, project=client.project), Usage(), list[Json]()
    async with aclosing(results):
        async for result in results:
            usage.add(result)
            choices.append(_choice(result, parameters, text_of(result.response.content)))
    choices.sort(key=lambda choice: choice["index"])
    return reply.body(choices, usage=usage.body())


async def events(
    client: AsyncClient, model: str, parameters: Parameters, results: Results
) -> AsyncGenerator[Json, None]:
    """The events of a stream: what each answer says as it is written, and at the end the counts if asked for."""
    reply, usage = Reply(KIND, prefix=PREFIX, model=model, project=client.project), Usage()
    counts = {"usage": None} if parameters.wants_usage else {}
    sent = defaultdict[tuple[str, int], SentText](SentText)  # by prompt and sample
    async with aclosing(results):
        async for result in results:
            answer = sent[result.id, result.sample]
            if result.HasField("delta"):
                text = answer.next(result.delta)
            else:
                usage.add(result)
                text = answer.rest(text_of(result.response.content))
            yield reply.body([_choice(result, parameters, text)], **counts)
    if parameters.wants_usage:
        yield reply.body([], usage=usage.body())


def _choice(result: GenerateResponse, parameters: Parameters, text: str) -> Json:
    index = int(result.id) * parameters.num_samples + result.sample
    ending = None if result.HasField("delta") else finish_reason(result)
    return {"index": index, "text": text, "logprobs": None, "finish_reason": ending}
