"""Checks of single prompts before a job starts: can their media be decoded, and do they leave room for an answer?

Each medium is fetched and decoded once, under the job's media policy. Tokens are counted as the base model would read
them, for which its settings are enough, without its weights.
"""

import asyncio
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from omnialign.client import AsyncClient
from omnialign.content import media_of
from omnialign.errors import DataLoss, InvalidArgument, NotFound, OmnialignError
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.decoding import decode
from omnialign.modeling.inputs import MediaBytes, MediaLoss, MediaPolicy, pieces
from omnialign.modeling.prompts import render_response
from omnialign.v1 import content_pb2
from services.sandbox.models import TOO_COSTLY, first_look

MAX_CACHED_BYTES = 64 * 1024 * 1024
CONCURRENT_DECODES = 2
"""Number of media decoded at the same time, which bounds the memory that they take."""


class MediaCheck:
    """Fetches and decodes media, and remembers what it found. Small ones stay in memory, for they are needed twice."""

    def __init__(self, client: AsyncClient, policy: MediaPolicy) -> None:
        self._client, self.policy = client, policy
        self.losses: list[MediaLoss] = []
        self._decoding = asyncio.Semaphore(CONCURRENT_DECODES)
        self._problems: dict[str, str] = {}
        self._cached: dict[str, bytes] = {}
        self._cached_bytes = 0

    async def problem(self, media: Iterable[content_pb2.Media]) -> str:
        """The reason code of the first medium that cannot be used; empty when all can."""
        found = await asyncio.gather(*(self._problem(medium) for medium in media))
        return next(filter(None, found), "")

    async def fetch(self, medium: content_pb2.Media) -> bytes:
        """The bytes of a medium. Raises NotFound, or DataLoss if they changed in storage."""
        if medium.sha256 not in self._cached:
            data = await self._client.get_media(medium.sha256)
            if self._cached_bytes + len(data) > MAX_CACHED_BYTES:
                return data
            self._cached[medium.sha256] = data
            self._cached_bytes += len(data)
        return self._cached[medium.sha256]

    async def _problem(self, medium: content_pb2.Media) -> str:
        if medium.sha256 not in self._problems:
            self._problems[medium.sha256] = await self._look(medium)
        return self._problems[medium.sha256]

    async def _look(self, medium: content_pb2.Media) -> str:
        try:
            found = MediaBytes(medium.modality, await self.fetch(medium))
            async with self._decoding:  # a decoded video takes a hundred times its bytes
                loss = await asyncio.to_thread(_loss, found, self.policy)
            self.losses += [loss] if loss else []
        except NotFound:
            return "MEDIA_NOT_FOUND"
        except (DataLoss, InvalidArgument) as error:
            return error.reason
        return ""


def _loss(medium: MediaBytes, policy: MediaPolicy) -> MediaLoss | None:
    """What a medium loses under a policy. The decoded arrays, which are large, are dropped here."""
    return decode(medium, policy).loss


NO_COUNTS = "Prompts were not counted in tokens: {}."


class TokenCounter:
    """Counts the tokens of prompts as the model would read them."""

    def __init__(self, adapter: Adapter, *, context_tokens: int) -> None:
        self._adapter = adapter
        self.context_tokens = context_tokens

    async def measure(self, prompt: content_pb2.Content, media: MediaCheck) -> tuple[str, int]:
        """(reason code or empty, tokens). A prompt that leaves no room for an answer is `PROMPT_TOO_LONG`."""
        data = {medium.sha256: await media.fetch(medium) for medium in media_of([prompt])}
        try:
            length = await asyncio.to_thread(self._count, prompt, data, media.policy)
        except OmnialignError as error:
            return error.reason, 0
        too_long = 0 < self.context_tokens <= length
        return ("PROMPT_TOO_LONG" if too_long else ""), length

    def _count(self, prompt: content_pb2.Content, data: dict[str, bytes], policy: MediaPolicy) -> int:
        return len(self._adapter.encode(render_response(pieces(prompt, data)).turns, policy).ids)


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
