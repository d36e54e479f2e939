"""`omnialign annotate export` and `import` with the formats of other tools, against the real service."""

import json
import shutil

import pytest

from omnialign import rubrics
from omnialign.client import Client
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Campaign, ImportedAnnotation
from tests.omnialign.cli.test_align_anything import annotated
from tests.omnialign.exchange.pairs import annotation_of

FILES = {"label-studio": "{}.json", "argilla": "{}/records.json"}


@pytest.fixture
def campaign(server, request):
    """A campaign of a pair of each of the eight subtasks, with real media and two annotations of each pair."""
    name = request.node.name.translate(str.maketrans("_[", "--", "]"))[-40:].strip("-")
    with Client(server.address) as client:
        dataset = client.create_dataset(f"{name}-pairs")
        records = [annotated(client, subtask, 0) for subtask in rubrics.SUBTASKS]
        client.append_records(dataset.name, records)
        version = client.commit_version(dataset.name).name
        made = client.create_campaign(name, Campaign(dataset_version=version, overlap=2, instructions="Be fair."))
        ids = {item.record_id: item.name for item in client.list_items(made.name)}
        imported = [
            ImportedAnnotation(item=ids[record.id], annotator=who, annotation=annotation_of(record, preferred=side))
            for record in records
            for who, side in (("ann@example.com", 1), ("bob", 2))
        ]
        results = client.import_annotations(made.name, imported, tool="test", file_sha256="0" * 64)
        assert {result.reason for result in results} == {""}
        yield made
        if made.name in {one.name for one in client.list_campaigns()}:
            client.delete_campaign(made.name)


def again(server, made):
    """The same campaign, made anew."""
    with Client(server.address) as client:
        client.delete_campaign(made.name)
        client.create_campaign(made.name.rpartition("/")[2], Campaign(**{
            "dataset_version": made.dataset_version, "overlap": 2, "instructions": made.instructions,
        }))  # fmt: skip


def contents(folder):
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("tool", FILES)
def test_a_campaign_goes_out_and_comes_back_and_goes_out_equal(server, run, campaign, tool, tmp_path):
    name, first, second = campaign.name.rpartition("/")[2], tmp_path / "first", tmp_path / "second"
    done = run("annotate", "export", name, "--format", tool, "--output", first)
    assert done.exit_code == 0, done.output
    assert "16 annotations" in done.output
    again(server, campaign)
    for subtask in rubrics.SUBTASKS:
        back = run("annotate", "import", name, first / FILES[tool].format(subtask))
        assert back.exit_code == 0, back.output
        assert "Added 2 annotations; 0 were there already, 0 problems." in back.output
    assert run("annotate", "export", name, "--format", tool, "--output", second).exit_code == 0
    assert contents(first) == contents(second)
    with Client(server.address) as client:
        before = client.get_campaign(campaign.name)
        for subtask in rubrics.SUBTASKS:
            twice = run("annotate", "import", name, second / FILES[tool].format(subtask))
            assert "Added 0 annotations; 2 were there already, 0 problems." in twice.output
        assert client.get_campaign(campaign.name) == before


@pytest.mark.parametrize("tool", FILES)
def test_media_are_files_or_links(run, campaign, tool, tmp_path):
    name = campaign.name.rpartition("/")[2]
    files = run("annotate", "export", name, tmp_path / "files", "--format", tool, "--json")
    assert json.loads(files.output)["media"] == len(list((tmp_path / "files" / "media").iterdir())) > 8
    links = ("annotate", "export", name, tmp_path / "links", "--format", tool, "--media-base")
    assert run(*links, "https://media.example.org/x/").exit_code == 0
    assert not (tmp_path / "links" / "media").exists()
    (task,) = json.loads((tmp_path / "links" / FILES[tool].format("tv2t")).read_text())
    link = task["data" if tool == "label-studio" else "fields"]["prompt_0"]
    assert link.startswith("https://media.example.org/x/") and link.endswith(".mp4")
    refused = run("annotate", "export", name, tmp_path / "no", "--format", tool, "--media-base", "javascript:alert(1)")
    assert (refused.exit_code, "MEDIA_BASE_INVALID" in refused.output) == (1, True)
    assert not (tmp_path / "no").exists()


def test_what_argilla_cannot_show_is_said(run, campaign, tmp_path):
    done = run("annotate", "export", campaign.name, tmp_path / "out", "--format", "argilla")
    assert "parts are a link to video, which Argilla does not play." in done.output
    assert "marks are lines of text, because Argilla has no regions." in done.output


