"""Submitting an alignment job by the form, and checking it first."""

import pytest

from omnialign.errors import InvalidArgument
from omnialign.v1 import alignment_service_pb2
from services.console.submitting import read_spec, written_spec
from tests.services.console.hostile import SCRIPT, fill
from tests.services.console.test_jobs import assert_harmless

PATH = "/projects/demo/new-alignment-job"
FIELDS = {
    "base_model": "projects/demo/models/base/versions/1",
    "dataset": "projects/demo/datasets/world/versions/1",
    "method": "simpo",
    "max_prompts": "40",
    "seed": "7",
    "checkers": "tinyworld",
    "job_id": "from-a-page",
    "more": '{"sampling": {"temperature": 0.7}, "optimization": {"lora": {"rank": 8}}}',
}


async def test_a_job_is_submitted_as_the_form_says(console, browser):
    done = await browser.post(PATH, FIELDS, page=PATH)
    assert (done.status_code, done.headers["location"]) == (303, "/projects/demo/alignmentJobs/from-a-page")
    (request,) = console.jobs.created
    spec = request.alignment_job.spec
    assert (spec.base_model, spec.max_prompts, spec.seed) == (FIELDS["base_model"], 40, 7)
    assert (spec.optimization.method, spec.optimization.lora.rank) == ("simpo", 8)
    assert spec.sampling.temperature == pytest.approx(0.7)
    assert list(spec.checkers) == ["tinyworld"]
    assert not request.validate_only


async def test_a_check_shows_the_pre_flight_and_creates_nothing(console, browser):
    checked = await browser.post(PATH, {**FIELDS, "check": "1"})
    assert checked.status_code == 200
    assert "Prompts to sample" in checked.text and "<b>unusual</b>" not in checked.text
    assert f'value="{FIELDS["base_model"]}"' in checked.text  # what was written is still there
    assert console.jobs.created[0].validate_only
    assert console.jobs.jobs == {}
    assert_harmless(checked.text)


@pytest.mark.parametrize(
    "wrong",
    [{"more": "{"}, {"more": "[]"}, {"more": '{"no_such_field": 1}'}, {"seed": "-1"}, {"more": '{"chunk_size": {}}'}],
)
async def test_what_cannot_be_a_spec_is_said_and_nothing_is_lost(console, browser, wrong):
    refused = await browser.post(PATH, {**FIELDS, **wrong, "checkers": SCRIPT})
    assert refused.status_code == 400
    assert "SPEC_INVALID" in refused.text
    assert f'value="{FIELDS["dataset"]}"' in refused.text
    assert console.jobs.created == []
    assert_harmless(refused.text)


async def test_the_form_needs_the_secret(console, browser):
    assert (await browser.http.post(PATH, data=FIELDS)).status_code == 403
    assert console.jobs.created == []


async def test_a_job_is_taken_up_again(console, browser):
    job = alignment_service_pb2.AlignmentJob(name="projects/demo/alignmentJobs/first")
    job.spec.base_model, job.spec.rounds = FIELDS["base_model"], 3
    console.jobs.add(job)
    page = (await browser.get(f"{PATH}?from=first")).text
    assert FIELDS["base_model"] in page and 'name="rounds" value="3"' in page
    fill(job.spec)
    assert_harmless((await browser.get(f"{PATH}?from=first")).text)


def test_a_spec_survives_the_form():
    spec = read_spec(FIELDS)
    assert read_spec(written_spec(spec)) == spec
    with pytest.raises(InvalidArgument):
        read_spec({"more": "[" * 100_000})
