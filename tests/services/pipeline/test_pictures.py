"""How media look in a report."""

import numpy as np

from omnialign import media
from omnialign.v1 import content_pb2
from services.pipeline.pages import pictures


def image(mime_type: str) -> content_pb2.Media:
    return content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type=mime_type, sha256="a" * 64)


def test_a_medium_that_is_missing_or_broken_becomes_a_note():
    reference = image("image/png")
    assert pictures.picture(reference, None).kind == "missing"
    assert "does not decode" in pictures.picture(reference, b"no picture").caption


def test_an_unlisted_type_is_never_put_into_a_data_uri():
    red = np.full((32, 32, 3), (214, 60, 52), dtype=np.uint8)
    shown = pictures.picture(image("image/svg+xml"), media.write_image(red))
    assert shown.picture.startswith("data:image/png;base64,")


def test_a_large_picture_is_reduced():
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    reference = image("image/png")
    data = media.write_image(noise)
    assert len(pictures.picture(reference, data).picture) < len(data)


def test_a_spectrogram_shows_a_tone_at_its_height_and_survives_silence():
    tone = np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000).astype(np.float32)
    samples, _ = media.read_audio(media.write_audio(tone, 8000))
    rows = pictures.spectrogram(samples).astype(int).sum(axis=(1, 2))
    assert 0.65 < int(rows.argmax()) / len(rows) < 0.8  # 1 kHz of 4 kHz, counted from the top
    assert pictures.spectrogram(np.zeros(10, dtype=np.float32)).shape == (96, 320, 3)


def test_a_strip_holds_at_most_eight_frames():
    frames = np.zeros((30, 32, 48, 3), dtype=np.uint8)
    assert pictures.frame_strip(frames).shape == (32, 48 * 8 + 2 * 7, 3)
    assert pictures.frame_strip(frames[:1]).shape == (32, 48, 3)
