"""Completions of token ids: an adapter at hand reads the prompt and writes the answer, media included.

That takes an endpoint that accepts ids and returns those it wrote (`return_token_ids`), as `vllm serve` does. It needs
no tokenizer of its own, so texts that end an answer are looked for here, in the whole answer.
"""

import json
from collections.abc import Mapping
from typing import Any

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.modeling.adapters import Adapter
from services.inference.codec_pool import Translator
from services.inference.engine import EngineRequest
from services.inference.model_uri import EndpointModel
from services.inference.openai.api import (
    Body,
    Reply,
    choice_of,
    cut_at_stop,
    finish_of,
    sampling_of,
    stops_of,
    usage_of,
)
from services.inference.openai.errors import Source


class TokenDialect:
    """Asks an endpoint to go on with token ids."""

    path = "/completions"

    def __init__(self, model: EndpointModel, translator: Translator, adapter: Adapter) -> None:
        self._model, self._translator, self._adapter = model, translator, adapter

    async def body(self, request: EngineRequest, *, bounded: bool) -> Body:
        """The ids of the conversation. Raises what makes it unreadable, or MODALITY_UNSUPPORTED for features."""
        inputs = await self._translator.read(self._adapter, request)
        if isinstance(inputs, OmnialignError):
            raise inputs
        if inputs.features:
            raise InvalidArgument(
                f"{self._model.adapter} reads media into features, which token ids cannot carry; name "
                f"{self._model.name} without an adapter, to ask its chat.",
                reason="MODALITY_UNSUPPORTED",
                metadata={"adapter": self._model.adapter, "model": self._model.name},
            )
        options = {
            **sampling_of(request, with_stops=False),
            # null asks for all that the context leaves; without it an endpoint takes 16
            "max_tokens": (request.sampling.max_new_tokens or None) if bounded else None,
            "stop_token_ids": [self._adapter.end_id],
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        return Body(json.dumps({"model": self._model.name, "prompt": inputs.ids, **options}).encode(), inputs.losses)

    async def reply(self, request: EngineRequest, answer: Mapping[str, Any], source: Source) -> Reply:
        """The pieces that the ids of the answer stand for."""
        choice = choice_of(answer, source)
        ids = choice.get("token_ids")
        if not isinstance(ids, list) or not all(isinstance(i, int) and i >= 0 for i in ids):
            raise source.invalid("has no token_ids, so the endpoint cannot be asked with an adapter", str(answer))
        found, finish = await self._translator.write(self._adapter, ids, stop=()), finish_of(choice)
        if not isinstance(found, OmnialignError):
            found, finish = cut_at_stop(found, finish, stops_of(request))
        return Reply(found, finish, usage_of(answer, "prompt_tokens"), len(ids))
