import json

import pytest


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Twenty rows of text-to-text."""
    folder = tmp_path_factory.mktemp("pets") / "text-to-text"
    folder.mkdir()
    rows = [
        {"question": f"cat {n}" if n % 2 else f"dog {n}", "response_1": "a", "response_2": "b", "overall_response": 1}
        for n in range(20)
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    return folder.parent


@pytest.fixture
def filled(run, pets):
    assert run("data", "import", "pets", pets).exit_code == 0
    return run


def test_a_filter_says_how_many_records_are_left_and_a_repeated_one_that_it_was_made(filled):
    for ending in ("", "; the same command made it before"):
        result = filled("data", "filter", "pets", "cats", "--text", "CAT", "--subtask", "t2t")
        assert result.exit_code == 0, result.output
        assert result.stdout == f"projects/default/datasets/cats/versions/1: 10 records of pets/1{ending}\n"
    other = filled("data", "filter", "pets", "cats", "--text", "dog")
    assert other.exit_code == 1
    assert "choose another id, or delete it first" in other.stderr


def test_a_split_shows_its_counts_and_is_named_after_the_dataset(filled):
    result = filled("data", "split", "pets", "--by", "train=0.9, test=0.1", "--seed", "0")
    assert result.exit_code == 0, result.output
    assert "datasets/pets-split/versions/1: 20 records" in result.stdout
    assert "test: 2 records" in result.stdout
    assert "train: 18 records" in result.stdout


def test_samples_are_merged_again(filled):
    assert filled("data", "sample", "pets", "few", "--count", "4").exit_code == 0
    assert filled("data", "sample", "pets", "more", "--count", "6", "--seed", "1").exit_code == 0
    result = filled("data", "merge", "few", "more/1", "-o", "both", "--json")
    assert result.exit_code == 0, result.output
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["dataset_version"]["name"] == "projects/default/datasets/both/versions/1"
    assert int(last["records_written"]) <= 10


def test_duplicates_are_listed_with_what_they_repeat(run, tmp_path):
    folder = tmp_path / "text-to-text"
    folder.mkdir()
    long = " ".join(f"word{first}{second}" for first in "abc" for second in "defghijklmnopqrstuvwxyz")
    rows = [
        {"question": question, "response_1": "a", "response_2": "b", "overall_response": 1}
        for question in ("One?", " one?", long, long.replace("wordbk", "other"))
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    assert run("data", "import", "texts", tmp_path).exit_code == 0
    result = run("data", "dedupe", "texts", "unique", "--near", "--limit", "5")
    assert result.exit_code == 0, result.output
    assert "datasets/unique/versions/1: 2 records of texts/1" in result.stdout
    assert "duplicates removed: 2" in result.stdout
    assert result.stdout.count(": the same") == 1
    assert result.stdout.count(": near, text differs by 0.") == 1
    cut = run("data", "dedupe", "texts", "fewer", "--near", "--limit", "1").stdout
    assert cut.count(" repeats ") == 1
    assert "... and 1 more: see --limit" in cut
    exact = run("data", "dedupe", "texts", "exact", "--json")
    pairs = [pair for line in exact.stdout.splitlines() for pair in json.loads(line).get("duplicates", ())]
    assert [pair["exact"] for pair in pairs] == [True]


def test_a_diff_lists_what_differs_with_names_as_people_write_them(filled):
    assert filled("data", "filter", "pets", "dogs", "--text", "dog").exit_code == 0
    result = filled("data", "diff", "pets/versions/1", "dogs/1", "--limit", "3")
    lines = result.stdout.splitlines()
    assert [line[:2] for line in lines[:3]] == ["- "] * 3
    assert lines[3:] == ["... and 7 more: see --limit", "pets/1 → dogs/1: 0 added, 10 removed, 0 changed, 10 equal"]
    counts = json.loads(filled("data", "diff", "pets", "dogs", "--json").stdout.splitlines()[-1])
    assert counts == {"added": 0, "removed": 10, "changed": 0, "equal": 10}


def test_statistics_are_said_printed_as_json_and_drawn(filled, tmp_path):
    page = tmp_path / "out" / "pets.html"
    result = filled("data", "stats", "pets/1", "--page", page)
    assert result.exit_code == 0, result.output
    assert "records: 20 (t2t 20)" in result.stdout
    assert "preferred: first 20, second 0, none 0" in result.stdout
    assert "pets/1</h1>" in page.read_text()
    assert [path.name for path in page.parent.iterdir()] == ["pets.html"]
    found = json.loads(filled("data", "stats", "pets", "--json").stdout)
    assert found["subtask_counts"] == {"t2t": "20"}
    assert filled("data", "stats", "absent").exit_code == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["filter", "pets", "made"], "say which records to keep"),
        (["filter", "pets", "made", "--modality", "smell"], "'smell' is none of text"),
        (["split", "pets", "--by", "train"], "is not NAME=SHARE"),
        (["split", "pets", "halves", "--by", "train=0.5,test=0.4"], "must add up to 1, not 0.9"),
        (["split", "pets", "halves", "--by", "train=nan,test=0.1"], "shares"),
        (["sample", "pets", "made", "--count", "0"], "greater than or equal to 1"),
        (["sample", "pets", "made", "--count", "21"], "has 20 records"),
        (["merge", "pets", "-o", "made"], "two or more"),
        (["dedupe", "pets", "made", "--threshold", "0.8"], "add --near"),
        (["dedupe", "pets", "made", "--near", "--threshold", "0.2"], "0.5"),
        (["merge", "pets", "pets", "-o", "made", "--on-conflict", "guess"], "'guess' is none of refuse"),
        (["filter", "absent", "made", "--text", "x"], "absent"),
        (["filter", "pets", "No Id", "--text", "x"], "dataset_id"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(filled, words, problem):
    result = filled("data", *words)
    assert result.exit_code in (1, 2)
    assert problem in result.output + result.stderr
    assert "Traceback" not in result.output
