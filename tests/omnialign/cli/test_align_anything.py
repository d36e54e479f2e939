"""Records in the columns of align-anything come back from an import as they were, of all eight subtasks."""

import json

import numpy as np
import pytest
from google.protobuf import text_format

from omnialign import rubrics
from omnialign.client import Client
from omnialign.content import LETTERS, content, media_of
from omnialign.exporting.align_anything import COLUMNS, align_anything_row
from omnialign.exporting.rows import Unwritable
from omnialign.media import write_audio, write_image, write_video
from omnialign.v1.content_pb2 import MODALITY_AUDIO, MODALITY_IMAGE, MODALITY_VIDEO, Content, Media
from omnialign.v1.record_pb2 import DimensionScore, Feedback, Preference, Record, Response

WORDS = "a 'quoted' text\nin two lines, سلام 👋"


def medium(client: Client, modality: int, seed: int) -> Media:
    """A small stored medium."""
    random = np.random.default_rng(seed)
    made = {
        MODALITY_IMAGE: lambda: write_image(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)),
        MODALITY_AUDIO: lambda: write_audio(random.random(400, dtype=np.float32) - 0.5, 8000),
        MODALITY_VIDEO: lambda: write_video(random.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8), 4),
    }[modality]()
    return client.upload_media(made, modality=modality)


def message(client: Client, letters: str, words: str, seed: int) -> Content:
    """A message of the modalities in a side of a subtask, the text between two media if there are any."""
    media = [medium(client, LETTERS[letter], seed + n) for n in (0, 100) for letter in letters if letter != "t"]
    if "t" not in letters:
        return content(media[0])
    return content(*media[:1], words, *media[1:])


def annotated(client: Client, subtask: str, number: int) -> Record:
    """A record with everything that an annotation has."""
    read, _, wrote = subtask.partition("2")
    names = [dimension.name for dimension in rubrics.form(subtask).dimensions]
    responses = [
        Response(
            content=message(client, wrote, f"{WORDS}, answer {side}", 10 * number + side),
            source=f"model-{side}",
            feedback=Feedback(
                scores=[DimensionScore(dimension=n, score=(number + side) % 4, rationale=f"of {n}") for n in names],
                critique=f"{WORDS}, criticised",
                refinement=f"say more in {side}",
            ),
        )
        for side in (1, 2)
    ]
    preference = Preference(preferred=1 + number % 2, reason=WORDS, dimensions=dict.fromkeys(names[1:], 2))
    return Record(
        id=f"{subtask}-{number}",
        subtask=subtask,
        split="test",
        prompt=message(client, read, f"{WORDS}, asked {number}", 1000 + number),
        responses=responses,
        preference=preference,
        labels={"number": f"{subtask}-{number}", "annotators": "ann,bob", "reasoning": "as it came"},
    )


def test_what_is_exported_is_imported_as_it_was(run, server, tmp_path):
    with Client(server.address) as client:
        client.create_dataset("all-eight")
        records = [annotated(client, subtask, number) for subtask in rubrics.SUBTASKS for number in (0, 1)]
        # A dimension of one's own has no letters, and a prompt may be all there is.
        records[0].responses[0].feedback.scores.add(dimension="humour", score=1, rationale="dry")
        records[0].preference.dimensions["humour"] = 1
        del records[1].responses[:]
        records[1].ClearField("preference")
        client.append_records("projects/default/datasets/all-eight", records)
    done = run("data", "export", "all-eight", tmp_path / "out", "--format", "align-anything")
    assert done.exit_code == 0, done.output
    media = {m.sha256 for r in records for m in media_of([r.prompt, *(one.content for one in r.responses)])}
    assert f"16 rows, {len(media)} media files" in done.output
    back = run("data", "import", "came-back", tmp_path / "out")
    assert back.exit_code == 0, back.output
    with Client(server.address) as client:
        found = {r.labels["number"]: r for r in client.stream_records("projects/default/datasets/came-back")}
    for record in records:
        again = found.pop(record.id)
        again.id = record.id
        assert text_format.MessageToString(again) == text_format.MessageToString(record)
    assert not found


def test_the_columns_are_those_of_the_data_card(server):
    with Client(server.address) as client:
        row = align_anything_row(annotated(client, "tv2t", 0))
    dimensions = ("prompt_following", "objective_rules", "clarity", "information_richness", "safety")
    wanted = {"prompt", "video_path", "response_1", "response_2", "model_1", "model_2", "text_critique_1"}
    wanted |= {"text_critique_2", "overall_response", "overall_textfeedback"}
    wanted |= {f"{name}_rate_{side}" for name in dimensions for side in (1, 2)}
    wanted |= {f"{name[0]}_rationale_{side}" for name in dimensions for side in (1, 2)}
    wanted |= {f"{name[0]}_response" for name in dimensions[1:]}
    assert set(row) == wanted | {"id", "split", "labels"}
    assert row["text_critique_1"].startswith("##Critique: ")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: setattr(r, "subtask", "t2tia"), "no subset"),
        (lambda r: r.responses.add(), "and the record 3"),
        (lambda r: r.prompt.parts.add(text="more"), "in pieces"),
        (lambda r: setattr(r.responses[0].feedback, "critique", "##Refinement: hidden"), "marks of sections"),
        (lambda r: setattr(r.preference, "reason", " blanks "), "blanks around it"),
        (lambda r: setattr(r.responses[0].content.parts[0], "text", "  "), "no text where its subset has one"),
        (lambda r: r.preference.dimensions.update(taste=1), "a winner and no scores"),
    ],
)
def test_what_would_come_back_otherwise_is_left_out_and_says_why(server, change, why):
    with Client(server.address) as client:
        record = annotated(client, "t2t", 0)
    change(record)
    with pytest.raises(Unwritable, match=why):
        align_anything_row(record)


def test_what_is_left_out_is_counted(run, server, tmp_path):
    with Client(server.address) as client:
        client.create_dataset("odd-ones")
        records = [annotated(client, "t2t", number) for number in (0, 1)]
        records[1].subtask = "t2tia"
        client.append_records("projects/default/datasets/odd-ones", records)
    done = run("data", "export", "odd-ones", tmp_path / "out", "--format", "align-anything", "--json")
    assert json.loads(done.output)["left_out"] == {"align-anything has no subset for t2tia": 1}
    assert run("data", "export", "odd-ones", tmp_path / "x", "--format", "csv").exit_code == 2


def test_every_subtask_has_columns():
    assert set(COLUMNS) == set(rubrics.SUBTASKS)
