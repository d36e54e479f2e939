"""Two models on the tiny world's eval-anything, with judges that are trained here and an oracle beside them.

Everything goes through the client, as it would on a server: training jobs for the judges (once: they stay there), the
import of the benchmark's files, one evaluation of both models. Then the oracle looks at every answer that was scored.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from examples.tinyworld.annotations import Annotated, append, synergy_pairs
from examples.tinyworld.benchmark import BenchmarkSizes, write_benchmark
from examples.tinyworld.judges import JUDGES, Judge
from examples.tinyworld.yardstick import RATED, Yardstick, agreement, correlation, digests
from omnialign.cli import evaluation_view, training_view
from omnialign.cli.output import Output
from omnialign.cli.state import replace_file
from omnialign.client import AsyncClient
from omnialign.errors import AlreadyExists, FailedPrecondition, NotFound
from omnialign.v1 import evaluation_service_pb2, training_service_pb2

Evaluation = evaluation_service_pb2.Evaluation
HTML = evaluation_service_pb2.GetEvaluationReportRequest.FORMAT_HTML
FOLDERS = {
    "amu": "EvalAnything-AMU",
    "following": "EvalAnything-InstructionFollowing",
    "selection": "EvalAnything-Selection_Synergy",
}
"""The datasets of the benchmark, and the published files that they are imported from."""
ROLES = ("base", "aligned")
COMPOSITES = ("amu", "amg", "overall")
REMOVED = "audio"
"""What the ablation of AMU takes out of the prompts: every question needs it."""
SMALL = BenchmarkSizes(understanding=2, instructions=2, selection=7)
PAIRS, SMALL_PAIRS = 200, 4
"""Annotated pairs with which the judge of synergy is tried: it has not seen them."""


@dataclass(frozen=True)
class Plan:
    """What is evaluated, and where its files go."""

    models: Mapping[str, str]
    """The models by role: `base` and `aligned`."""
    out: Path
    seed: int = 0
    small: bool = False

    def named(self, name: str) -> str:
        """The id of a dataset or model."""
        return f"eval-{name}-{self.seed}{'-small' if self.small else ''}"


async def evaluate(client: AsyncClient, plan: Plan, *, out: Output) -> dict[str, Any]:
    """Trains what judges, evaluates both models, and returns the report. Writes OUT/report.json and the page."""
    judges = {judge.name: await _judge(client, plan, judge, out=out) for judge in JUDGES}
    started = time.monotonic()
    found = await _evaluate(client, plan, {name: model for name, (model, _) in judges.items()}, out=out)
    out.say("The oracle looks at all answers.")
    yardstick = await _look(client, found)
    report = {
        **_report(found, plan, yardstick),
        "comparison": await _compare(client, plan, found),
        "seconds": {
            "evaluation": round(time.monotonic() - started, 1),
            "judges": {name: seconds for name, (_, seconds) in judges.items()},
        },
    }
    replace_file(plan.out / "report.json", json.dumps(report, indent=2).encode() + b"\n")
    replace_file(plan.out / "evaluation.json", await client.get_evaluation_report(found.name))
    replace_file(plan.out / "evaluation.html", await client.get_evaluation_report(found.name, HTML))
    return report


async def _judge(client: AsyncClient, plan: Plan, judge: Judge, *, out: Output) -> tuple[str, float | None]:
    """The model of a judge, trained if it is not there yet, and the seconds that its training took."""
    model_id = plan.named(judge.name)
    if not await _model(client, model_id):
        dataset = await _dataset(client, plan.named(judge.name), judge.records(plan.seed, plan.small))
        spec = judge.spec(
            base_model=plan.models["base"], dataset=dataset, output=model_id, seed=plan.seed, small=plan.small
        )
        out.say(f"Training the judge of {judge.name}.")
        made = await client.create_training_job("", ParseDict(spec, training_service_pb2.TrainingSpec()))
        done = await training_view.show_events(client.watch_training_job(made.name), out=out)
        if not done.model:
            message = f"the judge of {judge.name} was not trained: {done.error.message or training_view.state(done)}"
            raise FailedPrecondition(message, reason="JUDGE_NOT_TRAINED", metadata={"job": done.name})
    version = await _model(client, model_id)
    async for job in client.list_training_jobs():
        if job.model == version:
            return version, (job.end_time.ToMilliseconds() - job.start_time.ToMilliseconds()) / 1000
    return version, None


async def _model(client: AsyncClient, model_id: str) -> str:
    """The newest version of a model; "" if there is none."""
    try:
        return (await client.get_model_version(f"{client.parent}/models/{model_id}/versions/-")).name
    except NotFound:
        return ""


async def _version(client: AsyncClient, dataset_id: str) -> str:
    """The newest version of a dataset; "" if there is none."""
    try:
        return (await client.get_dataset_version(f"{client.parent}/datasets/{dataset_id}/versions/-")).name
    except NotFound:
        return ""


async def _dataset(client: AsyncClient, dataset_id: str, items: Iterable[Annotated]) -> str:
    """A version of a dataset of records that are made here, unless it is there already."""
    if found := await _version(client, dataset_id):
        return found
    dataset = f"{client.parent}/datasets/{dataset_id}"
    with contextlib.suppress(AlreadyExists):  # of a run that was interrupted
        await client.create_dataset(dataset_id)
    await append(client, dataset, items)
    return (await client.commit_version(dataset)).name


async def _evaluate(client: AsyncClient, plan: Plan, judges: Mapping[str, str], *, out: Output) -> Evaluation:
    """Runs the evaluation to its end. Raises FailedPrecondition EVALUATION_FAILED."""
    items = await _items(client, plan)
    spec = {
        "models": list(plan.models.values()),
        "benchmarks": list(_benchmarks(items, judges)),
        "sampling": {"temperature": 1.0, "max_new_tokens": 200},
        "seed": str(plan.seed),
    }
    wanted = ParseDict(spec, evaluation_service_pb2.EvaluationSpec())
    evaluation_view.show_preflight(await client.create_evaluation("", wanted, validate_only=True), out=out)
    made = await client.create_evaluation("", wanted)
    done = await evaluation_view.show_events(client.watch_evaluation(made.name), out=out)
    if done.state != Evaluation.STATE_SUCCEEDED:
        message = f"the evaluation '{done.name}' did not succeed: {done.error.message}"
        raise FailedPrecondition(message, reason="EVALUATION_FAILED", metadata={"name": done.name})
    return done


def _benchmarks(items: Mapping[str, str], judges: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    rating = [{"model": judges["rating"]}]
    yield {"name": "amu", "dataset": items["amu"], "judges": rating, "ablation": REMOVED}
    following = {"name": "instruction_following", "dataset": items["following"]}
    yield {**following, "subtasks": ["t2t", "t2i"], "judges": rating}
    yield {**following, "subtasks": ["t2a", "t2v"], "judges": [{"model": judges["choosing"]}]}
    yield {"name": "selection", "dataset": items["selection"]}
    yield {
        "name": "synergy",
        "dataset": items["selection"],
        "judges": [{"model": judges["synergy"]}],
        "annotated_pairs": items["pairs"],
    }


async def _items(client: AsyncClient, plan: Plan) -> dict[str, str]:
    """The datasets of the benchmark by name, and the annotated pairs, made once."""
    found = {name: await _version(client, plan.named(name)) for name in FOLDERS}
    if not all(found.values()):
        folder = plan.out / "benchmark" / plan.named("items")
        await asyncio.to_thread(write_benchmark, folder, seed=plan.seed, sizes=SMALL if plan.small else None)
        for name, source in FOLDERS.items():
            async for progress in client.import_dataset(plan.named(name), (folder / source).resolve().as_uri()):
                found[name] = progress.dataset_version.name
    pairs = synergy_pairs(SMALL_PAIRS if plan.small else PAIRS, seed=plan.seed, split="test")
    return found | {"pairs": await _dataset(client, plan.named("pairs"), pairs)}


async def _look(client: AsyncClient, found: Evaluation) -> Yardstick:
    """Has the oracle score all answers of an evaluation."""
    yardstick, media = Yardstick(), dict[str, bytes]()
    table = next(stage.dataset for stage in found.stages if stage.stage == "score")
    async for record in client.stream_records(table):
        for sha256 in digests(record) - set(media):
            media[sha256] = await client.get_media(sha256)
        await asyncio.to_thread(yardstick.look, record, media)
    return yardstick


async def _compare(client: AsyncClient, plan: Plan, found: Evaluation) -> dict[str, Any]:
    """How far the aligned model is ahead of the base in each composite, item by item."""
    beside = await client.compare_evaluations(
        found.name, model=plan.models["aligned"], baseline_model=plan.models["base"]
    )
    return {
        one.benchmark: {
            "difference": one.value - one.baseline_value,
            "interval": [one.low, one.high] if one.HasField("low") else None,
            "p_value": one.p_value if one.HasField("p_value") else None,
        }
        for one in beside.comparisons
        if one.benchmark in COMPOSITES and not one.ablation
    }


def _report(found: Evaluation, plan: Plan, yardstick: Yardstick) -> dict[str, Any]:
    """The figures. What was not measured is null."""
    rated, together = yardstick.of(*RATED), [one for one in yardstick.verdicts if one.aspect.startswith("synergy")]
    questions = yardstick.of("question")
    return {
        "evaluation": found.name,
        "seed": plan.seed,
        "models": {
            role: {name: _score(found, name, model=model) for name in COMPOSITES}
            | {"name": model, "by_the_oracle": yardstick.true_means(number)}
            for number, (role, model) in enumerate(plan.models.items(), start=1)
        },
        "ablation": {
            "removed": REMOVED,
            **{
                role: {"amu": _score(found, "amu", model=model, without=REMOVED)} for role, model in plan.models.items()
            },
        },
        "judge": {
            "agreement": agreement(rated, seed=plan.seed)["value"],
            "agreement_interval": agreement(rated, seed=plan.seed)["interval"],
            "pairs": agreement(rated, seed=plan.seed)["pairs"],
            "rank_correlation": correlation(rated),
            "ratings": len(rated),
            "by_aspect": {one: correlation(yardstick.of(one)) for one in sorted(RATED)},
        },
        "choosing": {
            "agreement": sum(one.judged == one.true for one in questions) / len(questions) if questions else None,
            "questions": len(questions),
        },
        "synergy": {
            **_agreement_with_people(found),
            "rank_correlation": correlation(together),
            "scores": len(together),
        },
    }


def _score(found: Evaluation, measure: str, *, model: str, without: str = "") -> dict[str, Any]:
    """A composite of a model with its interval."""
    for score in found.scores:
        if (score.benchmark, score.measure, score.model, score.ablation) == (measure, measure, model, without):
            interval = [score.low, score.high] if score.HasField("low") else None
            return {"value": score.value, "interval": interval, "judged": score.judged}
    return {"value": None, "interval": None, "judged": 0}


def _agreement_with_people(found: Evaluation) -> dict[str, Any]:
    """How often the judge of synergy chose as was annotated, on pairs that it has not learnt from."""
    (score,) = [one for one in found.scores if (one.benchmark, one.measure) == ("synergy", "agreement")]
    interval = [score.low, score.high] if score.HasField("low") else None
    return {"agreement": score.value, "interval": interval, "pairs": score.judged}
