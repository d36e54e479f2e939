"""Pages of jobs of all kinds: the list, one job, what can be done with it, its events and its report."""

import asyncio
import re

import pytest

from omnialign.v1 import alignment_service_pb2, evaluation_service_pb2, training_service_pb2
from omnialign.v1.annotation_service_pb2 import Campaign, DraftSpec
from services.console.curves import curves, thinned
from services.console.security import REPORT_POLICY
from tests.services.annotation.conftest import pair
from tests.services.console.hostile import SCRIPT, fill
from tests.services.console.test_security import assert_clean

Job = alignment_service_pb2.AlignmentJob
Event = alignment_service_pb2.WatchAlignmentJobResponse
Stage = alignment_service_pb2.StageStatus
Training = training_service_pb2.TrainingJob
Evaluation = evaluation_service_pb2.Evaluation
NAME = "projects/demo/alignmentJobs/first"
TRAINING = "projects/demo/trainingJobs/first-dpo"


def alignment(state=Job.STATE_RUNNING, name=NAME):
    job = Job(name=name, state=state)
    job.spec.base_model = "projects/demo/models/base/versions/1"
    job.stages.add(stage="sample", state=Stage.STATE_RUNNING, completed=30, total=40, quarantined=2)
    job.stages[0].dataset = "projects/demo/datasets/first-sample"
    job.pairs.tried, job.pairs.kept, job.pairs.tied, job.pairs.lost = 20, 12, 5, 3
    job.create_time.FromJsonString("2026-11-29T10:00:00Z")
    return job


def training(state=Training.STATE_SUCCEEDED, *, steps=4):
    job = Training(name=TRAINING, state=state, log_tail=["step 4 loss 0.1"], last_event=steps)
    job.spec.method = "dpo"
    events = []
    for step in range(1, steps + 1):
        job.progress.completed_steps = step
        job.progress.metrics["loss"] = 1 / step
        job.progress.metrics["eval/loss"] = 2 / step
        job.progress.evaluated_step = step
        job.state = state if step == steps else Training.STATE_RUNNING
        event = training_service_pb2.WatchTrainingJobResponse(sequence=step)
        event.training_job.CopyFrom(job)
        events.append(event)
    return job, events


async def test_the_list_shows_jobs_of_all_kinds_newest_first_and_filters_them(console, browser):
    older = alignment(Job.STATE_FAILED, "projects/demo/alignmentJobs/older")
    older.create_time.FromJsonString("2026-11-28T10:00:00Z")
    console.jobs.add(older)
    console.jobs.add(alignment())
    console.jobs.add(training()[0])
    console.jobs.add(Evaluation(name="projects/demo/evaluations/scored", state=Evaluation.STATE_SUCCEEDED))
    page = (await browser.get("/projects/demo/jobs")).text
    assert page.index(NAME) < page.index("alignmentJobs/older")
    assert f"/{TRAINING}" in page and "/projects/demo/evaluations/scored" in page
    failed = (await browser.get("/projects/demo/jobs?state=failed")).text
    assert "alignmentJobs/older" in failed and NAME not in failed
    trained = (await browser.get("/projects/demo/jobs?kind=trainingJobs")).text
    assert TRAINING in trained and NAME not in trained


async def test_a_long_list_is_shown_in_parts(console, browser):
    for number in range(60):
        console.jobs.add(alignment(name=f"projects/demo/alignmentJobs/j{number}"))
    page = (await browser.get("/projects/demo/jobs")).text
    assert page.count('<th scope="row">') == 50
    assert "shown=100" in page
    assert (await browser.get("/projects/demo/jobs?shown=100")).text.count('<th scope="row">') == 60


async def test_a_job_shows_its_stages_its_yield_and_what_can_be_done(console, browser):
    console.jobs.add(alignment())
    page = (await browser.get(f"/{NAME}")).text
    assert '<progress max="40" value="30"' in page
    assert "12 pairs of 20 refinements" in page
    assert "/projects/demo/datasets/first-sample/quarantine" in page
    assert f'action="/{NAME}/pause"' in page and f'action="/{NAME}/cancel"' in page
    assert f'action="/{NAME}/resume"' not in page and f'action="/{NAME}/delete"' not in page
    assert_clean(page)


async def test_a_job_of_another_project_is_not_there(console, browser):
    console.jobs.add(alignment(name="projects/other/alignmentJobs/secret"))
    for end in ("", "/events", "/curves", "/report"):
        assert (await browser.get(f"/projects/other/alignmentJobs/secret{end}")).status_code in (200, 404)
        assert "secret" not in (await browser.get(f"/projects/other/alignmentJobs/secret{end}")).text.replace(
            "projects/other/alignmentJobs/secret", ""
        )
    answer = await browser.post("/projects/other/alignmentJobs/secret/pause")
    assert answer.status_code == 404
    assert console.jobs.asked == []


