"""Prompts that continue a conversation: every stage asks with what came before, and hands it on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples.tinyworld import recipe
from omnialign.content import content
from omnialign.modeling.inputs import NO_BOUNDS
from omnialign.v1 import content_pb2, record_pb2
from services.alignment.prompt_check import open_token_counter
from services.alignment.self_improvement import critique_call, refining_call, sampling_call
from services.pipeline.item_calls import prompt_only
from services.pipeline.model_calls import Judge, answering_call, comparison_call, seeds_of
from tests.service_stack import ServiceStack, annotated_record, prompt_record

JUDGE = Judge("judge", None, 0)  # type: ignore[arg-type]  # neither is looked at
CALLS: dict[str, Any] = {
    "sample": sampling_call("sample", 1),
    "critique": critique_call("critique"),
    "refine": refining_call("refine", 1),
    "verify": comparison_call(
        stage="verify", judge=lambda context: JUDGE, seed=seeds_of("verify"), settle=lambda record: False
    ),
    "answer": answering_call(stage="answer", model=lambda context: "model", seed=seeds_of("answer")),
}


def continued(record: record_pb2.Record) -> record_pb2.Record:
    """The record with messages before its prompt."""
    for role, words in ((content_pb2.ROLE_SYSTEM, "Be brief."), (content_pb2.ROLE_USER, "Hi")):
        record.history.add(role=role, content=content(words))
    return record


@pytest.mark.parametrize("stage", CALLS)
def test_a_stage_asks_with_what_came_before_the_prompt(stage: str) -> None:
    record = continued(annotated_record("train-001"))
    context: Any = SimpleNamespace(plan=SimpleNamespace(seed=1))
    item = CALLS[stage].build(context, CALLS[stage].prepare(record))
    assert (list(item.history), item.prompt) == (list(record.history), record.prompt)


def test_a_model_under_training_may_know_what_came_before_a_prompt() -> None:
    record = continued(annotated_record("train-001"))
    assert list(prompt_only(record).history) == list(record.history)


async def test_prompts_are_counted_with_what_came_before_them_and_a_role_without_a_place_is_told() -> None:
    counter, problem = await open_token_counter((Path(recipe.__file__).parent / "model").as_uri(), None)  # type: ignore[arg-type]
    assert counter is not None, problem
    media: Any = SimpleNamespace(policy=NO_BOUNDS)
    record = record_pb2.Record(prompt=content("what is red"))
    _, alone = await counter.measure(record, media)
    record.history.add(role=content_pb2.ROLE_USER, content=content("what is red"))
    reason, length = await counter.measure(record, media)
    assert (reason, length > alone) == ("", True)
    record.history.add(role=content_pb2.ROLE_SYSTEM, content=content("be brief"))
    assert await counter.measure(record, media) == ("ROLE_UNSUPPORTED", 0)


async def test_a_conversation_goes_through_the_whole_job(stack: ServiceStack) -> None:
    dataset = await stack.client.create_dataset("talks")
    records = [continued(annotated_record(f"train-{number}")) for number in range(3)]
    records += [continued(prompt_record("prompt-0", split="prompts")), continued(prompt_record("test-0", split="test"))]
    await stack.client.append_records(dataset.name, records)
    version = (await stack.client.commit_version(dataset.name)).name
    job = await stack.end_of((await stack.submit(dataset=version)).name)
    assert job.HasField("end_time") and not job.HasField("error"), job.error
    for table in ("sample", "critique", "refine", "verify", "pairs"):
        found = await stack.records(job, table)
        assert found, table
        assert all(list(record.history) == list(records[0].history) for record in found), table
