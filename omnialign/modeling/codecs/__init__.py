"""Codecs: media to token codes and back.

A codec has a modality, one or several codebooks, and a number of units per medium, fixed or within limits. A
`codecs.json` beside the weights of a causal language model makes it a token model. For each modality it names the
codec, its options, the folder of its weights if it has any, and the token ids that its codes occupy:

    {"codecs": [{"type": "mimi", "options": {"folder": "audio_codec", "codebooks": 8, "max_frames": 250},
                 "begin": "<audio>", "end": "</audio>", "first_id": 32000, "num_ids": 16384}]}

`num_ids` is optional; if given, it must equal the number of codes of the codec.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from omnialign.errors import InvalidArgument
from omnialign.modeling.codecs.residual import DacCodec, EncodecCodec, MimiCodec
from omnialign.modeling.codecs.rule_based import PaletteImageCodec, PaletteVideoCodec, ToneAudioCodec
from omnialign.modeling.codecs.vq_codecs import ChameleonImageCodec, Emu3ImageCodec, Emu3VideoCodec, JanusImageCodec
from omnialign.modeling.codecs.weights import Weights
from omnialign.modeling.spans import MediaSpan, slot


class Codec(Protocol):
    """Converts a medium to `min_units` to `max_units` units of codes, each in [0, `num_codes`), and back."""

    @property
    def modality(self) -> int:
        """A value of `omnialign.v1.Modality`."""

    @property
    def num_codes(self) -> int:
        """The number of codes of all codebooks together."""

    @property
    def unit(self) -> tuple[range, ...]:
        """The codes allowed at each position of a unit, such as one position per codebook of an audio frame."""

    @property
    def min_units(self) -> int:
        """The fewest units of a medium."""

    @property
    def max_units(self) -> int:
        """The most units of a medium."""

    def encode(self, data: bytes) -> list[int]:
        """The codes of a media file. Raises MediaError if it does not decode."""

    def encode_array(self, array: NDArray[Any], rate: float) -> list[int]:
        """The codes of a decoded medium: pixels, frames at `rate` per second, or samples at `rate` hertz."""

    def decode(self, codes: Sequence[int]) -> bytes:
        """The media file that the codes stand for."""


FIELDS = {"type": str, "options": dict, "begin": str, "end": str, "first_id": int, "num_ids": int}
"""The fields of an entry of `codecs.json`, and their types."""
NEEDED = {"type", "begin", "end", "first_id"}
MAX_ENTRIES = 64
MAX_FILE_BYTES = 16 << 20

CODEC_TYPES: dict[str, Callable[..., Codec]] = {
    "palette_image": PaletteImageCodec,
    "palette_video": PaletteVideoCodec,
    "tone_audio": ToneAudioCodec,
    "encodec": EncodecCodec,
    "dac": DacCodec,
    "mimi": MimiCodec,
    "chameleon_image": ChameleonImageCodec,
    "janus_image": JanusImageCodec,
    "emu3_image": Emu3ImageCodec,
    "emu3_video": Emu3VideoCodec,
}


@dataclass(frozen=True)
class CodecRange:
    """A codec's share of the vocabulary: code k is the id `first_id + k`; spans are delimited by two control ids."""

    codec: Codec
    begin_id: int
    end_id: int
    first_id: int

    @property
    def last_id(self) -> int:
        """The highest id of the range."""
        return self.first_id + self.codec.num_codes - 1

    @cached_property
    def span(self) -> MediaSpan:
        """The grammar of a medium among token ids."""
        codec, shift = self.codec, self.first_id
        unit = tuple((range(codes.start + shift, codes.stop + shift),) for codes in codec.unit)
        codes = slot(self.first_id, self.last_id)
        return MediaSpan(self.begin_id, self.end_id, unit, codec.min_units, codec.max_units, codes)


