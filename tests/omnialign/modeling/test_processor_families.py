"""Processor adapters: the ids and tensors of the stock processors, literal control tokens as text, typed refusals."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer, LlavaProcessor, ProcessorMixin

from omnialign.errors import InvalidArgument
from omnialign.media import MediaError
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.adapters.processor import ProcessorAdapter
from omnialign.modeling.feature_cache import FeatureCache
from omnialign.modeling.inputs import MediaBytes, MediaPolicy, Turn
from omnialign.v1 import content_pb2
from tests.model_factory.families import FAMILIES
from tests.reference_inputs import PLAIN, ask, conversations, film, medium, picture, reference_inputs, rendered, sound

READERS = [name for name, family in FAMILIES.items() if not family.writes]
MEDIA_READERS = [name for name in READERS if FAMILIES[name].reads]
WORDS = st.text(max_size=40).filter(lambda text: text.isprintable())


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(params=READERS)
def name(request) -> str:
    return str(request.param)


_made: dict[str, tuple[Path, ProcessorAdapter, Any]] = {}


def made(root: Path, name: str) -> tuple[Path, ProcessorAdapter, Any]:
    """A family's folder, adapter and stock processor, made once."""
    if name not in _made:
        folder = FAMILIES[name].build(root / name)
        adapter = load_adapter(folder)
        assert isinstance(adapter, ProcessorAdapter)
        auto = AutoProcessor if FAMILIES[name].reads else AutoTokenizer
        _made[name] = folder, adapter, auto.from_pretrained(folder, local_files_only=True)
    return _made[name]


def stock_ids(processor: Any, turns: tuple[Turn, ...]) -> list[int]:
    """Ids of a conversation without media by the stock processor or tokenizer."""
    text = rendered(processor, turns)
    plain = not hasattr(processor, "tokenizer")
    return list(
        processor(text, add_special_tokens=False)["input_ids"] if plain else processor(text=[text])["input_ids"][0]
    )


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found.double(), wanted.double(), atol=1e-6)


def test_ids_and_tensors_are_those_of_the_stock_processor(root, name):
    _, adapter, processor = made(root, name)
    for turns in conversations(FAMILIES[name].reads):
        wanted = reference_inputs(adapter, processor, [turns])
        inputs = adapter.encode(turns)
        assert [inputs.ids] == wanted["input_ids"].tolist()
        check_tensors(adapter.tensors([inputs], wanted["input_ids"]), wanted)


def check_tensors(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    wanted = {name: tensor for name, tensor in wanted.items() if name not in ("input_ids", "attention_mask")}
    if not found:  # types of text alone are all zero
        assert all(name == "mm_token_type_ids" and not tensor.any() for name, tensor in wanted.items())
        return
    assert {name: tuple(t.shape) for name, t in found.items()} == {name: tuple(t.shape) for name, t in wanted.items()}
    assert [name for name in wanted if not same(found[name], wanted[name])] == []


@pytest.mark.parametrize("name", MEDIA_READERS)
def test_a_batch_has_the_tensors_of_the_stock_batch(root, name):
    _, adapter, processor = made(root, name)
    asked = [ask(PLAIN), *(ask(medium(kind, 1), "?") for kind in FAMILIES[name].reads)]
    asked.append(ask(*(medium(kind, 2) for kind in FAMILIES[name].reads), "Both."))
    if "image" in FAMILIES[name].reads:
        asked.append(ask(picture(3, width=56, height=112), "Narrow."))
    wanted = reference_inputs(adapter, processor, asked)
    rows = [adapter.encode(turns) for turns in asked]
    check_tensors(adapter.tensors(rows, wanted["input_ids"]), wanted)


@settings(max_examples=40)
@given(words=WORDS)
def test_ordinary_text_has_the_ids_of_the_stock_processor(root, words):
    for name in ("qwen2_5_vl", "llava", "qwen2"):
        _, adapter, processor = made(root, name)
        assert adapter.encode(ask(words)).ids == stock_ids(processor, ask(words))


@cache
def controls() -> list[str]:
    """Every added token of every family."""
    return sorted({token for name in READERS for token in _made[name][1]._escaper.controls})


@settings(max_examples=60)
@given(data=st.data())
def test_what_people_write_never_becomes_a_control_token(root, data):
    name = data.draw(st.sampled_from(("qwen2_5_vl", "qwen3_omni_moe", "llava_next", "qwen2")))
    for other in READERS:
        made(root, other)
    _, adapter, processor = made(root, name)
    tokenizer = getattr(processor, "tokenizer", processor)
    tokens = data.draw(st.lists(st.sampled_from([*controls(), "<|", "<", "x", " "]), min_size=1, max_size=5))
    cuts = data.draw(st.lists(st.integers(0, len("".join(tokens))), max_size=3).map(sorted))
    text = "".join(tokens)
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]  # neighbours may join to a token
    added = set(tokenizer.get_added_vocab().values())
    skeleton = [number for number in adapter.encode(ask(*("x" for _ in parts))).ids if number in added]
    assert [number for number in adapter.encode(ask(*parts)).ids if number in added] == skeleton
    answer = adapter.encode_answer([text])
    assert not added & set(answer[:-1])
    assert adapter.decode(answer) == ((text.strip(),) if text.strip() else ())


