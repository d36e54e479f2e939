"""Label Studio's tasks and configuration: what is written, and what is taken back and what is not."""

import json
import xml.etree.ElementTree as ET

import pytest

from omnialign import rubrics
from omnialign.content import content, media_of
from omnialign.exchange.label_studio import read_tasks, task_of
from omnialign.exchange.label_studio_config import labeling_config
from omnialign.exchange.pairs import same
from omnialign.exchange.reading import Imported
from omnialign.exchange.refusals import Refusal
from omnialign.v1 import content_pb2
from tests.omnialign.exchange.pairs import WORDS, changed, pair_of, source_of

LINK = "https://media.example.org/{}.bin"


def task(subtask: str = "ti2t", **options):
    """A pair and its task, as a file has it."""
    pair = pair_of(subtask, **options)
    return pair, json.loads(json.dumps(task_of(pair, lambda medium: LINK.format(medium.sha256))))


def read(task, *pairs, **fields):
    """What one task gives."""
    return list(read_tasks([task], source_of(*pairs, **fields), file="t.json"))


@pytest.mark.parametrize("subtask", rubrics.SUBTASKS)
def test_annotations_come_back_as_they_were(subtask):
    pair, written = task(subtask)
    found = read(written, pair)
    assert all(isinstance(one, Imported) for one in found), found
    for one, answer in zip(found, pair.answers, strict=True):
        assert (one.annotator, one.answer_time) == (answer.annotator, answer.answer_time)
        assert same(one.annotation, answer.annotation)


@pytest.mark.parametrize("subtask", rubrics.SUBTASKS)
def test_a_second_export_is_equal_to_the_first(subtask):
    pair, written = task(subtask)
    for one, answer in zip(read(written, pair), pair.answers, strict=True):
        answer.annotation.CopyFrom(one.annotation)
    assert json.loads(json.dumps(task_of(pair, lambda medium: LINK.format(medium.sha256)))) == written


@pytest.mark.parametrize("subtask", rubrics.SUBTASKS)
def test_the_configuration_has_a_tag_for_every_result_and_every_part(subtask):
    pair, written = task(subtask)
    root = ET.fromstring(labeling_config(pair, instructions=WORDS))
    tags = {tag.get("name"): tag for tag in root.iter() if tag.get("name")}
    for result in written["annotations"][0]["result"]:
        tag = tags[result["from_name"]]
        assert tag.tag.lower() == result["type"]
        assert tag.get("toName") == result["to_name"]
    values = {tag.get("value") for tag in tags.values()} - {None}
    assert values == {f"${field.name}" for field in pair.fields} | {"$pair"}
    assert {value.removeprefix("$") for value in values} <= written["data"].keys()


def test_hostile_words_are_text_in_the_configuration():
    pair = pair_of("t2t")
    pair.rubric.dimensions[0].description = '"/><script>alert(1)</script>\x00 costs $5'
    pair.rubric.dimensions[0].levels[0] = "<b>"
    config = labeling_config(pair, instructions="$prompt_0 ]]> &amp;")
    root = ET.fromstring(config)
    assert {tag.tag for tag in root.iter()} == {"View", "Header", "Text", "Choices", "Choice", "TextArea"}
    headers = [tag.get("value") for tag in root.iter("Header")]
    assert headers[0] == "$\u2060prompt_0 ]]> &amp;"
    assert 'Prompt following: "/><script>alert(1)</script>\ufffd costs $\u20605' in headers
    assert "0 <b>" in [tag.get("value") for tag in root.iter("Choice")]


def result(name):
    """The place of an answer in the first annotation of a task of `ti2t`."""
    _, written = task()
    return next(n for n, one in enumerate(written["annotations"][0]["result"]) if one["from_name"] == name)


def at(name, *more):
    """The path to an answer."""
    return ("annotations", 0, "result", result(name), *more)


