"""Completions of token ids: our adapter encodes the prompt and decodes the answer, media included.

The endpoint must accept ids and return those it wrote (`return_token_ids`), as `vllm serve` does. It needs no tokenizer
of its own, so stop strings are searched for here, in the whole answer.
"""

import json
from collections.abc import Mapping
from typing import Any

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.modeling.adapters import Adapter
from services.inference.codec_pool import CodecPool
from services.inference.engine import EngineRequest
from services.inference.errors import schema_unsupported
from services.inference.model_uri import EndpointModel
from services.inference.openai.api import (
    Body,
    Reply,
    choice_of,
    cut_at_stop,
    finish_reason_of,
    sampling_options,
    usage_of,
)
from services.inference.openai.errors import ErrorContext
from services.inference.stop_strings import stops_of


class TokenCompletions:
    """Asks an endpoint to continue token ids."""

    path = "/completions"

    def __init__(self, model: EndpointModel, codecs: CodecPool, adapter: Adapter) -> None:
        self._model, self._codecs, self._adapter = model, codecs, adapter

    async def body(self, request: EngineRequest, *, bounded: bool) -> Body:
        """The ids of the conversation.

        Raises what makes it unreadable, MODALITY_UNSUPPORTED for features, or JSON_SCHEMA_UNSUPPORTED.
        """
        if request.requires_schema:
            raise schema_unsupported(request.model, "is asked for token ids, which its adapter decodes")
        inputs = await self._codecs.encode(self._adapter, request)
        if isinstance(inputs, OmnialignError):
            raise inputs
        if inputs.features:
            raise InvalidArgument(
                f"{self._model.adapter} reads media into features, which token ids cannot carry; name "
                f"{self._model.name} without an adapter to use its chat API.",
                reason="MODALITY_UNSUPPORTED",
                metadata={"adapter": self._model.adapter, "model": self._model.name},
            )
        options = {
            **sampling_options(request, with_stops=False),
            # null means all that the context leaves; if it is missing, an endpoint takes 16
            "max_tokens": (request.sampling.max_new_tokens or None) if bounded else None,
            "stop_token_ids": [self._adapter.end_id],
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        return Body(json.dumps({"model": self._model.name, "prompt": inputs.ids, **options}).encode(), inputs.losses)

    async def reply(self, request: EngineRequest, answer: Mapping[str, Any], context: ErrorContext) -> Reply:
        """The pieces that the ids of the answer stand for."""
        choice = choice_of(answer, context)
        ids = choice.get("token_ids")
        if not isinstance(ids, list) or not all(isinstance(i, int) and i >= 0 for i in ids):
            raise context.invalid("has no token_ids, so the endpoint cannot be used with an adapter", str(answer))
        # Decoded whole and cut afterwards, because the finish reason depends on whether there was a stop string.
        pieces, finish_reason = await self._codecs.decode(self._adapter, ids, stop=()), finish_reason_of(choice)
        if not isinstance(pieces, OmnialignError):
            pieces, finish_reason = cut_at_stop(pieces, finish_reason, stops_of(request.sampling))
        return Reply(pieces, finish_reason, usage_of(answer, "prompt_tokens"), len(ids))
