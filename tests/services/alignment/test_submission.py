"""What is refused, and what a repeated call does."""

import json
import shutil
import uuid

import numpy as np
import pytest
from safetensors.numpy import save_file

from omnialign import names
from omnialign.content import content
from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OmnialignError
from omnialign.media import write_audio, write_image
from omnialign.modeling.reward_folder import HEAD, WEIGHT
from omnialign.v1 import content_pb2, generation_pb2, record_pb2
from tests.service_stack import Job, ServiceStack
from tests.services.inference.model_factory import random_lora, random_model


async def refusal(stack: ServiceStack, **fields: object) -> OmnialignError:
    with pytest.raises(OmnialignError) as caught:
        await stack.submit(**fields)  # type: ignore[arg-type]
    return caught.value


async def test_an_unknown_model_is_not_found(stack: ServiceStack) -> None:
    error = await refusal(stack, base_model="projects/default/models/typo/versions/1")
    assert isinstance(error, NotFound)


async def test_a_misspelt_dataset_is_not_found(stack: ServiceStack) -> None:
    error = await refusal(stack, dataset="projects/default/datasets/wrold/versions/1")
    assert isinstance(error, NotFound)
    assert "wrold" in str(error)


async def test_a_name_of_another_shape_is_an_invalid_argument(stack: ServiceStack) -> None:
    error = await refusal(stack, base_model="hf://org/model")
    assert (type(error), error.reason) == (InvalidArgument, "RESOURCE_NAME_INVALID")


async def test_a_lora_may_give_feedback_and_judge_but_not_be_trained(stack: ServiceStack) -> None:
    spec = await stack.spec()
    folder = stack.root / "lora"
    random_lora(folder, random_model(stack.root / "random"), base_model_name_or_path=spec.base_model)
    lora = (await stack.client.register_model("lora", folder.as_uri())).name
    for base in (lora, "projects/default/models/lora", folder.as_uri()):
        spec.base_model = base
        with pytest.raises(InvalidArgument) as caught:
            await stack.alignment.create_alignment_job("first", spec)
        assert caught.value.reason == "BASE_MODEL_NOT_TRAINABLE"
        assert "merge_and_unload" in caught.value.message
    given = await stack.spec(dataset=spec.dataset, feedback_model=lora, judge_model=folder.as_uri())
    job = await stack.alignment.create_alignment_job("second", given)
    assert (job.models.feedback, job.models.judge) == (lora, folder.as_uri())


async def test_a_reward_model_writes_nothing_in_a_job(stack: ServiceStack) -> None:
    spec = await stack.spec()
    folder = stack.root / "models" / "reward"
    shutil.copytree(stack.root / "models" / "base", folder)
    save_file({WEIGHT: np.zeros((1, 4), dtype=np.float32)}, folder / HEAD)
    registered = (await stack.client.register_model("reward", folder.as_uri())).name
    for field in ("base_model", "feedback_model", "judge_model"):
        for name in (registered, folder.as_uri()):
            given = await stack.spec(dataset=spec.dataset, **{"base_model": spec.base_model, field: name})
            with pytest.raises(InvalidArgument) as caught:
                await stack.alignment.create_alignment_job("first", given)
            assert caught.value.reason == "MODEL_IS_A_REWARD_MODEL"


async def test_an_unknown_checker_is_refused_with_the_known_names(stack: ServiceStack) -> None:
    error = await refusal(stack, checkers=["tinywrold"])
    assert (type(error), error.reason) == (InvalidArgument, "CHECKER_UNKNOWN")
    assert "tinywrold" in str(error)


async def test_an_unknown_subtask_is_refused_with_the_known_ones(stack: ServiceStack) -> None:
    error = await refusal(stack, subtasks=["t2x"])
    assert (type(error), error.reason) == (InvalidArgument, "SUBTASK_UNKNOWN")
    assert error.metadata["known"] == "t2t"


async def test_a_dataset_without_a_version_is_refused(stack: ServiceStack) -> None:
    dataset = await stack.client.create_dataset("empty")
    error = await refusal(stack, dataset=dataset.name)
    assert (type(error), error.reason) == (FailedPrecondition, "DATASET_EMPTY")


async def test_the_check_refuses_a_dataset_without_valid_annotated_records(stack: ServiceStack) -> None:
    spec = await stack.spec(annotated=0)
    with pytest.raises(FailedPrecondition) as caught:
        await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    assert caught.value.reason == "NO_VALID_RECORDS"
    assert "set feedback_model and judge_model" in caught.value.message


async def test_a_job_over_such_a_dataset_fails_in_its_preflight(stack: ServiceStack) -> None:
    job = await stack.end_of((await stack.submit(annotated=0)).name)
    assert job.state == Job.STATE_FAILED
    assert b"NO_VALID_RECORDS" in job.error.details[0].value
    assert not stack.training.jobs


