"""What an export writes in a format, an import of that format reads back to the same prompt and answers."""

import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.content import LETTERS, content, media_file_name, text_of
from omnialign.exporting import FORMS, Unwritable
from omnialign.v1 import content_pb2, record_pb2
from services.data.importing.formats.registry import told_by_columns
from services.data.importing.media_files import MediaFiles
from services.data.importing.reading import Reading
from services.data.importing.rows import RowReader
from services.data.importing.scales import Scales
from services.data.importing.sources import SourceFile

MIMES = {"i": "image/png", "a": "audio/wav", "v": "video/mp4"}
MEDIA = [
    content_pb2.Media(modality=LETTERS[kind], mime_type=MIMES[kind], sha256=digit * 64, size_bytes=1)
    for kind in "iav"
    for digit in "0123"
]
NAMED = {media_file_name(medium): medium for medium in MEDIA}


class Store:
    """Knows media by the names of their files."""

    def put_file(self, path: Path, modality: Any) -> content_pb2.Media:
        return NAMED[path.name]


def folder_of_media() -> Path:
    folder = Path(tempfile.mkdtemp()) / "export"
    (folder / "media").mkdir(parents=True)
    for name in NAMED:
        (folder / "media" / name).write_bytes(b"x")
    return folder


FOLDER = folder_of_media()


def read(row: Any, form: str, *, folder: Path = FOLDER, scales: Scales | None = None) -> record_pb2.Record:
    source = SourceFile(folder / "rows.jsonl", folder, "", "train", format=form, told_by="the request")
    files = MediaFiles(source, keep=Store())  # type: ignore[arg-type] # as much of it as is used
    return RowReader(source, files=files, reading=Reading(scales or Scales())).record(1, row)[0]


TEXTS = st.text(max_size=12) | st.sampled_from(["<image>", "a\n", "\n b", " ", "x <video> y", "سلام"])
ROLES = st.sampled_from([content_pb2.ROLE_SYSTEM, content_pb2.ROLE_USER, content_pb2.ROLE_ASSISTANT])
MESSAGES = st.lists(TEXTS | st.sampled_from(MEDIA), min_size=1, max_size=5)


LABELS = st.sampled_from([None, True, False])
EXCHANGES = ("trl", "messages", "ms-swift", "sharegpt", "llama-factory", "rlaif-v")


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(EXCHANGES),
    st.lists(st.tuples(ROLES, MESSAGES), max_size=3),
    MESSAGES,
    st.lists(MESSAGES, max_size=2),
    st.sampled_from([1, 2]),
    LABELS,
)
def test_a_row_is_read_back_as_it_was_or_not_written(
    columns: str,
    history: list[Any],
    prompt: list[Any],
    answers: list[list[Any]],
    preferred: int,
    good: bool | None,
) -> None:
    record = record_pb2.Record(id="7", split="val", prompt=content(*prompt), labels={"a": "b"})
    record.history.extend(content_pb2.EarlierMessage(role=role, content=content(*said)) for role, said in history)
    record.responses.extend(record_pb2.Response(content=content(*answer)) for answer in answers)
    if len(answers) == 2:
        record.preference.preferred = preferred
    if len(answers) == 1 and good is not None:
        record.responses[0].good = good
    try:
        row = FORMS[columns].row(record)
    except Unwritable as error:
        assert str(error)
        return
    form, _ = told_by_columns([row])
    found = read(row, columns.replace("-", "_"))
    if found.HasField("quarantine"):
        # A record may hold what no import takes: blank prompts and answers, or two answers that are the same.
        assert found.quarantine.reason in ("PROMPT_MISSING", "RESPONSE_MISSING", "ANSWERS_EQUAL")
        return
    expected = answers[::-1] if preferred == 2 and len(answers) == 2 else answers
    assert form in (columns.replace("-", "_"), "messages", "sharegpt"), "the columns tell the format"
    assert without_empty(found.prompt) == without_empty(record.prompt)
    assert earlier(found) == earlier(record)
    assert [without_empty(one.content) for one in found.responses] == [
        without_empty(content(*answer)) for answer in expected
    ]
    assert (found.split, dict(found.labels)) == ("val", {"a": "b"})
    if len(answers) == 1:
        assert (found.responses[0].good if found.responses[0].HasField("good") else None) == good


