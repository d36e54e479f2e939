"""What a model is fed: token ids, and the features of the media among them.

Engines and trainers get both from the same adapter, so that neither can see what the other does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class MediaLoss:
    """What of a medium was left out: an UPPER_SNAKE reason and the figures."""

    sha256: str
    reason: str
    detail: str


@dataclass(frozen=True)
class MediaFeatures:
    """One medium as a processor model sees it: arrays by the names of the model's arguments, first axis the medium."""

    modality: int
    arrays: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ModelInputs:
    """A prompt as its model sees it: ids with every placeholder expanded, and the features in reading order."""

    ids: list[int]
    features: tuple[MediaFeatures, ...] = ()
    losses: tuple[MediaLoss, ...] = field(default=(), compare=False)
