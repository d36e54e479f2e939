"""Small media and conversations, and the inputs that the families' stock processors make of them, as a reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from omnialign import media
from omnialign.modeling.adapters.features import video_metadata
from omnialign.modeling.adapters.processor import ProcessorAdapter
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaPolicy, Pieces, Turn
from omnialign.v1 import content_pb2

MODALITIES = {
    "image": content_pb2.MODALITY_IMAGE,
    "audio": content_pb2.MODALITY_AUDIO,
    "video": content_pb2.MODALITY_VIDEO,
}
NAMES = {number: name for name, number in MODALITIES.items()}
PLAIN = "What is the colour of the shape on the left?"


def picture(seed: int = 0, *, width: int = 100, height: int = 60) -> MediaBytes:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return MediaBytes(content_pb2.MODALITY_IMAGE, media.write_image(pixels))


def sound(seed: int = 0, *, seconds: float = 0.5, rate_hz: int = 16000) -> MediaBytes:
    """A sound of noise."""
    samples = np.random.default_rng(seed).normal(0, 0.2, int(seconds * rate_hz)).astype(np.float32)
    return MediaBytes(content_pb2.MODALITY_AUDIO, media.write_audio(samples, rate_hz))


def film(seed: int = 0, *, frames: int = 4) -> MediaBytes:
    """A video of noise, two frames per second."""
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 56, 56, 3), dtype=np.uint8)
    return MediaBytes(content_pb2.MODALITY_VIDEO, media.write_video(pixels, 2.0))


MAKERS = {"image": picture, "audio": sound, "video": film}


def medium(name: str, seed: int = 0) -> MediaBytes:
    """A medium of a modality by its name."""
    return MAKERS[name](seed)


def ask(*pieces: Any) -> tuple[Turn, ...]:
    """A conversation of one question."""
    found: Pieces = tuple(pieces)
    return (Turn("user", found),)


def conversations(reads: Sequence[str]) -> list[tuple[Turn, ...]]:
    """Conversations of different lengths for what a family reads: text alone, each medium, all of them, several."""
    found = [ask(PLAIN), ask("Describe it. " * 9)]
    found += [ask(medium(name, seed), PLAIN[: 9 * seed]) for seed, name in enumerate(reads, start=2)]
    if reads:
        found.append(ask("First ", *(medium(name, 11) for name in reads), " then?"))
        found.append(
            (*ask(medium(reads[0], 21), "?"), Turn("assistant", ("Red.",)), *ask("And ", medium(reads[0], 22)))
        )
    if "image" in reads:
        found.append(ask(picture(31), "and", picture(32, width=70, height=112), "Which is larger?"))
    return found


def reference_inputs(
    adapter: ProcessorAdapter,
    processor: Any,
    batch: Sequence[Sequence[Turn]],
    policy: MediaPolicy = NO_BOUNDS,
    *,
    answer: bool = False,
) -> dict[str, Any]:
    """What the stock processor, used as its documentation shows, makes of conversations padded on the left.

    Media are decoded as the adapter decodes them. `answer` takes the last turn as the assistant's.
    """
    images: list[list[Image.Image]] = []
    arguments: dict[str, list[Any]] = {"videos": [], "audio": [], "video_metadata": []}
    for turns in batch:
        decoded = adapter.placeholders(turns, policy).media
        images.append([Image.fromarray(d.array) for d in decoded if NAMES[d.modality] == "image"])
        arguments["audio"] += [d.array for d in decoded if NAMES[d.modality] == "audio"]
        films = [d for d in decoded if NAMES[d.modality] == "video"]
        arguments["videos"] += [d.array for d in films]
        arguments["video_metadata"] += [video_metadata(d) for d in films]
    media_arguments: dict[str, Any] = {name: values for name, values in arguments.items() if values}
    if any(images):
        media_arguments["images"] = [row for row in images if row]
    if arguments["videos"]:
        media_arguments["videos_kwargs"] = {
            "do_sample_frames": False,
            "fps": arguments["video_metadata"][0]["fps"],
            "video_metadata": media_arguments.pop("video_metadata"),
        }
    if arguments["audio"]:
        media_arguments["audio_kwargs"] = {"sampling_rate": 16000}
    texts = [rendered(processor, turns, prompt=not answer) for turns in batch]
    tokenizer = getattr(processor, "tokenizer", processor)
    text_arguments = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
    if processor is tokenizer:
        return dict(processor(texts, add_special_tokens=False, **text_arguments))
    found = processor(text=texts, **media_arguments, **text_arguments)
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def rendered(processor: Any, turns: Sequence[Turn], *, prompt: bool = True) -> str:
    """A conversation by the stock chat template."""
    content = _text if getattr(processor, "tokenizer", processor) is processor else _parts
    messages = [{"role": turn.role, "content": content(turn.pieces)} for turn in turns]
    return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))


def _text(pieces: Pieces) -> str:
    return "".join(map(str, pieces))


def _parts(pieces: Pieces) -> list[dict[str, str]]:
    return [{"type": "text", "text": p} if isinstance(p, str) else {"type": NAMES[p.modality]} for p in pieces]