async def test_pausing_and_resuming_need_the_secret_and_nothing_else(console, browser):
    console.jobs.add(alignment())
    refused = await browser.http.post(f"/{NAME}/pause")
    assert (refused.status_code, "CSRF_MISSING" in refused.text) == (403, True)
    assert console.jobs.asked == []
    done = await browser.post(f"/{NAME}/pause", page=f"/{NAME}")
    assert (done.status_code, done.headers["location"]) == (303, f"/{NAME}")
    assert console.jobs.asked == [("pause", NAME)]


async def test_what_cannot_be_undone_is_asked_about_first(console, browser):
    console.jobs.add(alignment(Job.STATE_SUCCEEDED))
    asked = await browser.post(f"/{NAME}/delete")
    assert asked.status_code == 200
    assert "Delete this job" in asked.text
    assert console.jobs.asked == []
    done = await browser.post(f"/{NAME}/delete", {"confirmed": "yes"})
    assert done.headers["location"] == "/projects/demo/jobs"
    assert console.jobs.asked == [("delete", NAME)]


async def test_an_action_that_a_kind_does_not_have_is_not_there(console, browser):
    console.jobs.add(training()[0])
    assert (await browser.post(f"/{TRAINING}/pause")).status_code == 404
    assert (await browser.post(f"/{NAME}/__class__")).status_code == 404


