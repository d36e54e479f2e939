"""The steps of self improving: sample y, criticise it, refine it to y*, and verify that y* is better."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from omnialign.v1 import critique_service_pb2, record_pb2, refinement_service_pb2
from services.alignment import gate
from services.alignment.job import CRITIQUE, LOOP_STAGES, REFINE, SAMPLE, VERIFY, of_round, policy_of
from services.pipeline.item_calls import ItemCall, ItemCaller, prompt_only
from services.pipeline.kind import JobContext, Outcome, Record, Records, Step
from services.pipeline.model_calls import (
    Judge,
    add_response,
    comparison_call,
    comparison_tokens,
    generate_item,
    generate_request,
    is_unchanged,
    seeds_of,
    verdict_measures,
)
from services.pipeline.quarantine import abstained

UNCHANGED = "The refinement equals the response."


def self_improvement_steps(caller: ItemCaller, number: int) -> tuple[Step, ...]:
    """The steps of a round, in order. A record collects y, its feedback c, y*, and the judge's verdict."""
    sample, critique, refine, verify = (of_round(stage, number) for stage in LOOP_STAGES)

    def step(call: ItemCall[Any, Any], *, label: str, reads: str, tokens: Callable[[Record], int], **more: Any) -> Step:
        async def run(context: JobContext, records: Records) -> Outcome:
            return await caller.run(context, records, call)

        return Step(
            name=call.stage,
            stage=call.stage,
            reads=reads,
            writes=call.stage,
            label=label,
            run=run,
            tokens=tokens,
            **more,
        )

    return (
        step(sampling_call(sample, number), label=SAMPLE, reads="", tokens=_response_tokens(0)),
        step(critique_call(critique), label=CRITIQUE, reads=sample, tokens=_feedback_tokens),
        step(refining_call(refine, number), label=REFINE, reads=critique, tokens=_response_tokens(1)),
        step(
            comparison_call(
                stage=verify, judge=_weighing_judge, seed=seeds_of(verify), settle=_settle_unchanged, decide=_by_gate
            ),
            label=VERIFY,
            reads=refine,
            tokens=comparison_tokens,
            measures=verdict_measures,
        ),
    )


# ---- sample: y ~ pi(x) ----


def sampling_call(
    stage: str, number: int
) -> ItemCall[refinement_service_pb2.GenerateItem, refinement_service_pb2.GenerateResponse]:
    """y ~ pi(x), by the policy of the round. What people annotated stays behind: the loop may know the prompt alone."""

    def build(context: JobContext, record: Record) -> refinement_service_pb2.GenerateItem:
        return generate_item(record, seed=seeds_of(stage)(context, record))

    return ItemCall(
        service="refinement",
        rpc="generate",
        answer=refinement_service_pb2.GenerateResponse,
        stage=stage,
        prepare=prompt_only,
        build=build,
        request=lambda context, items: generate_request(context, items, model=policy_of(context.job, number)),
        apply=_adds_response(number),
    )


# ---- critique: c ~ p(c | x, y) ----


def critique_call(
    stage: str,
) -> ItemCall[critique_service_pb2.CritiqueItem, critique_service_pb2.CritiqueResponse]:
    """c ~ p(c | x, y), by the feedback model."""

    def build(context: JobContext, record: Record) -> critique_service_pb2.CritiqueItem:
        return critique_service_pb2.CritiqueItem(
            id=record.id,
            history=record.history,
            prompt=record.prompt,
            response=record.responses[0].content,
            subtask=record.subtask,
            seed=seeds_of(stage)(context, record),
        )

    def request(
        context: JobContext, items: Sequence[critique_service_pb2.CritiqueItem]
    ) -> critique_service_pb2.CritiqueRequest:
        return critique_service_pb2.CritiqueRequest(
            model=context.job.models.feedback,
            sampling=context.plan.feedback_sampling,
            media_policy=context.plan.media_policy,
            answer_form=context.plan.feedback_answer_form,
            items=items,
        )

    def apply(context: JobContext, record: Record, answer: critique_service_pb2.CritiqueResponse) -> Record:
        if answer.WhichOneof("result") == "abstention":
            abstention = answer.abstention
            return abstained(record, stage=stage, reason=abstention.reason, text=abstention.text)
        record.responses[0].feedback.CopyFrom(answer.feedback)
        return record

    return ItemCall(
        service="critique",
        rpc="critique",
        answer=critique_service_pb2.CritiqueResponse,
        stage=stage,
        build=build,
        request=request,
        apply=apply,
    )


# ---- refine: y* ~ pi(x, y, c) ----


def refining_call(
    stage: str, number: int
) -> ItemCall[refinement_service_pb2.RefineItem, refinement_service_pb2.RefineResponse]:
    """y* ~ pi(x, y, c), by the policy of the round."""

    def build(context: JobContext, record: Record) -> refinement_service_pb2.RefineItem:
        return refinement_service_pb2.RefineItem(
            id=record.id,
            history=record.history,
            prompt=record.prompt,
            response=record.responses[0].content,
            feedback=record.responses[0].feedback,
            seed=seeds_of(stage)(context, record),
        )

    def request(
        context: JobContext, items: Sequence[refinement_service_pb2.RefineItem]
    ) -> refinement_service_pb2.RefineRequest:
        return refinement_service_pb2.RefineRequest(
            model=policy_of(context.job, number),
            sampling=context.plan.sampling,
            media_policy=context.plan.media_policy,
            items=items,
        )

    return ItemCall(
        service="refinement",
        rpc="refine",
        answer=refinement_service_pb2.RefineResponse,
        stage=stage,
        build=build,
        request=request,
        apply=_adds_response(number),
    )


# ---- verify: the gate ----


def judge_of(context: JobContext) -> Judge:
    """The judge of a job."""
    plan = context.plan
    return Judge(context.job.models.judge, plan.feedback_sampling, plan.judge_answer_form)


def _weighing_judge(context: JobContext) -> Judge:
    """The judge of a job, who weighs its verdicts if the gate decides by that."""
    return replace(judge_of(context), with_margins=gate.decides_by_probability(context.job.gate))


def _by_gate(context: JobContext, comparison: record_pb2.Comparison) -> None:
    gate.decide(context.job.gate, comparison)


def _settle_unchanged(record: Record) -> bool:
    """A refinement that changed nothing is a tie; the judge need not be asked."""
    if not is_unchanged(record.responses[0].content, record.responses[1].content):
        return False
    tie = record_pb2.Comparison(verdict=record_pb2.VERDICT_TIE, forward_reason=UNCHANGED)
    record.comparison.CopyFrom(tie)
    return True


# ---- parts ----


def _adds_response(number: int) -> Callable[[JobContext, Record, Any], Record]:
    return lambda context, record, answer: add_response(record, answer.response, model=policy_of(context.job, number))


def _feedback_tokens(record: Record) -> int:
    return record.responses[0].feedback.generation.completion_tokens


def _response_tokens(index: int) -> Callable[[Record], int]:
    return lambda record: record.responses[index].generation.completion_tokens
