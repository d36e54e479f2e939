"""The token adapter reads and writes every modality, and nobody's text becomes a control token."""

import json
import random
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.tinyworld.pretrain import FOLDER
from examples.tinyworld.world import ATTRIBUTES, MODALITIES, codec, draw, random_thing
from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters import AnswerMalformed, load_adapter
from omnialign.modeling.inputs import MediaBytes, Turn

ADAPTER = load_adapter(FOLDER)
CONTROL = ["<s>", "</s>", "<pad>", "<user>", "<assistant>", "<image>", "</image>", "<audio>", "<video>"]


def medium(kind, seed=0):
    thing = random_thing(random.Random(seed), kind)
    return MediaBytes(MODALITIES[kind], codec(kind).decode(list(draw(thing))))


@pytest.mark.parametrize("kind", list(ATTRIBUTES))
def test_an_answer_with_text_and_media_comes_back(kind):
    answer = ("a red ring", medium(kind))
    decoded = ADAPTER.decode(ADAPTER.encode_answer(answer))
    assert decoded[0] == "a red ring"
    codes = codec(kind).encode
    assert codes(decoded[1].data) == codes(answer[1].data)


@given(st.lists(st.one_of(st.sampled_from(CONTROL), st.text(max_size=12)), max_size=6))
@settings(deadline=None)
def test_text_is_never_a_control_token(chunks):
    text = "".join(chunks)
    ids = ADAPTER.encode([Turn("user", (text,))]).ids
    control = set(ADAPTER.encode([]).ids) | {ADAPTER.end_id, ADAPTER.pad_id}
    frame = ADAPTER.encode([Turn("user", ())]).ids
    assert ids[:2] + ids[-1:] == frame
    assert not control & set(ids[2:-1])
    assert ADAPTER.decode(ADAPTER.encode_answer((text,))) == ((text.strip(),) if text.strip() else ())


def test_a_prompt_has_no_end_token_and_an_answer_has_one():
    assert ADAPTER.end_id not in ADAPTER.encode([Turn("user", ("hello",))]).ids
    assert ADAPTER.encode_answer(("hello",)).count(ADAPTER.end_id) == 1


@pytest.mark.parametrize("kind", list(ATTRIBUTES))
def test_a_media_span_that_is_not_whole_is_a_typed_error(kind):
    ids = ADAPTER.encode_answer((medium(kind),))[:-1]
    for broken in (ids[:-1], ids[:-2] + ids[-1:], ids[1:], [*ids[:-1], ids[1], ids[-1]], [ids[0], *ids]):
        with pytest.raises(AnswerMalformed):
            ADAPTER.decode(broken)


@given(st.lists(st.integers(0, 676), max_size=60))
@settings(deadline=None, max_examples=60)
def test_any_ids_are_an_answer_or_a_typed_error(ids):
    try:
        ADAPTER.decode(ids)
    except AnswerMalformed as error:
        assert error.reason == "ANSWER_MALFORMED"


def test_a_codec_range_over_text_ids_is_refused(tmp_path):
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(FOLDER / name, tmp_path)
    codecs = json.loads((FOLDER / "codecs.json").read_text())
    codecs["codecs"][0]["first_id"] = 100
    (tmp_path / "codecs.json").write_text(json.dumps(codecs))
    with pytest.raises(InvalidArgument) as caught:
        load_adapter(tmp_path)
    assert caught.value.reason == "CODEC_RANGE_INVALID"


def changed(tmp_path, **entry):
    """The model's folder with another first codec; a value of None takes the key away."""
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(FOLDER / name, tmp_path)
    codecs = json.loads((FOLDER / "codecs.json").read_text())
    codecs["codecs"][0] = {k: v for k, v in {**codecs["codecs"][0], **entry}.items() if v is not None}
    (tmp_path / "codecs.json").write_text(json.dumps(codecs))
    return tmp_path


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"num_ids": 7}, "CODEC_RANGE_INVALID"),
        ({"begin": "<nowhere>"}, "CODEC_RANGE_INVALID"),
        ({"end": "<image>"}, "CODEC_RANGE_INVALID"),
        ({"type": "wishful"}, "CODEC_UNKNOWN"),
        ({"options": {"colour": "red"}}, "CODEC_OPTIONS_INVALID"),
        ({"type": "mimi", "options": {"folder": "audio_codec", "max_frames": 3}}, "CODEC_WEIGHTS_MISSING"),
        ({"type": "mimi", "options": {"folder": "/etc", "max_frames": 3}}, "CODEC_OPTIONS_INVALID"),
        ({"begins": "<image>"}, "CODECS_INVALID"),
        ({"end": None}, "CODECS_INVALID"),
        ({"first_id": "many"}, "CODECS_INVALID"),
    ],
)
def test_an_entry_that_does_not_fit_is_a_typed_error(tmp_path, entry, reason):
    with pytest.raises(InvalidArgument) as caught:
        load_adapter(changed(tmp_path, **entry))
    assert caught.value.reason == reason


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"codecs": 3}', '{"codecs": [3]}', "<html>"])
def test_a_codecs_file_that_is_none_is_a_typed_error(tmp_path, text):
    (changed(tmp_path) / "codecs.json").write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        load_adapter(tmp_path)
    assert caught.value.reason == "CODECS_INVALID"


def test_a_codec_beyond_the_models_vocabulary_is_refused(tmp_path):
    for name in ("tokenizer.json", "codecs.json"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 650}))
    with pytest.raises(InvalidArgument) as caught:
        load_adapter(tmp_path)
    assert caught.value.reason == "CODEC_RANGE_INVALID"


def test_a_folder_without_codecs_says_what_is_missing(tmp_path):
    with pytest.raises(InvalidArgument, match=r"codecs\.json") as caught:
        load_adapter(tmp_path)
    assert caught.value.reason == "MODEL_HAS_NO_ADAPTER"
