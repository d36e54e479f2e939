import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from omnialign.client import Client
from omnialign.v1 import alignment_service_pb2 as messages
from omnialign.v1 import data_service_pb2

SPEC = {"base_model": "file:///nowhere", "dataset": "projects/default/datasets/texts/versions/1", "seed": 3}


@pytest.fixture
def specification(specification_of):
    return specification_of("texts", SPEC)


def test_a_job_is_submitted_with_its_preflight(run, server, specification):
    beta = "optimization.hyperparameters.beta=0.3"
    result = run("jobs", "submit", specification, "--id", "first", "--seed", "9", "--set", beta)
    assert result.exit_code == 0, result.output
    assert "Submitted projects/default/alignmentJobs/first" in result.stdout
    assert "prompts to sample\t7" in result.stdout
    assert "note: Few prompts." in result.stdout
    kept = server.alignment.jobs["projects/default/alignmentJobs/first"].spec
    assert (kept.seed, kept.optimization.hyperparameters.beta) == (9, 0.3)


def test_short_names_are_pinned_to_the_versions_they_mean(run, server, specification):
    run("jobs", "submit", "--base-model", "file:///nowhere", "--dataset", "texts", "--id", "pinned")
    dataset = server.alignment.jobs["projects/default/alignmentJobs/pinned"].spec.dataset
    assert re.fullmatch(r"projects/default/datasets/texts/versions/\d+", dataset)


def test_validate_only_creates_nothing(run, server, specification):
    result = run("jobs", "submit", specification, "--id", "unborn", "--validate-only")
    assert "Nothing was created" in result.stdout
    assert "projects/default/alignmentJobs/unborn" not in server.alignment.jobs


def test_an_unknown_key_is_refused_before_any_call(run, tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(SPEC | {"optimzation": {}}))
    result = run("jobs", "submit", path)
    assert result.exit_code == 1
    assert "optimzation: is not a setting; did you mean 'optimization'?" in result.stderr
    assert result.stderr.count("optimzation") == 1


def test_violations_of_the_server_are_said(run, specification):
    result = run("jobs", "submit", specification, "--set", "feedback_split=nowhere")
    assert result.exit_code == 1
    assert "SPLIT_EMPTY" in result.stderr
    assert "spec.feedback_split: no record is in it" in result.stderr


def test_watching_prints_a_line_per_event_when_piped(run, specification):
    result = run("jobs", "submit", specification, "--id", "watched", "--watch")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    events = [line.split(" ", 1)[1] for line in lines if "sampling began" in line or "over" in line]
    assert events[0].startswith("sampling began About 0:0")  # the time left
    assert events[1:] == ["it is over"]
    assert "pairs: 3 kept, 0 tied, 1 lost, 0 abstained, of 4 tried" in lines[-1]


def test_watching_in_json_prints_one_object_per_event(run, specification):
    run("jobs", "submit", specification, "--id", "machine")
    result = run("jobs", "watch", "machine", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["sequence"] for event in events] == ["1", "2"]


def test_a_failed_job_ends_the_watch_with_status_one_and_the_cause(run, specification):
    result = run("jobs", "submit", specification, "--id", "will-fail", "--watch")
    assert result.exit_code == 1
    assert "failed: Too many records were set aside." in result.stderr


def test_jobs_are_listed_shown_and_cancelled(run, specification):
    run("jobs", "submit", specification, "--id", "life", "--watch")
    assert any(line.startswith("life\tsucceeded") for line in run("jobs", "list").stdout.splitlines())
    shown = run("jobs", "show", "life").stdout
    assert "sample" in shown
    assert "3/8" in shown
    assert "cancelled" in run("jobs", "cancel", "life").stdout


def test_a_report_is_fetched_into_a_folder(run, specification, tmp_path):
    run("jobs", "submit", specification, "--id", "reported", "--watch")
    result = run("jobs", "report", "reported", "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "report" / "report.html").read_bytes() == b"<!doctype html>"
    assert "t2i\t25.0 %\t75.0 %\t+50.0\t+40 to +60\t–" in result.stdout


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(run, server, specification):
    run("jobs", "submit", specification, "--id", "slow")
    server.alignment.waiting.clear()
    words = [sys.executable, "-c", "from omnialign.cli.main import main; main()", "jobs", "watch", "slow"]
    watching = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert " sampling began" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=20)
    finally:
        watching.kill()
    assert watching.returncode == 130
    assert "follow it with `omnialign jobs watch slow`" in errors
    assert "Traceback" not in errors
    assert server.alignment.jobs["projects/default/alignmentJobs/slow"].state != 7


