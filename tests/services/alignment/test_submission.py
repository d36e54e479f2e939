"""What is refused, and what a repeated call does."""

import uuid

import pytest

from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OmnialignError
from omnialign.v1 import record_pb2
from tests.services.alignment.stack import Job, Stack


async def refusal(stack: Stack, **fields: object) -> OmnialignError:
    with pytest.raises(OmnialignError) as caught:
        await stack.submit(**fields)  # type: ignore[arg-type]
    return caught.value


async def test_an_unknown_model_is_not_found(stack: Stack) -> None:
    error = await refusal(stack, base_model="projects/default/models/typo/versions/1")
    assert isinstance(error, NotFound)


async def test_a_misspelt_dataset_is_not_found(stack: Stack) -> None:
    error = await refusal(stack, dataset="projects/default/datasets/wrold/versions/1")
    assert isinstance(error, NotFound)
    assert "wrold" in str(error)


async def test_a_name_of_another_shape_is_an_invalid_argument(stack: Stack) -> None:
    error = await refusal(stack, base_model="hf://org/model")
    assert (type(error), error.reason) == (InvalidArgument, "RESOURCE_NAME_INVALID")


async def test_an_unknown_checker_is_refused_with_the_known_names(stack: Stack) -> None:
    error = await refusal(stack, checkers=["tinywrold"])
    assert (type(error), error.reason) == (InvalidArgument, "CHECKER_UNKNOWN")
    assert "tinywrold" in str(error)


async def test_an_unknown_subtask_is_refused_with_the_known_ones(stack: Stack) -> None:
    error = await refusal(stack, subtasks=["t2x"])
    assert (type(error), error.reason) == (InvalidArgument, "SUBTASK_UNKNOWN")
    assert error.metadata["known"] == "t2t"


async def test_a_dataset_without_a_version_is_refused(stack: Stack) -> None:
    dataset = await stack.client.create_dataset("empty")
    error = await refusal(stack, dataset=dataset.name)
    assert (type(error), error.reason) == (FailedPrecondition, "DATASET_EMPTY")


async def test_the_check_refuses_a_dataset_without_valid_annotated_records(stack: Stack) -> None:
    spec = await stack.spec(annotated=0)
    with pytest.raises(FailedPrecondition) as caught:
        await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    assert caught.value.reason == "NO_VALID_RECORDS"


async def test_a_job_over_such_a_dataset_fails_in_its_preflight(stack: Stack) -> None:
    job = await stack.end_of((await stack.submit(annotated=0)).name)
    assert job.state == Job.STATE_FAILED
    assert b"NO_VALID_RECORDS" in job.error.details[0].value
    assert not stack.training.jobs


async def test_an_empty_evaluation_split_is_refused(stack: Stack) -> None:
    spec = await stack.spec(evaluation_split="tset")
    with pytest.raises(FailedPrecondition) as caught:
        await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    assert caught.value.reason == "NO_EVALUATION_PROMPTS"


async def test_a_check_reports_and_stores_nothing(stack: Stack) -> None:
    job = await stack.alignment.create_alignment_job("first", await stack.spec(), validate_only=True)
    assert (job.preflight.prompts, job.preflight.prompts_by_subtask["t2t"]) == (10, 10)
    assert job.preflight.estimated_tokens > 0
    assert job.preflight.estimated_training_bytes > 0
    assert any("checker" in warning for warning in job.preflight.warnings)
    with pytest.raises(NotFound):
        await stack.alignment.get_alignment_job(job.name)


async def test_a_record_whose_medium_is_gone_is_named_before_it_is_dropped(stack: Stack) -> None:
    dataset = await stack.make_dataset()
    lost = record_pb2.Record(id="prompt-lost", subtask="ti2t", split="prompts")
    media = lost.prompt.parts.add().media
    media.modality, media.mime_type, media.sha256, media.size_bytes = 2, "image/png", "0" * 64, 1
    await stack.client.append_records(dataset.partition("/versions/")[0], [lost])
    version = await stack.client.commit_version(dataset.partition("/versions/")[0])
    spec = await stack.spec(dataset=version.name)
    job = await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    assert dict(job.preflight.dropped) == {"MEDIA_NOT_FOUND": 1}


async def test_the_same_request_gives_the_same_job(stack: Stack) -> None:
    spec, request_id = await stack.spec(), str(uuid.uuid4())
    first = await stack.alignment.create_alignment_job("first", spec, request_id=request_id)
    again = await stack.alignment.create_alignment_job("first", spec, request_id=request_id)
    assert again.uid == first.uid


async def test_a_request_id_with_another_body_is_refused(stack: Stack) -> None:
    spec, request_id = await stack.spec(), str(uuid.uuid4())
    await stack.alignment.create_alignment_job("first", spec, request_id=request_id)
    with pytest.raises(InvalidArgument) as caught:
        await stack.alignment.create_alignment_job("second", spec, request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_a_taken_job_id_is_refused(stack: Stack) -> None:
    spec = await stack.spec()
    await stack.alignment.create_alignment_job("first", spec)
    with pytest.raises(AlreadyExists):
        await stack.alignment.create_alignment_job("first", spec)


async def test_a_table_name_that_is_taken_fails_the_job_and_harms_nothing(stack: Stack) -> None:
    await stack.client.create_dataset("first-sample")
    job = await stack.end_of((await stack.submit()).name)
    assert job.state == Job.STATE_FAILED
    assert b"TABLE_TAKEN" in job.error.details[0].value


async def test_jobs_are_listed_newest_first_in_pages(stack: Stack) -> None:
    spec = await stack.spec()
    for job_id in ("aa", "bb", "cc"):
        await stack.alignment.create_alignment_job(job_id, spec)
    listed = [job.name.rpartition("/")[2] async for job in stack.alignment.list_alignment_jobs()]
    assert listed == ["cc", "bb", "aa"]


async def test_a_report_is_refused_before_the_job_succeeded(stack: Stack) -> None:
    entered, _ = stack.behaviour.hold("Generate")
    job = await stack.submit()
    await entered.wait()
    with pytest.raises(FailedPrecondition) as caught:
        await stack.alignment.get_alignment_report(job.name)
    assert caught.value.reason == "REPORT_NOT_READY"
