import io
import json

import pytest
from rich.console import Console

from omnialign.cli import training_view
from omnialign.v1 import training_service_pb2

SPEC = {
    "method": "dpo",
    "base_model": "file:///nowhere",
    "dataset": "projects/default/datasets/rows/versions/1",
    "output_model_id": "tuned",
}


@pytest.fixture
def specification(specification_of):
    return specification_of("rows", SPEC)


def test_a_job_is_submitted_from_a_file_that_options_override(run, server, specification):
    result = run(
        "train", "submit", specification, "--id", "first", "--method", "sft", "--set", "hyperparameters.seed=4"
    )
    assert result.exit_code == 0, result.output
    assert "Submitted projects/default/trainingJobs/first" in result.stdout
    kept = server.training.jobs["projects/default/trainingJobs/first"].spec
    assert (kept.method, kept.hyperparameters.seed, kept.output_model_id) == ("sft", 4, "tuned")


def test_a_dry_run_shows_what_the_job_takes_of_a_device_and_submits_nothing(run, server, specification):
    result = run("train", "submit", specification, "--id", "dry", "--set", "lora.rank=8", "--dry-run")
    assert result.exit_code == 0, result.output
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert {"weights 3.00 GB", "at most 5.00 GB", "the device has 8.00 GB"} <= set(rows)
    assert "projects/default/trainingJobs/dry" not in server.training.jobs
    told = json.loads(run("train", "submit", specification, "--set", "lora.rank=8", "--dry-run", "--json").stdout)
    assert (told["spec"]["lora"]["rank"], told["memory"]["total_bytes"]) == (8, "5000000000")


def test_a_short_name_of_a_dataset_is_pinned_to_the_version_it_means(run, server, specification):
    words = ("--method", "dpo", "--base-model", "file:///nowhere", "--dataset", "rows", "--output-model", "tuned")
    assert run("train", "submit", *words, "--id", "pinned").exit_code == 0
    pinned = server.training.jobs["projects/default/trainingJobs/pinned"].spec.dataset
    assert pinned.startswith("projects/default/datasets/rows/versions/")
    assert not pinned.endswith("/-")


def test_what_is_missing_or_misspelt_is_said_before_any_call(run):
    result = run("train", "submit", "--method", "dpo", "--set", "hyperparameters.learning_rat=1e-5")
    assert result.exit_code == 1
    assert "hyperparameters.learning_rat: is not a setting; did you mean 'learning_rate'?" in result.stderr
    assert "output_model_id: is required" in result.stderr


def test_watching_says_what_a_job_does_how_far_it_is_and_what_it_measured(run, specification):
    result = run("train", "submit", specification, "--id", "watched", "--watch")
    assert result.exit_code == 0, result.output
    assert "running, reading records, 30 of 120 [READING_RECORDS]" in result.stdout
    assert "running, step 40 of 80, loss 0.4125, about 1:15 left" in result.stdout
    assert result.stdout.splitlines()[-1] == "Trained projects/default/models/tuned/versions/1"


def test_watching_in_json_prints_one_object_per_event(run, specification):
    run("train", "submit", specification, "--id", "machine")
    events = [json.loads(line) for line in run("train", "watch", "machine", "--json").stdout.splitlines()]
    assert [event["sequence"] for event in events] == ["1", "2", "3"]
    assert events[-1]["training_job"]["state"] == "STATE_SUCCEEDED"


def test_a_job_that_fails_ends_the_watch_with_status_one_and_shows_its_log(run, specification):
    result = run("train", "submit", specification, "--id", "will-fail", "--watch")
    assert result.exit_code == 1
    assert "error: The training job failed: The loss is not a number." in result.stderr
    shown = run("train", "show", "will-fail").stdout
    assert "failed\tThe loss is not a number." in shown
    assert "| step 40: loss nan" in shown


def test_jobs_are_listed_with_their_steps(run, specification):
    run("train", "submit", specification, "--id", "listed", "--watch")
    (line,) = (line for line in run("train", "list").stdout.splitlines() if line.startswith("listed"))
    assert line.split("\t")[1:4] == ["succeeded", "dpo", "40/80"]


def test_a_job_is_cancelled(run, specification):
    run("train", "submit", specification, "--id", "stopped")
    assert "projects/default/trainingJobs/stopped is cancelled" in run("train", "cancel", "stopped").stdout


def test_a_log_is_shown_line_by_line_and_harmless_for_terminals(run, specification):
    run("train", "submit", specification, "--id", "tune")
    assert run("train", "logs", "tune").stdout == "step 1\nstep 2 \\u001b[31m\n"
    assert run("train", "logs", "tune", "--tail", "1", "--json").stdout.count("\n") == 1


def test_a_job_that_does_not_exist_is_named(run):
    result = run("train", "show", "nobody")
    assert result.exit_code == 1
    assert "projects/default/trainingJobs/nobody" in result.stderr


def test_a_terminal_shows_a_bar():
    job = training_service_pb2.TrainingJob(name="projects/p/trainingJobs/drawn", state=2)
    job.progress.completed_steps, job.progress.total_steps = 20, 80
    page = io.StringIO()
    picture = training_view._picture(training_service_pb2.WatchTrainingJobResponse(training_job=job))
    Console(file=page, width=60, force_terminal=True, color_system=None).print(picture)
    name, bar, where = page.getvalue().splitlines()
    assert name.strip() == "drawn"
    assert 0 < bar.count("━") <= 40
    assert where.strip() == "running, step 20 of 80"
