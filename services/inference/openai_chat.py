"""Chat completions: text and media in, text out, by the endpoint's own template."""

import json
from collections.abc import Mapping
from typing import Any

from omnialign.errors import InvalidArgument
from omnialign.modeling.inputs import MediaLoss
from omnialign.modeling.messages import MediaBytes, Turn
from omnialign.modeling.policy import MediaPolicy
from services.inference.engine import EngineRequest
from services.inference.openai_dialect import (
    Body,
    Reply,
    choice_of,
    cut_at_stop,
    finish_of,
    sampling_of,
    stops_of,
    usage_of,
)
from services.inference.openai_faults import Source
from services.inference.openai_media import media_part
from services.inference.openai_names import EndpointModel
from services.inference.translation import Translator


class ChatDialect:
    """Asks the chat of an endpoint."""

    path = "/chat/completions"

    def __init__(self, model: EndpointModel, translator: Translator) -> None:
        self._model, self._translator = model, translator

    async def body(self, request: EngineRequest, *, bounded: bool) -> Body:
        """The conversation as messages. Media are read and written off the event loop."""
        if any(isinstance(piece, MediaBytes) for turn in request.turns for piece in turn.pieces):
            return await self._translator.run(lambda: self._body(request, bounded))
        return self._body(request, bounded)

    async def reply(self, request: EngineRequest, answer: Mapping[str, Any], source: Source) -> Reply:
        """The text of the answer."""
        choice = choice_of(answer, source)
        message = choice.get("message")
        if not isinstance(message, Mapping) or not isinstance(message.get("content") or "", str):
            raise source.invalid("has no message with text", str(answer))
        # Half of a surrogate pair can be escaped in JSON, but not be in a text that is stored or sent on.
        text = (message.get("content") or "").strip().encode("utf-8", "replace").decode()
        refused = choice.get("finish_reason") == "content_filter" or (not text and message.get("refusal"))
        pieces, finish = cut_at_stop((text,) if text else (), finish_of(choice), stops_of(request))
        return Reply(
            _refusal(source) if refused else pieces,
            finish,
            usage_of(answer, "prompt_tokens"),
            usage_of(answer, "completion_tokens"),
        )

    def _body(self, request: EngineRequest, bounded: bool) -> Body:
        losses: list[MediaLoss] = []
        messages = [_message(turn, request.policy, losses) for turn in request.turns]
        options = sampling_of(request)
        if bounded and request.sampling.max_new_tokens:
            options["max_tokens"] = request.sampling.max_new_tokens
        if request.json_schema:
            schema = {"name": "answer", "schema": json.loads(request.json_schema), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        text = json.dumps({"model": self._model.name, "messages": messages, **options})
        return Body(text.encode(), tuple(losses))


def _message(turn: Turn, policy: MediaPolicy, losses: list[MediaLoss]) -> dict[str, Any]:
    """A turn as a message; plain text stays a string, which every endpoint takes."""
    if all(isinstance(piece, str) for piece in turn.pieces):
        return {"role": turn.role, "content": "".join(piece for piece in turn.pieces if isinstance(piece, str))}
    parts = []
    for piece in turn.pieces:
        if isinstance(piece, str):
            parts.append({"type": "text", "text": piece})
            continue
        part = media_part(piece, policy)
        parts.append(part.json)
        if part.loss is not None:
            losses.append(part.loss)
    return {"role": turn.role, "content": parts}


def _refusal(source: Source) -> InvalidArgument:
    return InvalidArgument(
        f"The endpoint {source.model.base_url} refused to answer this prompt.",
        reason="ANSWER_REFUSED",
        metadata={"endpoint": source.model.base_url, "model": source.model.name},
    )
