"""What looks or sounds the same is similar and has a key in common; what only a naive hash would take for it is not."""

import io
from collections.abc import Callable

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from omnialign import media
from omnialign.v1.content_pb2 import MODALITY_AUDIO, MODALITY_IMAGE, MODALITY_VIDEO
from services.data.operations.deduplicating import MEDIA_SIMILARITY
from services.data.operations.fingerprints import Fingerprint, checked, fingerprint, fingerprints, keys, similarity

RATE_HZ = 16_000


def encoded(pixels: np.ndarray, form: str, **options: int) -> Fingerprint:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return fingerprint(MODALITY_IMAGE, buffer.getvalue())


def resized(pixels: np.ndarray, factor: float) -> np.ndarray:
    image = Image.fromarray(pixels)
    size = (round(image.width * factor), round(image.height * factor))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def scene(seed: int = 0) -> np.ndarray:
    """A picture with as much detail as a photograph: noise of which higher frequencies have less."""
    random, size = np.random.default_rng(seed), 240
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    frequency[0, 0] = 1
    channels = [np.fft.ifft2(np.fft.fft2(random.standard_normal((size, size))) / frequency).real for _ in range(3)]
    pixels = np.stack(channels, axis=-1)
    return ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255).astype(np.uint8)


def shape(colour: str = "red", *, left: int = 20, radius: int = 10, kind: str = "ellipse") -> np.ndarray:
    image = Image.new("RGB", (64, 64), "white")
    getattr(ImageDraw.Draw(image), kind)([left, 20, left + 2 * radius, 20 + 2 * radius], fill=colour)
    return np.asarray(image)


def page(line: str) -> np.ndarray:
    image = Image.new("RGB", (400, 400), "white")
    for number in range(12):
        ImageDraw.Draw(image).text((10, 10 + 30 * number), line, fill="black", font=ImageFont.load_default(18))
    return np.asarray(image)


def plain(*colour: int) -> np.ndarray:
    return np.full((64, 64, 3), colour, dtype=np.uint8)


def are_near(one: Fingerprint, other: Fingerprint) -> bool:
    near = similarity(one, other) >= MEDIA_SIMILARITY
    assert not near or set(keys(one)) & set(keys(other))  # what is similar must be found
    return near


CHANGES: dict[str, Callable[[np.ndarray], Fingerprint]] = {
    "JPEG": lambda pixels: encoded(pixels, "JPEG", quality=75),
    "a poor JPEG": lambda pixels: encoded(pixels, "JPEG", quality=35),
    "WebP": lambda pixels: encoded(pixels, "WEBP", quality=80),
    "half the size": lambda pixels: encoded(resized(pixels, 0.5), "PNG"),
    "larger, as JPEG": lambda pixels: encoded(resized(pixels, 1.5), "JPEG", quality=80),
    "without one row": lambda pixels: encoded(pixels[1:], "PNG"),
    "without one row and column": lambda pixels: encoded(pixels[:-1, 1:], "PNG"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "pixels", [scene(0), scene(1), shape(), page("The quick brown fox jumps over it"), plain(40, 90, 200)]
)
def test_a_picture_that_was_stored_anew_is_near(pixels: np.ndarray, change: str) -> None:
    assert are_near(encoded(pixels, "PNG"), CHANGES[change](pixels))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (plain(200, 0, 0), plain(0, 0, 200)),
        (plain(255, 255, 255), plain(0, 0, 0)),
        (plain(128, 128, 128), plain(140, 140, 140)),
        (shape("red"), shape("green")),
        (shape("red"), shape("orange")),
        (shape("red"), shape("darkred")),
        (shape(), shape(left=24)),
        (shape(), shape(radius=13)),
        (shape(), shape(kind="rectangle")),
        (page("The quick brown fox jumps over it"), page("A slow black cat sleeps under some")),
        (scene(0), scene(1)),
        (scene(0), scene(0)[:, ::-1]),
        (scene(0), scene(0)[:, :180]),
    ],
)
def test_pictures_of_different_things_are_not_near(one: np.ndarray, other: np.ndarray) -> None:
    assert not are_near(encoded(one, "PNG"), encoded(np.ascontiguousarray(other), "PNG"))


