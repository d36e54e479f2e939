"""Sounds of any number of channels, and samples that come as numbers."""

import io
import os
import subprocess
import sys
import wave
from collections.abc import Callable

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.media import MediaError, read_audio
from omnialign.media.bounds import MAX_CHANNELS
from omnialign.media.sounds import mono_samples

SCRIPT = "import sys; from omnialign.media import read_audio; print(len(read_audio(sys.stdin.buffer.read())[0]))"


def wav(channels: int, samples: int = 400) -> bytes:
    """The first channel at a quarter of full scale, the others silent."""
    frames = np.zeros((samples, channels), dtype="<i2")
    frames[:, 0] = 8192
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(frames.tobytes())
    return buffer.getvalue()


def aiff_in_an_order_of_its_own() -> bytes:
    """Eight channels of an AIFF, in an order for which there is no name."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="aiff") as file:
        stream = file.add_stream("pcm_s16be", rate=8000, layout="7.1")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 3200), np.int16), format="s16", layout="7.1")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("make", [lambda: wav(8), aiff_in_an_order_of_its_own], ids=["planar", "custom order"])
def test_a_sound_of_eight_channels_ends_no_process(make: Callable[[], bytes]) -> None:
    environment = os.environ | {"MALLOC_CHECK_": "3"}  # an error in memory ends the process at once
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=make(), capture_output=True, check=False, timeout=60, env=environment
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"400"), done.stderr


@pytest.mark.parametrize("channels", [*range(1, 13), 16, 24, 32, 64])
def test_all_channels_are_averaged(channels: int) -> None:
    samples, rate_hz = read_audio(wav(channels))
    assert (len(samples), rate_hz) == (400, 8000)
    assert samples == pytest.approx(np.full(400, 0.25 / channels), abs=1e-4)


def test_more_channels_than_can_be_resampled_are_refused() -> None:
    with pytest.raises(MediaError, match="channels") as caught:
        read_audio(wav(MAX_CHANNELS + 1))
    assert caught.value.reason == "MEDIA_TOO_LARGE"


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        (np.array([-32768, 0, 16384], dtype=np.int16), [-1, 0, 0.5]),
        (np.array([-64, 64], dtype=np.int8), [-0.5, 0.5]),
        (np.array([0, 128, 192], dtype=np.uint8), [-1, 0, 0.5]),
        (np.array([1 << 30], dtype=np.int32), [0.5]),
        ([16384, -8192], [0.5, -0.25]),
        ([1 << 30, 0], [0.5, 0]),
        ([16384.0, -8192.0], [0.5, -0.25]),
        ([0.5, -0.25], [0.5, -0.25]),
        ([0, 1, -1], [0, 1, -1]),
        ([[16384, 0, 0], [0, 0, 0]], [0.25, 0, 0]),
    ],
)
def test_numbers_are_scaled_by_their_type(numbers: object, wanted: list[float]) -> None:
    assert mono_samples(numbers).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("numbers", [[], [[[1.0]]], ["loud"], [float("nan")], [float("inf")], [3.5, 0.1], [1e12]])
def test_numbers_of_an_unknown_scale_are_no_sound(numbers: object) -> None:
    with pytest.raises(ValueError, match=r"sound|samples"):
        mono_samples(numbers)


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_16_bit_samples_never_leave_the_unit_range(numbers: list[int]) -> None:
    assert np.abs(mono_samples(numbers)).max() <= 1
