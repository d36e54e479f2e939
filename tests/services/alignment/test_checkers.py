"""Programs that check answers, within an evaluation."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from examples.tinyworld import recipe
from examples.tinyworld.language import random_task
from omnialign import checkers
from omnialign.content import content
from omnialign.errors import InvalidArgument
from omnialign.modeling.inputs import Turn
from omnialign.v1 import content_pb2, record_pb2
from tests.service_stack import Job, ServiceStack, annotated_record


async def tiny_dataset(stack: ServiceStack) -> str:
    draw = random.Random(3)
    records = [annotated_record(f"train-{i}") for i in range(4)]
    for split in ("prompts", "test"):
        for i in range(4):
            text = random_task(draw, "t2t").text
            records.append(record_pb2.Record(id=f"{split}-{i}", subtask="t2t", split=split, prompt=content(text)))
    dataset = await stack.client.create_dataset("tiny")
    await stack.client.append_records(dataset.name, records)
    return (await stack.client.commit_version(dataset.name)).name


async def test_an_evaluation_holds_the_checkers_scores_and_words(stack: ServiceStack) -> None:
    job = await stack.submit(dataset=await tiny_dataset(stack), checkers=["tinyworld"])
    job = await stack.end_of(job.name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    rows = await stack.records(job, "evaluation")
    assert len(rows) == 4
    for row in rows:
        assert (row.labels["correct_base"], row.labels["correct_aligned"]) == ("false", "false")
        assert all(response.feedback.scores and response.feedback.critique for response in row.responses)
    status = next(s for s in job.stages if s.stage == "evaluate")
    assert (status.metrics["correct_base"], status.metrics["win_rate"]) == (0.0, 1.0)


async def test_prompts_that_a_checker_cannot_take_leave_the_evaluation(stack: ServiceStack) -> None:
    job = await stack.end_of((await stack.submit(checkers=["tinyworld"])).name)
    assert job.state == Job.STATE_FAILED
    assert b"QUARANTINE_LIMIT" in job.error.details[0].value
    assert "PROMPT_FOREIGN" in job.error.message


async def test_the_check_counts_prompts_in_tokens_of_the_base_model(stack: ServiceStack) -> None:
    folder = Path(recipe.__file__).parent / "model"
    model = await stack.client.register_model("tiny", folder.as_uri())
    spec = await stack.spec(dataset=await tiny_dataset(stack), base_model=model.name)
    job = await stack.alignment.create_alignment_job("first", spec, validate_only=True)
    assert job.preflight.longest_prompt_tokens > 0
    assert job.preflight.estimated_training_bytes > 1_000_000


async def test_scores_of_several_checkers_are_joined() -> None:
    def checker(name: str, score: int) -> checkers.Checker:
        def run(prompt: Sequence[object], response: Sequence[object], subtask: str) -> record_pb2.Feedback:
            scores = [record_pb2.DimensionScore(dimension=name, score=score)]
            return record_pb2.Feedback(scores=scores, critique=f"{name} of {subtask}")

        return run

    record = record_pb2.Record(subtask="t2t", prompt=content("x"))
    both = [checker("one", 3), checker("two", 2)]
    feedback = await checkers.check(both, record=record, response=content("y"), media={})
    assert [score.dimension for score in feedback.scores] == ["one", "two"]
    assert feedback.critique == "one of t2t\ntwo of t2t"
    assert not checkers.is_correct(feedback)
    assert not checkers.is_correct(record_pb2.Feedback())


async def test_a_checker_that_takes_the_history_gets_what_came_before_the_prompt() -> None:
    def run(
        prompt: Sequence[object], response: Sequence[object], subtask: str, *, history: Sequence[Turn]
    ) -> record_pb2.Feedback:
        return record_pb2.Feedback(critique="; ".join(f"{turn.role}: {turn.pieces[0]}" for turn in history))

    record = record_pb2.Record(prompt=content("Whose?"))
    record.history.add(role=content_pb2.ROLE_SYSTEM, content=content("Be brief."))
    record.history.add(role=content_pb2.ROLE_USER, content=content("Hi"))
    feedback = await checkers.check([run], record=record, response=content("Mine."), media={})
    assert feedback.critique == "system: Be brief.; user: Hi"


def test_an_unknown_checker_is_refused_with_the_known_names() -> None:
    with pytest.raises(InvalidArgument) as caught:
        checkers.load(["nobody"])
    assert caught.value.metadata["known"].split(", ") == ["instructions", "tinyworld"]
