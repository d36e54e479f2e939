import datetime
import json

import numpy as np
import pytest

from omnialign import media
from omnialign.cli.importing import progress_line
from omnialign.client import Client
from omnialign.v1 import data_service_pb2
from omnialign.v1.data_service_pb2 import ImportDatasetResponse

DATASETS = "projects/default/datasets"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three rows of text-to-text, one of them without a prompt."""
    folder = tmp_path_factory.mktemp("source") / "text-to-text"
    folder.mkdir()
    rows = [
        {"question": q, "response_1": f"{q}!", "response_2": f"{q}?", "overall_response": 1} for q in ("one", "two", "")
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    return folder.parent


@pytest.fixture(scope="module")
def imported(source):
    return source


def test_an_import_shows_counts_and_what_was_set_aside(run, source):
    result = run("data", "import", "texts", source)
    assert result.exit_code == 0, result.output
    assert "projects/default/datasets/texts/versions/1: 2 records (t2t 2)" in result.stdout
    assert "quarantined: 1 row" in result.stdout


def test_a_second_import_says_what_was_there_already(run, source):
    run("data", "import", "again", source)
    assert "there already, and not read again: 3 rows" in run("data", "import", "again", source).stdout


def test_progress_says_how_far_how_fast_and_how_long():
    progress = ImportDatasetResponse(
        rows_read=12_500, rows_total=50_000, rows_skipped=500, rows_per_second=6000.4, media_bytes=3 << 20
    )
    progress.time_left.seconds = 75
    assert progress_line(progress) == (
        "importing: 12,500 of 50,000 (25 %) rows, 500 there already, 6,000 rows/s, 1:15 left, 3.0 MiB of media"
    )
    assert progress_line(ImportDatasetResponse(rows_read=3)) == "importing: 3 rows"


def test_an_import_in_json_ends_with_the_version(run, source):
    lines = [json.loads(line) for line in run("data", "import", "texts", source, "--json").stdout.splitlines()]
    assert lines[-1]["dataset_version"]["name"].startswith("projects/default/datasets/texts/versions/")


def test_datasets_are_listed_with_tabs_when_piped(run, source):
    run("data", "import", "texts", source)
    lines = run("data", "list").stdout.splitlines()
    assert lines[0].split("\t")[0] == "DATASET"
    assert any(line.split("\t")[0] == "texts" for line in lines)


def test_records_are_shown_readably_and_in_json(run, source):
    run("data", "import", "texts", source)
    result = run("data", "show", "texts", "--limit", "1")
    assert "prompt      one" in result.stdout or "prompt      two" in result.stdout
    assert result.stdout.count("■") == 1
    record = json.loads(run("data", "show", "texts", "--json", "--limit", "1").stdout)
    assert record["subtask"] == "t2t"


def test_quarantined_rows_are_shown_with_their_reason(run, source):
    run("data", "import", "texts", source)
    assert "quarantined" in run("data", "show", "texts", "--quarantine").stdout


def test_an_export_has_all_records_and_media(run, tmp_path):
    folder = tmp_path / "pictures" / "text-to-image"
    folder.mkdir(parents=True)
    for side, shade in enumerate((10, 200)):
        (folder / f"{side}.png").write_bytes(media.write_image(np.full((8, 8, 3), shade, dtype=np.uint8)))
    row = {"prompt": "a grey square", "image_1": "0.png", "image_2": "1.png", "overall_image": 2}
    (folder / "train.json").write_text(json.dumps([row]))
    imported = run("data", "import", "pictures", folder.parent)
    assert imported.exit_code == 0, imported.output
    target = tmp_path / "out"
    result = run("data", "export", "pictures", target)
    assert result.exit_code == 0, result.output
    (record,) = [json.loads(line) for line in (target / "records.jsonl").read_text().splitlines()]
    digests = {
        part["media"]["sha256"] for r in record["responses"] for part in r["content"]["parts"] if "media" in part
    }
    assert {path.stem for path in (target / "media").iterdir()} == digests
    assert len(digests) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_export_does_not_touch_a_folder_with_something_in_it(run, source, tmp_path):
    run("data", "import", "texts", source)
    (tmp_path / "mine").write_text("precious")
    result = run("data", "export", "texts", tmp_path)
    assert result.exit_code == 1
    assert "FOLDER_NOT_EMPTY" in result.stderr
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_failed_export_leaves_nothing_behind(run, tmp_path):
    result = run("data", "export", "absent", tmp_path / "out")
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_is_not_there_is_one_sentence_with_the_reason(run):
    result = run("data", "show", "absent")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


def test_lineage_of_nothing_says_so(run):
    result = run("lineage", "datasets/absent")
    assert "No lineage is recorded" in result.stdout or "error:" in result.stderr


def test_a_dataset_is_deleted_and_with_force_too_if_something_uses_it(run, server, source):
    run("data", "import", "unwanted", source)
    with Client(server.address) as client:
        client.begin_use("projects/default/alignmentJobs/reads-it", [f"{DATASETS}/unwanted"], ttl_seconds=60)
    assert "unwanted\t1\t2\t" in run("data", "list").stdout and "\treads-it\n" in run("data", "list").stdout
    refused = run("data", "delete", "unwanted")
    assert refused.exit_code == 1
    assert (
        "in use by projects/default/alignmentJobs/reads-it" in refused.stderr and "[DATASET_IN_USE]" in refused.stderr
    )
    assert run("data", "delete", "unwanted", "--force").stdout == "Deleted projects/default/datasets/unwanted\n"
    assert "[DATASET_NOT_FOUND]" in run("data", "delete", "unwanted").stderr
    run("data", "import", "lonely", source)
    assert run("data", "delete", "lonely").exit_code == 0


def test_a_dataset_that_something_was_made_of_is_deleted_only_by_force(run, server, source):
    run("data", "import", "lessons", source)
    with Client(server.address) as client:
        source, target = f"{DATASETS}/lessons/versions/1", "projects/default/models/learnt/versions/1"
        client.add_lineage([data_service_pb2.LineageEdge(source=source, target=target, relation="trained_on")])
    assert "models/learnt/versions/1 depend on" in run("data", "delete", "lessons").stderr
    assert run("data", "delete", "lessons", "--force").exit_code == 0


def test_a_dataset_is_imported_for_a_time_which_can_be_changed_and_ended(run, source):
    def expiry() -> str:
        return next(line for line in run("data", "list").stdout.splitlines() if line.startswith("brief\t")).split("\t")[
            4
        ]

    assert run("data", "import", "brief", source, "--expires-in", 7).exit_code == 0
    first = datetime.datetime.strptime(expiry(), "%Y-%m-%d %H:%M").replace(tzinfo=datetime.UTC)
    assert datetime.timedelta(days=6.9) < first - datetime.datetime.now(datetime.UTC) <= datetime.timedelta(days=7)
    run("data", "import", "brief", source, "--append", "--expires-in", 99)  # it is there: an import does not change it
    assert expiry() == f"{first:%Y-%m-%d %H:%M}"
    kept = run("data", "expire", "brief", "--in", 30).stdout
    assert "expires: 20" in kept and kept.endswith(" UTC\n")
    assert expiry() > f"{first:%Y-%m-%d %H:%M}"
    assert run("data", "expire", "brief", "--never").stdout == f"{DATASETS}/brief expires: never\n"
    assert expiry() == ""
    assert run("data", "expire", "brief").exit_code == 2
    assert run("data", "expire", "brief", "--in", 3, "--never").exit_code == 2


def test_version_is_deleted_by_its_number(run, source):
    run("data", "import", "versioned", source)
    assert run("data", "delete", "versioned/1", "--force").stdout.startswith("Deleted projects/default/datasets/vers")
    assert "[DATASET_VERSION_NOT_FOUND]" in run("data", "delete", "versioned/1").stderr
    assert "[RESOURCE_NAME_INVALID]" in run("data", "delete", "versioned/-").stderr


def test_collection_says_what_it_did(run):
    assert "media looked at" in run("data", "gc", "--dry-run").stdout
    assert "examined_count" in run("data", "gc", "--json").stdout