def sent(text):
    """The events in a stream, but for the greeting: (kind, id, text)."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = [line.partition(": ") for line in block.splitlines()]
        kind = next((value for key, _, value in fields if key == "event"), "")
        number = next((value for key, _, value in fields if key == "id"), "")
        if kind != "here":
            found.append((kind, number, "\n".join(value for key, _, value in fields if key == "data")))
    return found


async def test_a_page_follows_a_job_to_its_end(console, browser):
    job = alignment()
    first = Event(sequence=1, message="Sampling.", alignment_job=job)
    console.jobs.add(job, first)
    async with browser.http.stream("GET", f"/{NAME}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.aiter_lines()
        begun = []
        async for line in lines:
            begun.append(line)
            if line == "" and "event: part" in begun:
                break
        assert begun[:3] == ["event: here", "data: ", ""]
        del begun[:3]
        assert begun[:3] == ["id: 1", "event: part", "data: live"]
        assert any("Sampling." in line for line in begun)
        done = alignment(Job.STATE_SUCCEEDED)
        console.jobs.events[NAME].append(Event(sequence=2, message="Done.", alignment_job=done))
        console.jobs.jobs[NAME] = done
        console.jobs.more.set()
        rest = sent("\n".join([line async for line in lines]))
    assert [(kind, number) for kind, number, _ in rest] == [("part", "2"), ("end", "")]
    assert "Done." in rest[0][2]


async def test_a_page_that_lost_the_connection_goes_on_after_what_it_saw(console, browser):
    job = alignment(Job.STATE_CANCELLED)
    events = [Event(sequence=n, message=f"Event {n}.", alignment_job=job) for n in (1, 2, 3)]
    console.jobs.add(job, *events)
    found = sent((await browser.get(f"/{NAME}/events", last_event_id="2")).text)
    assert console.jobs.resumed_after[0] == 2
    assert [(kind, number) for kind, number, _ in found] == [("part", "3"), ("end", "")]
    odd = await browser.http.get(f"/{NAME}/events", headers={b"last-event-id": "²; DROP".encode()})
    assert odd.status_code == 200


async def test_what_a_job_says_cannot_break_out_of_its_event(console, browser):
    job = alignment(Job.STATE_CANCELLED)
    message = "One.\nevent: end\rdata: x\u2028two\n\nid: 9"
    console.jobs.add(job, Event(sequence=1, message=message, alignment_job=job))
    text = (await browser.get(f"/{NAME}/events")).text
    assert [kind for kind, _, _ in sent(text)] == ["part", "end"]
    assert "id: 9" not in text.splitlines()


async def test_a_stream_ends_when_the_console_does(console, browser):
    console.jobs.add(alignment(), Event(sequence=1, alignment_job=alignment()))
    async with browser.http.stream("GET", f"/{NAME}/events") as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "event: here"
        stopping = asyncio.create_task(console.web.stop(20))
        rest = [line async for line in lines]
        await stopping
    assert "event: end" not in rest  # or the browser would not come again


async def test_curves_show_what_was_measured_and_held_out(console, browser):
    job, events = training()
    console.jobs.add(job, *events)
    page = (await browser.get(f"/{TRAINING}/curves")).text
    assert page.count("<polyline") == 2
    assert "held-out" in page
    assert "step 1" in page
    shown = (await browser.get(f"/{TRAINING}")).text
    assert "step 4 loss 0.1" in shown
    assert "step 4 loss 0.1" in (await browser.get(f"/{TRAINING}/log")).text


def test_a_long_curve_keeps_its_end():
    points = [(step, float(step)) for step in range(1001)]
    assert thinned(points)[-1] == (1000, 1000.0)
    assert len(thinned(points)) <= 200
    assert curves({"loss": [(1, 0.5)]}) == []
    assert curves({"loss": [(1, 0.5), (2, 0.5)]})[0].line == "0.0,100.0 300.0,100.0"


async def test_a_report_opens_in_a_sandbox_of_its_own(console, browser):
    console.jobs.add(alignment(Job.STATE_SUCCEEDED))
    console.jobs.reports[NAME] = b"<!doctype html><title>Report</title><script>alert(1)</script>"
    report = await browser.get(f"/{NAME}/report")
    assert report.headers["content-security-policy"] == REPORT_POLICY
    assert REPORT_POLICY.startswith("sandbox;") and "allow" not in REPORT_POLICY and "script-src" not in REPORT_POLICY
    file = await browser.get(f"/{NAME}/report?download=1")
    assert file.headers["content-disposition"] == 'attachment; filename="report.html"'


async def test_evaluations_are_listed_shown_with_intervals_and_compared(console, browser):
    job = Evaluation(name="projects/demo/evaluations/scored", state=Evaluation.STATE_SUCCEEDED)
    job.scores.add(benchmark="amu", model="projects/demo/models/base/versions/1", measure="understanding", judged=40)
    job.scores[0].value, job.scores[0].low, job.scores[0].high = 6.5, 6.0, 7.0
    console.jobs.add(job)
    assert "[6.000, 7.000]" in (await browser.get("/projects/demo/evaluations")).text
    page = (await browser.get(f"/{job.name}")).text
    assert "6.000 to 7.000" in page
    compared = (await browser.get("/projects/demo/compare?a=scored&b=other")).text
    assert "+0.500 to +2.500" in compared
    assert console.jobs.asked == [("compare", "projects/demo/evaluations/scored projects/demo/evaluations/other")]
    assert (await browser.get("/projects/demo/compare?a=..%2F..")).status_code == 200  # a sentence beside the form
    assert len(console.jobs.asked) == 1


@pytest.mark.parametrize("make", [Job, Training, Evaluation], ids=["alignment", "training", "evaluation"])
async def test_nothing_that_a_job_says_runs_on_its_pages(console, browser, make):
    collection = {Job: "alignmentJobs", Training: "trainingJobs", Evaluation: "evaluations"}[make]
    job = make(name=f"projects/demo/{collection}/hostile")
    fill(job, keep=frozenset({"name"}))
    job.state = make.STATE_SUCCEEDED
    console.jobs.add(job)
    paths = [f"/{job.name}", "/projects/demo/jobs", "/projects/demo/evaluations", "/projects/demo/compare"]
    for path in [*paths, f"/{job.name}/curves"]:
        page = await browser.get(path)
        assert page.status_code == 200, page.text
        assert_harmless(page.text)


def assert_harmless(html):
    """A page shows hostile text as text."""
    assert SCRIPT not in html
    assert "<script>" not in html
    assert not re.search(r"<img[^>]*onerror", html)
    assert_clean(html)


async def test_a_draft_job_is_listed_and_has_a_page_like_other_jobs(console, browser):
    pairs = await console.client.create_dataset("pairs")
    await console.client.append_records(pairs.name, [pair(1)])
    version = await console.client.commit_version(pairs.name)
    made = await console.client.create_campaign("people", Campaign(dataset_version=version.name))
    spec = DraftSpec(campaign=made.name, model=f"openai+http://127.0.0.1:9/v1#{SCRIPT}")
    job = await console.client.create_draft_job("drafts", spec)
    assert f'href="/{job.name}"' in (await browser.get("/projects/demo/jobs")).text
    page = (await browser.get(f"/{job.name}")).text
    assert "Drafts of models" in page and "of 2,000,000 tokens used" in page
    assert "curves-title" not in page
    assert_harmless(page)
    assert (await browser.post(f"/{job.name}/cancel", {"confirmed": "yes"})).status_code == 303
