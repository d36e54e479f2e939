"""The spec is read strictly."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from training.methods import METHODS, complete
from training.spec import Hyperparameters, Spec
from training.spec_file import parse_spec, read_spec
from training.trainer_inputs import common_arguments

GOOD = {
    "job": "projects/default/trainingJobs/j",
    "dataset": "projects/default/datasets/d",
    "base_model_dir": "base",
    "output_dir": "out",
    "cache_dir": "cache",
}


def read(document: object, *, method: str = "sft") -> Spec:
    return parse_spec(document, method=method)


def problems(document: object, *, method: str = "sft") -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        read(document, method=method)
    assert caught.value.reason == "TRAINING_SPEC_INVALID"
    return dict(caught.value.violations)


def test_a_good_spec_is_read_with_its_defaults():
    spec = read({**GOOD, "hyperparameters": {"learning_rate": 1, "max_steps": 3}})
    assert (spec.hyperparameters.learning_rate, spec.distribution.num_processes) == (1.0, 1)


def test_the_policy_and_truth_values_are_read_as_strictly_as_numbers():
    spec = read({**GOOD, "media_policy": {"max_frames": 4, "use_damaged": True}})
    assert (spec.media_policy.max_frames, spec.media_policy.use_damaged) == (4, True)
    bad = {**GOOD, "media_policy": {"use_damaged": 1, "max_frame": 4}, "hyperparameters": {"train_towers": "yes"}}
    assert set(problems(bad)) == {"media_policy.use_damaged", "media_policy.max_frame", "hyperparameters.train_towers"}


def test_an_unknown_key_is_an_error_that_names_the_nearest_known_one():
    found = problems({**GOOD, "hyperparameters": {"learning_rte": 0.1}})
    assert "learning_rate" in found["hyperparameters.learning_rte"]


def test_every_problem_is_reported_at_once():
    bad = {**GOOD, "hyperparameters": {"max_steps": "3", "beta": -1.0}, "target": "praise", "splts": []}
    del bad["job"]
    assert set(problems(bad)) == {"job", "hyperparameters.max_steps", "hyperparameters.beta", "target", "splts"}


def test_a_batch_that_the_processes_cannot_share_is_an_error():
    bad = {**GOOD, "hyperparameters": {"batch_size": 3}, "distribution": {"num_processes": 2}}
    assert "hyperparameters.batch_size" in problems(bad)


def test_no_warm_up_can_be_said_and_contradicts_a_share_of_it():
    spec = read({**GOOD, "hyperparameters": {"no_warmup": True}}, method="dpo")
    assert complete(spec, num_processes=1).warmup_ratio == 0
    assert complete(read(GOOD, method="dpo"), num_processes=1).warmup_ratio > 0
    bad = {**GOOD, "hyperparameters": {"no_warmup": True, "warmup_ratio": 0.1}}
    assert set(problems(bad)) == {"hyperparameters.no_warmup"}


def test_a_seed_of_64_bits_is_taken_and_a_larger_one_is_an_error():
    spec = read({**GOOD, "hyperparameters": {"seed": 2**64 - 1}})
    arguments = common_arguments(spec, complete(spec, num_processes=1))
    assert arguments["seed"] < 2**32
    assert set(problems({**GOOD, "hyperparameters": {"seed": 2**64}})) == {"hyperparameters.seed"}


def test_a_file_that_is_no_yaml_is_a_typed_error(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("a: [")
    with pytest.raises(InvalidArgument):
        read_spec(path, method="sft")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=10,
    )
)
def test_any_document_is_read_or_refused_but_never_breaks(document: object):
    with pytest.raises(InvalidArgument):
        read(document)


@given(
    st.dictionaries(
        st.sampled_from([f.name for f in fields(Hyperparameters) if f.type is not bool]),
        st.none() | st.booleans() | st.text(),
        min_size=1,
    )
)
def test_no_text_or_truth_value_passes_for_a_number(hyperparameters: dict[str, object]):
    assert len(problems({**GOOD, "hyperparameters": hyperparameters})) == len(hyperparameters)


@given(st.sampled_from([m for m in METHODS if METHODS[m].rows != "prompt"]), st.integers(1, 7), st.integers(0, 9))
def test_completed_hyperparameters_can_always_be_shared(method: str, num_processes: int, micro: int):
    spec = replace(read(GOOD, method=method), hyperparameters=Hyperparameters(micro_batch_size=micro))
    filled = complete(spec, num_processes=num_processes)
    assert filled.learning_rate > 0
    assert filled.batch_size % (num_processes * max(micro, 1)) == 0


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].lacks])
def test_a_number_for_a_term_that_the_loss_does_not_have_is_refused(method: str):
    own = {method: REWARDED} if METHODS[method].rows == "prompt" else {}
    given = {**GOOD, **own, "hyperparameters": dict.fromkeys(METHODS[method].lacks, 0.5)}
    assert set(problems(given, method=method)) == {f"hyperparameters.{name}" for name in METHODS[method].lacks}


REWARDED = {"rollout": {"rewards": [{"checker": "tinyworld", "weight": 2}]}}


def test_terms_of_a_reward_are_read_from_a_list():
    (term,) = read({**GOOD, "grpo": REWARDED}, method="grpo").settings.rollout.rewards
    assert (term.name, term.weight) == ("checker", 2.0)
    found = problems({**GOOD, "grpo": {"rollout": {"rewards": [{"chekcer": "tinyworld"}]}}}, method="grpo")
    assert "did you mean `checker`?" in found["grpo.rollout.rewards[0].chekcer"]


@pytest.mark.parametrize(
    ("change", "key", "word"),
    [
        ({"group_size": 1}, "grpo.group_size", "at least 2"),
        ({"epsilon_low": 1.5}, "grpo.epsilon_low", "at most 1"),
        ({"rollout": {"rewards": []}}, "grpo.rollout.rewards", "at least one term"),
        ({"rollout": {"rewards": [{"length_over": 9, "weight": 0}]}}, "grpo.rollout.rewards", "above 0"),
        ({"rollout": {"rewards": [{}]}}, "grpo.rollout.rewards[0]", "exactly one of"),
        ({"rollout": {"rewards": [{"checker": "tinyworld", "judge": "file:///j"}]}}, "grpo.rollout.rewards[0]", "one"),
        ({"rollout": {"rewards": [{"checker": "nobody"}]}}, "grpo.rollout.rewards[0].checker", "tinyworld"),
        ({"rollout": {"rewards": [{"judge": "j"}]}}, "grpo.rollout.rewards[0].judge", "model version"),
        ({"rollout": {**REWARDED["rollout"], "temperature": 0}}, "grpo.rollout.temperature", "above 0"),
    ],
)
def test_contradictions_of_reinforcement_learning_are_found_early(change: dict[str, object], key: str, word: str):
    found = problems({**GOOD, "grpo": {**REWARDED, **change}}, method="grpo")
    assert list(found) == [key]
    assert word in found[key]


def test_ppo_refuses_shares_above_one():
    found = problems({**GOOD, "ppo": {**REWARDED, "gae_lambda": 1.5, "num_samples": 0}}, method="ppo")
    assert set(found) == {"ppo.gae_lambda", "ppo.num_samples"}


def test_answers_to_prompts_need_not_divide_by_the_processes():
    change = {"hyperparameters": {"batch_size": 3, "micro_batch_size": 5}, "distribution": {"num_processes": 2}}
    spec = read({**GOOD, **change, "grpo": REWARDED}, method="grpo")
    assert complete(spec, num_processes=2).batch_size == 3


def test_a_method_reads_the_section_of_its_name_and_no_other():
    assert read({**GOOD, "simpo": {"margin": 0.5}}, method="simpo").settings.margin == 0.5
    assert read(GOOD, method="simpo").settings.margin == 1.0
    assert "margin" in problems({**GOOD, "simpo": {"marginn": 0.5}}, method="simpo")["simpo.marginn"]
    assert set(problems({**GOOD, "simpo": {"margin": 0.5}}, method="dpo")) == {"simpo"}
    assert set(problems({**GOOD, "target": "feedback"}, method="orpo")) == {"target"}
