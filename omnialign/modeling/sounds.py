"""Sounds at the rate that a model hears them at."""

import av
import numpy as np

from omnialign.media import Samples


def resampled(samples: Samples, rate_hz: int, wanted_hz: int) -> Samples:
    """Mono samples `(samples,)` at another rate, as many as their length in seconds asks for, rounded up."""
    if rate_hz == wanted_hz or not len(samples):
        return samples
    resampler = av.AudioResampler(format="flt", layout="mono", rate=wanted_hz)
    whole = np.ascontiguousarray(samples, dtype=np.float32)[None]
    frame = av.AudioFrame.from_ndarray(whole, format="flt", layout="mono")
    frame.sample_rate = rate_hz
    parts = [out.to_ndarray().reshape(-1) for out in (*resampler.resample(frame), *resampler.resample(None))]
    found = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    wanted = -(-len(samples) * wanted_hz // rate_hz)
    return np.pad(found[:wanted], (0, max(0, wanted - len(found)))).astype(np.float32)
