"""`make eval-demo`: the demo's model before and after alignment on the tiny world's eval-anything.

It opens the state of a finished demo, where the judges that it trains stay. OUT/report.json has the figures,
OUT/evaluation.html the page of the evaluation, and OUT/evaluation.json its own report.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from examples.tinyworld import recipe
from examples.tinyworld.evaluation import COMPOSITES, REMOVED, ROLES, Plan, evaluate
from omnialign import names
from omnialign.cli import embedded
from omnialign.cli.output import Output
from omnialign.cli.session import run_guarded
from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, NotFound


def newest_state(demo: Path) -> Path:
    """The state of the newest run of a demo. Raises FailedPrecondition DEMO_MISSING."""
    states = sorted(demo.glob("runs/*/state"))
    if not states:
        message = f"There is no finished demo in '{demo}'; run `make demo`, or name another folder with --demo."
        raise FailedPrecondition(message, reason="DEMO_MISSING", metadata={"folder": str(demo)})
    return states[-1]


async def demo_models(client: AsyncClient, state: Path) -> dict[str, str]:
    """The two models of the demo that has its state there. Raises FailedPrecondition DEMO_NOT_FINISHED."""
    name = names.format_name(names.ALIGNMENT_JOB, project=client.parent.rpartition("/")[2], alignment_job=recipe.JOB_ID)
    try:
        models = (await client.get_alignment_job(name)).models
    except NotFound:
        models = None
    if models is None or not models.aligned:
        message = f"The demo in '{state}' has not finished; continue it with `omnialign up --root {state}`."
        raise FailedPrecondition(message, reason="DEMO_NOT_FINISHED", metadata={"folder": str(state)})
    return {role: str(getattr(models, role)) for role in ROLES}


async def run(demo: Path, folder: Path, *, seed: int, small: bool, out: Output) -> None:
    """Opens the state of the newest run of a demo, evaluates its models and shows the report."""
    state = newest_state(demo)
    services = embedded.load_embedded()
    services.configure_logging("WARNING")
    async with services.embedded(state) as stack, AsyncClient(stack.address) as client:
        models = await demo_models(client, state)
        report = await evaluate(client, Plan(models, folder, seed=seed, small=small), out=out)
    show(report, folder=folder, out=out)


def show(report: Mapping[str, Any], *, folder: Path, out: Output) -> None:
    """Prints the table of both models, how far the judges can be trusted, and where the files are."""
    out.record(report)
    rows = [(role, *(_cell(report["models"][role][name]) for name in COMPOSITES)) for role in ROLES]
    rows += [(f"{role} without {REMOVED}", _cell(report["ablation"][role]["amu"]), "", "") for role in ROLES]
    out.table(("MODEL", "AMU", "AMG", "OVERALL"), rows, empty="")
    judge, together = report["judge"], report["synergy"]
    out.say(
        f"The judge orders {_share(judge['agreement'])} of {judge['pairs']} pairs of answers as the oracle does; its "
        f"{judge['ratings']} ratings have a rank correlation of {_number(judge['rank_correlation'])} with the oracle's."
    )
    out.say(f"The judge of synergy agrees with {_share(together['agreement'])} of {together['pairs']} annotated pairs.")
    seconds = report["seconds"]
    trained = ", ".join(f"{name} {took or 0:.0f} s" for name, took in seconds["judges"].items())
    out.say(f"The evaluation took {seconds['evaluation']:.0f} s, training the judges, once, {trained}.")
    out.say(f"Report: {(folder / 'report.json').resolve()}\nPage: {(folder / 'evaluation.html').resolve()}")


def _cell(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "–"
    low, high = score["interval"] or (score["value"], score["value"])
    return f"{score['value']:.2f} ({low:.2f} to {high:.2f})"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def main(
    demo: Annotated[Path, typer.Option(help="Folder of a finished demo.")] = Path("out/demo"),
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out/eval"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the items, the judges and all sampling.")] = 0,
    small: Annotated[bool, typer.Option(help="A smoke test of few items and steps: its numbers say nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Evaluate the demo's model before and after alignment, and the judges themselves by the oracle."""
    output = Output(as_json=json)
    run_guarded(lambda: run(demo, out, seed=seed, small=small, out=output), out=output)


if __name__ == "__main__":
    typer.run(main)
