"""Decoding under a policy: what is kept of pictures, sounds and videos, and what becomes of bad ones."""

import io
import resource
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from omnialign.media import MediaError, write_audio, write_image, write_video
from omnialign.modeling import decoding
from omnialign.modeling.decoding import DecodedMedia, decode
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaPolicy
from omnialign.modeling.streams import sample_times
from omnialign.v1 import content_pb2

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 255, (96, 128, 3), dtype=np.uint8)
CODECS = [("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("avi", "mpeg4")]


def look(modality: int, data: bytes, policy: MediaPolicy = NO_BOUNDS) -> DecodedMedia:
    return decode(MediaBytes(modality, data), policy)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that another test holds open would decode instead, out of the reach of these tests' settings."""
    monkeypatch.setattr(decoding, "_decoder", None)


def refusal(modality: int, data: bytes, policy: MediaPolicy = NO_BOUNDS) -> MediaError:
    with pytest.raises(MediaError) as caught:
        look(modality, data, policy)
    return caught.value


def loss_of(found: DecodedMedia) -> str:
    return found.loss.reason if found.loss else ""


def jpeg(pixels: np.ndarray = NOISE) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def tone(seconds: float, rate_hz: int = 44100) -> bytes:
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return write_audio((0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32), rate_hz)


def video(
    folder: Path,
    times: Iterable[float],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    rotation: int = 0,
    **options: str,
) -> bytes:
    """Frames shown at these seconds, the n-th of brightness 4 n above and of noise below."""
    path = folder / "video"
    with av.open(str(path), mode="w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=30, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30) if container == "avi" else Fraction(1, 1000)
        for index, time in enumerate(times):
            pixels = RNG.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            pixels[:32] = min(250, 4 * index)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(time / frame.time_base)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path.read_bytes()


def brightness(found: DecodedMedia) -> list[int]:
    """Which frames of `video` were kept, as far as their codec lets it be seen."""
    return [round(float(frame[: len(frame) // 2].mean()) / 4) for frame in found.array]


def alike(found: list[int], wanted: Sequence[int]) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=True))


def flac(seconds: float, *, rate_hz: int = 44100, noisy: bool = False) -> bytes:
    """A stereo sound whose left channel is at 1/32 and whose right one is silent, or noise."""
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="flac") as file:
        stream = file.add_stream("flac", rate=rate_hz, layout="stereo")
        for _ in range(max(1, round(seconds / 10))):
            samples = np.zeros((1, 2 * round(rate_hz * min(10, seconds))), dtype=np.int16)
            samples[0, ::2] = RNG.integers(-9000, 9000, samples.shape[1] // 2) if noisy else 1024
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.sample_rate = rate_hz
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


# ---- pictures ----


def test_without_bounds_a_picture_is_what_it_is() -> None:
    assert (look(IMAGE, write_image(NOISE)).array == NOISE).all()


@given(width=st.integers(1, 300), height=st.integers(1, 300), most=st.integers(1, 40_000))
def test_scaling_keeps_the_bound_and_as_far_as_can_be_the_proportions(width: int, height: int, most: int) -> None:
    small = MediaPolicy(max_pixels=most).scaled(width, height)
    assert small[0] * small[1] <= max(1, most)
    assert min(small) >= 1
    assert small[0] <= width
    assert small[1] <= height
    if min(small) > 8:
        assert small[0] / small[1] == pytest.approx(width / height, rel=0.15)


@pytest.mark.parametrize("data", [jpeg(), write_image(NOISE)], ids=["jpeg", "png"])
def test_a_large_picture_is_scaled_down(data: bytes) -> None:
    found = look(IMAGE, data, MediaPolicy(max_pixels=3000))
    assert found.array.shape == (47, 63, 3)
    assert found.array.mean() == pytest.approx(NOISE.mean(), abs=4)


@pytest.mark.parametrize("shape", [(20000, 1, 3), (1, 20000, 3)])
def test_a_picture_of_1_by_20000_pixels_is_read_and_scaled_within_the_bound(shape: tuple[int, int, int]) -> None:
    data = write_image(RNG.integers(0, 255, shape, dtype=np.uint8))
    assert look(IMAGE, data).array.shape == shape
    assert look(IMAGE, data, MediaPolicy(max_pixels=1000)).array.size == 3000


def test_a_picture_is_turned_as_its_camera_says() -> None:
    buffer = io.BytesIO()
    image = Image.fromarray(NOISE)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(buffer, format="PNG", exif=exif)
    assert (look(IMAGE, buffer.getvalue()).array == np.rot90(NOISE, k=-1)).all()


def test_a_picture_that_would_fill_the_memory_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, format="PNG")
    assert refusal(IMAGE, buffer.getvalue()).reason == "MEDIA_TOO_LARGE"


@pytest.mark.parametrize("data", [jpeg(), write_image(NOISE)], ids=["jpeg", "png"])
def test_a_picture_that_breaks_off_is_refused_or_used_in_part_by_policy(data: bytes) -> None:
    half = data[: len(data) // 2]
    error = refusal(IMAGE, half)
    assert (error.reason, "use_damaged" in error.message) == ("MEDIA_DAMAGED", True)
    found = look(IMAGE, half, MediaPolicy(use_damaged=True))
    assert loss_of(found) == "MEDIA_DAMAGED"
    assert found.array.shape == NOISE.shape
    assert (found.array[:30] == look(IMAGE, data).array[:30]).all()


@pytest.mark.parametrize("data", [b"", b"no picture", write_image(NOISE)[:60]], ids=["empty", "text", "header"])
def test_a_picture_of_which_nothing_decodes_is_refused_whatever_the_policy(data: bytes) -> None:
    assert refusal(IMAGE, data, MediaPolicy(use_damaged=True)).reason == "MEDIA_UNDECODABLE"


# ---- videos ----


@pytest.mark.parametrize(("container", "codec"), CODECS)
def test_frames_are_sampled_by_time_and_number(tmp_path: Path, container: str, codec: str) -> None:
    data = video(tmp_path, [i / 30 for i in range(60)], container=container, codec=codec)
    assert alike(brightness(look(VIDEO, data)), range(60))
    slow = look(VIDEO, data, MediaPolicy(frames_per_second=2))
    assert alike(brightness(slow), [0, 15, 30, 45])
    assert slow.rate == pytest.approx(2, abs=0.01)
    assert slow.times_seconds == pytest.approx([0, 0.5, 1, 1.5], abs=0.01)
    few = look(VIDEO, data, MediaPolicy(max_frames=3, max_pixels=500))
    assert alike(brightness(few), [0, 30, 59])
    assert few.array.shape == (3, 19, 25, 3)


def test_frames_of_a_variable_rate_are_sampled_by_when_they_are_shown(tmp_path: Path) -> None:
    data = video(tmp_path, [0, 0.1, 0.2, 0.3, 2, 4, 4.1, 6])
    by_rate = look(VIDEO, data, MediaPolicy(frames_per_second=1))
    assert brightness(by_rate) == [0, 3, 4, 5, 6, 7]  # at 1 s the frame of 0.3 s is still shown
    by_number = look(VIDEO, data, MediaPolicy(max_frames=4))
    assert brightness(by_number) == [0, 4, 5, 7]
    assert by_number.times_seconds == pytest.approx([0, 2, 4, 6])


@given(
    gaps=st.lists(st.floats(0.001, 3), min_size=1, max_size=60),
    rate=st.floats(0, 40),
    most=st.integers(0, 20),
)
@settings(max_examples=200)
def test_sampled_times_are_in_order_among_those_there_and_within_the_number(
    gaps: list[float], rate: float, most: int
) -> None:
    times = np.cumsum(gaps).tolist()
    kept = sample_times(times, MediaPolicy(frames_per_second=rate, max_frames=most))
    assert kept
    assert kept == sorted(set(kept))
    assert set(kept) <= set(times)
    assert not most or len(kept) <= most
    assert kept[0] == times[0]
    if not rate and not most:
        assert kept == times


@pytest.mark.parametrize("policy", [NO_BOUNDS, MediaPolicy(frames_per_second=2, max_frames=8)])
def test_a_video_with_one_frame_has_one_frame(tmp_path: Path, policy: MediaPolicy) -> None:
    found = look(VIDEO, video(tmp_path, [0]), policy)
    assert found.array.shape == (1, 48, 64, 3)
    assert found.rate > 0
    assert found.times_seconds == (0.0,)


def test_a_video_that_breaks_off_is_refused_or_used_in_part_by_policy(tmp_path: Path) -> None:
    times = [i / 30 for i in range(60)]
    for data in (
        video(tmp_path, times, container="matroska"),
        video(tmp_path, times, container="webm", codec="libvpx"),
        video(tmp_path, times, movflags="faststart"),
    ):
        half = data[: len(data) // 2]
        assert refusal(VIDEO, half).reason == "MEDIA_DAMAGED"
        found = look(VIDEO, half, MediaPolicy(use_damaged=True, max_frames=4))
        assert loss_of(found) == "MEDIA_DAMAGED"
        assert brightness(found)[0] == 0
        assert 1 < brightness(found)[-1] < 55


def test_a_video_with_a_garbled_tail_is_refused_or_used_in_part_by_policy(tmp_path: Path) -> None:
    data = bytearray(video(tmp_path, [i / 30 for i in range(60)], movflags="faststart"))
    place = len(data) * 2 // 3
    data[place:] = RNG.integers(0, 255, len(data) - place, dtype=np.uint8).tobytes()
    error = refusal(VIDEO, bytes(data))
    assert error.reason == "MEDIA_DAMAGED"
    assert error.metadata["found"]
    found = look(VIDEO, bytes(data), MediaPolicy(use_damaged=True))
    assert loss_of(found) == "MEDIA_DAMAGED"
    assert 5 < len(found.array) < 60
    assert alike(brightness(found)[:5], range(5))


def test_a_video_without_an_index_is_refused_whatever_the_policy(tmp_path: Path) -> None:
    data = video(tmp_path, [i / 30 for i in range(60)])
    assert refusal(VIDEO, data[: len(data) // 2], MediaPolicy(use_damaged=True)).reason == "MEDIA_UNDECODABLE"


def test_a_play_list_opens_no_other_file(tmp_path: Path) -> None:
    target = tmp_path / "secret.mp4"
    target.write_bytes(video(tmp_path, [0, 0.1]))
    for text in (f"#EXTM3U\n#EXTINF:1,\nfile://{target}\n", f"ffconcat version 1.0\nfile {target}\n"):
        assert refusal(VIDEO, text.encode()).reason == "MEDIA_UNDECODABLE"


def test_memory_is_bounded_by_the_policy_and_not_by_the_length_of_a_video() -> None:
    long = write_video(np.zeros((900, 360, 640, 3), dtype=np.uint8), 30)  # 622 MB decoded
    policy = MediaPolicy(max_frames=4, max_pixels=10_000)
    look(VIDEO, write_video(np.zeros((8, 360, 640, 3), dtype=np.uint8), 30), policy)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert look(VIDEO, long, policy).array.shape == (4, 75, 133, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_video_that_would_fill_the_memory_is_refused_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnialign.modeling.streams.MAX_DECODED_BYTES", 100_000)
    data = video(tmp_path, [i / 30 for i in range(60)])
    error = refusal(VIDEO, data)
    assert error.reason == "MEDIA_TOO_LARGE"
    assert "max_frames" in error.message
    assert len(look(VIDEO, data, MediaPolicy(max_frames=8)).array) == 8


# ---- sounds ----


def test_a_sound_is_resampled() -> None:
    found = look(AUDIO, tone(1), MediaPolicy(sample_rate_hz=16000))
    assert (found.rate, found.array.dtype) == (16000, np.float32)
    assert len(found.array) == pytest.approx(16000, abs=20)
    spectrum = np.abs(np.fft.rfft(found.array))
    assert spectrum.argmax() * found.rate / len(found.array) == pytest.approx(440, abs=2)


def test_channels_are_averaged_or_the_first_is_taken() -> None:
    data = flac(1)
    assert look(AUDIO, data).array.mean() == pytest.approx(1 / 64, abs=1e-4)
    assert look(AUDIO, data, MediaPolicy(first_channel_only=True)).array.mean() == pytest.approx(1 / 32, abs=1e-4)


def test_a_long_sound_is_cut_and_the_cut_is_recorded() -> None:
    found = look(AUDIO, tone(2), MediaPolicy(max_audio_seconds=0.5))
    assert len(found.array) == 22050
    assert found.loss is not None
    assert (found.loss.reason, found.loss.detail) == ("MEDIA_CUT", "0.5 of 2 seconds are kept")
    assert look(AUDIO, tone(0.5), MediaPolicy(max_audio_seconds=0.5)).loss is None


def test_a_sound_of_three_hours_takes_no_more_memory_than_what_is_kept_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnialign.modeling.streams.MAX_DECODED_BYTES", 100 << 20)
    data = flac(10_800, rate_hz=8000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = look(AUDIO, data, MediaPolicy(sample_rate_hz=16000, max_audio_seconds=30))
    assert (len(found.array), loss_of(found)) == (480_000, "MEDIA_CUT")
    error = refusal(AUDIO, data)
    assert error.reason == "MEDIA_TOO_LARGE"
    assert "max_audio_seconds" in error.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_silent_sound_is_a_sound() -> None:
    found = look(AUDIO, write_audio(np.zeros(16000, dtype=np.float32), 16000))
    assert (len(found.array), np.abs(found.array).max(), found.loss) == (16000, 0, None)


@pytest.mark.parametrize("rate_hz", [0, 16000, 48000])
def test_a_sound_of_one_sample_has_a_sample(rate_hz: int) -> None:
    found = look(AUDIO, tone(1 / 44100), MediaPolicy(sample_rate_hz=rate_hz))
    assert 1 <= len(found.array) <= 2
    assert found.rate == (rate_hz or 44100)


@pytest.mark.parametrize("data", [b"", b"no sound", tone(0), write_image(NOISE)], ids=["empty", "text", "none", "png"])
def test_a_sound_without_a_sample_is_refused_whatever_the_policy(data: bytes) -> None:
    assert refusal(AUDIO, data, MediaPolicy(use_damaged=True)).reason == "MEDIA_UNDECODABLE"


@pytest.mark.parametrize("data", [tone(2), flac(2, noisy=True)], ids=["wav", "flac"])
def test_a_sound_that_breaks_off_is_refused_or_used_in_part_by_policy(data: bytes) -> None:
    half = data[: len(data) // 2]
    assert refusal(AUDIO, half).reason == "MEDIA_DAMAGED"
    found = look(AUDIO, half, MediaPolicy(use_damaged=True))
    assert loss_of(found) == "MEDIA_DAMAGED"
    assert 0.3 < len(found.array) / found.rate < 1.5


def test_a_damaged_sound_that_is_cut_too_records_both() -> None:
    data = tone(2)
    found = look(AUDIO, data[: len(data) // 2], MediaPolicy(use_damaged=True, max_audio_seconds=0.1))
    assert found.loss is not None
    assert found.loss.reason == "MEDIA_DAMAGED"
    assert "0.1 of" in found.loss.detail


# ---- policies ----


@given(
    policy=st.builds(
        MediaPolicy,
        frames_per_second=st.floats(0, 60),
        max_frames=st.integers(0, 1000),
        max_pixels=st.integers(0, 1 << 30),
        sample_rate_hz=st.integers(0, 192_000),
        first_channel_only=st.booleans(),
        max_audio_seconds=st.floats(0, 86_400),
        use_damaged=st.booleans(),
    )
)
def test_a_policy_survives_its_message(policy: MediaPolicy) -> None:
    assert MediaPolicy.of(policy.message()) == policy


def test_no_policy_sets_no_bounds() -> None:
    assert MediaPolicy.of(MediaPolicy().message()) == NO_BOUNDS
