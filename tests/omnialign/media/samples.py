"""Media of the shapes that people bring: every container, codec, depth, layout and rotation that is written here."""

import io
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from PIL import Image

RATE_HZ = 16000
TIMES = np.arange(RATE_HZ // 2) / RATE_HZ
FRAMES = 6


@dataclass(frozen=True)
class Sample:
    """A file, what kind of medium it is, and how it was made; for sounds the mono samples that went in."""

    kind: str
    name: str
    data: bytes
    source: Any = None


def all_samples() -> Iterator[Sample]:
    """All samples that the libraries write; what they do not is left out."""
    for make in (pictures, sounds, videos):
        yield from make()


# ---- pictures ----

PICTURES: dict[str, tuple[tuple[str, ...], tuple[dict[str, Any], ...]]] = {
    "PNG": (("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), ({}, {"optimize": True})),
    "JPEG": (("L", "RGB", "CMYK"), ({"quality": 90}, {"progressive": True}, {"subsampling": 2, "quality": 60})),
    "WEBP": (("RGB", "RGBA"), ({"lossless": True}, {"quality": 90})),
    "GIF": (("L", "P", "RGB"), ({}, {"interlace": 0})),
    "TIFF": (
        ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"),
        ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}),
    ),
    "BMP": (("1", "L", "P", "RGB", "RGBA"), ({},)),
    "AVIF": (("RGB", "RGBA"), ({"quality": 95}, {"subsampling": "4:4:4"})),
    "JPEG2000": (("L", "LA", "RGB", "RGBA", "I;16"), ({}, {"irreversible": True})),
    "PPM": (("1", "L", "RGB", "I;16"), ({},)),
    "TGA": (("L", "LA", "P", "RGB", "RGBA"), ({}, {"compression": "tga_rle"})),
    "ICO": (("RGB", "RGBA"), ({},)),
    "QOI": (("RGB", "RGBA"), ({},)),
    "PCX": (("1", "L", "P", "RGB"), ({},)),
    "SGI": (("L", "RGB", "RGBA"), ({},)),
    "DDS": (("L", "RGB", "RGBA"), ({},)),
    "MPO": (("RGB",), ({},)),
}
ORIENTATION = 0x0112


def picture(mode: str, size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Two ramps and a cut-out corner, in a mode."""
    across, down = np.linspace(0, 1, size[0])[None, :], np.linspace(0, 1, size[1])[:, None]
    ramp = (across + down) / 2
    if mode == "I;16":
        return Image.fromarray((ramp * 65535).astype(np.uint16))
    if mode == "F":
        return Image.fromarray(ramp.astype(np.float32))
    alpha = np.where((across < 0.3) & (down < 0.5), 0, 255)
    layers = [ramp * 255, np.broadcast_to(across * 255, ramp.shape), np.broadcast_to(down * 255, ramp.shape), alpha]
    whole = Image.fromarray(np.stack(layers, axis=-1).astype(np.uint8))
    return whole if mode == "RGBA" else whole.convert(mode) if mode == "LA" else whole.convert("RGB").convert(mode)


def pictures() -> Iterator[Sample]:
    """Pictures in all formats and modes, and those that a camera held otherwise."""
    for kind, (modes, variants) in PICTURES.items():
        for mode, options in itertools.product(modes, variants):
            name = f"{kind} {mode} {' '.join(map(str, options.values()))}"
            yield from _written("image", name, lambda m=mode, k=kind, o=options: _saved(picture(m), k, o))
    for kind, turn in itertools.product(("JPEG", "PNG", "WEBP", "TIFF"), range(1, 9)):
        exif = Image.Exif()
        exif[ORIENTATION] = turn
        yield from _written(
            "image", f"{kind} turned {turn}", lambda k=kind, e=exif: _saved(picture("RGB"), k, {"exif": e})
        )


def _saved(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


# ---- sounds ----

SOUNDS: dict[str, tuple[str, ...]] = {
    "wav": ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw",
            "adpcm_ms", "adpcm_ima_wav"),
    "w64": ("pcm_s16le", "pcm_f32le"),
    "aiff": ("pcm_s8", "pcm_s16be", "pcm_s24be", "pcm_f32be"),
    "au": ("pcm_s16be", "pcm_mulaw"),
    "caf": ("pcm_s16be", "alac"),
    "flac": ("flac",), "ogg": ("libopus", "flac"), "mp3": ("libmp3lame",), "mp2": ("mp2",), "adts": ("aac",),
    "ipod": ("aac", "alac"), "mp4": ("aac", "ac3"), "mov": ("aac", "pcm_s16le", "pcm_s24le"), "3gp": ("aac",),
    "ac3": ("ac3",), "eac3": ("eac3",), "asf": ("wmav1", "wmav2"), "matroska": ("aac", "libopus", "pcm_s16le", "flac"),
    "webm": ("libopus",), "wv": ("wavpack",), "tta": ("tta",), "mpegts": ("aac", "mp2"), "avi": ("pcm_s16le",),
    "flv": ("aac", "libmp3lame"), "nut": ("pcm_s16le",),
}  # fmt: skip
LAYOUTS = ("mono", "stereo", "5.1", "7.1")
LOSSLESS = ("pcm_s16", "pcm_s24", "pcm_s32", "pcm_f", "flac", "alac", "wavpack", "tta")
FIXED_RATES = {"libopus": 48000, "ac3": 48000, "eac3": 48000}


def sounds() -> Iterator[Sample]:
    """Sounds in all containers, codecs and layouts."""
    for container, codecs in SOUNDS.items():
        for codec, layout in itertools.product(codecs, LAYOUTS):
            rate_hz = FIXED_RATES.get(codec, RATE_HZ)
            tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(rate_hz // 2) / rate_hz)
            channels = np.stack([tone * (1 - index / 10) for index in range(av.AudioLayout(layout).nb_channels)])
            make = lambda c=container, k=codec, n=layout, r=rate_hz, s=channels: _encoded_sound(c, k, n, r, s)  # noqa: E731
            name = f"{container} {codec} {layout}"
            yield from _written("audio", name, make, source=(channels.mean(axis=0), codec.startswith(LOSSLESS)))


def _encoded_sound(container: str, codec: str, layout: str, rate_hz: int, channels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate_hz, layout=layout)
        packed = np.ascontiguousarray(channels.T.reshape(1, -1), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(
            format=stream.format.name, layout=layout, rate=rate_hz, frame_size=stream.frame_size
        )
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return buffer.getvalue()


# ---- videos ----

VIDEOS: dict[str, tuple[tuple[str, str], ...]] = {
    "mp4": (("libx264", "yuv420p"), ("libx264", "yuv444p"), ("libx264", "yuv420p10le"), ("libx265", "yuv420p"),
            ("mpeg4", "yuv420p"), ("libsvtav1", "yuv420p"), ("libvpx-vp9", "yuv420p"), ("mjpeg", "yuvj420p")),
    "mov": (("libx264", "yuv420p"), ("prores_ks", "yuv422p10le"), ("prores_ks", "yuva444p10le"), ("qtrle", "argb"),
            ("qtrle", "rgb24"), ("png", "rgba"), ("mjpeg", "yuvj422p"), ("rawvideo", "uyvy422")),
    "matroska": (("libx264", "yuv420p"), ("libx265", "yuv420p10le"), ("libvpx", "yuv420p"), ("ffv1", "yuv422p"),
                 ("ffv1", "bgra"), ("libvpx-vp9", "yuv444p"), ("mpeg2video", "yuv420p")),
    "webm": (("libvpx", "yuv420p"), ("libvpx-vp9", "yuv420p"), ("libsvtav1", "yuv420p")),
    "avi": (("mpeg4", "yuv420p"), ("mjpeg", "yuvj420p"), ("msmpeg4v2", "yuv420p"), ("huffyuv", "rgb24"),
            ("rawvideo", "bgr24"), ("ffv1", "yuv420p"), ("utvideo", "gbrp"), ("utvideo", "gbrap")),
    "mpegts": (("libx264", "yuv420p"), ("mpeg2video", "yuv420p")),
    "mpeg": (("mpeg1video", "yuv420p"), ("mpeg2video", "yuv420p")),
    "flv": (("flv", "yuv420p"), ("libx264", "yuv420p")),
    "asf": (("wmv1", "yuv420p"), ("wmv2", "yuv420p"), ("msmpeg4", "yuv420p")),
    "3gp": (("libx264", "yuv420p"), ("mpeg4", "yuv420p")),
    "nut": (("mpeg4", "yuv420p"), ("ffv1", "gray16le")),
    "ivf": (("libvpx", "yuv420p"),),
}  # fmt: skip
RATES = (8, 25)


def videos() -> Iterator[Sample]:
    """Videos in all containers, codecs, pixel formats and two rates."""
    for container, codecs in VIDEOS.items():
        for (codec, pixels), rate in itertools.product(codecs, RATES):
            make = lambda c=container, k=codec, p=pixels, r=rate: _encoded_video(c, k, p, r)  # noqa: E731
            yield from _written("video", f"{container} {codec} {pixels} {rate}", make)


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """Gives the thread its scheduling back: SVT-AV1 makes whoever opens it a real-time thread, where it may.

    Real-time threads, and all that they start, would take the processors from everything else.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _encoded_video(container: str, codec: str, pixels: str, rate: int) -> bytes:
    buffer = io.BytesIO()
    with usual_scheduling(), av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for index in range(FRAMES):
            whole = np.asarray(picture("RGBA", (64, 48))).copy()
            whole[..., :3] = np.roll(whole[..., :3], 4 * index, axis=1)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(whole, format="rgba")))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def _written(kind: str, name: str, make: Any, source: Any = None) -> Iterator[Sample]:
    try:
        data = make()
    except (OSError, ValueError, KeyError, av.FFmpegError):  # a combination that the library does not write
        return
    yield Sample(kind, name, data, source)
