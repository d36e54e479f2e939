"""Sounds as a row of pure tones: one code per frame, for pitch and loudness."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from omnialign.media import Samples, read_audio, write_audio
from omnialign.v1 import content_pb2

SILENCE_RMS = 0.02


class ToneAudioCodec:
    """`frames` codes per sound. Code 0 is silence; 1 + pitch * levels + level is a tone."""

    modality = content_pb2.MODALITY_AUDIO

    def __init__(
        self,
        *,
        frequencies_hz: Sequence[float],
        amplitudes: Sequence[float],
        frames: int,
        frame_samples: int,
        rate_hz: int,
    ) -> None:
        self.frequencies_hz = np.asarray(frequencies_hz, dtype=np.float64)
        self.amplitudes = np.asarray(amplitudes, dtype=np.float64)
        self.frames, self.frame_samples, self.rate_hz = frames, frame_samples, rate_hz
        self.num_codes = 1 + len(frequencies_hz) * len(amplitudes)
        self.min_units = self.max_units = frames
        self.unit = (range(self.num_codes),)

    def encode(self, data: bytes) -> list[int]:
        """Codes of a sound file; what is longer than the codec's length is cut, what is shorter is silence."""
        return self.encode_array(*read_audio(data))

    def encode_array(self, array: Samples, rate: float) -> list[int]:
        """Codes of mono samples at `rate` hertz."""
        samples = self._resample(array, int(rate))
        wanted = self.frames * self.frame_samples
        padded = np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
        return [self._code(frame) for frame in padded.reshape(self.frames, self.frame_samples)]

    def decode(self, codes: Sequence[int]) -> bytes:
        """A WAV of the codes."""
        return write_audio(np.concatenate([self._tone(code) for code in codes]), self.rate_hz)

    def _resample(self, samples: Samples, rate_hz: int) -> Samples:
        if rate_hz == self.rate_hz or not len(samples):
            return samples
        times = np.arange(0, len(samples) / rate_hz, 1 / self.rate_hz)
        resampled: Samples = np.interp(times, np.arange(len(samples)) / rate_hz, samples).astype(np.float32)
        return resampled

    def _code(self, frame: NDArray[np.float32]) -> int:
        loudness = float(np.sqrt((frame**2).mean()))
        if loudness < SILENCE_RMS:
            return 0
        spectrum = np.abs(np.fft.rfft(frame * np.hanning(len(frame))))
        peak_hz = max(1.0, float(spectrum[1:].argmax() + 1) * self.rate_hz / len(frame))
        pitch = int(np.abs(np.log(self.frequencies_hz / peak_hz)).argmin())
        level = int(np.abs(self.amplitudes - loudness * np.sqrt(2)).argmin())
        return 1 + pitch * len(self.amplitudes) + level

    def _tone(self, code: int) -> Samples:
        if code == 0:
            return np.zeros(self.frame_samples, dtype=np.float32)
        pitch, level = divmod(code - 1, len(self.amplitudes))
        times = np.arange(self.frame_samples) / self.rate_hz
        # Short ramps at both ends keep the joints of frames free of clicks.
        ramp = np.minimum(1, np.minimum(np.arange(self.frame_samples), np.arange(self.frame_samples)[::-1]) / 40)
        wave = ramp * np.sin(2 * np.pi * self.frequencies_hz[pitch] * times)
        tone: Samples = (self.amplitudes[level] * wave).astype(np.float32)
        return tone
