"""The pre-flight: what the job will find, drop and cost, before any accelerator is taken.

The estimates are rules of thumb, whose constants are at the top; they are meant to tell minutes from days.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from omnialign.content import asked_of, contents_of, media_of
from omnialign.errors import FailedPrecondition
from omnialign.modeling.inputs import MediaPolicy
from omnialign.v1 import alignment_service_pb2, record_pb2
from omnialign.v1.content_pb2 import Content
from services.alignment import gate, optimization
from services.alignment.job import Spec, calibrates, is_binary
from services.alignment.pairs import has_feedback, has_preference, split_records
from services.alignment.prompt_check import TokenCounter, open_token_counter
from services.alignment.reading import chosen
from services.pipeline.drawing import Drawing
from services.pipeline.media_check import MediaCheck
from services.pipeline.planning import pages
from services.pipeline.service_calls import ServiceClients

Record = record_pb2.Record
Report = alignment_service_pb2.PreflightReport

DEFAULT_ANSWER_TOKENS = 256
GENERATIONS_PER_PROMPT = 5  # y, its feedback, y*, and the judge's two orders
GENERATIONS_PER_EVALUATION = 4  # two answers, two orders
TOKENS_PER_SECOND = 2000.0
TRAINING_SECONDS_PER_RECORD = 0.2
SMALL_SPLIT = 20
RECORDS_AT_ONCE = 64
"""Records whose media are asked for together."""
TOO_LONG = "PROMPT_TOO_LONG"


@dataclass
class Findings:
    """What one pass over the dataset found."""

    feedback: int = 0
    preferences: int = 0
    annotated: int = 0
    prompts: Counter[str] = field(default_factory=Counter)
    """Those that are taken, by subtask."""
    evaluation: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    longest: int = 0
    context: int = 0
    warnings: list[str] = field(default_factory=list)


async def inspect(plan: Spec, clients: ServiceClients) -> Report:
    """Reads everything that the job will read, and reports on it.

    Raises FailedPrecondition (`NO_VALID_RECORDS`, `NO_PROMPTS`, `NO_EVALUATION_PROMPTS`), and ResourceExhausted
    (`MEMORY_TOO_SMALL`) if no device has room for the training.
    """
    findings = Findings()
    media = MediaCheck(clients.data, MediaPolicy.of(plan.media_policy))
    counter, problem = await open_token_counter(plan.base_model, clients.data)
    if problem:
        findings.warnings.append(problem)
    findings.context = counter.context_tokens if counter else 0
    await _annotated(plan, clients, findings, media)
    findings.prompts = await _prompts(plan, clients, findings, media, counter, split=plan.prompt_split)
    findings.evaluation = await _prompts(plan, clients, findings, media, counter, split=plan.evaluation_split)
    _require(plan, findings)
    findings.warnings += media.in_part()
    return await _report(plan, clients, findings)


async def _annotated(plan: Spec, clients: ServiceClients, findings: Findings, media: MediaCheck) -> None:
    def shown(record: Record) -> Iterable[Content]:
        return contents_of(record) if has_feedback(record) or has_preference(record) else ()

    async for record, reason in _checked(split_records(plan, clients, split=plan.feedback_split), media, shown):
        findings.annotated += 1
        feedback, preference = has_feedback(record), has_preference(record)
        if not feedback and not preference:
            findings.dropped["NO_ANNOTATION"] += 1
        elif reason:
            findings.dropped[reason] += 1
        else:
            findings.feedback += feedback
            findings.preferences += preference


async def _prompts(
    plan: Spec,
    clients: ServiceClients,
    findings: Findings,
    media: MediaCheck,
    counter: TokenCounter | None,
    *,
    split: str,
) -> Counter[str]:
    """The usable prompts of a split, as many as are taken, by subtask."""
    limit = plan.max_prompts if split == plan.prompt_split else plan.max_evaluation_prompts
    drawing = Drawing(plan.seed)

    async def looked_at(prompts: AsyncIterator[Record]) -> AsyncIterator[tuple[Record, str]]:
        """Prompts, each with the reason why it cannot be used; empty if it can."""
        async for record, reason in _checked(prompts, media, asked_of):
            if not reason and counter is not None:
                reason, length = await counter.measure(record, media)
                findings.longest = max(findings.longest, length)
            yield record, reason

    async def usable(is_near: Callable[[str], bool]) -> AsyncIterator[tuple[str, str]]:
        async for record, reason in looked_at(chosen(split_records(plan, clients, split=split), is_near)):
            if not reason:
                yield record.id, record.subtask

    async for record, reason in looked_at(split_records(plan, clients, split=split)):
        if reason:
            findings.dropped[reason] += 1
        else:
            drawing.add(record.id, record.subtask)
    return (await drawing.close(usable, count=limit or drawing.total)).groups


async def _checked(
    records: AsyncIterator[Record], media: MediaCheck, shown: Callable[[Record], Iterable[Content]]
) -> AsyncIterator[tuple[Record, str]]:
    """Records, each with the reason why the media in the messages `shown` cannot be used; empty if they can."""
    async for page in pages(records, size=RECORDS_AT_ONCE):
        reasons = await media.problems(media_of(shown(record)) for record in page)
        for found in zip(page, reasons, strict=True):
            yield found


def _require(plan: Spec, findings: Findings) -> None:
    needs_feedback = not is_binary(plan) and not plan.feedback_model
    needs_preferences = is_binary(plan) or not plan.judge_model
    lacking = {
        kind: model
        for kind, model, needed, count in (
            ("feedback", "feedback_model", needs_feedback, findings.feedback),
            ("preferences", "judge_model", needs_preferences, findings.preferences),
        )
        if needed and not count
    }
    if lacking:
        message = (
            f"no valid record with {' and '.join(lacking)} in the split '{plan.feedback_split}' of '{plan.dataset}' "
            f"({findings.annotated} records read); import annotated records or set {' and '.join(lacking.values())}"
        )
        metadata = {"dataset": plan.dataset, "split": plan.feedback_split, "lacking": ",".join(lacking)}
        raise FailedPrecondition(message, reason="NO_VALID_RECORDS", metadata=metadata)
    if not is_binary(plan) and not findings.prompts:
        raise _empty("NO_PROMPTS", plan.dataset, plan.prompt_split, findings)
    if not findings.evaluation:
        raise _empty("NO_EVALUATION_PROMPTS", plan.dataset, plan.evaluation_split, findings)


def _empty(reason: str, dataset: str, split: str, findings: Findings) -> FailedPrecondition:
    message = f"no usable prompt in the split '{split}' of '{dataset}'"
    metadata = {"dataset": dataset, "split": split, **{name: str(n) for name, n in findings.dropped.items()}}
    if findings.dropped[TOO_LONG]:
        message += f": {_too_long(findings)}"
        metadata |= {"longest_prompt_tokens": str(findings.longest), "context_tokens": str(findings.context)}
    return FailedPrecondition(message, reason=reason, metadata=metadata)


def _too_long(findings: Findings) -> str:
    """What is too long, by how much, and what to do about it."""
    return (
        f"{findings.dropped[TOO_LONG]} prompts leave no room for an answer: the longest has {findings.longest} tokens, "
        f"and the model reads and writes {findings.context}; a media_policy with max_frames, max_pixels or "
        "max_audio_seconds makes media shorter"
    )


async def _report(plan: Spec, clients: ServiceClients, findings: Findings) -> Report:
    prompts = Counter[str]() if is_binary(plan) else findings.prompts
    report = Report(
        feedback_records=findings.feedback if not is_binary(plan) else findings.preferences,
        prompts=prompts.total(),
        evaluation_prompts=findings.evaluation.total(),
        prompts_by_subtask=prompts,
        longest_prompt_tokens=findings.longest,
        dropped=findings.dropped,
        warnings=findings.warnings + _unusual(plan, findings),
    )
    length = plan.sampling.max_new_tokens or DEFAULT_ANSWER_TOKENS
    num_prompts, num_evaluated = prompts.total() * plan.rounds, findings.evaluation.total()
    generations = GENERATIONS_PER_PROMPT * num_prompts + GENERATIONS_PER_EVALUATION * num_evaluated
    report.estimated_tokens = length * generations
    report.estimated_training_bytes = await _training_bytes(plan, clients)
    trained = findings.feedback + findings.preferences + num_prompts
    seconds = report.estimated_tokens / TOKENS_PER_SECOND + trained * TRAINING_SECONDS_PER_RECORD
    report.estimated_time.FromSeconds(int(seconds))
    return report


def _unusual(plan: Spec, findings: Findings) -> list[str]:
    warnings = []
    if findings.evaluation.total() < SMALL_SPLIT:
        warnings.append(f"Only {findings.evaluation.total()} prompts will be evaluated; intervals will be wide.")
    if findings.dropped:
        total = sum(findings.dropped.values())
        warnings.append(
            f"{total} records cannot be used: {', '.join(f'{r} {n}' for r, n in findings.dropped.items())}."
        )
    if findings.dropped[TOO_LONG]:
        warnings.append(f"{_too_long(findings)}.")
    if calibrates(plan) and not gate.is_enough(plan, findings.preferences):
        warnings.append(gate.uncalibrated(plan, findings.preferences).message)
    if not plan.checkers:
        warnings.append("No checker is named: the evaluation rests on the judge alone.")
    if plan.prompt_split == plan.evaluation_split:
        warnings.append(f"The split '{plan.prompt_split}' is both sampled and evaluated: results will flatter.")
    return warnings


async def _training_bytes(plan: Spec, clients: ServiceClients) -> int:
    """Memory of a device that optimising the base model takes, as the training service estimates it; 0 if it cannot."""
    # Models that the job has yet to train are as large as their base.
    models = alignment_service_pb2.JobModels(
        reward=plan.base_model,
        judge=plan.judge_model or plan.base_model,
        feedback=plan.feedback_model or plan.base_model,
    )
    names = {"base_model": plan.base_model, "dataset": plan.dataset, "output": "preflight"}
    spec = optimization.training_spec(plan, **names, models=models)
    return int((await clients.training.create_training_job("", spec, validate_only=True)).memory.total_bytes)