def build(kind: str, options: Mapping[str, Any], folder: Path | None = None) -> Codec:
    """Builds a codec of a type. A folder in its options is relative to the model's `folder`.

    Raises InvalidArgument CODEC_UNKNOWN, CODEC_OPTIONS_INVALID, CODEC_WEIGHTS_MISSING or CODEC_WEIGHTS_INVALID.
    """
    if kind not in CODEC_TYPES:
        raise InvalidArgument(
            f"There is no codec type {kind!r}; use one of {', '.join(sorted(CODEC_TYPES))}.",
            reason="CODEC_UNKNOWN",
            metadata={"type": kind},
        )
    options = dict(options)
    if "folder" in options:
        options["folder"] = _subfolder(folder, str(options["folder"]), kind)
    try:
        inspect.signature(CODEC_TYPES[kind]).bind(**options)
        return CODEC_TYPES[kind](**options)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InvalidArgument(
            f"The options of the codec {kind!r} are invalid: {error}.",
            reason="CODEC_OPTIONS_INVALID",
            metadata={"type": kind, "options": ", ".join(sorted(options))},
        ) from error


def load_codecs(path: Path, token_id: Callable[[str], int | None], vocabulary_size: int) -> list[CodecRange]:
    """Reads `codecs.json`. Ranges must not overlap each other, nor the text ids below `vocabulary_size`."""
    ranges: list[CodecRange] = []
    free_id = vocabulary_size
    for entry in _entries(path):
        codec = build(entry["type"], entry.get("options", {}), path.parent)
        begin, end = token_id(entry["begin"]), token_id(entry["end"])
        first, size = entry["first_id"], entry.get("num_ids", codec.num_codes)
        if begin is None or end is None or begin == end or first < free_id or size != codec.num_codes:
            raise InvalidArgument(
                f"The codec {entry['type']!r} has ids {first} to {first + size - 1} for {codec.num_codes} codes; give "
                f"it one id per code from {free_id} on, and two different begin and end tokens that the tokenizer has.",
                reason="CODEC_RANGE_INVALID",
                metadata={"type": entry["type"], "first_id": str(first), "num_codes": str(codec.num_codes)},
            )
        ranges.append(CodecRange(codec, begin, end, first))
        free_id = ranges[-1].last_id + 1
    return ranges


def _entries(path: Path) -> list[dict[str, Any]]:
    """The entries of `codecs.json`, sorted by first id. Raises InvalidArgument CODECS_INVALID."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise _invalid(path, f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text())["codecs"]
        wrong = [name for entry in entries for name in (entry.keys() - FIELDS.keys()) | (NEEDED - entry.keys())]
        wrong = wrong or [name for entry in entries for name, value in entry.items() if type(value) is not FIELDS[name]]
        entries = [] if wrong else sorted(entries, key=lambda entry: int(entry["first_id"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _invalid(path, f"it is not a list of codecs ({error!r:.200})") from error
    if wrong:
        raise _invalid(path, f"its entries have missing, unknown or unreadable fields: {', '.join(sorted(wrong)):.200}")
    if len(entries) > MAX_ENTRIES:
        raise _invalid(path, f"it has {len(entries)} codecs, and {MAX_ENTRIES} is the most")
    return entries


def _invalid(path: Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"The file {path.name} of the model cannot be used: {why}.",
        reason="CODECS_INVALID",
        metadata={"folder": path.parent.name},
    )


def _subfolder(folder: Path | None, name: str, kind: str) -> Path:
    """A folder inside the model's. Raises InvalidArgument if it leads outside or holds no weights."""
    root = (folder or Path()).resolve()
    found = (root / name).resolve()
    if not found.is_relative_to(root):
        raise InvalidArgument(
            f"The folder {name!r} of the codec {kind!r} is outside the model's folder; move it inside.",
            reason="CODEC_OPTIONS_INVALID",
            metadata={"type": kind, "folder": name},
        )
    Weights(found)
    return found
