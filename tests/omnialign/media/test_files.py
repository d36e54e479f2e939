"""Media files are written and read without a change that anyone would see or hear."""

import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from omnialign.media import (
    MediaError,
    read_audio,
    read_image,
    read_video,
    videos,
    write_audio,
    write_image,
    write_video,
)

DECODERS = {"libx264": "h264", "libvpx-vp9": "vp9", "mpeg4": "mpeg4"}


@given(arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))))
@settings(max_examples=25)
def test_an_image_comes_back_as_it_was(pixels):
    assert (read_image(write_image(pixels)) == pixels).all()


def test_a_sound_comes_back_within_a_step_and_a_half_of_its_quantisation():
    samples = np.sin(np.arange(4000) / 7).astype(np.float32) * 0.8
    read, rate_hz = read_audio(write_audio(samples, 8000))
    assert rate_hz == 8000
    assert np.abs(read - samples).max() <= 1.5 / 32767


@pytest.mark.parametrize("encoder", videos.ENCODERS)
def test_a_video_keeps_its_frames_and_rate_and_is_close_in_colour_with_the_best_encoder_there_is(monkeypatch, encoder):
    names = list(videos.ENCODERS)
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - set(names[: names.index(encoder)]))
    frames = np.zeros((5, 32, 48, 3), dtype=np.uint8)
    frames[2:, 8:24, 8:24] = (200, 40, 40)
    data = write_video(frames, 8)
    read, rate = read_video(data)
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].codec_context.codec.name == DECODERS[encoder]
    assert read.shape == frames.shape
    assert rate == 8
    assert np.abs(read.astype(int) - frames).mean() < 4


@pytest.mark.parametrize("read", [read_image, read_audio, read_video])
@pytest.mark.parametrize("data", [b"", b"not media at all", b"RIFF\x00\x00", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_bytes_that_are_no_media_are_a_typed_error(read, data):
    with pytest.raises(MediaError) as caught:
        read(data)
    assert caught.value.reason == "MEDIA_UNDECODABLE"


def test_a_truncated_image_is_a_typed_error():
    data = write_image(np.full((64, 64, 3), 77, dtype=np.uint8))
    with pytest.raises(MediaError):
        read_image(data[: len(data) // 2])


def test_a_picture_that_would_fill_the_memory_is_refused():
    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, format="PNG")
    with pytest.raises(MediaError) as caught:
        read_image(buffer.getvalue())
    assert caught.value.reason == "MEDIA_TOO_LARGE"
