"""What jobs of any kind ask models for: answers to prompts, and comparisons of two answers in both orders.

The plan of a kind that asks for them has `seed`, `sampling` and `media_policy`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from omnialign.errors import from_status
from omnialign.v1 import content_pb2, generation_pb2, judge_service_pb2, record_pb2, refinement_service_pb2
from services.pipeline.item_calls import ItemCall, extended, prompt_only
from services.pipeline.kind import JobContext, Record
from services.pipeline.planning import record_seed

MALFORMED = "ANSWER_"
"""Error reasons that begin with this are the model's fault, not the prompt's."""
VERDICT_MEASURES = {record_pb2.VERDICT_WIN: "kept", record_pb2.VERDICT_TIE: "tied", record_pb2.VERDICT_LOSS: "lost"}

Seed = Callable[[JobContext, Record], int]
Answer = refinement_service_pb2.GenerateResponse
AnswerCall = ItemCall[refinement_service_pb2.GenerateItem, Answer]
CompareCall = ItemCall[judge_service_pb2.CompareItem, judge_service_pb2.CompareResponsesResponse]


def seeds_of(stage: str) -> Seed:
    """The seeds of records in a stage, by their ids."""
    return lambda context, record: record_seed(context.plan.seed, stage=stage, record_id=record.id)


# ---- answers: y ~ pi(x) ----


def generate_item(record: Record, *, seed: int) -> refinement_service_pb2.GenerateItem:
    """The prompt of a record to answer, with what came before it."""
    return refinement_service_pb2.GenerateItem(id=record.id, history=record.history, prompt=record.prompt, seed=seed)


def generate_request(
    context: JobContext, items: Sequence[refinement_service_pb2.GenerateItem], *, model: str
) -> refinement_service_pb2.GenerateRequest:
    """Asks a model to answer prompts."""
    plan = context.plan
    return refinement_service_pb2.GenerateRequest(
        model=model, sampling=plan.sampling, media_policy=plan.media_policy, items=items
    )


def answering_call(
    *,
    stage: str,
    model: Callable[[JobContext], str],
    seed: Seed,
    prepare: Callable[[Record], Record] = prompt_only,
) -> AnswerCall:
    """A model's answers to the prompts of an evaluation.

    An answer that the model failed to give in readable form is its fault: the response is empty, and the record stays.
    """

    def build(context: JobContext, record: Record) -> refinement_service_pb2.GenerateItem:
        return generate_item(record, seed=seed(context, record))

    return ItemCall(
        service="refinement",
        rpc="generate",
        answer=Answer,
        stage=stage,
        prepare=prepare,
        build=build,
        request=lambda context, items: generate_request(context, items, model=model(context)),
        apply=lambda context, record, answer: add_response(record, answer.response, model=model(context)),
        accepts=lambda answer: from_status(answer.error).reason.startswith(MALFORMED),
    )


def add_response(record: Record, response: record_pb2.Response, *, model: str) -> Record:
    """Adds a model's response to the record, and returns the record."""
    added = record.responses.add()
    added.CopyFrom(response)
    added.source = response.source or model
    return record


def is_empty(content: content_pb2.Content) -> bool:
    """Whether a message says nothing."""
    return not any(part.WhichOneof("part") == "media" or part.text.strip() for part in content.parts)


def is_unchanged(before: content_pb2.Content, after: content_pb2.Content) -> bool:
    """Whether the second message is empty or says the same as the first."""
    # Media are compared by content, and text without the space around it.
    return is_empty(after) or _essence(before) == _essence(after)


def _essence(content: content_pb2.Content) -> list[str]:
    parts = (part.media.sha256 if part.WhichOneof("part") == "media" else part.text.strip() for part in content.parts)
    return [part for part in parts if part]


# ---- comparisons ----


@dataclass(frozen=True)
class Judge:
    """A model that compares, and how it is asked."""

    model: str
    sampling: generation_pb2.SamplingParams
    form: generation_pb2.AnswerForm.ValueType
    with_margins: bool = False
    """Whether the margins between the two verdicts are wanted beside the judge's words."""


def by_words(context: JobContext, comparison: record_pb2.Comparison) -> None:
    """Leaves the verdict as the judge wrote it."""


def comparison_call(
    *,
    stage: str,
    judge: Callable[[JobContext], Judge],
    seed: Seed,
    settle: Callable[[Record], bool],
    prepare: Callable[[Record], Record] = extended,
    decide: Callable[[JobContext, record_pb2.Comparison], None] = by_words,
) -> CompareCall:
    """The judge on the second response of each record (the candidate) against the first (the baseline), both orders.

    `decide` may change the verdict of a comparison.
    """

    def build(context: JobContext, record: Record) -> judge_service_pb2.CompareItem:
        baseline, candidate = record.responses
        return judge_service_pb2.CompareItem(
            id=record.id,
            history=record.history,
            prompt=record.prompt,
            baseline=baseline.content,
            candidate=candidate.content,
            subtask=record.subtask,
            seed=seed(context, record),
        )

    def request(
        context: JobContext, items: Sequence[judge_service_pb2.CompareItem]
    ) -> judge_service_pb2.CompareResponsesRequest:
        asked = judge(context)
        return judge_service_pb2.CompareResponsesRequest(
            model=asked.model,
            sampling=asked.sampling,
            media_policy=context.plan.media_policy,
            answer_form=asked.form,
            with_margins=asked.with_margins,
            items=items,
        )

    def apply(context: JobContext, record: Record, answer: judge_service_pb2.CompareResponsesResponse) -> Record:
        record.comparison.CopyFrom(answer.comparison)
        decide(context, record.comparison)
        return record

    return ItemCall(
        service="judge",
        rpc="compare_responses",
        answer=judge_service_pb2.CompareResponsesResponse,
        stage=stage,
        prepare=prepare,
        build=build,
        request=request,
        apply=apply,
        settle=settle,
    )


def settle_by_rule(record: Record) -> bool:
    """Sets the comparison where the judge need not be asked: an answer is missing, or both are the same."""
    first, second = (response.content for response in record.responses)
    if is_empty(first) and not is_empty(second):
        verdict, reason = record_pb2.VERDICT_WIN, "The first answer is malformed."
    elif is_empty(second) and not is_empty(first):
        verdict, reason = record_pb2.VERDICT_LOSS, "The second answer is malformed."
    elif is_unchanged(first, second):
        verdict, reason = record_pb2.VERDICT_TIE, "Both answers are the same."
    else:
        return False
    record.comparison.CopyFrom(record_pb2.Comparison(verdict=verdict, forward_reason=reason))
    return True


def comparison_tokens(record: Record) -> int:
    """Tokens that the judge wrote on a record, in both orders."""
    comparison = record.comparison
    return comparison.forward_generation.completion_tokens + comparison.backward_generation.completion_tokens


def verdict_measures(record: Record) -> Mapping[str, int]:
    """What a verdict counts as: `kept`, `tied` or `lost`; an abstention is counted apart, for it is no result."""
    name = VERDICT_MEASURES.get(record.comparison.verdict)
    return {name: 1} if name else {}
