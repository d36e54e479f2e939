"""Feedback efficiency (the paper's figure 4, in small): `make bench-feedback`.

Five arms: DPO on annotated binary pairs, and DPO on refinements with a feedback model that learnt from 25, 50, 75 or
100 % of the annotated language feedback. Every arm optimises on the same number of pairs, from the same annotated
records and prompts. Learning rate and SFT weight are tuned for each arm alone, on validation prompts of a seed that is
not reported. Every step is kept on disk, so an interrupted run goes on where it was.
"""

import argparse
import asyncio
import itertools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from benchmarks.feedback_results import write_results
from examples.tinyworld import oracle, recipe
from examples.tinyworld.dataset import Sizes, write
from examples.tinyworld.pretrain import FOLDER
from omnialign.client import AsyncClient
from omnialign.content import media_of
from omnialign.modeling.inputs import pieces
from omnialign.v1 import alignment_service_pb2, record_pb2, refinement_service_pb2, training_service_pb2
from services.embedded import embedded

TUNING_SEED = 1000
GRID = tuple(itertools.product((5e-4, 1e-3, 2e-3), (1.0, 5.0)))


@dataclass(frozen=True)
class Arm:
    """A source of pairs: binary labels, or language feedback learnt from a share of the annotations."""

    name: str
    fraction: float | None


ARMS = (
    Arm("binary 100 %", None),
    Arm("language 25 %", 0.25),
    Arm("language 50 %", 0.5),
    Arm("language 75 %", 0.75),
    Arm("language 100 %", 1.0),
)


@dataclass(frozen=True)
class Plan:
    """Size of the experiment."""

    seeds: Sequence[int]
    num_pairs: int
    sizes: Sizes
    cache: Path


class Bench:
    """One stack with one seed's data: jobs of several arms run on it, the judge is trained once."""

    def __init__(self, client: AsyncClient, *, seed: int, plan: Plan) -> None:
        self.client, self.seed, self.plan = client, seed, plan
        self.dataset = self.base_model = self.judge_model = ""

    async def prepare(self, folder: Path) -> None:
        """Writes and imports the data and registers the base model."""
        write(folder, seed=self.seed, sizes=self.plan.sizes)
        async for progress in self.client.import_dataset(recipe.DATASET_ID, str(folder)):
            self.dataset = progress.dataset_version.name
        self.base_model = (await self.client.register_model(recipe.MODEL_ID, f"file://{FOLDER}")).name

    def spec(self, arm: Arm, learning_rate: float, sft_weight: float) -> alignment_service_pb2.AlignmentSpec:
        """The demo's job with the arm's changes."""
        values = recipe.spec(self.seed, dataset=self.dataset, base_model=self.base_model)
        values["pair_source"] = "PAIR_SOURCE_BINARY" if arm.fraction is None else "PAIR_SOURCE_LANGUAGE_FEEDBACK"
        values |= {"feedback_fraction": arm.fraction or 1.0, "max_pairs": self.plan.num_pairs}
        values |= {"judge_model": self.judge_model}
        values["optimization"]["hyperparameters"] |= {"learning_rate": learning_rate, "sft_weight": sft_weight}
        return ParseDict(values, alignment_service_pb2.AlignmentSpec())

    async def run(self, arm: Arm, learning_rate: float, sft_weight: float) -> alignment_service_pb2.AlignmentJob:
        """Runs one arm's job to its end. Raises RuntimeError if it fails or has too few pairs."""
        job_id = f"arm-{ARMS.index(arm)}"
        await self.client.create_alignment_job(job_id, self.spec(arm, learning_rate, sft_weight))
        job = alignment_service_pb2.AlignmentJob()
        async for event in self.client.watch_alignment_job(f"{self.client.parent}/alignmentJobs/{job_id}"):
            job = event.alignment_job
        if job.state != alignment_service_pb2.AlignmentJob.STATE_SUCCEEDED:
            raise RuntimeError(f"{arm.name}, seed {self.seed}: {job.error.message}")
        pairs = (await self.client.get_dataset(f"{self.client.parent}/datasets/{job_id}-pairs")).record_count
        if pairs != self.plan.num_pairs:
            raise RuntimeError(f"{arm.name}, seed {self.seed}: {pairs} pairs, not {self.plan.num_pairs}")
        self.judge_model = job.models.judge
        return job

    async def optimise(self, job_id: str, name: str, learning_rate: float, sft_weight: float) -> str:
        """Trains once more on a job's pairs with other settings; returns the model."""
        spec = training_service_pb2.TrainingSpec(
            method="dpo",
            base_model=self.base_model,
            dataset=f"{self.client.parent}/datasets/{job_id}-pairs",
            output_model_id=name,
        )
        values = recipe.spec(self.seed, dataset=self.dataset, base_model=self.base_model)
        values["optimization"]["hyperparameters"] |= {"learning_rate": learning_rate, "sft_weight": sft_weight}
        ParseDict(values["optimization"]["hyperparameters"], spec.hyperparameters)
        ParseDict(values["distribution"], spec.distribution)
        job = await self.client.create_training_job(name, spec)
        async for event in self.client.watch_training_job(job.name):
            job = event.training_job
        if not job.model:
            raise RuntimeError(f"{name}: {job.error.message}")
        return job.model

    async def accuracy(self, model: str, split: str) -> float:
        """Share of fully correct answers to a split's prompts, by the oracle."""
        records = [record async for record in self.client.stream_records(self.dataset, splits=[split])]
        answers = await self._answers(model, records)
        verdicts = [await self._correct(record, answers.get(record.id)) for record in records]
        return sum(verdicts) / len(verdicts)

    async def _answers(self, model: str, records: list[record_pb2.Record]) -> dict[str, record_pb2.Response]:
        answers: dict[str, record_pb2.Response] = {}
        for start in range(0, len(records), 64):
            request = refinement_service_pb2.GenerateRequest(model=model)
            request.sampling.temperature = 1.0
            for index, record in enumerate(records[start : start + 64], start):
                request.items.add(id=record.id, prompt=record.prompt, seed=self.seed * 100_003 + index)
            async for result in self.client.generate(request):
                if result.HasField("response"):
                    answers[result.id] = result.response
        return answers

    async def _correct(self, record: record_pb2.Record, answer: record_pb2.Response | None) -> bool:
        if answer is None:
            return False
        digests = {medium.sha256 for medium in media_of([record.prompt, answer.content])}
        media = {digest: await self.client.get_media(digest) for digest in digests}
        feedback = oracle.check(pieces(record.prompt, media), pieces(answer.content, media), record.subtask)
        return oracle.correct(feedback)


