"""Frames at even times: what is on screen then."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.media.videos import JITTER_SECONDS, evenly_spaced


@given(st.integers(1, 200), st.sampled_from([1, 8, 23.976, 25, 29.97, 60, 120, 240]))
@settings(max_examples=40)
def test_of_a_constant_rate_they_are_all_frames_though_time_stamps_are_rounded(count: int, rate: float) -> None:
    exact = np.arange(count) / rate
    for times in (exact, exact.round(3) if rate <= 120 else exact):
        assert evenly_spaced(times.tolist()).tolist() == list(range(count))


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=50))
@settings(max_examples=40)
def test_each_moment_has_the_frame_on_screen_then(durations: list[float]) -> None:
    times = np.cumsum(durations)
    chosen = evenly_spaced(times.tolist())
    assert len(chosen) == len(times)
    assert chosen[0] == 0
    assert chosen[-1] == len(times) - 1
    for index, moment in zip(chosen, np.linspace(times[0], times[-1], len(times)), strict=True):
        assert times[index] <= moment + JITTER_SECONDS
        assert index == len(times) - 1 or moment < times[index + 1]