async def test_endpoints_may_give_feedback_and_judge(stack: ServiceStack) -> None:
    names = {"feedback_model": "openai+http://h/v1#critic", "judge_model": "openai+https://h/v1#judge"}
    job = await stack.alignment.create_alignment_job("first", await stack.spec(**names), validate_only=True)
    assert (job.models.feedback, job.models.judge) == tuple(names.values())


async def test_an_endpoint_cannot_be_trained(stack: ServiceStack) -> None:
    error = await refusal(stack, base_model="openai+http://h/v1#m")
    assert (type(error), error.reason) == (InvalidArgument, "BASE_MODEL_NOT_TRAINABLE")


async def test_an_endpoint_is_refused_where_the_same_tokens_must_come_again(stack: ServiceStack) -> None:
    sampling = generation_pb2.SamplingParams(deterministic=True)
    error = await refusal(stack, judge_model="openai+http://h/v1#judge", sampling=sampling)
    assert (type(error), error.reason) == (InvalidArgument, "ENDPOINT_NOT_DETERMINISTIC")


@pytest.mark.parametrize("kind", ["judge", "critic"])
async def test_an_endpoint_is_refused_that_must_give_the_same_rewards_again(stack: ServiceStack, kind: str) -> None:
    spec = await stack.spec(optimization={"method": "grpo"})
    spec.optimization.grpo.rollout.rewards.add(**{kind: "openai+http://h/v1#judge"})
    await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    spec.sampling.deterministic = True
    with pytest.raises(InvalidArgument) as caught:
        await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    assert caught.value.reason == "ENDPOINT_NOT_DETERMINISTIC"


async def test_a_misspelt_endpoint_is_refused(stack: ServiceStack) -> None:
    error = await refusal(stack, judge_model="openai+http://h/v1")
    assert (type(error), error.reason) == (InvalidArgument, "MODEL_NAME_INVALID")


@pytest.mark.parametrize("role", ["feedback", "judge"])
async def test_a_model_that_the_job_trains_is_not_asked_for_json(stack: ServiceStack, role: str) -> None:
    given = {"feedback_model": "file:///critic", "judge_model": "file:///judge"}
    del given[f"{role}_model"]
    forms = dict.fromkeys(("feedback_answer_form", "judge_answer_form"), generation_pb2.ANSWER_FORM_JSON)
    error = await refusal(stack, **given, **forms)
    assert (type(error), error.reason) == (InvalidArgument, "ANSWER_FORM_NOT_TRAINED")
    assert [field for field, _ in error.violations] == [f"alignment_job.spec.{role}_answer_form"]


async def test_a_form_of_answers_is_taken_with_the_model_that_knows_it(stack: ServiceStack) -> None:
    spec = await stack.spec(
        feedback_model="file:///critic",
        judge_model="openai+http://h/v1#judge",
        feedback_answer_form=generation_pb2.ANSWER_FORM_JSON,
        judge_answer_form=generation_pb2.ANSWER_FORM_SECTIONS,
    )
    job = await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    assert job.spec.feedback_answer_form == generation_pb2.ANSWER_FORM_JSON
    assert job.spec.judge_answer_form == generation_pb2.ANSWER_FORM_SECTIONS


async def test_an_empty_evaluation_split_is_refused(stack: ServiceStack) -> None:
    spec = await stack.spec(evaluation_split="tset")
    with pytest.raises(FailedPrecondition) as caught:
        await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    assert caught.value.reason == "NO_EVALUATION_PROMPTS"


async def test_a_check_reports_and_stores_nothing(stack: ServiceStack) -> None:
    job = await stack.alignment.create_alignment_job("first", await stack.spec(), validate_only=True)
    assert (job.preflight.prompts, job.preflight.prompts_by_subtask["t2t"]) == (10, 10)
    assert job.preflight.estimated_tokens > 0
    assert job.preflight.estimated_training_bytes > 0
    assert any("checker" in warning for warning in job.preflight.warnings)
    with pytest.raises(NotFound):
        await stack.alignment.get_alignment_job(job.name)


async def test_a_record_whose_medium_is_gone_is_named_before_it_is_dropped(stack: ServiceStack) -> None:
    dataset = await stack.make_dataset()
    lost = record_pb2.Record(id="prompt-lost", subtask="ti2t", split="prompts")
    media = lost.prompt.parts.add().media
    media.modality, media.mime_type, media.sha256, media.size_bytes = 2, "image/png", "0" * 64, 1
    await stack.client.append_records(names.unversioned(dataset), [lost])
    version = await stack.client.commit_version(names.unversioned(dataset))
    spec = await stack.spec(dataset=version.name)
    job = await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    assert dict(job.preflight.dropped) == {"MEDIA_NOT_FOUND": 1}