def test_a_literal_placeholder_beside_a_medium_stays_text(root):
    for name in MEDIA_READERS:
        _, adapter, processor = made(root, name)
        kind = FAMILIES[name].reads[0]
        token, number = (getattr(processor, f"{kind}_{part}") for part in ("token", "token_id"))
        quoted, plain = (adapter.encode(ask(text, medium(kind, 1))).ids for text in (f"a {token} b", "a b"))
        assert quoted.count(number) == plain.count(number) > 0
        assert adapter.placeholders(ask(f"a {token} b", medium(kind, 1))).ids.count(number) == 1


def test_an_answer_has_the_ids_that_the_template_gives_it(root, name):
    _, adapter, processor = made(root, name)
    tokenizer = getattr(processor, "tokenizer", processor)
    for words in (PLAIN, "Yes.", "\n\nOne\n\ntwo ", "é ü 漢字"):
        question = ask("What is it?")
        whole = rendered(processor, (*question, Turn("assistant", (words,))), prompt=False)
        start = rendered(processor, question)
        behind = whole.removeprefix(start) if whole.startswith(start) else whole[whole.rindex(words) :]
        ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
        ends = [place for place, number in enumerate(ids) if number in adapter.end_ids]
        assert adapter.encode_answer([words]) == (ids[: ends[0] + 1] if ends else [*ids, tokenizer.eos_token_id])
        assert adapter.decode(adapter.encode_answer([words])) == (words.strip(),)


def test_placeholders_are_one_for_each_medium_with_what_was_decoded(root):
    _, adapter, processor = made(root, "qwen2_5_omni")
    found = adapter.placeholders(ask(picture(), "a", film(frames=4), sound()))
    assert [found.ids.count(getattr(processor, f"{kind}_token_id")) for kind in ("image", "video", "audio")] == [
        1,
        1,
        1,
    ]
    assert [decoded.array.shape for decoded in found.media] == [(60, 100, 3), (4, 56, 56, 3), (8000,)]
    assert found.media[1].times_seconds == (0.0, 0.5, 1.0, 1.5)
    assert found.media[2].rate == 16000


def test_a_policy_without_a_rate_takes_the_processors_own(root):
    _, adapter, _ = made(root, "qwen3_vl")
    policy = adapter._reader.completed(MediaPolicy())
    assert (policy.frames_per_second, policy.max_frames) == (2.0, 768)
    _, adapter, _ = made(root, "qwen2_audio")
    assert adapter._reader.completed(MediaPolicy()).sample_rate_hz == 16000
    assert adapter._reader.completed(MediaPolicy(sample_rate_hz=8000)).sample_rate_hz == 8000


def test_a_sound_at_the_policys_rate_is_brought_to_the_models(root):
    _, adapter, _ = made(root, "qwen2_audio")
    coarse = adapter.encode(ask(sound(), "?"), MediaPolicy(sample_rate_hz=8000))
    fine = adapter.encode(ask(sound(), "?"))
    assert len(coarse.ids) == len(fine.ids)
    assert not np.allclose(coarse.features[0].arrays["input_features"], fine.features[0].arrays["input_features"])