DIMENSIONS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
RATED = ("ultrafeedback", "helpsteer", "helpsteer3", "argilla")
SCORES = st.dictionaries(st.sampled_from((*DIMENSIONS, "clarity")), st.integers(0, 3), max_size=3)
HISTORY = st.lists(st.tuples(ROLES, TEXTS | st.just("Hi")), max_size=3)
ANSWERS = st.tuples(TEXTS, TEXTS, SCORES)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(RATED), HISTORY, MESSAGES, st.lists(ANSWERS, max_size=3), st.integers(0, 2), TEXTS)
def test_ratings_are_read_back_as_they_were_but_for_what_is_said_to_be_lost(
    columns: str, history: list[Any], prompt: list[Any], answers: list[Any], preferred: int, words: str
) -> None:
    record = record_pb2.Record(id="7", split="val", prompt=content(*prompt), labels={"a": "b"})
    record.history.extend(content_pb2.EarlierMessage(role=role, content=content(said)) for role, said in history)
    for text, critique, scores in answers:
        feedback = record_pb2.Feedback(critique=critique)
        for dimension, score in scores.items():
            feedback.scores.add(dimension=dimension, score=score, rationale=words)
        record.responses.add(content=content(text), source=words, feedback=feedback)
    if preferred:
        record.preference.preferred, record.preference.reason = preferred, words
    try:
        row = FORMS[columns].row(record)
    except Unwritable as error:
        assert str(error)
        return
    found = read(row, columns, scales=Scales(score_range=(0, 3)))
    if found.HasField("quarantine"):
        assert found.quarantine.reason in ("PROMPT_MISSING", "RESPONSE_MISSING")
        return
    lost = set(FORMS[columns].lost(record))
    assert told_by_columns([row])[0] == columns
    assert without_empty(found.prompt) == without_empty(record.prompt)
    assert earlier(found) == earlier(record)
    assert [text_of(one.content) for one in found.responses] == [one[0] for one in answers]
    assert lost or [one.feedback for one in found.responses] == [one.feedback for one in record.responses]
    assert "sources of responses" in lost or [one.source for one in found.responses] == [words] * len(answers)
    assert "preferences" in lost or columns == "helpsteer" or found.preference.preferred == preferred
    for one, other in zip(found.responses, record.responses, strict=True):
        known = [score for score in other.feedback.scores if columns != "helpsteer" or score.dimension in DIMENSIONS]
        assert "scores" in lost or scored(one.feedback.scores) == scored(known)
        assert "critiques" in lost or one.feedback.critique == other.feedback.critique


def scored(scores: Any) -> list[tuple[str, int]]:
    return sorted((score.dimension, score.score) for score in scores)


def earlier(record: record_pb2.Record) -> list[tuple[int, list[content_pb2.Part]]]:
    return [(one.role, without_empty(one.content)) for one in record.history]


def without_empty(message: content_pb2.Content) -> list[content_pb2.Part]:
    return [part for part in message.parts if part.WhichOneof("part") == "media" or part.text]


def whole_record() -> record_pb2.Record:
    record = record_pb2.Record(id="7", subtask="ti2ti", split="val", prompt=content("a", MEDIA[0], "b", MEDIA[4]))
    record.history.add(role=content_pb2.ROLE_SYSTEM, content=content("Be brief.", MEDIA[1]))
    for number in range(3):
        response = record.responses.add(content=content(f"{number}", MEDIA[number]), source="model")
        response.feedback.scores.add(dimension="clarity", score=number, rationale="so")
        response.feedback.marks.add(note="here", part=1).region.width = 0.5
        response.feedback.marks[0].region.height = 0.5
        response.made_of.add(content=content(MEDIA[8]), source="tool")
    record.preference.preferred = 2
    record.comparison.verdict = record_pb2.VERDICT_WIN
    record.benchmark_item.category = "perception"
    return record


def test_a_record_as_json_is_read_back_with_all_that_it_holds() -> None:
    record = whole_record()
    row = json_format.MessageToDict(record, preserving_proto_field_name=True)
    assert told_by_columns([row]) == ("records", "the column prompt.parts")
    assert read(row, "records") == record


