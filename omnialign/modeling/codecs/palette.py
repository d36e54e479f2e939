"""Images and videos as grids of palette colours: one code per run of neighbouring cells.

A deliberately small codec, exact on pictures made of flat cells. Learned codecs (VQ, EnCodec) implement the same
protocol; nothing else in the system knows which one it holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnialign.media import MediaError, Pixels, read_image, read_video, write_image, write_video
from omnialign.v1 import content_pb2

Codes = NDArray[np.int64]
Cells = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Palette:
    """Colours as `#rrggbb`, and the quantisation of pictures to them."""

    colours: tuple[str, ...]
    rgb: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in self.colours]
        object.__setattr__(self, "rgb", np.array(values, dtype=np.float32))

    def quantise(self, pixels: Pixels, rows: int, columns: int) -> Codes:
        """Nearest palette index of each cell's centre, `(rows, columns)`, for a picture of any size."""
        cell = 8
        if pixels.shape[:2] != (rows * cell, columns * cell):
            resized = Image.fromarray(pixels).resize((columns * cell, rows * cell), Image.Resampling.BOX)
            pixels = np.asarray(resized)
        cells = pixels.reshape(rows, cell, columns, cell, 3)[:, 2:-2, :, 2:-2].astype(np.float32).mean(axis=(1, 3))
        codes: Codes = ((cells[:, :, None, :] - self.rgb) ** 2).sum(-1).argmin(-1)
        return codes

    def paint(self, cells: Codes, cell_pixels: int) -> Pixels:
        """The picture of a grid of palette indices."""
        pixels = self.rgb.astype(np.uint8)[cells]
        return pixels.repeat(cell_pixels, axis=0).repeat(cell_pixels, axis=1)

    def pack(self, cells: Cells, run: int) -> list[int]:
        """One code per `run` neighbouring cells of a row: their indices as the digits of a number."""
        digits = cells.reshape(-1, run).astype(np.int64)
        codes: list[int] = (digits @ (len(self.colours) ** np.arange(run)[::-1])).tolist()
        return codes

    def unpack(self, codes: Sequence[int], run: int) -> Codes:
        """The cells of some codes, in one row; the inverse of `pack`."""
        powers = len(self.colours) ** np.arange(run)[::-1]
        cells: Codes = (np.asarray(codes, dtype=np.int64)[:, None] // powers % len(self.colours)).reshape(-1)
        return cells


class PaletteImageCodec:
    """`rows * columns / run` codes per image, row by row. `columns` is a multiple of `run`."""

    modality = content_pb2.MODALITY_IMAGE

    def __init__(self, *, palette: Sequence[str], rows: int, columns: int, run: int, cell_pixels: int) -> None:
        self.palette = Palette(tuple(palette))
        self.rows, self.columns, self.run, self.cell_pixels = rows, columns, run, cell_pixels
        self.num_codes = len(palette) ** run
        self.min_units = self.max_units = rows * columns // run
        self.unit = (range(self.num_codes),)

    def pack(self, cells: Cells) -> list[int]:
        """Codes of a grid of palette indices, `(rows, columns)`."""
        return self.palette.pack(cells, self.run)

    def unpack(self, codes: Sequence[int]) -> Codes:
        """The grid that codes stand for, `(rows, columns)`."""
        return self.palette.unpack(codes, self.run).reshape(self.rows, self.columns)

    def encode(self, data: bytes) -> list[int]:
        """Codes of an image file."""
        return self.encode_array(read_image(data))

    def encode_array(self, array: Pixels, rate: float = 0.0) -> list[int]:
        """Codes of pixels `(height, width, 3)`."""
        return self.pack(self.palette.quantise(array, self.rows, self.columns))

    def decode(self, codes: Sequence[int]) -> bytes:
        """A PNG of the codes."""
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
        self.cell_pixels, self.frames_per_second = cell_pixels, frames_per_second
        self.num_codes = len(palette) ** run
        self.min_units = self.max_units = frames * rows * columns // run
        self.unit = (range(self.num_codes),)

    def pack(self, cells: Cells) -> list[int]:
        """Codes of grids of palette indices, `(frames, rows, columns)`."""
        return self.palette.pack(cells, self.run)

    def unpack(self, codes: Sequence[int]) -> Codes:
        """The grids that codes stand for, `(frames, rows, columns)`."""
        return self.palette.unpack(codes, self.run).reshape(self.frames, self.rows, self.columns)

    def encode(self, data: bytes) -> list[int]:
        """Codes of a video file. Raises MediaError when it has no frame."""
        return self.encode_array(*read_video(data))

    def encode_array(self, array: Pixels, rate: float = 0.0) -> list[int]:
        """Codes of frames `(frames, height, width, 3)`. Raises MediaError when there is none."""
        if not len(array):
            raise MediaError("The video has no frame.")
        chosen = np.linspace(0, len(array) - 1, self.frames).round().astype(int)
        grids = [self.palette.quantise(array[index], self.rows, self.columns) for index in chosen]
        return self.pack(np.stack(grids))

    def decode(self, codes: Sequence[int]) -> bytes:
        """An MP4 of the codes."""
        pictures = np.stack([self.palette.paint(grid, self.cell_pixels) for grid in self.unpack(codes)])
        return write_video(pictures, self.frames_per_second)