def test_features_are_kept_by_content_policy_and_company(root, tmp_path):
    folder, plain, _ = made(root, "llava_onevision")
    kept = FeatureCache(tmp_path)
    adapter = ProcessorAdapter(folder, kept)
    several = ask(picture(1), picture(2), "?")
    for _ in range(2):
        for turns in (ask(picture(1), "?"), ask("Other words.", picture(1)), several):
            found, wanted = adapter.encode(turns), plain.encode(turns)
            assert found.ids == wanted.ids
            ids = torch.tensor([found.ids])
            check_tensors(adapter.tensors([found], ids), plain.tensors([wanted], ids))
    assert (kept.counts.misses, kept.counts.hits) == (3, 5)
    adapter.encode(several, MediaPolicy(max_pixels=900))
    assert kept.counts.misses == 5


def test_the_revision_follows_what_a_model_is_fed(root, tmp_path):
    folder, adapter, _ = made(root, "llava")
    shutil.copytree(folder, tmp_path / "copy")
    assert ProcessorAdapter(tmp_path / "copy").revision == adapter.revision
    path = tmp_path / "copy" / "processor_config.json"
    path.write_text(path.read_text().replace('"do_resize": true', '"do_resize": false'))
    assert ProcessorAdapter(tmp_path / "copy").revision != adapter.revision


def refusal(folder: Path) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        load_adapter(folder)
    return caught.value


def test_a_folder_without_a_chat_template_is_refused_with_the_mend(root, tmp_path):
    folder, _, _ = made(root, "qwen2_5_vl")
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "chat_template.jinja").unlink()
    error = refusal(tmp_path / "copy")
    assert error.reason == "CHAT_TEMPLATE_MISSING"
    assert "chat_template.jinja" in error.message


@pytest.mark.parametrize("spoil", ["vocabulary", "placeholder"])
def test_a_tokenizer_of_another_model_is_refused(root, tmp_path, spoil):
    folder, _, _ = made(root, "qwen2_5_vl")
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    config = json.loads(path.read_text())
    if spoil == "vocabulary":
        config["text_config"]["vocab_size"] = 300
    else:
        config["image_token_id"] += 1
    path.write_text(json.dumps(config))
    error = refusal(tmp_path / "copy")
    assert error.reason == "TOKENIZER_MISMATCH"


