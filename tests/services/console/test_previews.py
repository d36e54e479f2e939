"""Previews of media that browsers cannot play, and waveforms of sounds: what they are, how much, and who gets them."""

import asyncio
import io
import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from omnialign.content import content
from omnialign.media import MediaError, read_audio, read_image, read_video
from omnialign.v1 import content_pb2, record_pb2
from services.console import transcoding
from services.console.security import UNTRUSTED_POLICY
from tests.services.console.conftest import running
from tests.services.console.test_media import sound

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO
MADE = "omnialign_sandbox_task_duration_seconds_count"


def film(form, codec, *, seconds=2, size=(96, 64), rate=10, rotation=0, tone=""):
    """A video that becomes lighter, with a tone of one second if it has a codec."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        heard = container.add_stream(tone, rate=44_100, layout="stereo") if tone else None
        for number in range(seconds * rate):
            pixels = np.full((size[1], size[0], 3), 10 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
        if heard:
            container.mux([*heard.encode(heard_frame(44_100)), *heard.encode(None)])
    return buffer.getvalue()


def heard_frame(rate):
    wave = (np.sin(np.arange(rate) * 0.05) * 8000).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    return frame


def heard_as(form, codec, *, seconds=1, rate=8000):
    """A tone in a container."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        for second in range(seconds):
            wave = (np.sin(np.arange(rate) * 0.05) * 8000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, second * rate, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def picture(form, mode="RGB", size=(40, 30), color=None, **options):
    buffer = io.BytesIO()
    Image.new(mode, size, color or (200 if mode != "RGB" else "teal")).save(buffer, form, **options)
    return buffer.getvalue()


async def shown(console, browser, data, modality):
    """The preview of a medium that is stored."""
    medium = await console.client.upload_media(data, modality=modality)
    return medium, await browser.get(f"/projects/demo/media/{medium.sha256}/preview")


@pytest.mark.parametrize(
    ("form", "codec", "tone"),
    [
        ("mp4", "libx265", ""),
        ("mp4", "mpeg4", ""),
        ("mov", "mpeg4", "alac"),
        ("avi", "mpeg4", "mp3"),
        ("matroska", "ffv1", "flac"),
    ],
)
async def test_a_video_that_browsers_may_not_play_becomes_webm(console, browser, form, codec, tone):
    medium, answer = await shown(console, browser, film(form, codec, tone=tone), VIDEO)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "video/webm"
    frames, _ = read_video(answer.content)
    assert frames.shape[1:] == (64, 96, 3) and 18 <= len(frames) <= 21
    assert frames[-1].mean() > frames[0].mean() + 100
    with av.open(io.BytesIO(answer.content)) as made:
        assert [stream.codec.name for stream in made.streams] == ["vp8", "opus"][: 1 + bool(tone)]
        assert made.duration / av.time_base == pytest.approx(2, abs=0.2)
    original = await browser.get(f"/projects/demo/media/{medium.sha256}?download=1")
    assert original.content != answer.content
    assert original.headers["content-disposition"].startswith("attachment; ")  # the original is kept


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("aiff", "pcm_s16be"),
        ("ipod", "alac"),
        ("au", "pcm_mulaw"),
        ("wv", "wavpack"),
        ("adts", "aac"),
        ("amr", "libopencore_amrnb"),
    ],
)
async def test_a_sound_that_browsers_may_not_play_becomes_webm(console, browser, form, codec):
    _, answer = await shown(console, browser, heard_as(form, codec, seconds=2), AUDIO)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/webm")
    samples, rate = read_audio(answer.content)
    assert len(samples) / rate == pytest.approx(2, abs=0.25)
    assert 0.05 < np.abs(samples).max() < 0.3


@pytest.mark.parametrize(
    ("form", "mode", "size", "expected"),
    [
        ("TIFF", "RGB", (40, 30), (30, 40)),
        ("TIFF", "I;16", (40, 30), (30, 40)),
        ("PNG", "I;16", (40, 30), (30, 40)),
        ("JPEG2000", "RGB", (40, 30), (30, 40)),
        ("PNG", "RGB", (1, 20_000), None),
        ("PNG", "RGB", (20_000, 1), None),
        ("TIFF", "L", (5000, 4000), None),
    ],
)
async def test_a_picture_becomes_png_of_a_size_to_look_at(console, browser, form, mode, size, expected):
    color = 40_000 if mode == "I;16" else None
    _, answer = await shown(console, browser, picture(form, mode, size, color), IMAGE)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    pixels = read_image(answer.content)
    height, width = pixels.shape[:2]
    assert height * width <= 4_000_000 and max(height, width) <= 17 * min(height, width)
    assert expected in (None, (height, width))
    if mode == "I;16":
        assert np.abs(pixels.astype(int) - 40_000 / 257).max() <= 1


async def test_a_preview_comes_by_range_in_a_sandbox_and_is_made_once(console, browser):
    medium, whole = await shown(console, browser, heard_as("aiff", "pcm_s16be"), AUDIO)
    path = f"/projects/demo/media/{medium.sha256}/preview"
    part = await browser.get(path, range="bytes=10-19")
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert (await browser.get(path, range="bytes=99999999-")).status_code == 416
    assert (await browser.get(path, if_none_match=whole.headers["etag"])).status_code == 304
    for answer in (whole, part):
        assert answer.headers["content-security-policy"] == UNTRUSTED_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"] == f'inline; filename="{medium.sha256[:16]}-preview.weba"'
    assert console.services.registry.get_sample_value(MADE, {"operation": "preview"}) == 1


