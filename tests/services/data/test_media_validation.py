"""Media are taken for what their bytes prove to be, within limits."""

import io
import struct
import wave
import zlib
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from omnialign.errors import InvalidArgument
from omnialign.media import write_audio, write_image, write_video
from omnialign.v1 import content_pb2
from services.data.config import DataConfig
from services.data.media_types import modality_of, sniff
from services.data.media_validation import MediaLimits, validate

LIMITS = MediaLimits.of(DataConfig(root=Path("unused")))
PIXELS = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
SOUND = np.sin(np.arange(4000) / 10).astype(np.float32)


def pillow(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format=kind, **options)
    return buffer.getvalue()


def encoded(container: str, codec: str, rate_hz: int = 48000) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout="mono")
        samples = (np.sin(np.arange(rate_hz // 2) / 20) * 20000).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = rate_hz
        for converted in [*av.AudioResampler(format=stream.format.name, frame_size=stream.frame_size).resample(frame)]:
            for packet in stream.encode(converted):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return buffer.getvalue()


def video(container: str, codec: str, frames: int = 8, target: Path | None = None) -> bytes:
    """The file, with its index first when it is written to a `target`."""
    buffer = io.BytesIO()
    options = {"movflags": "faststart"} if target else {}
    with av.open(str(target) if target else buffer, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            picture = np.full((32, 32, 3), index * 20 % 256, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return target.read_bytes() if target else buffer.getvalue()


GOOD = {
    "png": (lambda: write_image(PIXELS), "image/png"),
    "jpeg": (lambda: pillow("JPEG"), "image/jpeg"),
    "webp": (lambda: pillow("WEBP"), "image/webp"),
    "gif": (lambda: pillow("GIF", save_all=True, append_images=[Image.new("RGB", (16, 16))]), "image/gif"),
    "wav": (lambda: write_audio(SOUND, 8000), "audio/wav"),
    "flac": (lambda: encoded("flac", "flac"), "audio/flac"),
    "mp3": (lambda: encoded("mp3", "libmp3lame"), "audio/mpeg"),
    "ogg": (lambda: encoded("ogg", "libopus"), "audio/ogg"),
    "mp4": (lambda: write_video(np.zeros((8, 32, 32, 3), np.uint8), 8), "video/mp4"),
    "webm": (lambda: video("webm", "libvpx"), "video/webm"),
}


def refused(data: bytes, tmp_path: Path, limits: MediaLimits = LIMITS) -> str:
    path = tmp_path / "media"
    path.write_bytes(data)
    with pytest.raises(InvalidArgument) as caught:
        validate(path, limits)
    return caught.value.reason


@pytest.mark.parametrize("kind", GOOD)
def test_each_known_type_is_recognised_and_decodes(kind: str, tmp_path: Path) -> None:
    make, mime_type = GOOD[kind]
    data = make()
    path = tmp_path / kind
    path.write_bytes(data)
    assert validate(path, LIMITS, modality_of(mime_type), mime_type) == mime_type


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "wav", "flac", "mp4"])
def test_a_file_that_is_cut_off_is_refused(kind: str, tmp_path: Path) -> None:
    data = GOOD[kind][0]()
    assert refused(data[: len(data) * 6 // 10], tmp_path) in ("MEDIA_TRUNCATED", "MEDIA_UNDECODABLE")


def test_a_video_that_can_be_read_from_its_beginning_is_refused_when_frames_are_missing(tmp_path: Path) -> None:
    data = video("mp4", "libx264", frames=48, target=tmp_path / "x.mp4")
    assert refused(data[: len(data) * 8 // 10], tmp_path) in ("MEDIA_TRUNCATED", "MEDIA_UNDECODABLE")


@pytest.mark.parametrize("kind", ["png", "wav", "mp3"])
def test_where_damaged_files_are_accepted_a_part_is_enough_and_nothing_is_not(kind: str, tmp_path: Path) -> None:
    make, mime_type = GOOD[kind]
    path = tmp_path / kind
    for data in (make(), make()[: len(make()) * 6 // 10]):
        path.write_bytes(data)
        assert validate(path, replace(LIMITS, accept_damaged=True)) == mime_type
    reason = refused(make()[:43], tmp_path, replace(LIMITS, accept_damaged=True))
    assert reason in ("MEDIA_TRUNCATED", "MEDIA_UNDECODABLE")


def test_a_wav_that_ends_before_its_header_says_is_truncated(tmp_path: Path) -> None:
    assert refused(write_audio(SOUND, 8000)[:-2000], tmp_path) == "MEDIA_TRUNCATED"


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + b"x" * 100, b"\xff\xd8\xff" + b"y" * 100, b"fLaC" + b"z" * 99])
def test_a_file_with_only_the_first_bytes_of_a_type_is_undecodable(data: bytes, tmp_path: Path) -> None:
    assert refused(data, tmp_path) in ("MEDIA_UNDECODABLE", "MEDIA_TRUNCATED")


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (b"", "MEDIA_EMPTY", "empty"),
        (b"nothing that anyone knows", "MEDIA_UNDECODABLE", "PNG, JPEG"),
        (b"<svg></svg>", "MEDIA_TYPE_UNSUPPORTED", "rsvg-convert"),
        (b"#EXTM3U\n/etc/x", "MEDIA_TYPE_UNSUPPORTED", "playlist"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "MEDIA_TYPE_UNSUPPORTED", "heif-convert"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "MEDIA_TYPE_UNSUPPORTED", "git lfs pull"),
    ],
)
def test_what_is_not_taken_is_refused_with_what_it_is_and_what_to_do(
    data: bytes, reason: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "media"
    path.write_bytes(data)
    with pytest.raises(InvalidArgument) as caught:
        validate(path, LIMITS)
    assert caught.value.reason == reason
    assert says in caught.value.message


def test_a_claim_that_the_bytes_contradict_is_a_mismatch(tmp_path: Path) -> None:
    path = tmp_path / "media"
    path.write_bytes(write_image(PIXELS))
    for claim in ((0, "image/jpeg"), (content_pb2.MODALITY_AUDIO, "")):
        with pytest.raises(InvalidArgument) as caught:
            validate(path, LIMITS, *claim)
        assert caught.value.reason == "MEDIA_TYPE_MISMATCH"
    path.write_bytes(write_audio(SOUND, 8000))
    assert validate(path, LIMITS, 0, "Audio/X-WAV; codec=1") == "audio/wav"


def bomb(width: int, height: int) -> bytes:
    """A small PNG that unpacks to `width` x `height`: its header is all that may be looked at."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_from_its_header(side: int, tmp_path: Path) -> None:
    assert refused(bomb(side, side), tmp_path) == "MEDIA_TOO_LARGE"


def test_an_animation_counts_all_its_frames(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(PIXELS, index)) for index in range(10)]
    data = pillow("GIF", save_all=True, append_images=frames)
    assert refused(data, tmp_path, replace(LIMITS, image_pixels=16 * 16 * 5)) == "MEDIA_TOO_LARGE"


def test_long_sounds_and_videos_are_refused(tmp_path: Path) -> None:
    assert refused(write_audio(SOUND, 8000), tmp_path, replace(LIMITS, seconds=0.3)) == "MEDIA_TOO_LARGE"
    assert refused(video("mp4", "libx264"), tmp_path, replace(LIMITS, frames=5)) == "MEDIA_TOO_LARGE"
    assert refused(video("mp4", "libx264"), tmp_path, replace(LIMITS, frame_pixels=100)) == "MEDIA_TOO_LARGE"


def test_a_wav_of_unknown_length_is_taken(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\1\0" * 800)
    data = bytearray(buffer.getvalue())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path = tmp_path / "streamed.wav"
    path.write_bytes(data)
    assert validate(path, LIMITS) == "audio/wav"


@given(st.binary(max_size=64))
def test_any_bytes_suggest_a_type_of_a_modality_or_none(head: bytes) -> None:
    suggested = sniff(head)
    assert not suggested or modality_of(suggested)