def test_a_job_is_deleted_once_it_has_ended_or_with_force(run, specification):
    run("jobs", "submit", specification, "--id", "unwanted")
    assert "[JOB_STATE]" in run("jobs", "delete", "unwanted").stderr
    assert run("jobs", "delete", "unwanted", "--force").stdout == "Deleted projects/default/alignmentJobs/unwanted\n"
    assert "[JOB_NOT_FOUND]" in run("jobs", "show", "unwanted").stderr


@pytest.fixture
def ended(run, server, specification):
    """A job that ended a day ago, with a table of answers, one of pairs made of it, and one that a campaign reads."""
    run("jobs", "submit", specification, "--id", "ended")
    name = "projects/default/alignmentJobs/ended"
    with Client(server.address) as client:
        versions, records = {}, list(client.stream_records("projects/default/datasets/texts"))
        for purpose in ("sample", "pairs", "people"):
            table = client.create_dataset(f"ended-{purpose}", labels={"alignment_job": name}).name
            client.append_records(table, records)
            versions[purpose] = client.commit_version(table).name
        edge = data_service_pb2.LineageEdge
        model = "projects/default/models/aligned/versions/1"
        client.add_lineage([edge(source=versions["sample"], target=versions["pairs"], relation="verify_of")])
        client.add_lineage([edge(source=versions["pairs"], target=model, relation="trained_on")])
        client.add_lineage([edge(source=name, target=version, relation="produced") for version in versions.values()])
        yield server.alignment.jobs[name]
        del server.alignment.jobs[name]
        for dataset in client.list_datasets():
            if dataset.labels.get("alignment_job") == name:
                client.delete_dataset(dataset.name)


@pytest.mark.parametrize("words", [("ended",), ("--older-than", 0.5)])
def test_tables_that_nothing_needs_go_and_it_is_said_why_others_stay(run, ended, words):
    assert run("annotate", "create", "ended-people", "--id", "asks").exit_code == 0
    assert "[JOB_STATE]" in run("jobs", "tidy", "ended").stderr
    ended.state = ended.STATE_SUCCEEDED
    ended.end_time.FromSeconds(int(time.time()) - 86_400)
    dry = run("jobs", "tidy", *words, "--dry-run").stdout
    assert "1 tables would be deleted, 2 kept" in dry
    result = run("jobs", "tidy", *words).stdout
    assert "ended-pairs stays for models/aligned/versions/1\n" in result
    assert "ended-people stays for campaigns/asks\n" in result
    assert "1 tables deleted, 2 kept" in result
    assert "[DATASET_NOT_FOUND]" in run("data", "show", "ended-sample").stderr
    assert "pairs" in run("lineage", "datasets/ended-sample/versions/1").stdout
    assert run("annotate", "delete", "asks").exit_code == 0


def test_jobs_that_ended_too_lately_keep_their_tables(run, ended):
    ended.state = ended.STATE_SUCCEEDED
    ended.end_time.FromSeconds(int(time.time()) - 86_400)
    assert run("jobs", "tidy", "--older-than", 2).stdout == "0 tables deleted, 0 kept\n"
    assert run("jobs", "tidy").exit_code == 2


@pytest.fixture
def reviewed(run, server, specification):
    """A job with two pairs to review, in the dataset that it was submitted with."""
    run("jobs", "submit", specification, "--id", "reviewed")
    job = server.alignment.jobs["projects/default/alignmentJobs/reviewed"]
    job.stages.add(stage="pair", dataset=job.spec.dataset)
    server.alignment.reviews = {i: messages.PairReview(round=1, record_id=i) for i in ("first", "second")}
    return server.alignment.reviews


def test_pairs_are_reviewed_one_by_one(run, reviewed):
    assert "first" in run("jobs", "reviews", "reviewed").stdout
    result = run("jobs", "review", "reviewed", "first", "--reject", "--reason", "wrong colour")
    assert result.exit_code == 0, result.output
    assert "Left to review: 1." in result.stdout
    assert reviewed["first"].decision == messages.PairReview.DECISION_REJECTED
    assert "first" not in run("jobs", "reviews", "reviewed", "--pending").stdout

    result = run("jobs", "review", "reviewed", "second", "--edit", "a red circle")
    assert "the job goes on" in result.stdout
    assert reviewed["second"].refinement.parts[0].text == "a red circle"
    table = run("jobs", "reviews", "reviewed").stdout
    assert "rejected" in table
    assert "ada" in table


def test_a_review_needs_exactly_one_decision(run, reviewed):
    for options in ((), ("--accept", "--reject")):
        result = run("jobs", "review", "reviewed", "first", *options)
        assert result.exit_code == 1
        assert "exactly one of --accept" in result.stderr
    assert not reviewed["first"].decision
