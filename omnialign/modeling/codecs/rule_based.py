"""Codecs without weights: images and videos as grids of palette colours, sounds as rows of pure tones.

They are deliberately small, and exact on media made of flat cells and steady tones. Learned codecs (VQ, EnCodec)
implement the same protocol; nothing else in the system knows which one it holds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnialign.media import (
    MediaError,
    Pixels,
    Samples,
    read_audio,
    read_image,
    read_video,
    write_audio,
    write_image,
    write_video,
)
from omnialign.modeling.codecs.limits import (
    MAX_CODES,
    MAX_PIXELS,
    MAX_RATE,
    MAX_SAMPLES,
    MAX_SIDE,
    MAX_TOKENS,
    MIN_VIDEO_RATE,
    positive,
    product,
    whole,
)
from omnialign.v1 import content_pb2

Codes = NDArray[np.int64]
Cells = NDArray[np.integer[Any]]

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
MAX_RUN = 64
CELL_PIXELS = 8
"""Pixels along a side of a cell while an image is quantised."""


@dataclass(frozen=True)
class Palette:
    """Colours as `#rrggbb`, and the quantisation of images to them."""

    colours: tuple[str, ...]
    rgb: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError for what is not a list of colours."""
        whole("the number of colours", len(self.colours), MAX_CODES)
        if wrong := [colour for colour in self.colours if not (isinstance(colour, str) and _COLOUR.fullmatch(colour))]:
            raise ValueError(f"a colour must be written as #rrggbb, not {wrong[0]!r:.40}")
        values = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in self.colours]
        object.__setattr__(self, "rgb", np.array(values, dtype=np.float32))

    def quantise(self, pixels: Pixels, rows: int, columns: int) -> Codes:
        """The nearest palette index of each cell's centre, `(rows, columns)`, for an image of any size."""
        cell = CELL_PIXELS
        if pixels.shape[:2] != (rows * cell, columns * cell):
            resized = Image.fromarray(pixels).resize((columns * cell, rows * cell), Image.Resampling.BOX)
            pixels = np.asarray(resized)
        # Mean colour of each cell without its 2-pixel border, where neighbours bleed in: (rows, columns, 3).
        cells = pixels.reshape(rows, cell, columns, cell, 3)[:, 2:-2, :, 2:-2].astype(np.float32).mean(axis=(1, 3))
        codes: Codes = (
            ((cells[:, :, None, :] - self.rgb) ** 2).sum(-1).argmin(-1)
        )  # distances: (rows, columns, colours)
        return codes

    def paint(self, cells: Codes, cell_pixels: int) -> Pixels:
        """The image (height, width, 3) of a grid of palette indices."""
        pixels = self.rgb.astype(np.uint8)[cells]
        return pixels.repeat(cell_pixels, axis=0).repeat(cell_pixels, axis=1)

    def pack(self, cells: Cells, run: int) -> list[int]:
        """One code per `run` neighbouring cells of a row: their indices are the digits of the code."""
        digits = cells.reshape(-1, run).astype(np.int64)
        codes: list[int] = (digits @ (len(self.colours) ** np.arange(run)[::-1])).tolist()
        return codes

    def unpack(self, codes: Sequence[int], run: int) -> Codes:
        """The cells of the codes, flattened; the inverse of `pack`."""
        powers = len(self.colours) ** np.arange(run)[::-1]
        cells: Codes = (np.asarray(codes, dtype=np.int64)[:, None] // powers % len(self.colours)).reshape(-1)
        return cells


def _num_codes(palette: Palette, run: int) -> int:
    """The number of codes for `run` neighbouring cells. Raises ValueError."""
    count = len(palette.colours)
    return product("codes", [count] * whole("run", run, MAX_RUN), MAX_CODES)


def _num_units(*, frames: int, rows: int, columns: int, run: int, cell_pixels: int) -> int:
    """The number of codes of a medium of this many cells. Raises ValueError."""
    sizes = {"frames": frames, "rows": rows, "columns": columns, "cell_pixels": cell_pixels}
    for name, value in sizes.items():
        whole(name, value, MAX_SIDE)
    if columns % run:
        raise ValueError(f"columns must be a multiple of run, but {columns} is not one of {run}")
    cells = product("cells", (frames, rows, columns), MAX_PIXELS)
    product("pixels", (cells, max(cell_pixels, CELL_PIXELS) ** 2), MAX_PIXELS)
    return product("tokens", (cells // run,), MAX_TOKENS)


class PaletteImageCodec:
    """`rows * columns / run` codes per image, row by row. `columns` must be a multiple of `run`."""

    modality = content_pb2.MODALITY_IMAGE

    def __init__(self, *, palette: Sequence[str], rows: int, columns: int, run: int, cell_pixels: int) -> None:
        self.palette = Palette(tuple(palette))
        self.rows, self.columns, self.run, self.cell_pixels = rows, columns, run, cell_pixels
        self.num_codes = _num_codes(self.palette, run)
        self.min_units = _num_units(frames=1, rows=rows, columns=columns, run=run, cell_pixels=cell_pixels)
        self.max_units = self.min_units
        self.unit = (range(self.num_codes),)

    def pack(self, cells: Cells) -> list[int]:
        """The codes of a grid of palette indices, `(rows, columns)`."""
        return self.palette.pack(cells, self.run)

    def unpack(self, codes: Sequence[int]) -> Codes:
        """The grid `(rows, columns)` that codes stand for."""
        return self.palette.unpack(codes, self.run).reshape(self.rows, self.columns)

    def encode(self, data: bytes) -> list[int]:
        """The codes of an image file."""
        return self.encode_array(read_image(data))

    def encode_array(self, array: Pixels, rate: float = 0.0) -> list[int]:
        """The codes of pixels `(height, width, 3)`."""
        return self.pack(self.palette.quantise(array, self.rows, self.columns))

    def decode(self, codes: Sequence[int]) -> bytes:
        """The PNG that codes stand for."""
        return write_image(self.palette.paint(self.unpack(codes), self.cell_pixels))


class PaletteVideoCodec:
    """`frames * rows * columns / run` codes per video, frame by frame. Longer videos are sampled evenly."""

    modality = content_pb2.MODALITY_VIDEO

    def __init__(
        self,
        *,
        palette: Sequence[str],
        frames: int,
        rows: int,
        columns: int,
        run: int,
        cell_pixels: int,
        frames_per_second: float,
    ) -> None:
        self.palette = Palette(tuple(palette))
        self.frames, self.rows, self.columns, self.run = frames, rows, columns, run
        self.cell_pixels = cell_pixels
        self.frames_per_second = positive("frames_per_second", frames_per_second, MAX_RATE, least=MIN_VIDEO_RATE)
        self.num_codes = _num_codes(self.palette, run)
        self.min_units = _num_units(frames=frames, rows=rows, columns=columns, run=run, cell_pixels=cell_pixels)
        if rows * cell_pixels % 2 or columns * cell_pixels % 2:
            raise ValueError("rows and columns times cell_pixels must be even, as the sides of a video are")
        self.max_units = self.min_units
        self.unit = (range(self.num_codes),)

    def pack(self, cells: Cells) -> list[int]:
        """The codes of grids of palette indices, `(frames, rows, columns)`."""
        return self.palette.pack(cells, self.run)

    def unpack(self, codes: Sequence[int]) -> Codes:
        """The grids `(frames, rows, columns)` that codes stand for."""
        return self.palette.unpack(codes, self.run).reshape(self.frames, self.rows, self.columns)

    def encode(self, data: bytes) -> list[int]:
        """The codes of a video file. Raises MediaError if it has no frame."""
        return self.encode_array(*read_video(data))

    def encode_array(self, array: Pixels, rate: float = 0.0) -> list[int]:
        """The codes of frames `(frames, height, width, 3)`. Raises MediaError if there is none."""
        if not len(array):
            raise MediaError("The video has no frame.")
        chosen = np.linspace(0, len(array) - 1, self.frames).round().astype(int)
        grids = [self.palette.quantise(array[index], self.rows, self.columns) for index in chosen]
        return self.pack(np.stack(grids))

    def decode(self, codes: Sequence[int]) -> bytes:
        """The MP4 that codes stand for."""
        pictures = np.stack([self.palette.paint(grid, self.cell_pixels) for grid in self.unpack(codes)])
        return write_video(pictures, self.frames_per_second)


SILENCE_RMS = 0.02


class ToneAudioCodec:
    """`frames` codes per sound, one per frame. Code 0 is silence; 1 + pitch * levels + level is a tone."""

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
        self.rate_hz = whole("rate_hz", rate_hz, MAX_RATE)
        self.frequencies_hz = np.array([positive("a frequency", value, MAX_RATE) for value in frequencies_hz])
        self.amplitudes = np.array([positive("an amplitude", value, 1) for value in amplitudes])
        self.frames = whole("frames", frames, MAX_TOKENS)
        self.frame_samples = whole("frame_samples", frame_samples, MAX_SAMPLES, least=2)
        product("samples", (frames, frame_samples), MAX_SAMPLES)
        self.num_codes = 1 + product("codes", (len(frequencies_hz), len(amplitudes)), MAX_CODES)
        self.min_units = self.max_units = frames
        self.unit = (range(self.num_codes),)

    def encode(self, data: bytes) -> list[int]:
        """The codes of an audio file, cut or padded with silence to the codec's length."""
        return self.encode_array(*read_audio(data))

    def encode_array(self, array: Samples, rate: float) -> list[int]:
        """The codes of mono samples `(samples,)` at `rate` hertz."""
        samples = self._resample(array, int(rate))
        num_samples = self.frames * self.frame_samples
        padded = np.pad(samples[:num_samples], (0, max(0, num_samples - len(samples))))
        return [self._code(frame) for frame in padded.reshape(self.frames, self.frame_samples)]

    def decode(self, codes: Sequence[int]) -> bytes:
        """The WAV that codes stand for."""
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
        # Pitch: the strongest bin, without the constant one, to the nearest frequency on a logarithmic scale.
        spectrum = np.abs(np.fft.rfft(frame * np.hanning(len(frame))))
        peak_hz = max(1.0, float(spectrum[1:].argmax() + 1) * self.rate_hz / len(frame))
        pitch = int(np.abs(np.log(self.frequencies_hz / peak_hz)).argmin())
        level = int(np.abs(self.amplitudes - loudness * np.sqrt(2)).argmin())  # a sine's amplitude is sqrt(2) * RMS
        return 1 + pitch * len(self.amplitudes) + level

    def _tone(self, code: int) -> Samples:
        if code == 0:
            return np.zeros(self.frame_samples, dtype=np.float32)
        pitch, level = divmod(code - 1, len(self.amplitudes))
        times = np.arange(self.frame_samples) / self.rate_hz
        # Ramps of 40 samples at both ends avoid clicks where frames meet.
        ramp = np.minimum(1, np.minimum(np.arange(self.frame_samples), np.arange(self.frame_samples)[::-1]) / 40)
        wave = ramp * np.sin(2 * np.pi * self.frequencies_hz[pitch] * times)
        tone: Samples = (self.amplitudes[level] * wave).astype(np.float32)
        return tone
