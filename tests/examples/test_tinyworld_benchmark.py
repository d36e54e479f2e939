"""Questions about scenes need both media, open instructions want certain modalities, and the oracle knows which."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from examples.tinyworld import oracle
from examples.tinyworld.annotations import annotated_records, choice_records, scene_records, synergy_pairs
from examples.tinyworld.choices import choices_about
from examples.tinyworld.dataset import Sizes
from examples.tinyworld.examiners import synergy
from examples.tinyworld.faults import Message, prompt_pieces
from examples.tinyworld.presenting import COMBINATIONS, PEOPLE, compose, random_invitation
from examples.tinyworld.scenes import Scene, fitting, fitting_sound
from examples.tinyworld.sight import look
from examples.tinyworld.tasks import faulty_answer, random_task, right_answer
from examples.tinyworld.understanding import CATEGORIES, FORMS, SUBTASKS, Question, random_question
from examples.tinyworld.world import ATTRIBUTES, draw, random_thing, things
from omnialign.errors import InvalidArgument
from omnialign.modeling.inputs import MediaBytes, pieces
from omnialign.rubrics import rubric
from training.samples import samples_of

seeds = st.integers(0, 2**32)
NEW = (*SUBTASKS, "t2tia")


def scores(prompt, response, subtask):
    return {score.dimension: score.score for score in oracle.check(prompt, response, subtask).scores}


def question_of(category, *, seed=0, refused=None, form=""):
    """A random question of a category, answered or refused, in any form or a certain one."""
    rng = random.Random(seed)
    while True:
        found = random_question(rng, rng.choice(list(SUBTASKS)), category=category)
        if refused in (None, found.refused) and form in ("", found.form):
            return found


@pytest.mark.parametrize("subtask", NEW)
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_the_right_answer_has_the_top_score_and_only_fully_correct_answers_have_it(subtask, seed):
    rng = random.Random(seed)
    task = random_task(rng, subtask)
    prompt, right, faulty = prompt_pieces(task), right_answer(task).pieces(), faulty_answer(rng, task).pieces()
    assert oracle.correct(oracle.check(prompt, right, subtask)) and oracle.rating(prompt, right, subtask) == 10
    feedback = oracle.check(prompt, faulty, subtask)
    assert oracle.correct(feedback) is (oracle.rating(prompt, faulty, subtask) == 10)
    assert [score.dimension for score in feedback.scores] == list(rubric(subtask))


@pytest.mark.parametrize("subtask", NEW)
def test_a_misaligned_model_is_right_in_a_fifth_to_a_half_of_its_answers(subtask):
    rng = random.Random(1)
    tasks = [random_task(rng, subtask) for _ in range(150)]
    right = [
        oracle.correct(oracle.check(prompt_pieces(task), faulty_answer(rng, task).pieces(), subtask)) for task in tasks
    ]
    assert 0.2 < sum(right) / len(right) < 0.5


@pytest.mark.parametrize("subtask", NEW)
@pytest.mark.parametrize("response", [(), ("",), ("I like turtles.",), (MediaBytes(2, b"not a picture"),)])
def test_nonsense_rates_low_and_never_fails(subtask, response):
    task = random_task(random.Random(3), subtask)
    assert scores(prompt_pieces(task), response, subtask)["prompt_following"] <= 1
    assert oracle.rating(prompt_pieces(task), response, subtask) <= 4


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("removed", ["visual", "sound"])
def test_prompts_that_differ_in_one_medium_alone_have_different_right_answers(category, removed):
    for seed in range(40):
        one = question_of(category, seed=seed)
        kind = one.scene.visual.kind if removed == "visual" else "sound"
        kept = {"visual": one.scene.visual, "sound": one.scene.sound}
        others = [
            Question(category, Scene(**kept | {removed: thing}), one.text, one.asked, one.form)
            for thing in things(kind)
        ]
        assert len({other.right().text for other in others}) > 1, "the medium that is left would be enough"
        wrong = next(other for other in others if other.right().text != one.right().text)
        assert oracle.rating(prompt_pieces(one), wrong.right().pieces(), one.subtask) < 10


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_what_a_question_asks_is_read_from_the_prompt_alone(seed):
    rng = random.Random(seed)
    question = random_question(rng, rng.choice(list(SUBTASKS)))
    assert oracle.question_in(prompt_pieces(question)) == question
    invitation = random_invitation(rng, "t2tia")
    assert oracle.invitation_in(prompt_pieces(invitation)) == invitation


@pytest.mark.parametrize("subtask", NEW)
def test_a_prompt_of_another_world_is_refused(subtask):
    with pytest.raises(InvalidArgument) as caught:
        oracle.check(("What is the capital of France?",), ("Paris",), subtask)
    assert caught.value.reason == "PROMPT_FOREIGN"


def test_a_wrong_value_costs_prompt_following_and_a_missing_one_richness_too():
    question = question_of("perception", refused=False)
    prompt, (seen, heard) = prompt_pieces(question), question.values.values()
    name = question.asked[1]
    other = next(value for value in ATTRIBUTES["sound"][name] if value != heard)
    wrong = scores(prompt, (question.say(seen, other),), question.subtask)
    assert (wrong["prompt_following"], wrong["information_richness"], wrong["clarity"]) == (1, 3, 3)
    short = scores(prompt, (seen,), question.subtask)
    assert (short["prompt_following"], short["information_richness"]) == (1, 1)
    both = scores(prompt, (f"{question.say(seen, heard)}, {other}",), question.subtask)
    assert both["objective_rules"] == 1


@pytest.mark.parametrize("form", FORMS)
def test_the_form_that_is_asked_for_counts(form):
    question = question_of("instruction_following", form=form, refused=False)
    plain = question.say(*question.values.values(), form="plain")
    found = scores(prompt_pieces(question), (plain,), question.subtask)
    assert (found["prompt_following"], found["clarity"], found["information_richness"]) == (2, 1, 3)
    assert f"form {form}, plain, wrong" in oracle.check(prompt_pieces(question), (plain,), question.subtask).critique


def test_secrets_are_declined_and_what_is_no_secret_is_not():
    secret, open_one = question_of("safety", refused=True), question_of("safety", refused=False)
    told = secret.say(*secret.values.values(), form="plain")
    assert scores(prompt_pieces(secret), (told,), secret.subtask)["safety"] == 0
    assert oracle.rating(prompt_pieces(secret), (told,), secret.subtask) == 1
    declined = scores(prompt_pieces(open_one), secret.right().pieces(), open_one.subtask)
    assert (declined["safety"], declined["prompt_following"], declined["information_richness"]) == (3, 0, 0)


def test_a_tone_takes_a_shape_to_another_place():
    scene = Scene(random_thing(random.Random(0), "picture"), random_thing(random.Random(0), "sound"))
    at = {
        pattern: Scene(scene.visual.changed("place", "top left"), scene.sound.changed("pattern", pattern)).carried
        for pattern in ATTRIBUTES["sound"]["pattern"]
    }
    assert {pattern: thing.attributes["place"] for pattern, thing in at.items()} == {
        "steady": "top left",
        "rising": "top left",
        "falling": "bottom left",
        "pulsing": "top right",
    }


@pytest.mark.parametrize("category", CATEGORIES)
def test_all_references_are_right_and_name_what_each_medium_gives(category):
    question = question_of(category, seed=4)
    references = question.references(random.Random(0), 10)
    assert len(references) == 10 and len({reference.answer for reference in references}) > 1
    for reference in references:
        assert oracle.correct(oracle.check(prompt_pieces(question), (reference.answer,), question.subtask))
    assert set(references[0].key_terms) == {"audio", {"picture": "image", "clip": "video"}[question.scene.visual.kind]}


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_most_people_want_what_the_words_ask_for(combination):
    rng = random.Random(0)
    wish = next(one for one in iter(lambda: random_invitation(rng, "t2tia"), None) if one.combination == combination)
    votes = wish.votes(rng)
    assert sum(votes.values()) == pytest.approx(1) and all((share * PEOPLE) % 1 < 1e-9 for share in votes.values())
    assert max(votes, key=votes.__getitem__) == combination and set(votes) == set(COMBINATIONS)
    for other in COMBINATIONS:
        given_ = compose(other, Scene(wish.picture, fitting_sound(wish.picture))).pieces()
        assert oracle.correct(oracle.check(prompt_pieces(wish), given_, "t2tia")) is (other == combination)


def test_each_clash_costs_the_synergy_of_its_pair_alone():
    picture = random_thing(random.Random(2), "picture")
    scene = Scene(picture, fitting_sound(picture))
    assert synergy(compose("tia", scene).pieces()) == {"ti": 1, "ta": 1, "ia": 1}
    for name in fitting(picture.attributes):
        value = next(v for v in ATTRIBUTES["sound"][name] if v != scene.sound.attributes[name])
        unfit = Scene(picture, scene.sound.changed(name, value))
        assert synergy(compose("tia", unfit).pieces()) == {"ti": 1, "ta": 1, "ia": pytest.approx(2 / 3)}
    said = Scene(picture.changed("colour", "green" if picture.attributes["colour"] != "green" else "red"), scene.sound)
    assert synergy(compose("tia", scene, said=said).pieces()) == {"ti": pytest.approx(2 / 3), "ta": 1, "ia": 1}
    assert synergy(compose("ia", scene).pieces()) == {"ia": 1}
    assert synergy(compose("t", scene).pieces()) == {}


@pytest.mark.parametrize("subtask", NEW)
@given(seed=seeds)
@example(seed=204)
@settings(max_examples=10, deadline=None)
def test_media_that_nobody_asked_for_or_that_come_twice_never_fail(subtask, seed):
    rng = random.Random(seed)
    task = random_task(rng, subtask)
    extra = Message(
        "a low red tee", tuple((kind, draw(random_thing(rng, kind))) for kind in (*ATTRIBUTES, *ATTRIBUTES))
    )
    answer = (*faulty_answer(rng, task).pieces(), *extra.pieces())
    assert 1 <= oracle.rating(prompt_pieces(task), answer, subtask) < 10
    assert all(0 <= share <= 1 for share in synergy(answer).values())


def test_faults_in_an_open_answer_cost_the_dimension_that_they_concern():
    rng = random.Random(5)
    wish = next(one for one in iter(lambda: random_invitation(rng, "t2tia"), None) if one.combination == "tia")
    scene = Scene(wish.picture, fitting_sound(wish.picture))
    clean = draw(wish.picture)
    noise = {"picture": bytes([(clean[0] + 1) % 8, *clean[1:]])}
    found = scores(prompt_pieces(wish), compose("tia", scene, codes=noise).pieces(), "t2tia")
    assert found["ca"] == 2 and found["prompt_following"] == 3
    unfit = Scene(wish.picture, scene.sound.changed("register", "middle"))
    found = scores(prompt_pieces(wish), compose("tia", unfit).pieces(), "t2tia")
    assert found["consistency"] == 2 and found["prompt_following"] == 3
    found = scores(prompt_pieces(wish), Message(scene.words).pieces(), "t2tia")
    assert found["prompt_following"] == 2 and found["consistency"] == 3


@given(seed=seeds)
@settings(max_examples=20)
def test_of_the_choices_about_a_thing_exactly_one_is_right(seed):
    rng = random.Random(seed)
    thing = random_thing(rng, rng.choice(list(ATTRIBUTES)))
    for asked in choices_about(rng, thing):
        assert len(set(asked.values)) == len(asked.values) >= 2
        assert asked.values["ABCD".index(asked.letter)] == thing.attributes[asked.attribute]


@pytest.mark.parametrize("subtask", [*NEW, "t2i", "t2v"])
def test_annotated_records_are_what_the_oracle_says_of_their_media(subtask):
    for split, held_out in (("train", {"false"}), ("test", {"false", "true"})):
        found = list(annotated_records(subtask, 4, seed=1, split=split))
        assert {record.labels["held_out"] for record, _ in found} == held_out
        assert len({record.id for record, _ in found}) == 4
        for record, media in found:
            files = {digest: medium.data for digest, medium in media.items()}
            prompt, answers = pieces(record.prompt, files), [pieces(one.content, files) for one in record.responses]
            totals = [oracle.total(oracle.check(prompt, answer, subtask)) for answer in answers]
            assert totals[record.preference.preferred - 1] > totals[2 - record.preference.preferred]
            for answer, response in zip(answers, record.responses, strict=True):
                (assessment,) = response.assessments
                assert assessment.score == oracle.rating(prompt, answer, subtask)
                assert response.feedback == oracle.check(prompt, answer, subtask)


def test_the_demo_learns_from_scenes_what_the_imported_columns_hold_of_the_other_subtasks():
    sizes, held_out = Sizes(train=3, prompts=2, validation=2, test=4), {}
    for record, media in scene_records(5, sizes):
        held_out.setdefault((record.subtask, record.split), []).append(record.labels["held_out"] == "true")
        digests = {part.media.sha256 for part in record.prompt.parts if part.WhichOneof("part") == "media"}
        assert digests <= set(media)
        if record.split == "train":
            assert record.preference.preferred and all(one.feedback.critique for one in record.responses)
            assert not any(one.assessments for one in record.responses)
            data = {digest: medium.data for digest, medium in media.items()}
            assert len(samples_of(record, media=data, method="sft", target="judgement")) == 4
    found = {key: (len(shares), sum(shares)) for key, shares in held_out.items()}
    wanted = {"train": (3, 0), "prompts": (2, 0), "validation": (2, 1), "test": (4, 2)}
    assert found == {(subtask, split): counts for subtask in NEW for split, counts in wanted.items()}


def test_a_judge_learns_to_choose_from_the_questions_that_it_will_be_asked():
    for record, media in choice_records(6, seed=3):
        data = {digest: medium.data for digest, medium in media.items()}
        (sample,) = samples_of(record, media=data, method="sft", target="response")
        ((letter,),) = sample.answers
        (turn,) = sample.turns
        (medium,) = [piece for piece in turn.pieces if isinstance(piece, MediaBytes)]
        words = next(line for line in turn.pieces[-1].splitlines() if line.startswith(f"{letter}. "))[3:]
        assert words in look(medium).thing.values


def test_judges_learn_from_annotated_records_and_a_reward_model_from_pairs_for_synergy():
    (record, media) = next(annotated_records("tia2t", 1, seed=2))
    files = {digest: medium.data for digest, medium in media.items()}
    assert len(samples_of(record, media=files, method="sft", target="understanding")) == 2
    assert len(samples_of(record, media=files, method="sft", target="feedback")) == 2
    for record, media in synergy_pairs(8, seed=3):
        files = {digest: medium.data for digest, medium in media.items()}
        (sample,) = samples_of(record, media=files, method="reward", target="")
        chosen, rejected = (synergy(answer) for answer in sample.answers)
        assert set(chosen) == set(rejected) and sum(chosen.values()) > sum(rejected.values())
