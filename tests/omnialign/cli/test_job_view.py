import io

import pytest
from rich.console import Console

from omnialign.cli import job_view
from omnialign.cli.output import Output, clock
from omnialign.v1 import alignment_service_pb2

STAGES = ["preflight", "feedback_modeling", "sample", "critique", "refine"]
STAGES += ["verify", "pair", "optimize", "evaluate", "report"]


@pytest.fixture
def job():
    made = alignment_service_pb2.AlignmentJob(name="projects/default/alignmentJobs/demo", state=2)
    for number, name in enumerate(STAGES):
        state = 3 if number < 2 else 2 if number < 5 else 1
        stage = made.stages.add(stage=name, state=state, completed=400, total=1000, tokens=1200, quarantined=number % 2)
        stage.elapsed.FromSeconds(3 * number)
    made.pairs.tried, made.pairs.kept, made.pairs.tied = 10, 7, 3
    return made


def drawn(job, *, message: str = "", left: str = "") -> str:
    page = io.StringIO()
    Console(file=page, width=100, force_terminal=True, color_system=None).print(
        job_view.table(job, message=message, left=left)
    )
    return page.getvalue()


def test_all_stages_the_pairs_and_the_gate_are_on_the_screen(job):
    job.gate.message = "The judge's words decide at the gate."
    page = drawn(job, message="refining")
    assert job.gate.message in page
    assert all(name.replace("_", " ") in page for name in STAGES)
    assert "pairs: 7 kept, 3 tied, 0 lost, 0 abstained, of 10 tried" in page
    assert "400/1,000" in page
    assert "refining" in page
    assert all(len(line) <= 100 for line in page.splitlines())


def test_names_with_markup_are_shown_as_they_are(job):
    job.stages[0].stage = "[red]pre"
    assert "[red]pre" in drawn(job, message="[bold]x")


def test_the_rate_is_tokens_over_the_time_at_work(job):
    assert job_view.rate(job.stages[2]) == "200"
    assert job_view.rate(job.stages[0]) == ""  # no time yet


def test_the_time_left_is_the_estimate_less_what_has_passed_or_the_pace_of_the_slowest_stage(job):
    event = alignment_service_pb2.WatchAlignmentJobResponse(alignment_job=job)
    event.alignment_job.preflight.estimated_time.FromSeconds(600)
    event.alignment_job.create_time.FromSeconds(1000)
    event.event_time.FromSeconds(1100)
    assert job_view.time_left(event) == "8:20"
    event.event_time.FromSeconds(1590)  # the stage refine did 400 of 1,000 in 12 s
    assert job_view.time_left(event) == "0:18"
    assert "demo  running, about 0:18 left" in drawn(event.alignment_job, left=job_view.time_left(event))
    event.alignment_job.state = 4
    assert job_view.time_left(event) == ""


def test_the_first_steps_of_a_stage_tell_nothing_of_its_pace(job):
    event = alignment_service_pb2.WatchAlignmentJobResponse(alignment_job=job)
    event.alignment_job.preflight.estimated_time.FromSeconds(600)
    for status in event.alignment_job.stages:
        status.completed = 1  # of 1,000: its seconds are those in which the programs of the stage started
    assert job_view.time_left(event) == "10:00"


def test_in_the_last_stage_that_takes_time_the_pace_alone_tells_what_is_left(job):
    for status in job.stages[:-2]:
        status.state = 3
    job.stages[-2].state = 2  # evaluate: 400 of 1,000 in 24 s
    event = alignment_service_pb2.WatchAlignmentJobResponse(alignment_job=job)
    event.alignment_job.preflight.estimated_time.FromSeconds(600)
    assert job_view.time_left(event) == "0:36"


def test_a_stage_says_what_its_training_job_waits_for(job):
    job.stages[3].conditions["feedback"].reason = "READING_RECORDS"
    job.stages[3].conditions["feedback"].message = "reads its records: 3,000 of 12,000"
    assert "feedback: reads its records: 3,000 of 12,000 [READING_RECORDS]" in drawn(job)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.9, "1:01"), (3661, "1:01:01")])
def test_times_are_clocks(seconds, text):
    assert clock(seconds) == text


async def test_following_returns_the_job_of_the_last_event(job, capsys):
    async def events():
        for number in (1, 2):
            job.pairs.kept = number
            yield alignment_service_pb2.WatchAlignmentJobResponse(sequence=number, alignment_job=job)

    last = await job_view.show_events(events(), out=Output())
    assert last.pairs.kept == 2
    assert len(capsys.readouterr().out.splitlines()) == 1  # the same sentence is not said twice
    await job_view.show_events(events(), out=Output(as_json=True))
    assert len(capsys.readouterr().out.splitlines()) == 2


async def test_piped_lines_that_differ_in_numbers_alone_are_ten_seconds_apart(capsys):
    async def events():
        for second, message in enumerate(
            ["step 1 of 90.", "step 2 of 90.", "waiting for critique", *["step 3 of 90."] * 12]
        ):
            event = alignment_service_pb2.WatchAlignmentJobResponse(sequence=second + 1, message=message)
            event.event_time.FromSeconds(second)
            yield event

    await job_view.show_events(events(), out=Output())
    said = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert said == ["step 1 of 90.", "waiting for critique", "step 3 of 90.", "step 3 of 90."]
