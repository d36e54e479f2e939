"""Sounds of every line of docs/media.md."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

from omnialign.media import write_audio
from omnialign.modeling.decoding import DecodedMedia
from omnialign.modeling.inputs import MediaPolicy
from services.data.media_types import IMAGE
from tests.omnialign.media.policy.made import Files, Made

HERTZ, PEAK, SECONDS, RATE_HZ = 440.0, 0.5, 0.5, 16000
LAYOUTS = ("mono", "stereo", "5.1", "7.1")


@dataclass(frozen=True)
class Sound:
    """How a tone is written."""

    container: str
    codec: str
    layout: str = "mono"
    rate_hz: int = RATE_HZ
    options: dict[str, str] = field(default_factory=dict)
    codec_options: dict[str, str] = field(default_factory=dict)

    def write(self, samples: np.ndarray | None = None) -> bytes:
        """A tone, or mono samples; the first of several channels has all of it, and the others have half."""
        mono = tone(self.rate_hz) if samples is None else samples
        count = av.AudioLayout(self.layout).nb_channels
        channels = np.repeat(mono[:, None] * 0.5, count, axis=1)  # (samples, channels)
        channels[:, 0] = mono
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=self.container, options=self.options) as file:
            stream = file.add_stream(self.codec, rate=self.rate_hz, layout=self.layout, options=self.codec_options)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(channels.reshape(1, -1), np.float32), format="flt", layout=self.layout
            )
            frame.sample_rate, frame.pts, frame.time_base = self.rate_hz, 0, Fraction(1, self.rate_hz)
            resampler = av.AudioResampler(stream.format.name, self.layout, self.rate_hz, frame_size=stream.frame_size)
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
        return buffer.getvalue()

    def made(self, within: float = 0.1, longer_seconds: float = 0.07, shorter_seconds: float = 0.005) -> Made:
        """The file, of which the mean of the channels is heard."""
        count = av.AudioLayout(self.layout).nb_channels
        peak = PEAK * (1 + 0.5 * (count - 1)) / count
        return Made(self.write(), sounds(peak, self.rate_hz, within, longer_seconds, shorter_seconds))


def tone(rate_hz: int) -> np.ndarray:
    return (PEAK * np.sin(2 * np.pi * HERTZ * np.arange(int(SECONDS * rate_hz)) / rate_hz)).astype(np.float32)


def sounds(
    peak: float = PEAK,
    rate_hz: int = RATE_HZ,
    within: float = 0.1,
    longer_seconds: float = 0.0,
    shorter_seconds: float = 0.005,
) -> Callable[[DecodedMedia], None]:
    """Checks rate, length, and the height of the tone."""

    def check(found: DecodedMedia) -> None:
        assert found.rate == rate_hz
        seconds = len(found.array) / rate_hz
        assert -shorter_seconds <= seconds - SECONDS <= longer_seconds + 0.005, seconds
        middle = found.array[len(found.array) // 4 : len(found.array) * 3 // 4]
        wave = np.exp(-2j * np.pi * HERTZ * np.arange(len(middle)) / rate_hz)
        height = 2 * abs((middle * wave).mean())
        assert abs(height - peak) <= within * peak, height

    return check


def exact(codec: str, container: str = "wav", layout: str = "mono") -> Made:
    return Sound(container, codec, layout).made(within=0.01, longer_seconds=0.0)


def wav(samples: np.ndarray, *, riff: int | None = None, claimed: int | None = None, extensible: bool = False) -> bytes:
    """A WAV of 16 bit, with sizes of its own."""
    data = (samples * 32767).round().astype("<i2").tobytes()
    plain = struct.pack("<HHIIHH", 0xFFFE if extensible else 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
    if extensible:  # the bits that count, the places of speakers, and the codec as a GUID
        plain += struct.pack("<HHI", 22, 16, 4) + bytes.fromhex("0100000000001000800000aa00389b71")
    body = b"WAVEfmt " + struct.pack("<I", len(plain)) + plain
    body += b"data" + struct.pack("<I", len(data) if claimed is None else claimed) + data
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def id3(data: bytes) -> bytes:
    return b"ID3\x04\0\0\0\0\x02\x00" + bytes(256) + data


def variable_mp3() -> Made:
    """Quiet first, then noise: a length that is guessed from the first frames is too long."""
    noise = np.random.default_rng(0).normal(0, 0.2, 2 * RATE_HZ).astype(np.float32)
    samples = np.concatenate([np.zeros(2 * RATE_HZ, np.float32), noise])
    written = Sound("mp3", "libmp3lame", options={"write_xing": "0"}, codec_options={"q": "2", "b": "0"})

    def check(found: DecodedMedia) -> None:
        assert abs(len(found.array) - len(samples)) <= 0.15 * RATE_HZ
        assert np.std(found.array[3 * RATE_HZ :]) > 0.1

    return Made(written.write(samples), check)


def opus_from_a_stream() -> Made:
    """Whose first second is missing."""
    written = Sound("ogg", "libopus", rate_hz=48000).write(np.tile(tone(48000), 10))
    pages = written.split(b"OggS")[1:]
    data = b"".join(b"OggS" + page for page in (*pages[:2], *pages[3:]))

    def check(found: DecodedMedia) -> None:
        assert 3 < len(found.array) / 48000 < 4.5

    return Made(data, check)


def silent() -> list[Made]:
    def check(found: DecodedMedia) -> None:
        assert len(found.array) == RATE_HZ
        assert not found.array.any()

    return [Made(wav(np.zeros(RATE_HZ)), check), Made(Sound("flac", "flac").write(np.zeros(RATE_HZ)), check)]


def one_sample() -> Made:
    def check(found: DecodedMedia) -> None:
        assert len(found.array) == 1

    return Made(wav(np.full(1, 0.5)), check)


def resampled(rate_hz: int) -> Made:
    """As a job gets it that asks for 16 kHz."""
    written = Sound("wav", "pcm_s16le", rate_hz=rate_hz).write()
    return Made(written, sounds(longer_seconds=0.01), policy=MediaPolicy(sample_rate_hz=16000))


RATES = (8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000)
MP3 = Sound("mp3", "libmp3lame", codec_options={"b": "64000"})
VORBIS = Sound("ogg", "vorbis", "stereo", 44100, codec_options={"strict": "-2"})

FILES: Files = {
    "WAV, 8, 16, 24 and 32 bit": lambda: [exact(codec) for codec in ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le")],
    "WAV, floating point": lambda: [exact(codec) for codec in ("pcm_f32le", "pcm_f64le")],
    "WAV, A-law, mu-law and ADPCM": lambda: [
        Sound("wav", codec).made(longer_seconds=0.1) for codec in ("pcm_alaw", "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav")
    ],
    "WAV, extensible": lambda: [Made(wav(tone(RATE_HZ), extensible=True), sounds()), exact("pcm_s24le", layout="5.1")],
    "RF64, W64": lambda: [
        Sound("wav", "pcm_s16le", options={"rf64": "always"}).made(longer_seconds=0.0),
        exact("pcm_s16le", "w64"),
    ],
    "WAV whose header has a wrong size, as from a pipe": lambda: [
        *(Made(wav(tone(RATE_HZ), riff=size), sounds()) for size in (0, 1, 44, 1 << 30, 0xFFFFFFFF)),
        *(Made(wav(tone(RATE_HZ), claimed=size), sounds()) for size in (0, 0x7FFFFFFF, 0xFFFFFFFF)),
        Made(wav(tone(RATE_HZ), riff=36 + 2 * len(tone(RATE_HZ)) + 8), sounds()),
    ],
    "MP3, of constant or variable rate": lambda: [MP3.made(), Sound("mp3", "libmp3lame").made()],
    "MP3 of variable rate without a Xing header": lambda: [variable_mp3()],
    "MP3 with ID3 tags": lambda: [
        Made(id3(MP3.write()), sounds(longer_seconds=0.1)),
        Made(MP3.write() + b"TAG".ljust(128, b"\0"), sounds(longer_seconds=0.1)),
    ],
    "FLAC, 16 and 24 bit": lambda: [
        Sound("flac", "flac").made(0.01, 0.0),
        Sound("flac", "flac", "stereo", codec_options={"sample_fmt": "s32"}).made(0.01, 0.0),
    ],
    "FLAC behind an ID3 tag": lambda: [Made(id3(Sound("flac", "flac").write()), sounds())],
    "AAC (ADTS)": lambda: [Sound("adts", "aac").made(longer_seconds=0.15)],
    "AAC in MP4 (M4A), and MP4 with sound only": lambda: [Sound("ipod", "aac").made(), Sound("mp4", "aac").made()],
    "Opus": lambda: [Sound("ogg", "libopus", layout, 48000).made() for layout in ("mono", "stereo")],
    "Opus that was cut from a stream": lambda: [opus_from_a_stream()],
    "Vorbis": lambda: [VORBIS.made()],
    "ALAC": lambda: [exact("alac", "ipod")],
    "WMA": lambda: [
        Sound("asf", codec, "stereo", 44100, codec_options={"b": "64000"}).made(shorter_seconds=0.047)
        for codec in ("wmav1", "wmav2")
    ],
    "AIFF": lambda: [exact(codec, "aiff") for codec in ("pcm_s16be", "pcm_s24be")],
    "AMR": lambda: [Sound("amr", "libopencore_amrnb", rate_hz=8000).made(within=0.25)],
    "AC-3, CAF, WavPack, TTA, AU": lambda: [
        Sound("ac3", "ac3", rate_hz=48000).made(),
        *(exact(codec, kind) for kind, codec in (("caf", "pcm_s16be"), ("wv", "wavpack"), ("tta", "tta"))),
        exact("pcm_s16be", "au"),
    ],
    "Matroska and WebM with sound only": lambda: [
        Sound("matroska", "flac").made(),
        Sound("webm", "libopus", rate_hz=48000).made(),
    ],
    "mono, stereo, 5.1, 7.1": lambda: [
        *(exact("pcm_s16le", layout=layout) for layout in LAYOUTS),
        *(exact("flac", "flac", layout) for layout in LAYOUTS),
    ],
    "rates from 8 to 192 kHz": lambda: [
        *(Sound("wav", "pcm_s16le", rate_hz=rate_hz).made(0.01, 0.0) for rate_hz in RATES),
        *(resampled(rate_hz) for rate_hz in RATES),
    ],
    "silence": silent,
    "one sample": lambda: [one_sample()],
    "no sample": lambda: [Made(wav(np.zeros(0)))],
    "MIDI": lambda: [Made(b"MThd\0\0\0\6\0\1\0\1\0\x60" + bytes(60))],
    "playlist": lambda: [Made(b"#EXTM3U\n#EXTINF:1,\nsong.mp3\n")],
    "Sound that is cut off, where the file states its length": lambda: [
        Made(data[: len(data) * 2 // 3])
        for data in (write_audio(tone(RATE_HZ), RATE_HZ), Sound("flac", "flac").write(noisy()), MP3.write())
    ],
    "Sound that is claimed to be a picture": lambda: [Made(MP3.write(), claim=IMAGE)],
}


def noisy() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.2, RATE_HZ).astype(np.float32)
