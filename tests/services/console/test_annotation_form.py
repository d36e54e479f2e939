"""What a form says is the annotation, and the other way round."""

import pytest

from omnialign import rubrics
from omnialign.errors import InvalidArgument
from omnialign.v1.record_pb2 import Mark, Region, TimeSpan
from services.console.annotation_form import fields_of, places, read_form
from tests.services.annotation.conftest import filled, media_pair

WORDS = "שלום 👩‍👩‍👧‍👦\nعربي " * 900


def test_an_annotation_survives_its_form():
    annotation = filled(rubrics.form("t2v"), words=WORDS)
    annotation.feedback[0].marks.add(part=1, span=TimeSpan(start_seconds=0.25, end_seconds=3600.5), note="here")
    annotation.feedback[0].marks.add(part=1, span=TimeSpan(start_seconds=2, end_seconds=2))
    region = Region(left=0.125, top=0, width=0.5, height=0.25)
    annotation.feedback[1].marks.add(in_prompt=True, part=0, region=region, note="שם")
    annotation.winners["safety"] = 0
    assert read_form(fields_of(annotation)).annotation == annotation


def test_a_browser_sends_line_breaks_as_two_characters():
    assert read_form({"critique.1": "one\r\ntwo"}).annotation.feedback[0].critique == "one\ntwo"


def test_what_nobody_has_chosen_is_not_chosen():
    reading = read_form({"rationale.1.clarity": "unclear", "winner.clarity": "", "mark.1.prompt.0.0.note": "there"})
    assert not reading.annotation.winners and not reading.annotation.feedback[0].marks
    assert [field for field, _ in reading.unfinished] == ["mark.1.prompt.0.0"]
    (score,) = reading.annotation.feedback[0].scores
    assert (score.dimension, score.unscored, score.rationale) == ("clarity", True, "unclear")
    assert fields_of(reading.annotation)["rationale.1.clarity"] == "unclear"
    assert "score.1.clarity" not in fields_of(reading.annotation)


def test_a_mark_without_an_end_is_a_moment():
    marks = read_form({"mark.2.response.1.0.start": "1.5"}).annotation.feedback[1].marks
    assert list(marks) == [Mark(part=1, span=TimeSpan(start_seconds=1.5, end_seconds=1.5))]


@pytest.mark.parametrize(
    "fields",
    [
        {"preferred": "²"},
        {"winner.clarity": "99999999999"},
        {"score.1.clarity": "-1"},
        {"mark.1.prompt.0.0.start": "soon"},
        {"mark.1.prompt.0.0.start": "inf"},
        {"mark.1.elsewhere.0.0.start": "1"},
        {"mark.1.prompt.0.start": "1"},
    ],
)
def test_fields_that_no_form_of_ours_has_are_refused(fields):
    with pytest.raises(InvalidArgument) as caught:
        read_form(fields)
    assert caught.value.reason == "FORM_INVALID"


def test_media_of_the_prompt_and_of_the_response_can_be_marked():
    record = media_pair("ti2t")
    (picture,) = places(record, 1, {"mark.1.prompt.0.2.note": "x", "mark.1.prompt.0.0.note": ""})
    assert (picture.key, picture.player, picture.has_time, picture.marks) == (
        "mark.1.prompt.0",
        "player-prompt-0",
        False,
        3,
    )
    (video,) = places(media_pair("t2v"), 2, {})
    assert (video.player, video.has_time, video.marks) == ("player-response-2-0", True, 0)
