"""Checks of single prompts before a job starts: do they leave room for an answer?

Tokens are counted as the base model would read them, for which its settings are enough, without its weights.
"""

import asyncio
import json
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from omnialign.client import AsyncClient
from omnialign.content import asked_of, media_of
from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.inputs import MediaPolicy, pieces, turns
from omnialign.modeling.prompts import render_response
from omnialign.v1 import record_pb2
from services.pipeline.media_check import MediaCheck
from services.sandbox.models import TOO_COSTLY, first_look

NO_COUNTS = "Prompts were not counted in tokens: {}."


class TokenCounter:
    """Counts the tokens of prompts as the model would read them."""

    def __init__(self, adapter: Adapter, *, context_tokens: int) -> None:
        self._adapter = adapter
        self.context_tokens = context_tokens

    async def measure(self, record: record_pb2.Record, media: MediaCheck) -> tuple[str, int]:
        """(reason code or empty, tokens). A prompt that leaves no room for an answer is `PROMPT_TOO_LONG`."""
        data = {medium.sha256: await media.fetch(medium) for medium in media_of(asked_of(record))}
        try:
            length = await asyncio.to_thread(self._count, record, data, media.policy)
        except OmnialignError as error:
            return error.reason, 0
        too_long = 0 < self.context_tokens <= length
        return ("PROMPT_TOO_LONG" if too_long else ""), length

    def _count(self, record: record_pb2.Record, data: dict[str, bytes], policy: MediaPolicy) -> int:
        rendered = render_response(pieces(record.prompt, data), turns(record.history, data))
        return len(self._adapter.encode(rendered.turns, policy).ids)


async def open_token_counter(model: str, data: AsyncClient) -> tuple[TokenCounter | None, str]:
    """A counter for a model, whose settings are read in place or fetched; or None, and the reason as a sentence.

    Raises InvalidArgument MODEL_TOO_COSTLY_TO_READ: no engine could load such a model.
    """
    try:
        uri = model if model.startswith("file://") else str((await data.get_model_version(model)).uri)
        folder = Path(unquote(urlsplit(uri).path))
        if uri.startswith("file://") and await asyncio.to_thread(folder.is_dir):
            return await asyncio.to_thread(_open, folder, model), ""
        with tempfile.TemporaryDirectory(prefix="omnialign-settings-") as fetched:
            await data.download_model_settings(model, fetched)
            return await asyncio.to_thread(_open, Path(fetched), model), ""
    except InvalidArgument as error:
        if error.reason == TOO_COSTLY:
            raise
        return None, NO_COUNTS.format(error)
    except (OmnialignError, OSError, ValueError) as error:
        return None, NO_COUNTS.format(error)


def _open(folder: Path, model: str) -> TokenCounter:
    first_look(folder, name=model, weights=False)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return TokenCounter(
        load_adapter(folder), context_tokens=int(config.get("max_position_embeddings") or _context(folder))
    )


def _context(folder: Path) -> int:
    """Context length of the language model within a composite model, in tokens; 0 if its settings do not say."""
    from omnialign.modeling.model_folder import read_config  # a heavy library, needed for such models alone

    return int(getattr(read_config(folder).get_text_config(decoder=True), "max_position_embeddings", 0) or 0)