def test_what_is_refused_names_file_task_place_and_what_would_be_taken(run, campaign, tmp_path):
    name = campaign.name.rpartition("/")[2]
    run("annotate", "export", name, tmp_path / "out", "--format", "label-studio")
    (task,) = json.loads((tmp_path / "out" / "t2t.json").read_text())
    task["annotations"][0]["completed_by"] = {"email": "dan@example.com"}
    task["annotations"][1]["result"][0]["value"]["choices"] = ["\x1b[31m9"]
    path = tmp_path / "came-back.json"
    path.write_text(json.dumps([{}, task]))
    done = run("annotate", "import", name, path)
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert (
        lines[0]
        == "refused: came-back.json: task 1, data: found None; taken is the facts that the export wrote [TASK_UNKNOWN]"
    )
    assert (
        "task 2, annotation of bob, score_1_prompt_following: found '\\x1b[31m9'; taken is one of 0, 1, 2, 3"
        in lines[1]
    )
    assert "task 2, annotation of dan@example.com, annotation: found The pair has all the annotations" in lines[2]
    assert "[NO_FREE_SEAT]" in lines[2]
    machine = run("annotate", "import", name, path, "--json")
    assert [json.loads(line).get("refused", {}).get("reason") for line in machine.output.splitlines()] == [
        "TASK_UNKNOWN", "ANSWER_INVALID", "NO_FREE_SEAT", None,
    ]  # fmt: skip


@pytest.mark.parametrize("tool", FILES)
def test_tasks_of_another_campaign_are_taken_where_that_is_said(server, run, campaign, tool, tmp_path):
    name = campaign.name.rpartition("/")[2]
    run("annotate", "export", name, tmp_path / "out", "--format", tool)
    file = tmp_path / "out" / FILES[tool].format("ti2ti")
    fields = {"dataset_version": campaign.dataset_version, "overlap": 2}
    with Client(server.address) as client:
        other = client.create_campaign(f"other-{tool}", Campaign(**fields))
        refused = run("annotate", "import", other.name, file)
        assert "TASK_OF_OTHER_CAMPAIGN" in refused.output and "--from" in refused.output
        taken = run("annotate", "import", other.name, file.parent if tool == "argilla" else file, "--from", name)
        assert "Added 2 annotations" in taken.output
        client.delete_campaign(other.name)


def test_a_file_of_neither_tool_and_a_campaign_that_is_missing_are_one_sentence(run, campaign, tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"text": 1}]')
    unknown = run("annotate", "import", campaign.name, path)
    assert (unknown.exit_code, unknown.output.count("\n"), "FORMAT_UNKNOWN" in unknown.output) == (1, 1, True)
    path.write_text('[{"data": {}}]')
    missing = run("annotate", "import", "nowhere", path)
    assert (missing.exit_code, "CAMPAIGN_NOT_FOUND" in missing.output) == (1, True)
    assert run("annotate", "import", "nowhere", path, "--format", "csv").exit_code == 2
    assert run("annotate", "export", "nowhere", "--format", "label-studio").exit_code == 2


def test_pairs_of_another_shape_get_a_form_of_their_own(server, run, tmp_path):
    with Client(server.address) as client:
        dataset = client.create_dataset("shapes")
        records = [annotated(client, "ti2t", number) for number in (0, 1)]
        records[1].prompt.parts.add().text = "and more"
        client.append_records(dataset.name, records)
        version = client.commit_version(dataset.name).name
        client.create_campaign("shapes", Campaign(dataset_version=version))
        done = run("annotate", "export", "shapes", tmp_path / "out", "--format", "label-studio")
        assert done.exit_code == 0, done.output
        assert sorted(path.name for path in (tmp_path / "out").glob("*.*")) == [
            "ti2t-2.json", "ti2t-2.xml", "ti2t.json", "ti2t.xml",
        ]  # fmt: skip
        shutil.rmtree(tmp_path / "out")
        client.delete_campaign("projects/default/campaigns/shapes")


def test_a_subtask_that_is_a_path_leads_nowhere(server, run, tmp_path):
    rubric = rubrics.form("t2t")
    rubric.subtask = "../../outside"
    with Client(server.address) as client:
        dataset = client.create_dataset("paths")
        record = annotated(client, "t2t", 0)
        record.subtask = rubric.subtask
        client.append_records(dataset.name, [record])
        version = client.commit_version(dataset.name).name
        client.create_campaign("paths", Campaign(dataset_version=version, rubrics=[rubric]))
        for tool, file in FILES.items():
            done = run("annotate", "export", "paths", tmp_path / "in" / tool, "--format", tool)
            assert done.exit_code == 0, done.output
            assert (tmp_path / "in" / tool / file.format("pairs")).exists()
        assert [path.name for path in tmp_path.iterdir()] == ["in"]
        client.delete_campaign("projects/default/campaigns/paths")


def test_nothing_of_an_annotation_is_lost_on_the_way(server, run, campaign, tmp_path):
    with Client(server.address) as client:
        before = {(i.record_id, a.annotator): a for i in client.list_items(campaign.name) for a in i.answers}
    run("annotate", "export", campaign.name, tmp_path / "out", "--format", "label-studio")
    again(server, campaign)
    for subtask in rubrics.SUBTASKS:
        run("annotate", "import", campaign.name, tmp_path / "out" / f"{subtask}.json")
    with Client(server.address) as client:
        after = {(i.record_id, a.annotator): a for i in client.list_items(campaign.name) for a in i.answers}
    assert before.keys() == after.keys()
    for key, answer in before.items():
        assert answer.answer_time == after[key].answer_time
        for one, other in zip(answer.annotation.feedback, after[key].annotation.feedback, strict=True):
            assert len(one.marks) == len(other.marks)
            assert [mark.note for mark in one.marks] == [mark.note for mark in other.marks]
        assert isinstance(answer.annotation, Annotation) and answer.annotation.reason == after[key].annotation.reason