async def with_prompt(stack: ServiceStack, data: bytes, modality: int, *, split: str = "prompts") -> str:
    """A dataset with one more prompt, which shows a medium; the name of its version."""
    dataset = names.unversioned(await stack.make_dataset(prompts=0 if split == "prompts" else 1))
    media = await stack.client.upload_media(data, modality=modality)
    record = record_pb2.Record(id="seen", subtask="ti2t", split=split, prompt=content(media, "What is it?"))
    await stack.client.append_records(dataset, [record])
    return (await stack.client.commit_version(dataset)).name


async def test_media_longer_than_the_context_are_refused_with_the_numbers(stack: ServiceStack) -> None:
    model = random_model(stack.root / "small")
    codecs = stack.root / "small" / "codecs.json"
    large = json.loads(codecs.read_text())
    large["codecs"][0]["options"] |= {"rows": 32, "columns": 32}  # 1,024 tokens; the model reads 512
    codecs.write_text(json.dumps(large))
    picture = write_image(np.zeros((64, 64, 3), dtype=np.uint8))
    spec = await stack.spec(dataset=await with_prompt(stack, picture, content_pb2.MODALITY_IMAGE), base_model=model)
    with pytest.raises(FailedPrecondition) as caught:
        await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    error = caught.value
    assert (error.reason, error.metadata["PROMPT_TOO_LONG"]) == ("NO_PROMPTS", "1")
    assert error.metadata["context_tokens"] == "512"
    assert int(error.metadata["longest_prompt_tokens"]) > 1024
    assert "media_policy" in error.message


async def test_media_that_the_policy_uses_in_part_are_named_before_the_job(stack: ServiceStack) -> None:
    tone = write_audio(np.zeros(16_000, dtype=np.float32), 16_000)
    policy = generation_pb2.MediaPolicy(max_audio_seconds=0.25)
    dataset = await with_prompt(stack, tone, content_pb2.MODALITY_AUDIO)
    spec = await stack.spec(dataset=dataset, media_policy=policy)
    job = await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    (warning,) = [text for text in job.preflight.warnings if "in part" in text]
    assert warning == "1 media objects are used in part: MEDIA_CUT 1 (such as 0.25 of 1 seconds are kept)."
    assert job.preflight.prompts == 1


async def test_a_policy_out_of_range_is_refused(stack: ServiceStack) -> None:
    error = await refusal(stack, media_policy=generation_pb2.MediaPolicy(max_frames=-1))
    assert isinstance(error, InvalidArgument)
    assert any("max_frames" in field for field, _ in error.violations)


async def test_the_same_request_gives_the_same_job(stack: ServiceStack) -> None:
    spec, request_id = await stack.spec(), str(uuid.uuid4())
    first = await stack.alignment.create_alignment_job("first", spec, request_id=request_id)
    again = await stack.alignment.create_alignment_job("first", spec, request_id=request_id)
    assert again.uid == first.uid


async def test_a_request_id_with_another_body_is_refused(stack: ServiceStack) -> None:
    spec, request_id = await stack.spec(), str(uuid.uuid4())
    await stack.alignment.create_alignment_job("first", spec, request_id=request_id)
    with pytest.raises(InvalidArgument) as caught:
        await stack.alignment.create_alignment_job("second", spec, request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_a_taken_job_id_is_refused(stack: ServiceStack) -> None:
    spec = await stack.spec()
    await stack.alignment.create_alignment_job("first", spec)
    with pytest.raises(AlreadyExists):
        await stack.alignment.create_alignment_job("first", spec)


async def test_a_table_name_that_is_taken_fails_the_job_and_harms_nothing(stack: ServiceStack) -> None:
    await stack.client.create_dataset("first-sample")
    job = await stack.end_of((await stack.submit()).name)
    assert job.state == Job.STATE_FAILED
    assert b"TABLE_TAKEN" in job.error.details[0].value


async def test_jobs_are_listed_newest_first_in_pages(stack: ServiceStack) -> None:
    spec = await stack.spec()
    for job_id in ("aa", "bb", "cc"):
        await stack.alignment.create_alignment_job(job_id, spec)
    listed = [names.id_of(job.name) async for job in stack.alignment.list_alignment_jobs()]
    assert listed == ["cc", "bb", "aa"]


async def test_a_report_is_refused_before_the_job_succeeded(stack: ServiceStack) -> None:
    entered, _ = stack.behaviour.hold("Generate")
    job = await stack.submit()
    await entered.wait()
    with pytest.raises(FailedPrecondition) as caught:
        await stack.alignment.get_alignment_report(job.name)
    assert caught.value.reason == "REPORT_NOT_READY"
