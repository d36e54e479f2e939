"""Decoding in the sandbox: the same arrays as in this process, and typed errors for what decoders cannot survive."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from omnialign.media import MediaError, write_audio, write_video
from omnialign.modeling import decoding
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes
from omnialign.v1 import content_pb2
from services.sandbox import media
from services.sandbox.limits import Limits
from services.sandbox.media import open_sandbox
from services.sandbox.pool import Sandbox

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process may hold the shared sandbox open."""
    monkeypatch.setattr(media, "_shared", None)
    monkeypatch.setattr(media, "_num_users", 0)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with open_sandbox() as found:
        yield found


def picture(side: int = 300) -> MediaBytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(side * side * 3).reshape(side, side, 3).astype(np.uint8)).save(buffer, "PNG")
    return MediaBytes(IMAGE, buffer.getvalue())


def media_of_all_kinds() -> list[MediaBytes]:
    sound = MediaBytes(AUDIO, write_audio(np.sin(np.arange(8000) / 20).astype(np.float32), 8000))
    video = MediaBytes(VIDEO, write_video(np.zeros((4, 16, 16, 3), np.uint8), 4))
    return [picture(), sound, video]


@pytest.mark.usefixtures("sandbox")
def test_the_sandbox_decodes_as_this_process_does() -> None:
    for medium in media_of_all_kinds():
        here, there = decoding.decode_here(medium, NO_BOUNDS), decoding.decode(medium, NO_BOUNDS)
        assert np.array_equal(here.array, there.array)
        assert (here.rate, here.times_seconds, here.loss) == (there.rate, there.times_seconds, there.loss)


@pytest.mark.usefixtures("sandbox")
def test_media_that_do_not_decode_give_the_same_error() -> None:
    with pytest.raises(MediaError) as refused:
        decoding.decode(MediaBytes(IMAGE, b"no picture"), NO_BOUNDS)
    assert refused.value.reason == "MEDIA_UNDECODABLE"


@pytest.mark.usefixtures("sandbox")
def test_a_medium_that_ends_its_decoder_has_a_reason_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(media.LIMITS, IMAGE, Limits(memory_bytes=0))  # type: ignore[arg-type]
    with pytest.raises(MediaError) as refused:
        decoding.decode(picture(2000), NO_BOUNDS)
    assert refused.value.reason == "MEDIA_KILLED_DECODER"


def test_services_of_one_process_share_a_sandbox_until_the_last_one_closes_it() -> None:
    with open_sandbox() as first:
        with open_sandbox() as second:
            assert second is first
        assert decoding.decode(picture(), NO_BOUNDS).array.shape == (300, 300, 3)
    with open_sandbox() as third:
        assert third is not first
