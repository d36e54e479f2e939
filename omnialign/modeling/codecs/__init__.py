"""Codecs: media to token codes and back.

A codec has a modality, a number of codes, and a fixed number of codes per medium. `codecs.json` beside a model's
weights names the codec of each modality, its options, and the range of token ids its codes take.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omnialign.errors import InvalidArgument
from omnialign.modeling.codecs.palette import PaletteImageCodec, PaletteVideoCodec
from omnialign.modeling.codecs.tone import ToneAudioCodec


class Codec(Protocol):
    """Turns one medium into `num_codes_per_medium` codes in [0, `num_codes`) and back."""

    @property
    def modality(self) -> int:
        """A value of `omnialign.v1.Modality`."""

    @property
    def num_codes(self) -> int:
        """Size of the code book."""

    @property
    def num_codes_per_medium(self) -> int:
        """Length of every span."""

    def encode(self, data: bytes) -> list[int]:
        """Codes of a media file. Raises MediaError when it does not decode."""

    def decode(self, codes: Sequence[int]) -> bytes:
        """The media file that the codes stand for."""


TYPES: dict[str, Callable[..., Codec]] = {
    "palette_image": PaletteImageCodec,
    "palette_video": PaletteVideoCodec,
    "tone_audio": ToneAudioCodec,
}


@dataclass(frozen=True)
class CodecRange:
    """A codec with its place in the vocabulary: codes are ids `first_id ...`, a span stands between two control ids."""

    codec: Codec
    begin_id: int
    end_id: int
    first_id: int

    @property
    def last_id(self) -> int:
        """The highest id of the range."""
        return self.first_id + self.codec.num_codes - 1


def build(kind: str, options: Mapping[str, Any]) -> Codec:
    """Builds a codec by its type name. Raises InvalidArgument CODEC_UNKNOWN."""
    if kind not in TYPES:
        raise InvalidArgument(
            f"There is no codec type {kind!r}; known are {', '.join(sorted(TYPES))}.",
            reason="CODEC_UNKNOWN",
            metadata={"type": kind},
        )
    return TYPES[kind](**options)


def load_codecs(path: Path, token_id: Callable[[str], int | None], vocabulary_size: int) -> list[CodecRange]:
    """Reads `codecs.json`. Ranges may overlap neither the text ids below `vocabulary_size` nor each other."""
    ranges: list[CodecRange] = []
    free_id = vocabulary_size
    for entry in sorted(json.loads(path.read_text())["codecs"], key=lambda e: int(e["first_id"])):
        begin, end = token_id(entry["begin"]), token_id(entry["end"])
        if begin is None or end is None or int(entry["first_id"]) < free_id:
            raise InvalidArgument(
                f"The codec {entry['type']!r} overlaps other token ids, or its span tokens are not in the tokenizer.",
                reason="CODEC_RANGE_INVALID",
                metadata={"type": str(entry["type"]), "first_id": str(entry["first_id"])},
            )
        ranges.append(CodecRange(build(entry["type"], entry["options"]), begin, end, int(entry["first_id"])))
        free_id = ranges[-1].last_id + 1
    return ranges
