"""From a request to Generate: media are stored, the model is found, and answers come as each finishes."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from omnialign.client import AsyncClient
from omnialign.content import NAMES, content, media_of
from omnialign.errors import FailedPrecondition, InvalidArgument, from_status
from omnialign.v1 import content_pb2
from omnialign.v1 import refinement_service_pb2 as pb
from services.console.door.errors import invalid
from services.console.door.messages import InlineMedium, Message, StoredMedium
from services.console.door.parameters import Parameters

PARALLEL_CALLS = 8
Medium = InlineMedium | StoredMedium


async def generate(
    client: AsyncClient,
    model: str,
    parameters: Parameters,
    conversations: Sequence[Sequence[Message]],
    *,
    deadline_seconds: float,
) -> AsyncGenerator[pb.GenerateResponse, None]:
    """The answers to conversations, of which each ends with the message to answer, in the order in which they finish.

    `model` is the full name of the model. The id of an answer is the number of its conversation, from 0. With
    `parameters.stream` the deltas of answers come before them. Raises what makes the whole request impossible, and the
    error of the first answer that fails.
    """
    stored = await _store_all(client, conversations)
    request = pb.GenerateRequest(
        model=model,
        sampling=parameters.sampling,
        items=[_item(number, messages, stored, parameters.seed) for number, messages in enumerate(conversations)],
        num_samples=parameters.num_samples,
        return_tokens=parameters.return_tokens,
        json_schema=parameters.json_schema,
        stream_text=parameters.stream,
    )
    calls: Any = client.generate_items(request, deadline_seconds=deadline_seconds)
    async with aclosing(calls) as results:
        async for result in results:
            if result.HasField("error"):
                raise from_status(result.error)
            if result.HasField("response"):
                _check_modalities(result.response.content, parameters.modalities)
            yield result


def _item(
    number: int, messages: Sequence[Message], stored: Mapping[Medium, content_pb2.Media], seed: int
) -> pb.GenerateItem:
    contents = [
        content(*(piece if isinstance(piece, str) else stored[piece] for piece in message.pieces))
        for message in messages
    ]
    history = [
        content_pb2.EarlierMessage(role=message.role, content=said)  # type: ignore[arg-type]  # enums are int at run time
        for message, said in zip(messages[:-1], contents[:-1], strict=True)
    ]
    return pb.GenerateItem(id=str(number), prompt=contents[-1], history=history, seed=seed)


async def _store_all(
    client: AsyncClient, conversations: Sequence[Sequence[Message]]
) -> dict[Medium, content_pb2.Media]:
    """The references of all media, of which those that came as bytes are stored now."""
    pieces = (piece for messages in conversations for message in messages for piece in message.pieces)
    media = list(dict.fromkeys(piece for piece in pieces if not isinstance(piece, str)))
    slots = asyncio.Semaphore(PARALLEL_CALLS)

    async def store(medium: Medium) -> content_pb2.Media:
        async with slots:
            return await (_uploaded(client, medium) if isinstance(medium, InlineMedium) else _found(client, medium))

    return dict(zip(media, await asyncio.gather(*map(store, media)), strict=True))


async def _uploaded(client: AsyncClient, medium: InlineMedium) -> content_pb2.Media:
    try:
        return await client.upload_media(medium.data, modality=medium.modality)
    except InvalidArgument as error:
        raise _at(medium, error) from error


async def _found(client: AsyncClient, medium: StoredMedium) -> content_pb2.Media:
    found = await client.find_media(medium.sha256)
    if found.modality != medium.modality:
        problem = f"names a medium that is {found.mime_type}; put it into a part for {NAMES[found.modality]}"
        raise invalid(medium.param, problem, reason="MEDIA_TYPE_MISMATCH")
    return found


def _at(medium: InlineMedium, error: InvalidArgument) -> InvalidArgument:
    """The error with the place of the medium in the request."""
    message = f"The medium in {medium.param} cannot be used: {error.message}"
    return InvalidArgument(
        message, reason=error.reason, metadata=error.metadata, violations=[(medium.param, error.message)]
    )


def _check_modalities(message: content_pb2.Content, wanted: frozenset[int] | None) -> None:
    """Raises FailedPrecondition for an answer with media that the caller does not take."""
    for medium in media_of([message]):
        if wanted is not None and medium.modality not in wanted:
            name = NAMES[medium.modality]
            raise FailedPrecondition(
                f"The model answered with {name}, which the request does not take; chat with {name} among its "
                "modalities, or say in the prompt that you want text alone.",
                reason="ANSWER_MODALITY_UNWANTED",
                metadata={"modality": name},
                violations=[("modalities", f"leaves out {name}")],
            )
