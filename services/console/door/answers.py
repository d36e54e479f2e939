"""Answers in OpenAI's form.

`content` is always the text, so that every client can read it. Media stand beside it: pictures in `images` and videos
in `videos`, as parts with `data:` URIs; the first sound in `audio`, in base64. An answer with media also has `parts`:
all of it in reading order, media as references, as a later request can send it back.
"""

import base64
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.content import text_of
from omnialign.errors import Internal
from omnialign.v1 import content_pb2, generation_pb2
from omnialign.v1.refinement_service_pb2 import GenerateResponse, TextDelta
from services.console.door.messages import AUDIO, IMAGE, VIDEO, reference_to

Json = dict[str, Any]
LISTS = {IMAGE: ("images", "image_url"), VIDEO: ("videos", "video_url")}


class Reply:
    """What the answers to one request have in common. `kind` is the object's type, such as `chat.completion`."""

    def __init__(self, kind: str, *, prefix: str, model: str, project: str) -> None:
        self._kind, self._model = kind, shown_model(model, project=project)
        self._id, self._created = f"{prefix}-{uuid.uuid4().hex}", int(time.time())

    def body(self, choices: Iterable[Json], **fields: Any) -> Json:
        """One object of this reply."""
        return {
            "id": self._id,
            "object": self._kind,
            "created": self._created,
            "model": self._model,
            "choices": list(choices),
            **fields,
        }


async def message_of(client: AsyncClient, result: GenerateResponse) -> Json:
    """The message of an answer; its media are read from the data service."""
    answer = result.response.content
    message: Json = {"role": "assistant", "content": text_of(answer) or None, "refusal": None}
    parts = [part.media for part in answer.parts if part.WhichOneof("part") == "media"]
    for medium in parts:
        data = base64.b64encode(await client.get_media(medium.sha256)).decode("ascii")
        if medium.modality in LISTS:
            name, kind = LISTS[medium.modality]
            part = {"type": kind, kind: {"url": f"data:{medium.mime_type};base64,{data}"}}
            message.setdefault(name, []).append(part)
        elif "audio" not in message:
            form = medium.mime_type.partition("/")[2]
            message["audio"] = {"id": reference_to(medium.sha256), "data": data, "format": form, "transcript": ""}
    if parts:
        message["parts"] = [_part(part) for part in answer.parts]
    return message


class SentText:
    """What a stream has sent of the text of one answer."""

    def __init__(self) -> None:
        self._text, self._part = "", 0

    def next(self, delta: TextDelta) -> str:
        """What to send for a delta. Texts of different parts are joined as `text_of` joins them."""
        joiner = " " if self._text and delta.part != self._part else ""
        self._text, self._part = f"{self._text}{joiner}{delta.text}", delta.part
        return joiner + delta.text

    def rest(self, text: str) -> str:
        """What is left to send of the whole text. Raises Internal STREAM_DIVERGED for another text."""
        if not text.startswith(self._text):
            message = "The answer does not begin with what was streamed of it; ask for it without `stream`."
            raise Internal(message, reason="STREAM_DIVERGED")
        return text[len(self._text) :]


def finish_reason(result: GenerateResponse) -> str:
    """Why an answer ended."""
    is_cut = result.response.generation.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    return "length" if is_cut else "stop"


def log_probs(result: GenerateResponse) -> Json | None:
    """The log-probabilities of the tokens of an answer, by their ids: how they are spelt, only the model knows."""
    if not result.HasField("tokens"):
        return None
    pairs = zip(result.tokens.ids, result.tokens.log_probs, strict=True)
    entries: list[Json] = [
        {"token": f"token_id:{i}", "logprob": value, "bytes": None, "top_logprobs": []} for i, value in pairs
    ]
    return {"content": entries, "refusal": None}


class Usage:
    """Counts the tokens of a request: each prompt once, and every answer."""

    def __init__(self) -> None:
        self._prompts: dict[str, int] = {}
        self._completion_tokens = 0

    def add(self, result: GenerateResponse) -> None:
        """Counts an answer."""
        self._prompts[result.id] = result.response.generation.prompt_tokens
        self._completion_tokens += result.response.generation.completion_tokens

    def body(self) -> Json:
        """The counts so far."""
        prompt_tokens = sum(self._prompts.values())
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": prompt_tokens + self._completion_tokens,
        }


def shown_model(model: str, *, project: str) -> str:
    """The name of a model as a request of this project may give it: `base/3` for a registered version of its own."""
    is_own = names.matches(model, names.MODEL_VERSION) and names.project_of(model) == project
    return names.short_name(model) if is_own else model


def _part(part: content_pb2.Part) -> Mapping[str, Any]:
    if part.WhichOneof("part") == "text":
        return {"type": "text", "text": part.text}
    reference = reference_to(part.media.sha256)
    if part.media.modality == AUDIO:
        return {"type": "input_audio", "input_audio": {"data": reference, "format": "wav"}}
    _, kind = LISTS[part.media.modality]
    return {"type": kind, kind: {"url": reference}}
