"""What is in sound and video files, and when something is missing from them."""

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from omnialign.media import MediaError, read_audio, read_video, write_audio, write_video
from omnialign.media.containers import mime_type

RATE_HZ = 16000
TONE = (0.5 * np.sin(np.arange(RATE_HZ) / 10)).astype(np.float32)
GREYS = np.repeat(np.arange(0, 240, 8, dtype=np.uint8), 32 * 32 * 3).reshape(30, 32, 32, 3)


def sound(container: str, codec: str, samples: np.ndarray = TONE, *, rate_hz: int = RATE_HZ, **options: str) -> bytes:
    buffer = io.BytesIO()
    container_options = {"write_xing": options.pop("write_xing", "1")} if container == "mp3" else {}
    with av.open(buffer, "w", format=container, options=container_options) as file:
        stream = file.add_stream(codec, rate=rate_hz, layout="mono", options=options)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(format=stream.format.name, rate=rate_hz, frame_size=stream.frame_size)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def test_sound_alone_in_an_mp4_is_a_sound() -> None:
    data = sound("mp4", "aac")
    assert data[4:8] == b"ftyp"
    assert mime_type(data) == "audio/mp4"
    assert mime_type(sound("matroska", "pcm_s16le")) == "audio/x-matroska"
    assert mime_type(sound("webm", "libopus", rate_hz=48000)) == "audio/webm"
    assert mime_type(write_video(GREYS, 10)) == "video/mp4"


def test_a_flac_behind_an_id3_tag_is_a_flac() -> None:
    tagged = b"ID3\x04\0\0\0\0\0\x20" + b"\0" * 32 + sound("flac", "flac")
    assert mime_type(tagged) == "audio/flac"
    assert len(read_audio(tagged)[0]) == len(TONE)


def test_an_mp3_whose_length_is_guessed_too_long_is_whole_and_one_that_counts_its_frames_is_not() -> None:
    # Quiet first, then noise: a guess from the first frames' bit rate is far from the truth.
    noise = np.random.default_rng(0).normal(0, 0.2, 8 * RATE_HZ).astype(np.float32)
    samples = np.concatenate([np.zeros(8 * RATE_HZ, np.float32), noise])
    data = sound("mp3", "libmp3lame", samples, write_xing="0", q="2", b="0")
    assert len(read_audio(data)[0]) == pytest.approx(len(samples), abs=4000)
    counted = sound("mp3", "libmp3lame", samples)
    with pytest.raises(MediaError, match="seconds decode"):
        read_audio(counted[: len(counted) // 2])


def test_an_mp3_with_a_tag_behind_it_is_whole() -> None:
    assert len(read_audio(sound("mp3", "libmp3lame") + b"TAG" + b"title".ljust(125, b"\0"))[0]) >= len(TONE)


def test_an_opus_that_was_cut_from_a_stream_is_whole() -> None:
    pages = sound("ogg", "libopus", np.tile(TONE, 15), rate_hz=48000).split(b"OggS")[1:]
    assert len(pages) > 3
    data = b"".join(b"OggS" + page for page in (*pages[:2], *pages[3:]))  # the first second is gone
    assert 3 * 48000 < len(read_audio(data)[0]) < 5 * 48000


def test_a_wav_whose_riff_size_counts_its_own_header_is_whole() -> None:
    data = bytearray(write_audio(TONE, RATE_HZ))
    for size in (len(data), 1, 1 << 30):
        struct.pack_into("<I", data, 4, size)
        assert len(read_audio(bytes(data))[0]) == len(TONE)


@pytest.mark.parametrize("placeholder", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_that_was_written_to_a_pipe_is_whole(placeholder: int) -> None:
    data = bytearray(write_audio(TONE, RATE_HZ))
    struct.pack_into("<I", data, 40, placeholder)
    assert len(read_audio(bytes(data))[0]) == len(TONE)


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("aiff", "pcm_s16be")])
def test_a_sound_that_states_more_than_it_holds_is_not_whole(container: str, codec: str) -> None:
    data = sound(container, codec, np.random.default_rng(0).normal(0, 0.2, RATE_HZ).astype(np.float32))
    with pytest.raises(MediaError):
        read_audio(data[: len(data) // 2])


def test_an_mp4_whose_edit_list_leaves_out_frames_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "edited.mp4"
    with av.open(str(path), "w", options={"use_editlist": "1"}) as file:
        stream = file.add_stream("mpeg4", rate=30, options={"g": "5"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for index, pixels in enumerate(GREYS):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index - 5  # frames before zero are left out
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    frames, _ = read_video(path.read_bytes())
    assert len(frames) == 25


def test_an_mp4_that_ends_before_its_index_says_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "fast.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=30)
        stream.width = stream.height = 32
        for pixels in GREYS:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    data = path.read_bytes()
    assert len(read_video(data)[0]) == len(GREYS)
    with pytest.raises(MediaError):
        read_video(data[:-400])


def test_a_playlist_is_no_medium(tmp_path: Path) -> None:
    target = tmp_path / "secret.wav"
    target.write_bytes(write_audio(TONE, RATE_HZ))
    for text in (f"#EXTM3U\n#EXTINF:1,\nfile://{target}\n", f"ffconcat version 1.0\nfile {target}\n"):
        assert mime_type(text.encode()) == ""