async def tune(bench: Bench, arm: Arm) -> dict[str, float]:
    """The best of the grid for one arm on validation prompts."""
    job_id, scores = f"arm-{ARMS.index(arm)}", []
    job = await bench.run(arm, *GRID[0])
    for index, (learning_rate, sft_weight) in enumerate(GRID):
        model = job.models.aligned
        if index:
            model = await bench.optimise(job_id, f"{job_id}-grid-{index}", learning_rate, sft_weight)
        score = await bench.accuracy(model, "validation")
        print(f"tune {arm.name}: rate {learning_rate:g}, SFT weight {sft_weight:g}: {score:.3f}", flush=True)
        scores.append({"learning_rate": learning_rate, "sft_weight": sft_weight, "validation": score})
    return max(scores, key=lambda entry: entry["validation"])


async def outcome(bench: Bench, arm: Arm, settings: dict[str, float]) -> dict[str, Any]:
    """One arm's result for one seed: per subtask, what was correct before and after, prompt by prompt."""
    job = await bench.run(arm, settings["learning_rate"], settings["sft_weight"])
    name = f"{bench.client.parent}/datasets/arm-{ARMS.index(arm)}-evaluation"
    correct: dict[str, list[list[bool]]] = {}
    async for record in bench.client.stream_records(name):
        flags = [record.labels[f"correct_{side}"] == "true" for side in ("base", "aligned")]
        correct.setdefault(record.subtask, []).append(flags)
    kept = {"tried": job.pairs.tried, "kept": job.pairs.kept}
    return {"arm": arm.name, "seed": bench.seed, "pairs": bench.plan.num_pairs, "gate": kept, "correct": correct}


async def experiment(plan: Plan) -> list[dict[str, Any]]:
    """Tunes every arm, then runs every arm for every seed. Steps found in the cache are not repeated."""
    settings: dict[str, dict[str, float]] = {}
    results = []
    for seed in (TUNING_SEED, *plan.seeds):
        with tempfile.TemporaryDirectory(prefix="feedback-efficiency-") as scratch:
            async with embedded(Path(scratch) / "root") as stack, AsyncClient(stack.address) as client:
                bench = Bench(client, seed=seed, plan=plan)
                await bench.prepare(Path(scratch) / "data")
                for arm in ARMS:
                    kept = plan.cache / f"{seed}-{ARMS.index(arm)}.json"
                    if not kept.exists():
                        done = await (
                            tune(bench, arm) if seed == TUNING_SEED else outcome(bench, arm, settings[arm.name])
                        )
                        kept.write_text(json.dumps(done))
                        print(f"done: seed {seed}, {arm.name}", flush=True)
                    if seed == TUNING_SEED:
                        settings[arm.name] = json.loads(kept.read_text())
                    else:
                        results.append({**json.loads(kept.read_text()), "settings": settings[arm.name]})
    return results


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--pairs", type=int, default=100, help="pairs in every arm (default %(default)s)")
    parser.add_argument("--rows", type=int, default=100, help="annotated rows per subtask (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=90, help="prompts to refine per subtask (default %(default)s)")
    parser.add_argument("--test", type=int, default=60, help="evaluation prompts per subtask (default %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("out/experiment"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(train=arguments.rows, prompts=arguments.prompts, validation=arguments.test // 2, test=arguments.test)
    plan = Plan(arguments.seeds, arguments.pairs, sizes, arguments.cache)
    write_results(asyncio.run(experiment(plan)), arguments.out, grid=GRID)


if __name__ == "__main__":
    main()
