"""`make experiment`: tunes every arm, then runs every arm for every seed.

Base, DPO, PPO, DPO+LLF, PPO+LLF, PPO rewarded by the critic, and SDPO, by subtask; and DPO+LLF with 25, 50, 75 and 100
% of the annotated language feedback. Every arm has the same annotated records and prompts, those on pairs the same
number of pairs, those of reinforcement learning the same rollouts. Learning rates are chosen on validation prompts of
a seed that is not reported. Everything is kept on disk, so an interrupted run goes on where it was.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.utils.logging import set_verbosity_error

from benchmarks.experiment.arms import ARMS, Arm, chosen
from benchmarks.experiment.bench import Bench, Plan, opened, say
from benchmarks.experiment.page import write_results
from benchmarks.experiment.policies import train
from benchmarks.experiment.summary import mean_share
from examples.tinyworld import recipe
from examples.tinyworld.dataset import Sizes
from services.embedded import configure_logging

TUNING_SEED = 1000
Found = dict[str, Any]
Work = Callable[[Bench, Arm], Coroutine[Any, Any, Found]]


async def tune(bench: Bench, arm: Arm) -> Found:
    """The best learning rate of an arm on validation prompts; of equal ones, the first."""
    tried = []
    for rate in arm.rates:
        policy = await train(bench, arm, rate)
        verdicts = await bench.correct(policy.model, "validation")
        tried.append({"learning_rate": rate, "validation": mean_share(verdicts)})
    return best(tried)


def best(tried: Sequence[Found]) -> Found:
    """What was tried with the best share, and everything that was tried."""
    return {**max(tried, key=lambda entry: float(entry["validation"])), "tried": list(tried)}


async def outcome(bench: Bench, arm: Arm, settings: Found) -> Found:
    """One arm's result for one seed: which test prompts were answered right, by subtask, and how it was trained."""
    policy = await train(bench, arm, settings.get("learning_rate", 0.0))
    correct = await bench.correct(policy.model, "test")
    return {"arm": arm.name, "seed": bench.seed, "correct": correct, "settings": settings, **policy.facts}


async def run_seed(plan: Plan, seed: int, arms: Sequence[Arm], work: Work) -> dict[str, Found]:
    """What `work` finds for each arm. What is in the cache is not done again."""
    files = {arm.name: plan.folder(seed) / f"{arm.job_id}.json" for arm in arms}
    missing = [arm for arm in arms if not files[arm.name].exists()]
    if missing:
        async with opened(plan, seed) as bench:
            for arm in missing:
                started = time.monotonic()
                found = await work(bench, arm)
                _write(files[arm.name], found)
                say(f"seed {seed}: {arm.name} done, {_in_words(found)}", since=started)
    return {name: json.loads(path.read_text()) for name, path in files.items()}


async def experiment(plan: Plan, seeds: Sequence[int], arms: Sequence[Arm]) -> list[Found]:
    """Tunes, then gives the outcomes of all arms and seeds."""
    settings = await run_seed(plan, TUNING_SEED, [arm for arm in arms if arm.rates], tune)

    async def measure(bench: Bench, arm: Arm) -> Found:
        return await outcome(bench, arm, settings.get(arm.tuned_as or arm.name, {}))

    return [found for seed in seeds for found in (await run_seed(plan, seed, arms, measure)).values()]


def _in_words(found: Found) -> str:
    if "correct" in found:
        return f"{100 * mean_share(found['correct']):.1f} % right"
    tried = ", ".join(f"{one['learning_rate']:g}: {100 * one['validation']:.1f} %" for one in found["tried"])
    return f"tuned to {found['learning_rate']:g} ({tried})"


def _write(path: Path, found: Found) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.rename(path)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument(
        "--arms", nargs="+", default=[], choices=[arm.name for arm in ARMS], metavar="ARM", help="only these arms"
    )
    parser.add_argument("--pairs", type=int, default=100, help="pairs in every arm (default %(default)s)")
    parser.add_argument("--rows", type=int, default=100, help="annotated rows per subtask (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=75, help="training prompts per subtask (default %(default)s)")
    parser.add_argument("--test", type=int, default=60, help="evaluation prompts per subtask (default %(default)s)")
    parser.add_argument("--rollouts", type=int, default=50, help="batches of answers (default %(default)s)")
    parser.add_argument(
        "--small", action="store_true", help="few prompts and steps: shows that everything works, not how well"
    )
    parser.add_argument("--cache", type=Path, default=Path("out/experiment"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    sizes = Sizes(train=given.rows, prompts=given.prompts, validation=given.test // 2, test=given.test)
    plan = Plan(sizes, given.pairs, given.rollouts, given.small, given.cache.resolve())
    if given.small:
        plan = replace(plan, sizes=replace(recipe.SMALL, validation=2), num_pairs=4, rollouts=2)
    plan.keep()
    configure_logging("ERROR")
    set_verbosity_error()
    arms = chosen(given.arms)
    write_results(asyncio.run(experiment(plan, given.seeds, arms)), given.out)


if __name__ == "__main__":
    main()
