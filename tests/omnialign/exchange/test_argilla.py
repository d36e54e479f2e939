"""Argilla's datasets: what is written, and what is taken back and what is not."""

import json

import pytest

from omnialign import rubrics
from omnialign.exchange.argilla import read_records, record_of, settings_of, user_id
from omnialign.exchange.pairs import same
from omnialign.exchange.reading import Imported
from omnialign.exchange.refusals import Refusal
from tests.omnialign.exchange.pairs import changed, pair_of, source_of

LINK = "https://media.example.org/{}.bin"
ANN = user_id("ann")


def row(subtask: str = "ti2t", **options):
    """A pair and its record, as a file has it."""
    pair = pair_of(subtask, **options)
    return pair, json.loads(json.dumps(record_of(pair, lambda medium: LINK.format(medium.sha256))))


def read(record, *pairs, **fields):
    """What one record gives."""
    return list(read_records([record], source_of(*pairs, **fields), file="r.json"))


@pytest.mark.parametrize("subtask", rubrics.SUBTASKS)
def test_annotations_come_back_as_they_were_with_marks_names_and_times(subtask):
    pair, written = row(subtask)
    found = read(written, pair)
    assert all(isinstance(one, Imported) for one in found), found
    for one, answer in zip(found, pair.answers, strict=True):
        assert (one.annotator, one.answer_time) == (answer.annotator, answer.answer_time)
        assert same(one.annotation, answer.annotation)
        answer.annotation.CopyFrom(one.annotation)
    assert json.loads(json.dumps(record_of(pair, lambda medium: LINK.format(medium.sha256)))) == written


@pytest.mark.parametrize("subtask", rubrics.SUBTASKS)
def test_the_settings_have_a_field_for_every_part_and_a_question_for_every_answer(subtask):
    pair, written = row(subtask)
    settings = settings_of(pair)
    assert [field["name"] for field in settings["fields"]] == list(written["fields"])
    assert {question["name"] for question in settings["questions"]} >= written["responses"].keys()
    assert {one["name"] for one in settings["metadata"]} == written["metadata"].keys() - {"answers"}
    assert settings["allow_extra_metadata"]


def test_what_is_not_shown_is_said():
    titles = [field["title"] for field in settings_of(pair_of("tv2t"))["fields"]]
    assert any("a link to video, which Argilla does not play" in title for title in titles)


def test_guidelines_are_never_a_path():
    assert settings_of(pair_of("t2t"), instructions="/etc/passwd")["guidelines"].startswith("Score")


def test_somebody_who_annotated_only_in_argilla_is_their_id_or_who_is_said():
    pair, written = row(annotators=("ann",))
    written["metadata"].pop("answers")
    (found,) = read(written, pair)
    assert (found.annotator, found.answer_time) == (ANN, None)
    (named,) = read(written, pair, names={ANN: "ann"})
    assert named.annotator == "ann"


def test_drafts_and_what_was_discarded_are_no_annotations():
    pair, written = row(annotators=("ann",))
    for status in ("draft", "discarded"):
        for answers in written["responses"].values():
            answers[0]["status"] = status
        assert read(written, pair) == [None]


def test_an_image_that_argilla_wrote_anew_is_taken():
    pair, written = row(annotators=("ann",))
    (found,) = read(changed(written, "fields", "prompt_1", to="data:image/png;base64,AAAA"), pair)
    assert isinstance(found, Imported)


def answer(name, value):
    """An answer of ann."""
    return ("responses", name), [{"value": value, "user_id": ANN}]


REFUSED = {
    "no metadata": (("metadata",), None, "metadata", "TASK_UNKNOWN"),
    "another campaign": (("metadata", "campaign"), 3, "metadata.campaign", "TASK_OF_OTHER_CAMPAIGN"),
    "an unknown pair": (("metadata", "record"), ["x"], "metadata.record", "TASK_UNKNOWN"),
    "another digest": (("metadata", "digest"), None, "metadata.digest", "PAIR_CHANGED"),
    "a changed text": (("fields", "response_2_0"), "nicer", "fields.response_2_0", "PAIR_CHANGED"),
    "another medium": (("fields", "prompt_1"), "file:///etc/passwd", "fields.prompt_1", "PAIR_CHANGED"),
    "names that are none": (("metadata", "answers"), "[]", "metadata.answers", "TASK_INVALID"),
    "responses that are none": (("responses",), [1], "responses", "TASK_INVALID"),
    "an answer of nobody": (
        ("responses", "reason", 0, "user_id"), None, "responses.reason.user_id", "ANNOTATOR_MISSING",
    ),
    "a score out of range": (*answer("score_1_safety", 4), "score_1_safety", "ANSWER_INVALID"),
    "a score that is true": (*answer("score_1_safety", True), "score_1_safety", "ANSWER_INVALID"),
    "an unknown choice": (*answer("preferred", "0"), "preferred", "ANSWER_INVALID"),
    "no text": (*answer("reason", None), "reason", "ANSWER_INVALID"),
    "marks that are no JSON": (*answer("marks_1", "here"), "marks_1", "ANSWER_INVALID"),
    "marks of another kind": (*answer("marks_2", '{"smell": 1}'), "marks_2", "ANSWER_INVALID"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_malformed_is_refused_and_says_where_and_what(case):
    path, to, place, reason = REFUSED[case]
    pair, written = row(annotators=("ann",))
    found = read(changed(written, *path, to=to), pair)
    assert found and all(isinstance(one, Refusal) for one in found)
    problem = next(one.problem for one in found if one.problem.place == place)
    assert (problem.reason, bool(problem.found), bool(problem.wanted)) == (reason, True, True)


def test_every_malformed_row_has_a_message_of_its_own():
    pair, written = row(annotators=("ann",))
    messages = {str(read(changed(written, *path, to=to), pair)[0]) for path, to, *_ in REFUSED.values()}
    assert len(messages) == len(REFUSED) > 12
