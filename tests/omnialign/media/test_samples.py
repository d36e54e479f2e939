"""Hundreds of real-shaped media: what the libraries decode is accepted, and models see what they show on white."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from omnialign.errors import OmnialignError
from omnialign.modeling.decoding import decode_here
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes
from services.data.config import DataConfig
from services.data.media_types import MODALITIES
from services.data.media_validation import MediaLimits, validate
from tests.omnialign.media.samples import Sample, all_samples

LIMITS = MediaLimits.of(DataConfig(root=Path("unused")))
LEVELS = 2.0


def difference(sample: Sample) -> float:
    """How far what models see is from what the libraries show, in levels of 255."""
    found = decode_here(MediaBytes(MODALITIES[sample.kind], sample.data), NO_BOUNDS)
    if sample.kind == "image":
        return float(np.abs(found.array.astype(int) - shown_picture(sample.data)).max())
    if sample.kind == "video":
        return float(np.abs(found.array.astype(int) - shown_video(sample.data)).max())
    wanted, is_lossless = sample.source
    length = min(len(wanted), len(found.array))
    assert length >= 0.9 * len(wanted)
    if is_lossless:
        return float(np.abs(found.array[:length] - wanted[:length]).max() * 127.5)
    loudness = np.sqrt(2) * np.std(found.array[length // 4 : length * 3 // 4])  # a lossy codec shifts the tone
    return 0.0 if loudness == pytest.approx(np.abs(wanted).max(), rel=0.25) else 255.0


def shown_picture(data: bytes) -> np.ndarray:
    """What Pillow shows on a white ground, by arithmetic of its own."""
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):
        return np.repeat(np.asarray(image).astype(float)[..., None] / 257, 3, axis=2)
    if image.mode == "F":
        return np.repeat(np.asarray(image)[..., None] * 255, 3, axis=2)
    return on_white(
        np.asarray(image.convert("RGBA")) if image.has_transparency_data else np.asarray(image.convert("RGB"))
    )


def shown_video(data: bytes) -> np.ndarray:
    """What FFmpeg shows on a white ground."""
    with av.open(io.BytesIO(data)) as file:
        frames = [frame.to_ndarray(format="rgba") for frame in file.decode(video=0)]
    return np.stack([on_white(frame) for frame in frames])


def on_white(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[-1] == 3:
        return pixels.astype(float)
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + 255 * (1 - alpha)


@pytest.mark.slow
def test_real_shaped_media_are_accepted_and_shown_as_the_libraries_show_them(tmp_path: Path) -> None:
    samples, refused, different = list(all_samples()), dict[str, str](), dict[str, float]()
    path = tmp_path / "medium"
    for sample in samples:
        path.write_bytes(sample.data)
        try:
            validate(path, LIMITS, MODALITIES[sample.kind])
            if (levels := difference(sample)) > LEVELS:
                different[sample.name] = levels
        except OmnialignError as error:
            refused[sample.name] = error.message
    assert len(samples) >= 400
    assert len(refused) <= 0.02 * len(samples), refused
    assert not different
