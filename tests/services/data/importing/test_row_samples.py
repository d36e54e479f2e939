"""Samples in a row become the sound that they were, whatever their numbers are."""

import numpy as np
import pytest

from omnialign.errors import InvalidArgument
from omnialign.media import read_audio
from services.data.importing.media_files import _to_wav

TONE = 0.5 * np.sin(np.arange(800) / 5)


@pytest.mark.parametrize(
    "array",
    [
        TONE.tolist(),
        (TONE * 32767).astype(int).tolist(),
        (TONE * 32767).astype(np.int16),
        (TONE * 32767).round().tolist(),
        (TONE * (2**31 - 1)).astype(int).tolist(),
    ],
    ids=["floats", "json integers", "int16", "whole floats", "32 bits"],
)
def test_samples_keep_their_shape(array: object) -> None:
    samples, rate_hz = read_audio(_to_wav({"array": array, "sampling_rate": 8000}))
    assert rate_hz == 8000
    assert np.abs(samples - TONE).max() < 2e-4


@pytest.mark.parametrize(
    "row",
    [
        {"array": [0.1, 3.7], "sampling_rate": 8000},
        {"array": [10**25], "sampling_rate": 8000},
        {"array": [0.1], "sampling_rate": 0},
        {"array": [0.1]},
        {"array": "loud", "sampling_rate": 8000},
    ],
    ids=["scale", "huge", "rate", "no rate", "text"],
)
def test_what_is_no_sound_is_a_typed_error(row: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        _to_wav(row)
    assert caught.value.reason == "MEDIA_UNDECODABLE"
