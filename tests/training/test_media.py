"""Features come by digest: from the cache, or from the bytes that the run keeps."""

from pathlib import Path

import numpy as np
import pytest

from omnialign.errors import NotFound
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.feature_cache import FeatureCache
from omnialign.modeling.inputs import MediaPolicy, ModelInputs
from tests.model_factory.families import FAMILIES
from tests.training.in_process import kept
from tests.training.multimodal import keep, medium, question
from training.examples import Example, MediaRef, Tally, encode_sample
from training.media import BatchMedia, KeptMedium, feature_cache, fillers, path_of
from training.samples import Sample

TURNS = question(medium("image", seed=0), medium("image", seed=1), "Which?")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES["qwen2_5_vl"].build(tmp_path_factory.mktemp("model") / "base")


def same(found: ModelInputs, wanted: ModelInputs) -> bool:
    return found.ids == wanted.ids and all(
        np.array_equal(one.arrays[name], other.arrays[name])
        for one, other in zip(found.features, wanted.features, strict=True)
        for name in one.arrays
    )


def test_features_are_those_of_encoding_with_and_without_the_cache(base: Path, tmp_path: Path):
    keep(tmp_path / "media", TURNS)
    cache = FeatureCache(tmp_path / "features")
    adapter = load_adapter(base, cache)
    policy = MediaPolicy(max_pixels=56 * 56)
    wanted = adapter.encode(TURNS, policy)
    example = encode_sample(Sample(TURNS, (("The first.",),)), adapter=adapter, max_length=1000, policy=policy)
    row = {"media": example.media}
    side = BatchMedia(adapter, tmp_path / "media", policy=policy)
    misses = cache.counts.misses
    assert same(side.inputs([row], [example.prompt])[0], wanted)
    assert cache.counts.misses == misses  # nothing was decoded again
    for file in (tmp_path / "features").rglob("*.safetensors"):
        file.unlink()
    assert same(side.inputs([row], [example.prompt])[0], wanted)


def test_a_medium_that_the_run_lost_is_a_typed_error(tmp_path: Path):
    ref = MediaRef("ab" * 32, 2)
    with pytest.raises(NotFound) as caught:
        _ = KeptMedium(ref, tmp_path).data
    assert caught.value.reason == "MEDIA_NOT_FOUND"
    path_of(tmp_path, ref.sha256).parent.mkdir()
    path_of(tmp_path, ref.sha256).write_bytes(b"data")
    assert KeptMedium(ref, tmp_path).data == b"data"
    assert KeptMedium(ref, tmp_path).sha256 == ref.sha256


def test_fillers_are_added_for_what_a_batch_lacks_and_for_nothing_else(base: Path, tmp_path: Path):
    adapter = load_adapter(base)
    keep(tmp_path, TURNS)
    example = encode_sample(Sample(TURNS, (("The first.",),)), adapter=adapter, max_length=1000)
    video = Example([1], [[2]], teacher_media=(MediaRef("ab" * 32, 4),))
    needed = fillers(adapter, kept([example, video], tmp_path).modalities())
    rows = [{"media": example.media}, {}]
    with_picture, short = BatchMedia(adapter, tmp_path, fillers=needed).inputs(rows, [example.prompt, [1, 2]])
    assert with_picture.ids == example.prompt
    assert short.ids[:2] == [1, 2]
    assert [feature.modality for feature in short.features] == [4]  # the video that neither row has


def test_the_cache_is_the_one_that_engines_share_where_the_environment_names_it(tmp_path: Path):
    environ = {"OMNIALIGN_ENGINE_FEATURE_CACHE": str(tmp_path / "shared")}
    for found, folder in (
        (feature_cache(tmp_path / "own", environ), "shared"),
        (feature_cache(tmp_path / "own", {}), "own"),
    ):
        found.get("key", lambda: {"a": np.zeros(1)})
        assert list((tmp_path / folder).rglob("*.safetensors"))


def test_what_a_policy_cuts_is_counted(tmp_path: Path):
    from omnialign.content import content
    from omnialign.v1 import content_pb2, record_pb2
    from training.examples import make_examples

    sound = medium("audio", seed=2)
    shown = content_pb2.Media(modality=sound.modality, mime_type="audio/wav", sha256=sound.sha256)
    record = record_pb2.Record(
        id="r", subtask="ta2t", prompt=content("What?", shown), responses=[record_pb2.Response(content=content("Hm."))]
    )
    tally = Tally()
    adapter = load_adapter(FAMILIES["qwen2_audio"].build(tmp_path / "base"))
    given = [(record, {sound.sha256: sound.data})]
    policy = MediaPolicy(max_audio_seconds=0.5)
    made = list(
        make_examples(given, adapter=adapter, method="sft", target="", max_length=999, tally=tally, policy=policy)
    )
    assert len(made) == 1
    assert sum(tally.media_losses.values()) == 1
