"""The features of a batch: those of its rows' media, one after the other, as the tensors that a model is given."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from omnialign.errors import InvalidArgument
from omnialign.modeling.inputs import ModelInputs

COUNTS = frozenset({"batch_num_images"})
"""Arrays that hold the number of pictures of a row."""
NEVER_PADDED = frozenset({"pixel_values_videos"})
"""Arrays whose padding a model would take for content: videos, in families that take whole videos as one batch."""

Shape = tuple[int, ...]


def join_features(rows: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
    """The arrays of all media in reading order, by the names of the model's arguments; {} where no row has media.

    Arrays of unlike size are filled with zeros at the end of their axes, as the processors themselves do when they are
    given several media. Raises InvalidArgument FEATURES_DIFFER.
    """
    check_joinable(rows)
    parts: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for row in rows:
        for name, array in _arrays(row):
            parts[name].append(array)
    return {name: torch.from_numpy(np.concatenate(_padded(arrays))) for name, arrays in parts.items()}


def joint_shape(row: ModelInputs) -> Shape | None:
    """The shape of features that rows of one batch must share: of one with no such features, None."""
    shapes = [array.shape[1:] for name, array in _arrays(row) if name in NEVER_PADDED]
    return shapes[0] if shapes else None


def check_joinable(rows: Sequence[ModelInputs]) -> None:
    """Raises InvalidArgument FEATURES_DIFFER where videos of unlike length would have to be filled up."""
    shapes = {array.shape[1:] for row in rows for name, array in _arrays(row) if name in NEVER_PADDED}
    if len(shapes) > 1:
        found = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
        raise InvalidArgument(
            f"This model takes videos of one shape together, and these are {found}; set max_frames in the media policy "
            "so that all have as many frames.",
            reason="FEATURES_DIFFER",
            metadata={"shapes": found},
        )


def _arrays(row: ModelInputs) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a row's media by name; those that count pictures once, for the whole row."""
    counts: dict[str, int] = defaultdict(int)
    for medium in row.features:
        for name, array in medium.arrays.items():
            if name in COUNTS:
                counts[name] += 1
            else:
                yield name, array
    for name, count in counts.items():
        yield name, np.array([count])


def _padded(parts: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
    """Arrays whose axes but the first are equal, the shorter ones filled with zeros."""
    shapes = [part.shape[1:] for part in parts]
    if len(set(shapes)) == 1:
        return parts
    longest = np.max(shapes, axis=0)
    missing = [[(0, int(m - n)) for m, n in zip(longest, shape, strict=True)] for shape in shapes]
    return [np.pad(part, [(0, 0), *widths]) for part, widths in zip(parts, missing, strict=True)]
