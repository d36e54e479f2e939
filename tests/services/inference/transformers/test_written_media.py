"""Real engine, real model classes: what they write of pictures, sounds and videos is whole, and is read back."""

import json
from pathlib import Path

import numpy as np
import pytest

from omnialign.media import read_audio, read_image, read_video, write_audio, write_image, write_video
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import MediaBytes, Turn
from omnialign.v1 import content_pb2, generation_pb2
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from services.inference.transformers.engine import open_transformers_engine
from tests.model_factory.codecs import bias_towards, chameleon_vq, composite, emu3_vq, encodec, mimi
from tests.model_factory.families import FAMILIES

SHAPES = {"chameleon": (32, 32, 3), "emu3": (32, 32, 3), "janus": (32, 32, 3)}
OUT = Path(__file__).parents[4] / "out" / "families"


def record(family, **facts):
    """Keeps what was shown, for the table of the documentation."""
    OUT.mkdir(parents=True, exist_ok=True)
    facts = {"family": family, "engine": "transformers", **facts, "passed": True}
    (OUT / f"{family}.transformers.json").write_text(json.dumps(facts, indent=1) + "\n")


def image():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    return MediaBytes(content_pb2.MODALITY_IMAGE, write_image(pixels))


def clip():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 24, 24, 3), dtype=np.uint8)
    return MediaBytes(content_pb2.MODALITY_VIDEO, write_video(pixels, 8.0))


async def answers(folder, pieces, *, count=12, max_new_tokens=200, **sampling):
    settings = generation_pb2.SamplingParams(temperature=1.0, max_new_tokens=max_new_tokens, **sampling)
    asked = [
        EngineRequest(str(i), f"file://{folder}", (Turn("user", tuple(pieces)),), settings, seed=i)
        for i in range(count)
    ]
    async with open_transformers_engine(EngineConfig(threads=1)) as engine:
        found = {result.id: result async for result in engine.generate(asked)}
    return [found[request.id] for request in asked]


def written(results, modality):
    """The media of the answers; an answer that was cut off within a medium is a typed error and no other is one."""
    for result in results:
        cut = result.info.finish_reason == generation_pb2.FINISH_REASON_LENGTH
        assert result.error is None or (cut and result.error.reason == "ANSWER_MALFORMED"), result.error
    pieces = [piece for result in results for piece in result.pieces if isinstance(piece, MediaBytes)]
    return [piece.data for piece in pieces if piece.modality == modality]


def family_folder(root, name):
    """A tiny model of a family that writes media or the end, and little else."""
    folder = FAMILIES[name].build(root / name)
    adapter = load_adapter(folder)
    bias_towards(folder, [adapter.media_spans[0].begin_id, adapter.end_id])
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    return {name: family_folder(root, name) for name in SHAPES}


@pytest.mark.parametrize("name", list(SHAPES))
async def test_a_family_reads_its_modalities_and_writes_whole_media_of_them(folders, name):
    read = [medium for modality, medium in (("image", image()), ("video", clip())) if modality in FAMILIES[name].reads]
    results = await answers(folders[name], (*read, "Draw another."))
    found = written(results, content_pb2.MODALITY_IMAGE)
    assert found and {read_image(data).shape for data in found} == {SHAPES[name]}
    clips = written(results, content_pb2.MODALITY_VIDEO)
    if "video" in FAMILIES[name].writes:
        assert clips and {read_video(data)[0].shape for data in clips} == {(8, 16, 16, 3)}
    reads, writes = (["text", *modalities] for modalities in (FAMILIES[name].reads, FAMILIES[name].writes))
    record(name, reads=reads, writes=writes)


@pytest.mark.parametrize("name", list(SHAPES))
async def test_an_answer_that_is_cut_off_within_a_picture_is_malformed(folders, name):
    results = await answers(folders[name], ("Draw.",), max_new_tokens=10)
    cut = [result for result in results if result.error is not None]
    assert cut and {result.error.reason for result in cut} == {"ANSWER_MALFORMED"}
    assert {result.info.completion_tokens for result in cut} == {10}


@pytest.mark.parametrize("name", list(SHAPES))
async def test_pictures_are_the_same_alone_and_in_company(folders, name):
    together = await answers(folders[name], ("Draw.",), count=4)
    assert [r.pieces for r in (await answers(folders[name], ("Draw.",), count=1))] == [together[0].pieces]


SOUND = {"type": "encodec", "make": encodec, "options": {"folder": "audio_codec", "min_frames": 2, "max_frames": 6}}
SPEECH = {"type": "mimi", "make": mimi, "options": {"folder": "speech_codec", "max_frames": 3, "codebooks": 3}}
PICTURE = {"type": "chameleon_image", "make": chameleon_vq, "options": {"folder": "image_codec", "side_pixels": 16}}
CLIP = {
    "type": "emu3_video",
    "make": emu3_vq,
    "options": {"folder": "video_codec", "side_pixels": 16, "frames_per_second": 4.0, "max_units": 2},
}


async def test_a_language_model_with_codecs_beside_it_reads_and_writes_all_of_their_modalities(tmp_path):
    folder = composite(tmp_path / "anygpt", [PICTURE, SOUND, CLIP])
    adapter = load_adapter(folder)
    bias_towards(folder, [*(span.begin_id for span in adapter.media_spans), adapter.end_id])
    sound = write_audio((np.sin(np.arange(150) / 3) / 2).astype(np.float32), 8000)
    prompt = (image(), MediaBytes(content_pb2.MODALITY_AUDIO, sound), "Answer.")
    results = await answers(folder, prompt, count=24)
    assert {read_image(data).shape for data in written(results, content_pb2.MODALITY_IMAGE)} == {(16, 16, 3)}
    lengths = {len(read_audio(data)[0]) for data in written(results, content_pb2.MODALITY_AUDIO)}
    assert len(lengths) > 1 and lengths <= {40 * frames for frames in range(2, 7)}
    clips = {read_video(data)[0].shape for data in written(results, content_pb2.MODALITY_VIDEO)}
    assert clips and clips <= {(4, 16, 16, 3), (8, 16, 16, 3)}
    modalities = ["text", "image", "audio", "video"]
    record("anygpt", reads=modalities, writes=modalities)


async def test_speech_codes_are_written_frame_by_frame_from_the_coarsest_book_on(tmp_path):
    folder = composite(tmp_path / "speech", [SPEECH])
    adapter = load_adapter(folder)
    bias_towards(folder, [adapter.media_spans[0].begin_id, adapter.end_id])
    results = await answers(folder, ("Speak.",))
    lengths = {len(read_audio(data)[0]) for data in written(results, content_pb2.MODALITY_AUDIO)}
    assert lengths and lengths <= {640, 1280, 1920}
