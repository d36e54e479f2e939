"""Media that crash decoders, never end, or unpack to far more than they seem to hold. Each is made here, and small."""

import io
import struct
import wave
import zlib
from collections.abc import Mapping

import av
import numpy as np
from PIL import Image

from omnialign.media import write_video
from omnialign.v1 import content_pb2

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO


def media() -> Mapping[str, tuple[int, bytes]]:
    """Hostile media by what is hostile about them, each with its modality."""
    return {
        "8-channel wav": (AUDIO, many_channels(8)),
        "255-channel wav": (AUDIO, many_channels(255)),
        "wav that claims to be 4 GB": (AUDIO, wav_of_claimed_size(0xFFFFFFF0)),
        "wav at 4 GHz": (AUDIO, wav_of_rate(0xFFFFFFFF)),
        "jpeg of 1,500 scans": (IMAGE, many_scans(1500)),
        "png of 60,000 by 60,000": (IMAGE, png_bomb(60_000, 60_000)),
        "png of 9,000 by 7,000": (IMAGE, png_bomb(9_000, 7_000)),
        "png with a text of 200 MB": (IMAGE, png_with_text(200_000_000)),
        "gif of 4,000 frames": (IMAGE, many_frames(4_000)),
        "webp of 8,000 by 8,000": (IMAGE, webp(8_000)),
        "mp4 of 8,000 frames": (VIDEO, write_video(np.zeros((8_000, 16, 16, 3), np.uint8), 30)),
        "mp4 with a huge sample table": (VIDEO, mp4_with_huge_table()),
        "ogg of noise": (AUDIO, b"OggS" + np.random.default_rng(0).bytes(200_000)),
        "flac with the largest frame": (AUDIO, flac_of_claimed_block(65_535)),
        "playlist for a sound": (AUDIO, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
    }


def many_channels(count: int) -> bytes:
    """One second of a WAV with `count` channels."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(count)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.zeros((8000, count), "<i2").tobytes())
    return buffer.getvalue()


def wav_of_claimed_size(size_bytes: int) -> bytes:
    """A WAV whose header promises more than there is."""
    data = bytearray(many_channels(1))
    data[40:44] = struct.pack("<I", size_bytes)
    return bytes(data)


def wav_of_rate(rate_hz: int) -> bytes:
    """A WAV whose samples last no time at all."""
    data = bytearray(many_channels(1))
    data[24:28] = struct.pack("<I", rate_hz)
    return bytes(data)


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: each repetition decodes the whole picture again."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", progressive=True, quality=5)
    data = buffer.getvalue()
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    shortest = min(range(len(scans) - 1), key=lambda index: scans[index + 1] - scans[index])
    scan = data[scans[shortest] : scans[shortest + 1]]
    return data[: scans[-1]] + scan * count + data[scans[-1] :]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of one colour, which compresses a thousand times."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row = b"\0" * (1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(min(height, 9_000))) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def png_with_text(size_bytes: int) -> bytes:
    """A small PNG with a compressed text that unpacks to `size_bytes`."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    data = buffer.getvalue()
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(b"a" * 1_000_000) for _ in range(size_bytes // 1_000_000)) + packer.flush()
    return data[:33] + _chunk(b"zTXt", b"Comment\0\0" + text) + data[33:]


def many_frames(count: int) -> bytes:
    """A GIF of `count` frames, all of them different."""
    frames = [Image.new("P", (64, 64), index % 256) for index in range(count)]
    for index, frame in enumerate(frames):
        frame.putpixel((index % 64, index // 64 % 64), 255)
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def webp(side: int) -> bytes:
    """A large picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def mp4_with_huge_table() -> bytes:
    """An MP4 whose table of sample sizes claims four thousand million entries."""
    data = bytearray(write_video(np.zeros((8, 16, 16, 3), np.uint8), 8))
    at = data.index(b"stsz")
    data[at + 12 : at + 16] = struct.pack(">I", 0xFFFFFFFF)
    return bytes(data)


def flac_of_claimed_block(samples: int) -> bytes:
    """A FLAC whose header claims the largest blocks, 8 channels and 2**36 samples."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as output:
        stream = output.add_stream("flac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for converted in av.AudioResampler(format="s16", frame_size=stream.frame_size).resample(frame):
            output.mux(stream.encode(converted))
        output.mux(stream.encode(None))
    data = bytearray(buffer.getvalue())
    data[8:12] = struct.pack(">HH", samples, samples)
    data[20:26] = b"\xff" * 6
    return bytes(data)
