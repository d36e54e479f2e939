"""The media of a batch: features by digest, from the cache or computed again from the bytes that the run keeps.

Examples hold digests only; the features are loaded when a batch is made.

Where ZeRO shards states or weights, all ranks reduce gradients and gather weights in the order in which the model uses
them. Ranks that run different towers would abort or wait for each other for ever, so each must run every tower in every
batch. A batch that lacks a modality of the data therefore gets a tiny medium of it, a *filler*, behind its shortest
row. In a causal model no earlier token sees it, and no loss falls on it, so a filler changes neither the loss nor its
gradient (only the balancing term of a mixture of experts counts its tokens). Batches of one modality each would also
work, but their order would no longer be random.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from omnialign import media
from omnialign.errors import NotFound
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.adapters.features import item_owners
from omnialign.modeling.feature_cache import FeatureCache
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaFeatures, MediaPolicy, ModelInputs, Turn
from omnialign.v1 import content_pb2
from training.examples import MediaRef

FOLDER_VARIABLE = "OMNIALIGN_ENGINE_FEATURE_CACHE"
BYTES_VARIABLE = "OMNIALIGN_ENGINE_FEATURE_CACHE_BYTES"
NUM_THREADS = 4
"""Prompts of a batch whose features are loaded or computed at the same time."""
FILLER_PIXELS = 56
FILLER_RATE_HZ = 16000


class KeptMedium(MediaBytes):
    """A medium whose bytes stay in the run's folder until they are needed."""

    def __init__(self, ref: MediaRef, folder: Path) -> None:
        object.__setattr__(self, "modality", ref.modality)
        object.__setattr__(self, "sha256", ref.sha256)
        object.__setattr__(self, "_path", path_of(folder, ref.sha256))

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The bytes. Raises `NotFound` (MEDIA_NOT_FOUND) when the folder lost them."""
        path: Path = self._path  # type: ignore[attr-defined]
        try:
            return path.read_bytes()
        except OSError as error:
            raise NotFound(
                f"media {self.sha256} is no longer in the run's cache folder; start the job again to fetch it",
                reason="MEDIA_NOT_FOUND",
                metadata={"sha256": self.sha256},
            ) from error


def path_of(folder: Path, sha256: str) -> Path:
    """Where a run keeps the bytes of a medium."""
    return folder / sha256[:2] / sha256


FILLER = -1
"""Stands for the row of a filler, which is no part of a prompt."""


@dataclass(frozen=True)
class MediaRows:
    """Which rows of a batch its media belong to."""

    same: tuple[int, ...]
    """(rows,): numbers that are equal where rows have the same media."""
    owners: Mapping[str, Sequence[int]]
    """The row, or FILLER, of each item of the features, by argument name."""


@dataclass(frozen=True)
class BatchMedia:
    """What a batch needs besides ids."""

    adapter: Adapter
    folder: Path
    """Holds the bytes of the media."""
    policy: MediaPolicy = NO_BOUNDS
    fillers: Mapping[int, ModelInputs] = field(default_factory=dict)
    """The modalities that every batch must have, each with its filler."""

    def inputs(self, rows: Sequence[Mapping[str, Any]], ids: Sequence[list[int]]) -> list[ModelInputs]:
        """Each row's ids with the features of its `media`; fillers that the batch needs go behind its shortest row.

        `media` are `MediaRef`; a row without the key has none.
        """
        refs = [tuple(row.get("media", ())) for row in rows]
        features = self._features(refs)
        made = [ModelInputs(list(row), features[key]) for row, key in zip(ids, refs, strict=True)]
        present = {ref.modality for key in refs for ref in key}
        for modality in sorted(self.fillers.keys() - present):
            shortest = min(range(len(made)), key=lambda index: len(made[index].ids))
            made[shortest] = _joined(made[shortest], self.fillers[modality])
        return made

    def tensors(self, inputs: Sequence[ModelInputs], ids: Tensor) -> dict[str, Tensor]:
        """What the model's `forward` takes besides ids and mask; nothing if no row has media.

        `ids` is (rows, longest), padded; it says where the features belong.
        """
        if not any(row.features for row in inputs):
            return {}
        return self.adapter.tensors(inputs, ids)

    def rows(self, rows: Sequence[Mapping[str, Any]], inputs: Sequence[ModelInputs]) -> MediaRows:
        """Which of the rows the items in `tensors` belong to; `inputs` are what `self.inputs` made of the rows."""
        refs = [tuple(row.get("media", ())) for row in rows]
        numbers: dict[tuple[MediaRef, ...], int] = {}
        same = tuple(numbers.setdefault(key, len(numbers)) for key in refs)
        owned = []
        for row, (key, made) in enumerate(zip(refs, inputs, strict=True)):
            owned += [(row, made.features[: len(key)]), (FILLER, made.features[len(key) :])]
        return MediaRows(same, item_owners(owned))

    def _features(self, refs: Iterable[tuple[MediaRef, ...]]) -> dict[tuple[MediaRef, ...], tuple[MediaFeatures, ...]]:
        """The features of each row's media; rows that share media, such as both answers of a pair, load them once."""
        wanted = list(dict.fromkeys(refs))
        if not any(wanted):
            return dict.fromkeys(wanted, ())
        with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="features") as pool:
            return dict(zip(wanted, pool.map(self._read, wanted), strict=True))

    def _read(self, refs: tuple[MediaRef, ...]) -> tuple[MediaFeatures, ...]:
        return self.adapter.features([KeptMedium(ref, self.folder) for ref in refs], self.policy) if refs else ()


def feature_cache(folder: Path, environ: Mapping[str, str] = os.environ) -> FeatureCache:
    """The cache that the engines of this machine share, if `environ` names it; else one in `folder`."""
    shared, limit = environ.get(FOLDER_VARIABLE, ""), environ.get(BYTES_VARIABLE, "")
    settings = {"limit_bytes": int(limit)} if limit else {}
    return FeatureCache(Path(shared) if shared else folder, **settings)


def _joined(row: ModelInputs, more: ModelInputs) -> ModelInputs:
    return replace(row, ids=[*row.ids, *more.ids], features=(*row.features, *more.features))


def fillers(adapter: Adapter, wanted: Iterable[int]) -> dict[int, ModelInputs]:
    """The filler of each wanted modality: a conversation that holds nothing but a tiny medium."""
    return {m: adapter.encode((Turn("user", (MediaBytes(m, tiny(m)),)),), NO_BOUNDS) for m in sorted(wanted)}


def tiny(modality: int) -> bytes:
    """The smallest file that every processor accepts: a grey square, a second of silence, or four frames."""
    grey = np.full((4, FILLER_PIXELS, FILLER_PIXELS, 3), 127, dtype=np.uint8)
    if modality == content_pb2.MODALITY_IMAGE:
        return media.write_image(grey[0])
    if modality == content_pb2.MODALITY_VIDEO:
        return media.write_video(grey, 2.0)
    return media.write_audio(np.zeros(FILLER_RATE_HZ, dtype=np.float32), FILLER_RATE_HZ)
