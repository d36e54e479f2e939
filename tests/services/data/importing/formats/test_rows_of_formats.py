"""Each format's rows become the records that they say, and what is wrong with a row is said with its place."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.content import ROLES
from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2, data_service_pb2, record_pb2
from services.data.importing.columns import MAX_COLUMNS
from services.data.importing.formats.label_studio import unread_of_label_studio
from services.data.importing.formats.registry import PEOPLE, told_by_columns
from services.data.importing.media_files import MediaFiles
from services.data.importing.reading import Reading
from services.data.importing.rows import RowReader
from services.data.importing.sources import SourceFile
from tests.services.data.importing.formats.rows_of_formats import (
    ASKED,
    CONTINUED,
    GOOD,
    MALFORMED,
    NO,
    SAID,
    TASK,
    Row,
)


class Store:
    """Takes any bytes, and names them in place of a digest."""

    def put(self, data: bytes, modality: Any) -> content_pb2.Media:
        return content_pb2.Media(modality=modality, mime_type="x/y", sha256=repr(data), size_bytes=len(data))

    def put_file(self, path: Path, modality: Any) -> content_pb2.Media:
        return content_pb2.Media(modality=modality, mime_type="x/y", sha256=path.name, size_bytes=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "d.png", "e.png", "b.wav", "c.mp4"):
        (tmp_path / name).write_bytes(b"some")
    return tmp_path


def read(folder: Path, form: str, row: Any, *, subtask: str = "", **declared: Any) -> record_pb2.Record:
    source = SourceFile(folder / "rows.jsonl", folder, subtask, "train", format=form, told_by="the request")
    files = MediaFiles(source, keep=Store())
    request = data_service_pb2.ImportDatasetRequest(**declared)
    return RowReader(source, files=files, reading=Reading.of(request)).record(1, row)[0]


def scale(form: str) -> Row:
    """What must be declared of a format whose ratings are on a scale of their own."""
    return {"score_range": data_service_pb2.ScoreRange(lowest=1, highest=5)} if PEOPLE[form].rated else {}


def shown(message: content_pb2.Content) -> list[str]:
    return [part.text or part.media.sha256 for part in message.parts]


@pytest.mark.parametrize("name", GOOD)
def test_a_row_becomes_the_record_that_it_says(folder: Path, name: str) -> None:
    form, row, prompt, answers, subtask = GOOD[name]
    before = copy.deepcopy(row)
    record = read(folder, form, row, **scale(form))
    assert not record.HasField("quarantine"), record.quarantine.message
    assert (shown(record.prompt), [shown(one.content) for one in record.responses]) == (prompt, answers)
    assert (record.subtask, record.preference.preferred) == (subtask, int(len(answers) == 2 and not scale(form)))
    assert [one.good for one in record.responses if one.HasField("good")] == ([row["label"]] if "label" in row else [])
    assert row == before


@pytest.mark.parametrize("name", CONTINUED)
def test_a_prompt_that_continues_a_conversation_keeps_the_roles_and_media_of_it(folder: Path, name: str) -> None:
    form, row, history, prompt = CONTINUED[name]
    record = read(folder, form, row, **scale(form))
    assert not record.HasField("quarantine"), record.quarantine.message
    assert [(ROLES[one.role], shown(one.content)) for one in record.history] == history
    assert shown(record.prompt) == prompt
    read_letters = record.subtask.partition("2")[0]
    assert ("i" in read_letters) == any("png" in part for _, parts in history for part in parts)
    assert [shown(one.content) for one in record.responses][:1] in ([["Pear."]], [])


@pytest.mark.parametrize("name", GOOD)
def test_columns_tell_the_format(name: str) -> None:
    form, row, *_ = GOOD[name]
    expected = "messages" if name == "ms_swift picture as answer" and "images" not in row else form
    assert told_by_columns([row])[0] == expected


def test_the_format_of_most_rows_is_that_of_the_file_and_its_columns_are_named() -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert told_by_columns([pair, pair, {"prompt": "a"}]) == ("trl", "the columns chosen and rejected")
    assert told_by_columns([pair, {"prompt": "a"}, {"prompt": "b"}]) == ("", "no columns that tell another format")
    assert told_by_columns([{"question": "a", "overall_response": 1} | pair]) == ("", "the column overall_response")
    talk = {"conversations": []}
    assert told_by_columns([talk, talk, talk | {"chosen": "b", "rejected": "c"}])[0] == "llama_factory"
    assert told_by_columns([]) == ("", "it has no rows")


@pytest.mark.parametrize(
    ("form", "row", "reason", "text"),
    [(form, *case) for form, cases in MALFORMED.items() for case in cases],
    ids=[f"{form} {number}" for form, cases in MALFORMED.items() for number in range(1, len(cases) + 1)],
)
def test_a_malformed_row_is_set_aside_with_what_was_found(
    folder: Path, form: str, row: Row, reason: str, text: str
) -> None:
    found = read(folder, form, row, **scale(form))
    assert (found.quarantine.reason, text in found.quarantine.message) == (reason, True), found.quarantine.message
    assert found.quarantine.message.startswith("rows.jsonl, row 1")
    assert found.labels["format"] == form, "an export of what was set aside goes by it"


@pytest.mark.parametrize("form", MALFORMED)
def test_twelve_malformed_rows_have_messages_of_their_own(folder: Path, form: str) -> None:
    messages = {read(folder, form, row, **scale(form)).quarantine.message for row, *_ in MALFORMED[form]}
    assert len(messages) == len(MALFORMED[form]) >= 12


def test_ratings_are_converted_from_the_scale_that_is_declared_and_it_is_recorded(folder: Path) -> None:
    record = read(folder, *GOOD["ultrafeedback"][:2], **scale("ultrafeedback"))
    first, second = (response.feedback for response in record.responses)
    assert [(one.dimension, one.score, one.rationale) for one in first.scores] == [
        ("helpfulness", 2, "a fruit\none"),
        ("honesty", 1, "so"),
    ]
    assert (first.critique, second.critique) == ("Name two.", "")
    assert [response.source for response in record.responses] == ["a", "a"]
    assert record.labels["score_range"] == "1 to 5"
    record = read(folder, *GOOD["vlfeedback"][:2], **scale("ultrafeedback"))
    found = [[(one.dimension, one.score) for one in response.feedback.scores] for response in record.responses]
    assert found == [[("visual_faithfulness", 3)], [], [("visual_faithfulness", 0)]]
    record = read(folder, *GOOD["helpsteer"][:2], **scale("helpsteer"))
    assert [one.score for one in record.responses[0].feedback.scores] == [2, 2, 1, 0, 3]


def test_what_people_said_of_two_responses_is_their_critique(folder: Path) -> None:
    record = read(folder, *GOOD["helpsteer3"][:2])
    assert [response.feedback.critique for response in record.responses] == ["Right.\n\nShort.", "Wrong."]
    assert record.preference.reason == "1 names one.\n\n2 does not."
    assert dict(record.labels) == {"domain": "code"}


def test_answers_are_media_where_the_name_says_so(folder: Path) -> None:
    row = {"prompt": "Draw.", "chosen": "a.png", "rejected": {"bytes": b"x"}}
    record = read(folder, "trl", row, subtask="t2i")
    assert [shown(one.content) for one in record.responses] == [["a.png"], ["b'x'"]]
    assert record.subtask == "t2i"


def test_a_row_of_another_subtask_than_the_name_says_is_set_aside(folder: Path) -> None:
    row = {"prompt": "What?", "chosen": "a", "rejected": "b"}
    found = read(folder, "trl", row, subtask="ti2t").quarantine
    assert (found.reason, "of the subtask t2t" in found.message) == ("SUBTASK_DIFFERS", True)


def test_labels_in_numbers_are_taken_once_they_are_declared(folder: Path) -> None:
    row = GOOD["argilla"][1] | {"preference.responses": [0, 0, 1]}
    row["preference.responses.status"] = ["submitted", "submitted", "discarded"]
    assert read(folder, "argilla", row).quarantine.reason == "LABEL_INVALID"
    declared = data_service_pb2.WinnerLabels(first=1, second=0)
    assert read(folder, "argilla", row, winner_labels=declared).preference.preferred == 2


@pytest.mark.parametrize(
    ("declared", "labels", "refused"),
    [
        (
            ("1", "0"),
            [(1, True), (0, False), ("1", True), (1.0, True), (True, True), (False, False)],
            [2, "good", None],
        ),
        (("true", "false"), [("true", True), (" false", False), (True, True)], ["True", 1, [True]]),
        (("-1", "+1"), [(-1, True), ("+1", False)], [1, 0.5]),
    ],
)
def test_labels_of_answers_are_taken_as_they_are_declared(
    folder: Path, declared: tuple[str, str], labels: list[Any], refused: list[Any]
) -> None:
    given = data_service_pb2.AnswerLabels(good=declared[0], bad=declared[1])
    for found, good in labels:
        row = {"messages": ASKED + SAID, "label": found}
        assert read(folder, "messages", row, answer_labels=given).responses[0].good is good
    for found in filter(None, refused):
        error = read(folder, "trl", {"prompt": "a", "completion": "b", "label": found}, answer_labels=given).quarantine
        wanted = f"and {declared[0]} or {declared[1]} is taken."
        assert (error.reason, error.message.endswith(wanted)) == ("LABEL_INVALID", True), error.message


@pytest.mark.parametrize("labels", [("1", "1"), ("1", " "), ("", "0")])
def test_labels_that_do_not_tell_answers_apart_are_refused(labels: tuple[str, str]) -> None:
    declared = data_service_pb2.AnswerLabels(good=labels[0], bad=labels[1])
    with pytest.raises(InvalidArgument) as refused:
        Reading.of(data_service_pb2.ImportDatasetRequest(answer_labels=declared))
    assert refused.value.reason == "ANSWER_LABELS_INVALID"


def test_columns_and_fields_of_messages_can_be_mapped_and_ignored(folder: Path) -> None:
    row = {"query": ASKED, "good": [SAID[0] | {"weight": 1}], "bad": NO}
    renamed = {"query": "prompt", "good": "chosen", "bad": "rejected"}
    assert read(folder, "trl", row, renamed_columns=renamed).quarantine.reason == "MESSAGE_FIELD_UNREAD"
    record = read(folder, "trl", row, renamed_columns=renamed, ignored_columns=["chosen.weight"])
    assert [shown(one.content) for one in record.responses] == [["Pear."], ["No."]]


def test_fields_of_objects_are_mapped_and_the_rest_of_the_object_stays() -> None:
    row = {"input": {"messages": ASKED, "tools": [], "deep": {"a": 1}}, "preferred_output": SAID, "other.name": 1}
    mapped = {"input.messages": "prompt", "preferred_output": "chosen", "input.deep.a": "a", "other.name": "b",
              "input.missing": "c", "preferred_output.x": "d"}  # fmt: skip
    found = Reading(renamed_columns=mapped).prepared(row)
    assert found == {"input": {"tools": [], "deep": None}, "prompt": ASKED, "chosen": SAID, "a": 1, "b": 1}
    assert row["input"]["messages"] == ASKED and told_by_columns([found | {"rejected": NO}])[0] == "trl"
    assert Reading(renamed_columns={"input.messages": "prompt"}).prepared({"input": {"messages": []}}) == {
        "input": None, "prompt": []
    }  # fmt: skip


def test_preferences_as_openai_takes_them_are_read_by_a_mapping(folder: Path) -> None:
    asked = {"messages": [{"role": "system", "content": "Be brief."}, *ASKED], "tools": [], "parallel_tool_calls": True}
    row = {"input": asked, "preferred_output": SAID, "non_preferred_output": NO}
    mapped = {"input.messages": "prompt", "preferred_output": "chosen", "non_preferred_output": "rejected"}
    record = read(folder, "trl", row, renamed_columns=mapped)
    assert not record.HasField("quarantine"), record.quarantine.message
    assert (shown(record.history[0].content), shown(record.prompt)) == (["Be brief."], ["Name a fruit."])
    assert [shown(one.content) for one in record.responses] == [["Pear."], ["No."]]


def test_what_else_a_task_of_label_studio_holds_is_listed() -> None:
    assert set(unread_of_label_studio(TASK)) == {"data.url", "annotations.ease", "predictions"}


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "from", "content", "value", "type", "text", "image", "url", "bytes", "array"]),
            inner | st.sampled_from(["user", "assistant", "system", "text", "image", "<image>"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(PEOPLE)), st.data())
def test_any_value_in_any_column_gives_a_record_or_a_reason(form: str, data: st.DataObject) -> None:
    row = data.draw(st.dictionaries(st.sampled_from(PEOPLE[form].columns), ANY, max_size=6))
    record = read(Path("/nowhere"), form, row)
    if record.HasField("quarantine"):
        assert record.quarantine.reason and record.quarantine.message.endswith(".")
    else:
        assert any(part.text.strip() for part in record.prompt.parts)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(alphabet="ab <>\n", max_size=8), min_size=1, max_size=5))
def test_markers_keep_each_medium_in_its_place(texts: list[str]) -> None:
    count = len(texts) - 1
    row = {"messages": [{"role": "user", "content": "x" + "<image>".join(texts) + "y"}]}
    row["images"] = [{"bytes": bytes([number])} for number in range(count)]
    found = read(Path("/nowhere"), "ms_swift", row)
    media = [part.media.sha256 for part in found.prompt.parts if part.HasField("media")]
    assert media == [repr(bytes([number])) for number in range(count)]
    kept = "".join(part.text for part in found.prompt.parts)
    assert kept.replace("\n", "").replace(" ", "") == ("x" + "".join(texts) + "y").replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("form", sorted(PEOPLE))
def test_what_is_deep_or_long_or_wide_is_set_aside_or_taken(folder: Path, form: str) -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    for column in PEOPLE[form].columns:
        assert read(folder, form, {column: deep}).quarantine.reason
        assert read(folder, form, {column: "x" * (3 << 20)}).quarantine.reason
        assert read(folder, form, {column: [{"role": "user", "content": "x"}] * 2000}).quarantine.reason
    assert read(folder, form, dict.fromkeys(map(str, range(MAX_COLUMNS + 1)), "x")).quarantine.reason == "ROW_TOO_WIDE"


def test_an_error_names_a_medium_within_a_message_but_not_its_bytes(folder: Path) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,!!"}}
    found = read(folder, "messages", {"messages": [{"role": "user", "content": [part]}]}).quarantine
    assert (found.reason, found.media_path) == ("MEDIA_UNDECODABLE", "")
    with pytest.raises(InvalidArgument):
        Reading.of(data_service_pb2.ImportDatasetRequest(renamed_columns={"a": " "}))