def tone(hertz: float, *, seconds: float = 2.0, loudness: float = 0.4) -> np.ndarray:
    return (loudness * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def speech(seed: int) -> np.ndarray:
    """Syllables: bursts of harmonics of changing pitch, with pauses."""
    random, parts = np.random.default_rng(seed), []
    for _ in range(12):
        pitch, length = random.uniform(90, 250), int(random.uniform(0.1, 0.3) * RATE_HZ)
        time = np.arange(length) / RATE_HZ
        parts.append(sum(np.sin(2 * np.pi * pitch * n * time) * random.uniform(0, 0.2) for n in range(1, 12)))
        parts.append(np.zeros(int(random.uniform(0.02, 0.1) * RATE_HZ)))
    samples = np.concatenate(parts)[: 2 * RATE_HZ]
    return (0.9 * samples / np.abs(samples).max()).astype(np.float32)


def heard(samples: np.ndarray) -> Fingerprint:
    return fingerprint(MODALITY_AUDIO, media.write_audio(samples, RATE_HZ))


def recoded(samples: np.ndarray, form: str, codec: str, rate_hz: int) -> Fingerprint:
    """As a compressed file at another rate."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as file:
        stream = file.add_stream(codec, rate=rate_hz, layout="mono")
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = RATE_HZ
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=rate_hz, frame_size=stream.frame_size or 0
        )
        for one in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(one))
        file.mux(stream.encode(None))
    return fingerprint(MODALITY_AUDIO, buffer.getvalue())


@pytest.mark.parametrize("samples", [tone(440), tone(1000, loudness=0.05), speech(0), speech(1)])
def test_a_sound_that_was_stored_anew_is_near(samples: np.ndarray) -> None:
    whole = heard(samples)
    assert are_near(whole, recoded(samples, "flac", "flac", RATE_HZ))
    assert are_near(whole, recoded(samples, "mp3", "libmp3lame", 44_100))
    assert are_near(whole, heard(0.9 * samples))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tone(440), tone(466)),
        (tone(440), tone(880)),
        (tone(440), tone(440, seconds=3)),
        (tone(440), speech(0)),
        (speech(0), speech(1)),
        (np.zeros(32_000, np.float32), np.zeros(64_000, np.float32)),
        (np.zeros(32_000, np.float32), tone(440, loudness=0.002)),
        (np.zeros(32_000, np.float32), 0.01 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)),
        (np.concatenate([tone(440), tone(880)]), np.concatenate([tone(880), tone(440)])),
    ],
)
def test_sounds_of_different_things_are_not_near(one: np.ndarray, other: np.ndarray) -> None:
    assert not are_near(heard(one), heard(other))


def clip(*lefts: int, colour: str = "red") -> np.ndarray:
    return np.stack([shape(colour, left=left) for left in lefts])


def seen(frames: np.ndarray, **options: float) -> Fingerprint:
    return fingerprint(MODALITY_VIDEO, media.write_video(frames, **{"frames_per_second": 8, **options}))


def test_a_video_is_near_what_moves_in_the_same_way() -> None:
    rightwards = clip(*range(2, 42, 2))
    assert are_near(seen(rightwards), seen(np.stack([resized(frame, 1.5) for frame in rightwards])))
    assert not are_near(seen(rightwards), seen(rightwards[::-1]))
    assert not are_near(seen(rightwards), seen(clip(*range(2, 42, 2), colour="blue")))
    assert not are_near(seen(rightwards), seen(clip(*[20] * 20)))
    assert not are_near(seen(rightwards), seen(rightwards, frames_per_second=4))


def test_what_does_not_decode_has_no_fingerprint_and_what_a_child_makes_up_is_none() -> None:
    good = np.frombuffer(media.write_image(shape()), dtype=np.uint8)
    assert [one is None for one in fingerprints([(MODALITY_IMAGE, good), (MODALITY_IMAGE, good[:40])])] == [False, True]
    made_up = [
        Fingerprint(()),
        Fingerprint((np.zeros((1, 2, 2), np.float64),)),
        Fingerprint((np.zeros((2, 2), np.uint8),)),
        Fingerprint((np.zeros((1, 2, 999), np.uint8),)),
        Fingerprint((np.zeros((1, 2, 2), np.uint8),), seconds=float("nan")),
        Fingerprint((np.zeros((1, 2, 2), np.uint8),), aspect=0.0),
        ("no", "fingerprint"),
    ]
    assert [checked(one) for one in made_up] == [None] * len(made_up)