def test_the_row_may_name_the_files_of_its_media(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"000000007.{number}.png").write_bytes(b"x")
        NAMED[f"000000007.{number}.png"] = MEDIA[number]
    record = record_pb2.Record(id="7", subtask="ti2t", split="val", prompt=content("a", MEDIA[1], MEDIA[0]))
    row = json_format.MessageToDict(record, preserving_proto_field_name=True)
    files = {MEDIA[1].sha256: "000000007.1.png", MEDIA[0].sha256: "000000007.0.png"}
    found = read(row | {"media_files": files}, "records", folder=tmp_path)
    assert found.prompt == record.prompt, found.quarantine.message
    swapped = dict(zip(files, reversed(files.values()), strict=True))
    found = read(row | {"media_files": swapped}, "records", folder=tmp_path)
    assert found.quarantine.reason == "MEDIA_DIFFERS"
    found = read(row | {"media_files": {MEDIA[1].sha256: 7}}, "records", folder=tmp_path)
    assert (found.quarantine.reason, found.quarantine.column) == ("RECORD_INVALID", "media_files")
    outside = read(row | {"media_files": dict.fromkeys(files, "../7.png")}, "records", folder=tmp_path)
    assert outside.quarantine.reason == "MEDIA_PATH_FORBIDDEN"


NO_RECORDS: list[tuple[Any, str, str]] = [
    ({"prompt": "text"}, "RECORD_INVALID", "column prompt: the column holds text, and an object is taken"),
    ({"prompt": {"parts": []}}, "PROMPT_MISSING", "column prompt: the prompt has no parts"),
    ({"prompt": {"parts": [{}]}}, "RECORD_INVALID", "column prompt: prompt.parts[0].part: exactly one field"),
    ({"prompt": {"parts": [{"text": 7}]}}, "RECORD_INVALID", "column prompt: its field text cannot be read: expec"),
    ({"prompt": {"parts": [{"text": "a", "colour": 7}]}}, "RECORD_INVALID",
     "column prompt: there is a field 'colour' in prompt.parts[0], and 'text', 'media' are taken"),
    ({"prompt": {"parts": [{"media": {"modality": 2, "mime_type": "image/png", "sha256": "../../x"}}]}},
     "RECORD_INVALID", "column prompt: prompt.parts[0].media.sha256: does not match"),
    ({"prompt": {"parts": [{"media": {"modality": 2, "mime_type": "image/png", "sha256": "f" * 64}}]}},
     "MEDIA_MISSING", "column prompt (media/ffff"),
    ({"prompt": {"parts": [{"media": {"modality": 2, "mime_type": "image/png", "sha256": "a" * 64}}]}},
     "MEDIA_DIFFERS", "column prompt: the file media/aaaa"),
    ({"subtask": "x2y"}, "RECORD_INVALID", "column subtask: the subtask is 'x2y'"),
    ({"preference": {"preferred": 3}}, "RECORD_INVALID", "column preference: preference.preferred: must be in list"),
    ({"responses": [{"feedback": {"scores": [{"dimension": "clarity", "score": 9}]}}]}, "RECORD_INVALID",
     "column responses: responses[0].feedback.scores[0].score: must be"),
    ({"responses": {"content": {}}}, "RECORD_INVALID", "column responses: the column holds an object, and a list is"),
    ({"quarantine": {"reason": "X"}}, "RECORD_INVALID", "column quarantine: the record is one that was set aside"),
    ({"id": ""}, "RECORD_INVALID", "column id: id: must be at least 1"),
    ({"id": "x" * 201}, "RECORD_INVALID", "column id: id: must be at most 200"),
    ({"id": 7}, "RECORD_INVALID", "column id: it cannot be read: expected string"),
    ({"history": [{"role": "ROLE_NARRATOR", "content": {}}]}, "RECORD_INVALID", "column history: its field role"),
    ({"history": [{"content": {}}]}, "RECORD_INVALID", "column history: history[0].role"),
    ({"history": [{"role": "ROLE_USER"}]}, "RECORD_INVALID", "column history: history[0].content"),
    ({"history": [{"role": "ROLE_USER", "content": {}}] * 257}, "RECORD_INVALID", "column history: history: must"),
    ({"labels": {"a": {"b": 1}}}, "RECORD_INVALID", "column labels: it cannot be read"),
    ({"media_files": []}, "RECORD_INVALID", "column media_files: the column holds a list"),
]  # fmt: skip


def test_what_is_no_record_is_set_aside_with_its_column_and_a_message_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / f"{'a' * 64}.png").write_bytes(b"x")
    NAMED[f"{'a' * 64}.png"] = MEDIA[0]
    row = json_format.MessageToDict(record_pb2.Record(id="7", subtask="t2t", prompt=content("a")))
    messages = set[str]()
    for changed, reason, text in NO_RECORDS:
        found = read(row | changed, "records", folder=tmp_path)
        assert (found.quarantine.reason, text in found.quarantine.message) == (reason, True), found.quarantine.message
        assert (found.quarantine.column, found.id) == (next(iter(changed)), "")
        messages.add(found.quarantine.message)
    assert len(messages) == len(NO_RECORDS)
