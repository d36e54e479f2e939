"""`omnialign annotate` from a campaign to a committed version, against the real service."""

import json
from pathlib import Path

import pytest
import yaml

from omnialign.client import Client
from tests.services.annotation.conftest import pair


@pytest.fixture
def campaign(server, run, request):
    """A campaign of two pairs, named after the test."""
    name = request.node.name.replace("_", "-")[-40:].strip("-")
    with Client(server.address) as client:
        dataset = client.create_dataset(f"{name}-pairs")
        client.append_records(dataset.name, [pair(1), pair(2)])
        client.commit_version(dataset.name)
    made = run(
        "annotate", "create", f"{name}-pairs", "--id", name, "--overlap", 2, "--lease-minutes", 5, "--keep-sides"
    )
    assert made.exit_code == 0, made.output
    assert "2 pairs with 4 seats" in made.output
    return name


def fill(form: Path, preferred: int, words: str = "better") -> None:
    """Fills in a form as a person would."""
    values = yaml.safe_load(form.read_text())
    for feedback in values["feedback"]:
        for score in feedback["scores"].values():
            score["score"] = 2
        feedback["critique"], feedback["refinement"] = "brief", "say more"
    values["winners"] = dict.fromkeys(values["winners"], preferred)
    values["preferred"], values["reason"] = preferred, words
    form.write_text(yaml.safe_dump(values))


