"""The units of work of an evaluation: an item for one model to answer, and an answer for one judge or rule to score.

Each is a record whose labels say which item of which benchmark it is, which model's, and which judge's. All records of
a chunk have the same of these, items apart, so that one call serves the whole chunk.
"""

from collections.abc import Iterator

from omnialign.content import NAMES, asked_of, media_of
from omnialign.errors import FailedPrecondition
from omnialign.v1 import content_pb2
from services.evaluation.job import Part, Spec
from services.pipeline.item_calls import extended
from services.pipeline.kind import JobContext, Record
from services.pipeline.model_calls import Seed
from services.pipeline.planning import record_seed

BENCHMARK, ITEM = "evaluation.benchmark", "evaluation.item"
MODEL, BASELINE, JUDGE = "evaluation.model", "evaluation.baseline", "evaluation.judge"
"""Labels. Models and judges are numbered from 1, in the order of the spec."""
ABLATED = "evaluation.ablated"
"""Label of the modality that was removed from the prompt."""
INSTRUCTED = "evaluation.instructed"
"""Label of the modalities, by letter, for which the model writes instructions (`agents.py`)."""
CHUNK_LABELS = (BENCHMARK, MODEL, BASELINE, JUDGE, ABLATED, INSTRUCTED)
MAX_ID = 200


def works_of(plan: Spec, part: Part, item: Record) -> Iterator[Record]:
    """An item for each model; if it has the modality that the benchmark removes, once more without it."""
    is_shortened = is_ablated(item, part)
    for model in range(1, len(plan.models) + 1):
        yield work_of(item, part, model=model)
        if is_shortened:
            yield without(work_of(item, part, model=model), part.spec.ablation)


def ids_of_works(plan: Spec, part: Part, item: Record) -> Iterator[str]:
    """The ids of `works_of`."""
    is_shortened = is_ablated(item, part)
    for model in range(1, len(plan.models) + 1):
        yield _work_id(item, part, model=model)
        if is_shortened:
            yield _ablated_id(item, _work_id(item, part, model=model), part.spec.ablation)


def is_ablated(item: Record, part: Part) -> bool:
    """Whether an item has the modality that the benchmark removes."""
    return bool(part.spec.ablation) and has_modality(item, part.spec.ablation)


def has_modality(item: Record, modality: str) -> bool:
    """Whether what an item asks has media of a modality."""
    return any(NAMES[medium.modality] == modality for medium in media_of(asked_of(item)))


def without(work: Record, modality: str) -> Record:
    """The work with the media of a modality removed from its prompt and from what came before it."""
    work.id = _ablated_id(work, work.id, modality)
    work.labels[ABLATED] = modality
    for message in asked_of(work):
        kept = [p for p in message.parts if p.WhichOneof("part") == "text" or NAMES[p.media.modality] != modality]
        message.CopyFrom(content_pb2.Content(parts=kept))
    return work


def work_of(item: Record, part: Part, *, model: int) -> Record:
    """An item for a model to answer. It has no responses: those that people gave are none of the model's."""
    work = extended(item)
    del work.responses[:]
    for field in ("preference", "comparison"):
        work.ClearField(field)  # type: ignore[arg-type]  # fields of the message
    work.labels.update({BENCHMARK: part.id, ITEM: item.id, MODEL: str(model)})
    work.id = _work_id(item, part, model=model)
    return work


def pair_of(first: Record, second: Record, part: Part, *, baseline: int) -> Record:
    """The answers of two models to one item, the baseline's first."""
    pair = extended(second)
    del pair.responses[:]
    pair.responses.extend([first.responses[-1], second.responses[-1]])
    pair.labels[BASELINE] = str(baseline)
    pair.id = _id(f"{item_of(second)}.{part.id}.{baseline}-{number_of(second, MODEL)}", second)
    return pair


def annotated_pair_of(item: Record, part: Part) -> Record:
    """The two answers of an annotated item, for judges to choose between."""
    pair = extended(item)
    del pair.responses[2:]
    pair.labels.update({BENCHMARK: part.id, ITEM: item.id})
    pair.id = _id(f"{item.id}.{part.id}", item)
    return pair


def judged_by(record: Record, judge: int) -> Record:
    """A copy of something to score, for one judge."""
    task = extended(record)
    task.labels[JUDGE] = str(judge)
    task.id = _id(f"{record.id}.j{judge}", record)
    return task


def item_of(record: Record) -> str:
    """Id of the item that a unit of work is about."""
    return record.labels[ITEM]


def group_of(record: Record) -> str:
    """The category of an item, or else its subtask: scores are averaged by it too."""
    return record.benchmark_item.category or record.subtask


def number_of(record: Record, label: str) -> int:
    """Number of a unit's model or judge; 0 if it has none."""
    return int(record.labels[label]) if label in record.labels else 0


def chunk_key(record: Record) -> str:
    """What all records of a chunk have in common, as one text."""
    return "/".join((*(record.labels.get(label, "") for label in CHUNK_LABELS), record.subtask))


def seeds_of_items(stage: str) -> Seed:
    """The seeds of a stage by item: all models answer an item with the same one, in any evaluation of that seed."""

    def seed(context: JobContext, record: Record) -> int:
        return record_seed(context.plan.seed, stage=stage, record_id=item_of(record))

    return seed


def _work_id(item: Record, part: Part, *, model: int) -> str:
    return _id(f"{item.id}.{part.id}.{model}", item)


def _ablated_id(item: Record, work_id: str, modality: str) -> str:
    return _id(f"{work_id}-without-{modality}", item)


def _id(found: str, item: Record) -> str:
    if len(found) > MAX_ID:
        raise FailedPrecondition(
            f"the id of the item '{item.id}' is too long: with the benchmark and the model it may have {MAX_ID} "
            "characters; shorten it in the dataset",
            reason="ITEM_ID_TOO_LONG",
            metadata={"item": item.id},
        )
    return found
