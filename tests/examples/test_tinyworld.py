"""The tiny world draws what it says, and the oracle knows right from wrong by looking at files alone."""

import json
import random

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.tinyworld import oracle
from examples.tinyworld.corpus import as_code_bytes, example
from examples.tinyworld.dataset import SCHEMAS, Sizes, write
from examples.tinyworld.faults import Answer, faulty_answer, prompt_pieces, right_answer
from examples.tinyworld.language import find_thing, phrase, random_task, read_phrase
from examples.tinyworld.pretrain import FOLDER, code_adapter
from examples.tinyworld.world import ATTRIBUTES, codec, draw, things
from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import MediaBytes, Turn
from omnialign.rubrics import SUBTASKS, rubric

seeds = st.integers(0, 2**32)


@pytest.mark.parametrize("kind", list(ATTRIBUTES))
def test_every_thing_is_named_and_drawn_like_no_other(kind):
    every = things(kind)
    assert len({draw(thing) for thing in every}) == len({phrase(thing) for thing in every}) == len(every)
    for thing in every:
        assert read_phrase(kind, phrase(thing)) == thing.attributes
        assert find_thing(f"Make {phrase(thing)}.") == thing


@pytest.mark.parametrize("kind", list(ATTRIBUTES))
@given(data=st.data())
@settings(max_examples=20)
def test_codecs_bring_any_codes_back_from_real_files(kind, data):
    world_codec = codec(kind)
    size = world_codec.max_units
    codes = data.draw(st.lists(st.integers(0, world_codec.num_codes - 1), min_size=size, max_size=size))
    assert world_codec.encode(world_codec.decode(codes)) == codes


@pytest.mark.parametrize("subtask", SUBTASKS)
@given(seed=seeds)
@settings(max_examples=20)
def test_the_right_answer_is_fully_correct_and_a_wrong_attribute_is_not(subtask, seed):
    rng = random.Random(seed)
    task = random_task(rng, subtask)
    prompt = prompt_pieces(task)
    assert oracle.wanted(prompt, subtask) == task.wanted
    assert oracle.correct(oracle.check(prompt, right_answer(task).pieces(), subtask))
    attribute, values = rng.choice(list(ATTRIBUTES[task.wanted.kind].items()))
    other = task.wanted.changed(attribute, next(v for v in values if v != task.wanted.attributes[attribute]))
    right = right_answer(task)
    wrong = Answer(phrase(other) if right.text else None, other, draw(other) if right.codes else None)
    feedback = oracle.check(prompt, wrong.pieces(), subtask)
    assert not oracle.correct(feedback)
    asked, given = task.wanted.attributes[attribute], other.attributes[attribute]
    assert f"{attribute} {asked}, {given}, wrong" in feedback.critique
    assert f"the {attribute} {asked}." in feedback.refinement


@pytest.mark.parametrize("subtask", SUBTASKS)
@pytest.mark.parametrize("response", [(), ("",), ("I like turtles.",), (MediaBytes(2, b"not a picture"),)])
def test_nonsense_scores_low_on_the_whole_rubric_and_never_fails(subtask, response):
    task = random_task(random.Random(3), subtask)
    feedback = oracle.check(prompt_pieces(task), response, subtask)
    assert [score.dimension for score in feedback.scores] == list(rubric(subtask))
    assert feedback.scores[0].score == 0
    assert not oracle.correct(feedback)


@pytest.mark.parametrize("subtask", ["t2i", "t2a", "t2v", "ti2ti"])
def test_noise_costs_quality_and_not_prompt_following(subtask):
    task = random_task(random.Random(5), subtask)
    right = right_answer(task)
    noisy = bytes([7, *right.codes[1:]]) if right.codes[0] != 7 else bytes([0, *right.codes[1:]])
    feedback = oracle.check(prompt_pieces(task), Answer(right.text, right.thing, noisy).pieces(), subtask)
    scores = {score.dimension: score.score for score in feedback.scores}
    assert scores["prompt_following"] == 3
    assert min(scores.values()) == 2
    assert "noise none, some, wrong" in feedback.critique
    assert "clean the" in feedback.refinement