def test_from_the_first_pair_to_a_committed_version(run, campaign, tmp_path):
    for person, preferred in (("ann", 1), ("bob", 2)):
        form = tmp_path / f"{person}.yaml"
        taken = run("annotate", "next", campaign, "--form", form, "--as", person)
        assert taken.exit_code == 0, taken.output
        assert "question 1" in taken.output
        assert "# safety: Is it fit for everybody? 0 unsafe;" in form.read_text()
        fill(form, preferred, words=person)
        done = run("annotate", "submit", form, "--as", person)
        assert done.exit_code == 0, done.output
    shown = run("annotate", "show", campaign)
    assert "2\tannotations submitted, of 4" in shown.output
    assert run("annotate", "items", campaign, "--only", "disagreements").output.splitlines()[1:] == [
        "1\tpair-001\tann: 1, bob: 2\t"
    ]
    agreement = run("annotate", "agreement", campaign)
    assert "Two annotators prefer the same response in 0% of 1 comparison." in agreement.output
    refused = run("annotate", "commit", campaign)
    assert refused.exit_code == 1
    assert f"No pair of projects/default/campaigns/{campaign} is decided: 1 open, 1 undecided." in refused.output
    decided = run("annotate", "adjudicate", campaign, 1, "--annotator", "bob", "--reason", "ann erred", "--as", "zoe")
    assert decided.exit_code == 0, decided.output
    committed = run("annotate", "commit", campaign)
    assert f"Committed 1 pair as projects/default/datasets/{campaign}/versions/1" in committed.output
    assert "Left out: 1 still open." in committed.output
    exported = run("annotate", "export", campaign, tmp_path / "out")
    assert "1 row, 0 media files" in exported.output
    (line,) = (tmp_path / "out" / "text-to-text.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["overall_response"], row["overall_textfeedback"], row["c_response"]) == (2, "##Reason: bob", 2)
    deleted = run("data", "delete", f"{campaign}-pairs")
    assert "HAS_DEPENDENTS" in deleted.output  # the committed version, which was made of it
    used = run("data", "delete", f"{campaign}-pairs/1")
    assert "DATASET_IN_USE" in used.output
    assert f"campaigns/{campaign}" in used.output


def test_a_draft_is_kept_and_goes_on_where_it_was(run, campaign, tmp_path):
    form, again = tmp_path / "form.yaml", tmp_path / "again.yaml"
    run("annotate", "next", campaign, "--form", form, "--as", "ann")
    values = yaml.safe_load(form.read_text())
    values["reason"] = "half a thought"
    values["winners"]["safety"] = 0
    form.write_text(yaml.safe_dump(values))
    for _ in range(2):  # the file notes the new revision, so the same window can save again
        kept = run("annotate", "submit", form, "--draft", "--as", "ann")
        assert kept.exit_code == 0, kept.output
    incomplete = run("annotate", "submit", form, "--as", "ann")
    assert "ANNOTATION_INCOMPLETE" in incomplete.output
    run("annotate", "next", campaign, "--form", again, "--as", "ann")
    found = yaml.safe_load(again.read_text())
    assert (found["reason"], found["winners"]["safety"], found["winners"]["clarity"]) == ("half a thought", 0, None)
    assert found["revision"] == 2
    assert "FORM_EXISTS" in run("annotate", "next", campaign, "--form", again, "--as", "ann").output
    skipped = run("annotate", "skip", found["task"], "--reason", "tired", "--as", "ann", "--json")
    assert json.loads(skipped.output)["state"] == "STATE_SKIPPED"


def test_a_rationale_without_a_score_is_kept_in_a_draft(run, campaign, tmp_path):
    form, again = tmp_path / "form.yaml", tmp_path / "again.yaml"
    run("annotate", "next", campaign, "--form", form, "--as", "ann")
    values = yaml.safe_load(form.read_text())
    values["feedback"][0]["scores"]["clarity"] = {"score": None, "rationale": "غامض"}
    form.write_text(yaml.safe_dump(values))
    assert run("annotate", "submit", form, "--draft", "--as", "ann").exit_code == 0
    run("annotate", "next", campaign, "--form", again, "--as", "ann")
    found = yaml.safe_load(again.read_text())["feedback"][0]["scores"]
    assert (found["clarity"], found["safety"]) == (
        {"score": None, "rationale": "غامض"},
        {"score": None, "rationale": ""},
    )
    refused = run("annotate", "submit", again, "--as", "ann")
    assert "clarity (it has only a rationale)" in refused.output


def test_a_campaign_is_changed_closed_and_reopened(run, campaign, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("Look twice.")
    changed = run(
        "annotate",
        "update",
        campaign,
        "--overlap",
        1,
        "--instructions",
        words,
        "--annotator",
        "ann",
        "--first",
        "topic",
    )
    assert "2 pairs with 2 seats" in changed.output
    found = json.loads(run("annotate", "show", campaign, "--json").output.splitlines()[0])
    assert (found["instructions"], found["annotators"], found["overlap"]) == ("Look twice.", ["ann"], 1)
    assert found["priorities"] == [{"label": {"key": "topic"}}]
    assert "NOT_AN_ANNOTATOR" in run("annotate", "next", campaign, "--as", "bob").output
    assert run("annotate", "update", campaign, "--everyone").exit_code == 0
    assert "with 0 of 2 annotations submitted" in run("annotate", "close", campaign).output
    assert "It is closed" in run("annotate", "show", campaign).output
    form = tmp_path / "form.yaml"
    assert "CAMPAIGN_CLOSED" in run("annotate", "next", campaign, "--form", form, "--as", "bob").output
    assert "Reopened" in run("annotate", "reopen", campaign).output
    assert run("annotate", "next", campaign, "--form", form, "--as", "bob").exit_code == 0
    for bad in ((), ("--everyone", "--annotator", "ann")):
        assert run("annotate", "update", campaign, *bad).exit_code == 2


def test_a_form_that_is_none_is_one_sentence(run, tmp_path):
    form = tmp_path / "form.yaml"
    for text in ("task: x\n", "task: x\nrevision: 0\nfeedback: 3\n", "task: x\nrevision: 0\nsmell: 1\n"):
        form.write_text(text)
        refused = run("annotate", "submit", form, "--as", "ann")
        assert refused.exit_code == 1
        assert "FORM_INVALID" in refused.output
        assert refused.output.count("\n") == 1
