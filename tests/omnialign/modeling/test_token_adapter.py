"""The token adapter reads and writes every modality, and nobody's text becomes a control token."""

import json
import random
import shutil
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.tinyworld.pretrain import FOLDER
from examples.tinyworld.world import ATTRIBUTES, MODALITIES, codec, draw, random_thing
from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters import AnswerMalformed, load_adapter
from omnialign.modeling.codecs import build
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
@settings(max_examples=60)
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
        ({"first_id": 1e400}, "CODECS_INVALID"),
        ({"type": ["mimi"]}, "CODECS_INVALID"),
        ({"options": [["a", "b"]]}, "CODECS_INVALID"),
    ],
)
def test_an_entry_that_does_not_fit_is_a_typed_error(tmp_path, entry, reason):
    with pytest.raises(InvalidArgument) as caught:
        load_adapter(changed(tmp_path, **entry))
    assert caught.value.reason == reason


IMAGE = {"palette": ["#000000", "#ffffff"], "rows": 2, "columns": 2, "run": 1, "cell_pixels": 8}
VIDEO = {**IMAGE, "frames": 2, "frames_per_second": 2}
SOUND = {"frequencies_hz": [440], "amplitudes": [0.5], "frames": 2, "frame_samples": 80, "rate_hz": 8000}
HUGE = 10**9


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("palette_image", {"run": HUGE}),
        ("palette_image", {"run": 2**70}),
        ("palette_image", {"run": 0}),
        ("palette_image", {"run": 1.0}),
        ("palette_image", {"run": True}),
        ("palette_image", {"rows": HUGE}),
        ("palette_image", {"rows": 8000, "columns": 8000}),
        ("palette_image", {"columns": 3, "run": 2}),
        ("palette_image", {"cell_pixels": HUGE}),
        ("palette_image", {"cell_pixels": 8000}),
        ("palette_image", {"palette": ["#0000+1"]}),
        ("palette_image", {"palette": [3]}),
        ("palette_image", {"palette": []}),
        ("palette_image", {"palette": 3}),
        ("palette_image", {"palette": ["#000000"] * 5000, "run": 2}),
        ("palette_video", {"frames": HUGE}),
        ("palette_video", {"frames": 0}),
        ("palette_video", {"frames_per_second": 0}),
        ("palette_video", {"frames_per_second": 1e-9}),
        ("palette_video", {"columns": 1, "cell_pixels": 1}),
        ("palette_video", {"rows": 3, "cell_pixels": 1}),
        ("palette_video", {"frames_per_second": float("nan")}),
        ("palette_video", {"frames_per_second": float("inf")}),
        ("tone_audio", {"frames": HUGE}),
        ("tone_audio", {"frame_samples": HUGE}),
        ("tone_audio", {"frames": 10_000, "frame_samples": 10_000}),
        ("tone_audio", {"rate_hz": HUGE}),
        ("tone_audio", {"rate_hz": "8000"}),
        ("tone_audio", {"frequencies_hz": [-440]}),
        ("tone_audio", {"frequencies_hz": [float("nan")]}),
        ("tone_audio", {"frequencies_hz": ["440"]}),
        ("tone_audio", {"amplitudes": [2]}),
        ("tone_audio", {"frequencies_hz": [440] * 5000, "amplitudes": [0.5] * 5000}),
    ],
)
def test_sizes_that_no_codec_has_are_refused_at_once(kind, options):
    build(kind, {"palette_image": IMAGE, "palette_video": VIDEO, "tone_audio": SOUND}[kind])
    started = time.process_time()
    with pytest.raises(InvalidArgument) as caught:
        build(kind, {"palette_image": IMAGE, "palette_video": VIDEO, "tone_audio": SOUND}[kind] | options)
    assert caught.value.reason == "CODEC_OPTIONS_INVALID"
    assert time.process_time() - started < 1


values = st.integers(-2, 9) | st.sampled_from([HUGE, 2**64, -1, 0.5, float("nan"), "8", None, [], {}, True])


@given(st.sampled_from([("palette_image", IMAGE), ("palette_video", VIDEO), ("tone_audio", SOUND)]), st.data())
def test_whatever_the_options_hold_a_codec_is_built_or_refused_by_a_typed_error(base, data):
    kind, options = base
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(options)), values))
    try:
        codec = build(kind, options | changes)
    except InvalidArgument as error:
        assert error.reason == "CODEC_OPTIONS_INVALID"
    else:
        assert codec.decode([0] * codec.min_units)


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