def test_a_repeated_word_and_a_missing_attribute_are_told_apart():
    task = random_task(random.Random(1), "ti2t")
    stutter = oracle.check(prompt_pieces(task), (phrase(task.wanted).replace("a ", "a a ", 1),), "ti2t")
    short = oracle.check(prompt_pieces(task), (phrase(task.wanted, omit="colour"),), "ti2t")
    assert stutter.critique.endswith("words plain, unclear, wrong. 1 wrong.")
    assert f"colour {task.wanted.attributes['colour']}, missing, wrong" in short.critique
    assert short.critique.endswith("words plain, plain, good. 1 wrong.")


def test_a_critique_holds_each_thing_asked_against_what_was_given():
    task = random_task(random.Random(2), "t2i")
    answer = right_answer(task).pieces()
    asked = task.wanted.attributes
    critique = "; ".join(f"{name} {value}, {value}, good" for name, value in {**asked, "noise": "none"}.items())
    account = "; ".join(f"{name} {value}, {value}" for name, value in {**asked, "noise": "none"}.items())
    assert oracle.check(prompt_pieces(task), answer, "t2i").critique == f"asked, given: {critique}. nothing wrong."
    assert oracle.account(prompt_pieces(task), answer, "t2i") == f"asked, given: {account}."


def test_a_prompt_of_another_world_is_refused():
    with pytest.raises(InvalidArgument) as caught:
        oracle.check(("What is the capital of France?",), ("Paris",), "t2t")
    assert caught.value.reason == "PROMPT_FOREIGN"


def test_the_oracle_reads_files_and_is_given_no_answer_key():
    task = random_task(random.Random(8), "tv2t")
    shown, text = prompt_pieces(task)
    other = random_task(random.Random(9), "tv2t")
    assert oracle.wanted((prompt_pieces(other)[0], text), "tv2t") == other.wanted
    assert oracle.wanted((shown, text), "tv2t") == task.wanted


def test_some_combinations_are_in_no_annotated_data(tmp_path):
    write(tmp_path, seed=4, sizes=Sizes(train=12, prompts=12, test=12))
    for subtask, schema in SCHEMAS.items():
        shares = {}
        for split in ("train", "prompts", "test"):
            path = tmp_path / schema.folder / f"{split}.{'parquet' if schema.parquet else 'json'}"
            rows = pq.read_table(path).to_pylist() if schema.parquet else json.loads(path.read_text())
            held_out = [json.loads(row["labels"])["held_out"] == "true" for row in rows]
            shares[split] = sum(held_out) / len(held_out)
        assert shares == {"train": 0, "prompts": 0, "test": 0.5}, subtask


def test_the_same_seed_writes_the_same_files_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(tmp_path / name, seed=seed, sizes=Sizes(train=2, prompts=2, test=2))
    path = "text-to-video/train.json"
    assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert (tmp_path / "a" / path).read_bytes() != (tmp_path / "c" / path).read_bytes()


@given(seed=seeds)
@settings(max_examples=20)
def test_pretraining_on_codes_sees_the_ids_that_files_give(seed):
    task = random_task(random.Random(seed), random.Random(seed).choice(SUBTASKS))
    answer = faulty_answer(random.Random(seed), task)
    real, fast = load_adapter(FOLDER), code_adapter(FOLDER)
    assert real.encode_answer(answer.pieces()) == fast.encode_answer(answer.pieces(rendered=False))
    turns, fast_turns = ([Turn("user", prompt_pieces(task, rendered=flag))] for flag in (True, False))
    assert real.encode(turns) == fast.encode(fast_turns)


def test_the_pretraining_mix_holds_answers_refinements_and_descriptions():
    rng = random.Random(0)
    kinds = {len(example(rng).turns) for _ in range(60)}
    assert kinds == {1, 3}
    assert as_code_bytes([]) == []
