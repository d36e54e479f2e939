import builtins
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.cli import spec
from omnialign.errors import InvalidArgument
from omnialign.v1 import alignment_service_pb2, generation_pb2

NEEDED = {"base_model": "base", "dataset": "prompts"}


def test_all_kinds_of_fields_are_read():
    values = {
        **NEEDED,
        "seed": 7,
        "subtasks": ["t2i"],
        "pair_source": "binary",
        "sampling": {"temperature": 0.7},
        "optimization": {"hyperparameters": {"learning_rate": "2e-4", "max_steps": 10}},
    }
    built = spec.build(values)
    assert (built.seed, list(built.subtasks), built.sampling.temperature) == (7, ["t2i"], 0.7)
    assert built.pair_source == alignment_service_pb2.PAIR_SOURCE_BINARY
    assert built.optimization.hyperparameters.learning_rate == 2e-4  # YAML 1.1 reads 2e-4 as text


def test_all_problems_are_named_at_once_with_the_nearest_known_key():
    values = {"dataset": "prompts", "optimzation": {}, "sampling": {"temprature": 1}, "seed": "many", "checkers": 3}
    with pytest.raises(InvalidArgument) as caught:
        spec.build(values)
    problems = dict(caught.value.violations)
    assert problems["optimzation"] == "is not a setting; did you mean 'optimization'?"
    assert problems["sampling.temprature"] == "is not a setting; did you mean 'temperature'?"
    assert "a whole number" in problems["seed"]
    assert "list" in problems["checkers"]
    assert problems["base_model"] == "is required"
    assert caught.value.reason == "SPEC_INVALID"
    assert all(path in str(caught.value) for path in problems)


def test_a_setting_of_a_part_is_named_with_its_part():
    with pytest.raises(InvalidArgument) as caught:
        spec.build({**NEEDED, "optimization": {"beta": 0.3}})
    expected = "is not a setting; did you mean 'hyperparameters.beta'?"
    assert dict(caught.value.violations) == {"optimization.beta": expected}


def test_an_unknown_choice_is_answered_with_the_choices():
    with pytest.raises(InvalidArgument, match="one of language_feedback, binary"):
        spec.build({**NEEDED, "pair_source": "ternary"})
    with pytest.raises(InvalidArgument, match="one of sections, json"):
        spec.build({**NEEDED, "judge_answer_form": "yaml"})


def test_a_form_of_answers_is_named_in_short():
    built = spec.build({**NEEDED, "feedback_answer_form": "json"})
    assert built.feedback_answer_form == generation_pb2.ANSWER_FORM_JSON


def test_a_media_policy_is_set_in_a_file_or_on_the_command_line():
    merged = spec.with_settings({**NEEDED, "media_policy": {"max_pixels": 589_824}}, ["media_policy.max_frames=8"])
    assert spec.build(merged).media_policy == generation_pb2.MediaPolicy(max_pixels=589_824, max_frames=8)
    with pytest.raises(InvalidArgument) as caught:
        spec.build({**NEEDED, "media_policy": {"max_frame": 8}})
    assert dict(caught.value.violations) == {"media_policy.max_frame": "is not a setting; did you mean 'max_frames'?"}


def test_settings_are_laid_over_a_file_without_changing_it():
    values = {**NEEDED, "sampling": {"top_p": 0.1}}
    merged = spec.with_settings(values, ["sampling.top_p=0.3", "distribution.precision=bf16", 'subtasks=["t2i"]'])
    assert merged["sampling"] == {"top_p": 0.3}
    assert merged["distribution"] == {"precision": "bf16"}
    assert merged["subtasks"] == ["t2i"]
    assert values["sampling"] == {"top_p": 0.1}


@pytest.mark.parametrize("setting", ["beta", "=1", "dataset.x=1"])
def test_malformed_settings_are_refused(setting):
    with pytest.raises(InvalidArgument) as caught:
        spec.with_settings(NEEDED, [setting])
    assert caught.value.reason == "SETTING_MALFORMED"


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", json.dumps(NEEDED)), ("a.yaml", "base_model: base\ndataset: prompts\n")]
)
def test_files_are_read_by_their_suffix(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert spec.read_file(path) == NEEDED


@pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.yaml", "a: [1"), ("a.json", "[1]"), ("missing", None)])
def test_unreadable_files_are_named(tmp_path, name, text):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidArgument, match=name) as caught:
        spec.read_file(path)
    assert caught.value.reason == "SPEC_UNREADABLE"


def test_without_pyyaml_the_sentence_asks_for_json(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_yaml(name, *rest, **named):
        if name == "yaml":
            raise ModuleNotFoundError(name="yaml")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    path = tmp_path / "a.yaml"
    path.write_text("a: 1")
    with pytest.raises(InvalidArgument, match="JSON"):
        spec.read_file(path)


@given(
    st.dictionaries(st.text(max_size=12), st.none() | st.integers() | st.text() | st.lists(st.booleans()), max_size=5)
)
def test_any_mapping_is_either_a_specification_or_a_list_of_problems(values):
    try:
        spec.build(values)
    except InvalidArgument as error:
        assert error.violations