async def test_previews_are_those_of_the_signed_in_person(console, browser):
    medium, _ = await shown(console, browser, picture("TIFF"), IMAGE)
    path = f"/projects/demo/media/{medium.sha256}"
    other = await console.browser()
    assert (await other.get(f"{path}/preview")).status_code == 303
    await other.sign_in("bob-token", project="other")
    for part in ("preview", "waveform"):
        assert (await other.get(f"{path}/{part}")).status_code == 404
        assert (await browser.get(f"/projects/other/media/{medium.sha256}/{part}")).status_code == 404


async def test_pages_offer_what_the_browser_plays_first(console, browser):
    film_, heard, seen = [
        await console.client.upload_media(data, modality=modality)
        for data, modality in (
            (film("mp4", "mpeg4"), VIDEO),
            (heard_as("aiff", "pcm_s16be"), AUDIO),
            (picture("TIFF"), IMAGE),
        )
    ]
    await console.client.create_dataset("media")
    await console.client.append_records(
        "projects/demo/datasets/media", [record_pb2.Record(id="r", prompt=content(film_, heard, seen))]
    )
    page = (await browser.get("/projects/demo/datasets/media/records")).text
    place = "/projects/demo/media/"
    assert f'<source src="{place}{film_.sha256}"><source src="{place}{film_.sha256}/preview">' in page
    assert f'preload="none"><source src="{place}{heard.sha256}/preview"></audio>' in page
    assert f'<img src="{place}{seen.sha256}/preview"' in page
    assert page.count(">preview</a>") == 3


async def test_a_file_that_is_too_large_is_refused_in_a_sentence(tmp_path):
    async with running(tmp_path, tokens=False, max_preview_source_bytes=1000) as console:
        browser = await console.browser()
        medium, refused = await shown(console, browser, sound(), AUDIO)
        assert (refused.status_code, "PREVIEW_SOURCE_TOO_LARGE" in refused.text) == (400, True)
        drawn = await browser.get(f"/projects/demo/media/{medium.sha256}/waveform")
        assert (drawn.status_code, "<svg" in drawn.text) == (200, False)  # the player stands without a drawing


async def test_what_is_kept_is_bounded(tmp_path):
    async with running(tmp_path, tokens=False, preview_bytes=1) as console:
        browser = await console.browser()
        medium, first = await shown(console, browser, picture("TIFF"), IMAGE)
        again = await browser.get(f"/projects/demo/media/{medium.sha256}/preview")
        assert again.content == first.content
        assert console.services.registry.get_sample_value(MADE, {"operation": "preview"}) == 2


@pytest.mark.parametrize("modality", [IMAGE, AUDIO, VIDEO])
@pytest.mark.parametrize("data", [b"", b"<svg onload=alert(1)>", b"\x00" * 4096, film("mp4", "mpeg4")[:700]])
def test_what_does_not_decode_is_a_typed_error(tmp_path, modality, data):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(MediaError):
        transcoding.preview(tmp_path / "file", modality)
    with pytest.raises(MediaError):
        transcoding.peaks(tmp_path / "file")


async def test_an_hour_of_sound_plays_by_ranges_at_once_and_is_drawn(console, browser):
    data = heard_as("flac", "flac", seconds=3600)
    medium = await console.client.upload_media(data, modality=AUDIO)
    path = f"/projects/demo/media/{medium.sha256}"
    drawing = asyncio.create_task(browser.http.get(f"{path}/waveform", timeout=120))
    part = await browser.get(path, range=f"bytes={len(data) - 1000}-")  # the end, while it is being drawn
    assert (part.status_code, part.content) == (206, data[-1000:])
    assert not drawing.done()
    assert (await drawing).text.count("M") >= 170


def test_a_long_sound_has_a_bounded_preview_and_a_waveform_of_its_whole_length(tmp_path: Path):
    path = tmp_path / "long.flac"
    path.write_bytes(heard_as("flac", "flac", seconds=700))
    made = transcoding.preview(path, AUDIO).tobytes()
    with av.open(io.BytesIO(made)) as container:
        assert container.duration / av.time_base == pytest.approx(600, abs=1)
    found = transcoding.peaks(path)
    assert found.shape == (170, 2)
    assert found[:, 0].max() < -0.2 and found[:, 1].min() > 0.2


def test_peaks_are_those_of_the_samples(tmp_path: Path):
    path = tmp_path / "sound.wav"
    path.write_bytes(sound(4))
    samples, _ = read_audio(path.read_bytes())
    found = transcoding.peaks(path)
    assert (found[:, 0].min(), found[:, 1].max()) == pytest.approx((samples.min(), samples.max()))
    halves = np.array([(half.min(), half.max()) for half in np.array_split(samples, 2)])
    assert found[:85, 0].min() == pytest.approx(halves[0, 0]) and found[85:, 1].max() == pytest.approx(halves[1, 1])


def test_a_preview_ends_early_where_decoding_is_slow(tmp_path: Path, monkeypatch):
    path, clock = tmp_path / "film.mp4", itertools.count(0, 2)
    path.write_bytes(film("mp4", "mpeg4", seconds=10))
    monkeypatch.setattr(transcoding.time, "process_time", lambda: next(clock))
    frames, _ = read_video(transcoding.preview(path, VIDEO).tobytes())
    assert 15 <= len(frames) <= 25  # of a hundred