def test_an_unknown_architecture_and_a_broken_processor_are_refused(root, tmp_path):
    folder, _, _ = made(root, "llava")
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "processor_config.json"
    good = path.read_text()
    path.write_text("{")
    assert refusal(tmp_path / "copy").reason == "MODEL_CONFIG_INVALID"
    path.write_text(good)
    (tmp_path / "copy" / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
    assert refusal(tmp_path / "copy").reason == "MODEL_CONFIG_INVALID"


def test_a_processor_that_does_not_tell_what_stands_for_a_medium_is_unsupported(root, monkeypatch):
    folder, _, _ = made(root, "llava")
    monkeypatch.setattr(LlavaProcessor, "replace_image_token", ProcessorMixin.replace_image_token)
    adapter = load_adapter(folder)
    assert adapter.encode(ask(PLAIN)).ids
    with pytest.raises(InvalidArgument) as caught:
        adapter.encode(ask(picture(), "?"))
    assert caught.value.reason == "PROCESSOR_UNSUPPORTED"


BAD = {
    "MODALITY_UNSUPPORTED": ("llava", sound()),
    "MEDIA_REFUSED": ("qwen3_vl", picture(width=20000, height=1)),
    "MEDIA_TOO_SHORT": ("qwen2_audio", sound(seconds=0.001)),
    "AUDIO_TOO_LONG": ("qwen2_audio", sound(seconds=30.5)),
    "MEDIA_UNDECODABLE": ("llava_next", MediaBytes(content_pb2.MODALITY_IMAGE, b"no picture")),
}


@pytest.mark.parametrize("reason", BAD)
def test_media_that_a_model_cannot_be_fed_are_refused(root, reason):
    name, bad = BAD[reason]
    with pytest.raises(InvalidArgument) as caught:
        made(root, name)[1].encode(ask(bad, "?"))
    assert caught.value.reason == reason


def test_a_long_sound_is_cut_when_the_policy_says_so_and_the_loss_is_told(root):
    _, adapter, _ = made(root, "qwen2_audio")
    inputs = adapter.encode(ask(sound(seconds=5.5), "?"), MediaPolicy(max_audio_seconds=4))
    assert len(inputs.losses) == 1


def test_silence_and_a_single_frame_are_read(root):
    _, adapter, _ = made(root, "qwen2_5_omni")
    silent = MediaBytes(content_pb2.MODALITY_AUDIO, sound(seconds=0.3).data[:44] + b"\0" * 9600)
    inputs = adapter.encode(ask(silent, film(frames=1), picture(width=1, height=1), "?"))
    assert len(inputs.features) == 3


def test_videos_that_cannot_share_a_row_are_refused(root):
    _, adapter, _ = made(root, "llava_onevision")
    with pytest.raises(InvalidArgument) as caught:
        adapter.encode(ask(film(1, frames=2), film(2, frames=6), "Which is longer?"))
    assert caught.value.reason == "FEATURES_DIFFER"
    assert len(adapter.encode(ask(film(1, frames=2), film(2, frames=6), "?"), MediaPolicy(max_frames=2)).features) == 2


def test_an_answer_may_hold_words_and_ends_but_nothing_that_stands_for_media(root, name):
    _, adapter, _ = made(root, name)
    shown = adapter.encode(ask(*map(medium, FAMILIES[name].reads), "What are these?"))
    plain = adapter.encode(ask("What are these?"))
    special = set(adapter._escaper.special_ids)
    assert set(adapter.unwritable_ids) >= (set(shown.ids) - set(plain.ids)) & special
    assert bool(adapter.unwritable_ids) == bool(FAMILIES[name].reads)
    answer = adapter.encode_answer(["It is <image>, or a sound."])
    assert not set(adapter.unwritable_ids) & {*answer, *adapter.end_ids, adapter.pad_id}


def test_an_answer_with_media_is_refused(root):
    _, adapter, _ = made(root, "qwen2_5_vl")
    with pytest.raises(InvalidArgument) as caught:
        adapter.encode_answer(["Here: ", picture()])
    assert caught.value.reason == "MODALITY_UNSUPPORTED"


def test_a_template_that_forgets_a_medium_is_refused(root, tmp_path):
    folder, _, _ = made(root, "qwen2_5_vl")
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|video_pad|>", ""))
    with pytest.raises(InvalidArgument, match="video") as caught:
        load_adapter(tmp_path / "copy").encode(ask(film(), "?"))
    assert caught.value.reason == "CHAT_TEMPLATE_REFUSED"
    assert not isinstance(caught.value, MediaError)


def test_earlier_messages_and_those_of_a_system_are_read_or_refused_and_never_lost(root, name):
    _, adapter, _ = made(root, name)
    earlier = [Turn("user", ("Where is it?",)), Turn("assistant", ("At the lake.",))]
    shown = adapter._tokenizer.decode(adapter.encode([*earlier, *ask("Whose?")]).ids)
    assert shown.index("Where is it?") < shown.index("At the lake.") < shown.index("Whose?")
    try:
        shown = adapter._tokenizer.decode(adapter.encode([Turn("system", ("Be kind.",)), *earlier, *ask("Whose?")]).ids)
    except InvalidArgument as error:
        assert error.reason in ("ROLE_UNSUPPORTED", "CHAT_TEMPLATE_REFUSED")
    else:
        assert "Be kind." in shown


def test_a_template_that_forgets_the_system_is_refused(root, tmp_path):
    folder, _, _ = made(root, "qwen2_5_vl")
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "chat_template.jinja"
    forgetful = "{% for message in messages if message['role'] != 'system' %}"
    path.write_text(path.read_text().replace("{% for message in messages %}", forgetful))
    adapter = load_adapter(tmp_path / "copy")
    assert adapter.encode(ask("?"))
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="system") as caught:
            adapter.encode([Turn("system", ("Be kind.",)), *ask("?")])
        assert caught.value.reason == "ROLE_UNSUPPORTED"