REFUSED = {
    "no data": (("data",), [1], "data", "[1]", "TASK_UNKNOWN"),
    "another campaign": (
        ("data", "campaign"), "projects/demo/campaigns/x", "data.campaign", "campaigns/x", "TASK_OF_OTHER_CAMPAIGN",
    ),
    "an unknown pair": (("data", "record"), "nothing", "data.record", "'nothing'", "TASK_UNKNOWN"),
    "another digest": (("data", "digest"), "0" * 64, "data.digest", "'000", "PAIR_CHANGED"),
    "a changed text": (("data", "response_1_0"), "nicer", "data.response_1_0", "'nicer'", "PAIR_CHANGED"),
    "another medium": (("data", "prompt_1"), "../../etc/passwd", "data.prompt_1", "passwd", "PAIR_CHANGED"),
    "authors that are none": (("data", "answers"), "[]", "data.answers", "[]", "TASK_INVALID"),
    "annotations that are none": (("annotations",), [1], "annotations", "[1]", "TASK_INVALID"),
    "nobody": (("annotations", 0, "completed_by"), {}, "completed_by", "None", "ANNOTATOR_MISSING"),
    "a name too long": (("annotations", 0, "completed_by"), "x" * 201, "completed_by", "xxx", "ANNOTATOR_MISSING"),
    "no time": (("annotations", 0, "updated_at"), "yesterday", "updated_at", "'yesterday'", "TIME_INVALID"),
    "a score out of range": (
        at("score_1_safety", "value"), {"choices": ["7"]}, "score_1_safety", "'7'", "ANSWER_INVALID",
    ),
    "two choices": (at("preferred", "value"), {"choices": ["1", "2"]}, "preferred", "['1', '2']", "ANSWER_INVALID"),
    "no choice": (at("winner_safety", "value"), {"choices": []}, "winner_safety", "[]", "ANSWER_INVALID"),
    "a number as text": (at("reason", "value"), {"text": [3]}, "reason", "[3]", "ANSWER_INVALID"),
    "a text of blanks": (at("critique_2", "value"), {"text": [" "]}, "critique_2", "blanks only", "ANSWER_INVALID"),
    "a text too long": (
        at("reason", "value"), {"text": ["x" * 20_001]}, "reason", "20001 characters", "ANSWER_INVALID",
    ),
    "half a character": (at("reason", "value"), {"text": ["\ud800"]}, "reason", "surrogate", "ANSWER_INVALID"),
    "no value": (at("reason", "value"), None, "reason", "None", "ANSWER_INVALID"),
    "an unknown question": (at("reason", "from_name"), "smell", "smell", "has not", "ANSWER_INVALID"),
    "no question": (at("reason", "from_name"), 3, "result.from_name", "3", "ANSWER_INVALID"),
    "the same question twice": (at("reason", "from_name"), "critique_1", "critique_1", "2 answers", "ANSWER_INVALID"),
    "a rectangle beyond the picture": (
        at("marks_1_prompt_1", "value", "x"), 90.0, "marks_1_prompt_1", "'x': 90.0", "ANSWER_INVALID",
    ),
    "a rectangle that is turned": (
        at("marks_1_prompt_1", "value", "rotation"), 30, "marks_1_prompt_1.rotation", "30", "ANSWER_INVALID",
    ),
    "an infinite rectangle": (
        at("marks_1_prompt_1", "value", "x"), float("inf"), "marks_1_prompt_1.x", "inf", "ANSWER_INVALID",
    ),
    "an unknown label": (
        at("marks_1_prompt_1", "value", "rectanglelabels"), ["taste"],
        "marks_1_prompt_1.rectanglelabels", "['taste']", "ANSWER_INVALID",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_malformed_is_refused_and_says_where_and_what(case):
    path, to, place, found, reason = REFUSED[case]
    pair, written = task(annotators=("ann",))
    refusals = read(changed(written, *path, to=to), pair)
    assert refusals and all(isinstance(one, Refusal) for one in refusals)
    problem = next(one.problem for one in refusals if one.problem.place == place)
    assert found in problem.found
    assert (problem.reason, bool(problem.wanted)) == (reason, True)
    assert f"t.json: task 1, {place}: found " in str(refusals[0]) or "annotation of" in str(refusals[0])


def test_every_malformed_row_has_a_message_of_its_own():
    pair, written = task(annotators=("ann",))
    messages = {str(read(changed(written, *path, to=to), pair)[0]) for path, to, *_ in REFUSED.values()}
    assert len(messages) == len(REFUSED) > 12


def test_a_stretch_that_ends_before_it_begins_is_refused():
    pair, written = task("ta2t", annotators=("ann",))
    results = written["annotations"][0]["result"]
    place = next(n for n, one in enumerate(results) if one["from_name"] == "marks_2_prompt_1")
    (refusal,) = read(changed(written, "annotations", 0, "result", place, "value", "end", to=0.1), pair)
    assert (refusal.annotator, refusal.problem.place) == ("ann", "marks_2_prompt_1")


def test_one_bad_annotation_does_not_keep_out_another():
    pair, written = task()
    found = read(changed(written, "annotations", 0, "result", to=[]), pair)
    assert [one.annotator for one in found if isinstance(one, Imported)] == ["bob"]
    assert {one.problem.place for one in found if isinstance(one, Refusal)} >= {"preferred", "reason", "critique_1"}


def test_a_user_without_an_address_is_a_number_and_may_be_named():
    pair, written = task(annotators=("ann",))
    for given, names, who in ((7, {}, "7"), ({"id": 7}, {"7": "ann"}, "ann"), (7, {"7": "ann"}, "ann")):
        (found,) = read(changed(written, "annotations", 0, "completed_by", to=given), pair, names=names)
        assert found.annotator == who


def test_what_label_studio_imported_is_its_authors_again():
    """It keeps no more than the number, and names the user who brought it."""
    pair, written = task()
    for annotation in written["annotations"]:
        annotation["import_id"], annotation["completed_by"] = annotation.pop("id"), 1
        annotation["created_at"] = annotation["updated_at"] = "2030-01-01T00:00:00Z"
    found = read(written, pair)
    assert [(one.annotator, one.answer_time) for one in found] == [
        (answer.annotator, answer.answer_time) for answer in pair.answers
    ]


def test_a_pair_that_was_skipped_there_is_no_annotation():
    pair, written = task(annotators=("ann",))
    assert read(changed(written, "annotations", 0, "was_cancelled", to=True), pair) == [None]


def test_what_came_before_the_prompt_is_shown_and_cannot_be_marked():
    pair, _ = task("ti2t")
    before = labeling_config(pair)
    pair.record.history.add(role=content_pb2.ROLE_SYSTEM, content=content("Be brief."))
    (picture,) = media_of([pair.record.prompt])
    pair.record.history.add(role=content_pb2.ROLE_USER, content=content("Look:", picture))
    written = task_of(pair, lambda medium: LINK.format(medium.sha256))
    root = ET.fromstring(labeling_config(pair))
    shown = [tag.get("name") for tag in root.iter() if (tag.get("name") or "").startswith(("earlier", "prompt"))]
    assert shown == ["earlier_0", "earlier_1", *(name for name in shown if name.startswith("prompt"))]
    assert written["data"]["earlier_0"] == "[system]: Be brief.\n[user]: Look:"
    assert not any((tag.get("toName") or "").startswith("earlier") for tag in root.iter() if tag.tag != "TextArea")
    assert "Earlier messages" not in before
