"""`omnialign eval`: run, list, show, watch, pause, resume, cancel and delete evaluations, fetch reports, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnialign.cli.session import Session, command

if TYPE_CHECKING:
    from omnialign.client import AsyncClient

app = typer.Typer(help="Evaluate models on benchmarks, and compare them.", no_args_is_help=True)

Evaluation = Annotated[str, typer.Argument(help="Id or full name of the evaluation.")]
COLLECTION = "evaluations"
REQUIRED = ("benchmarks",)


@app.command()
@command
async def run(
    session: Session,
    file: Annotated[Path | None, typer.Argument(help="YAML or JSON file with the fields of EvaluationSpec.")] = None,
    id: Annotated[str, typer.Option("--id", help="Id of the evaluation. Default: the server chooses one.")] = "",  # noqa: A002
    model: Annotated[
        list[str] | None, typer.Option(help="Model under test, such as `base` or `base/2`; may be repeated.")
    ] = None,
    benchmark: Annotated[
        str, typer.Option(help="`amu`, `checkers`, `pairwise`, `multiple_choice`, ...; see docs/evaluation.md.")
    ] = "",
    dataset: Annotated[str, typer.Option(help="Dataset of its items, such as `prompts` or `prompts/3`.")] = "",
    split: Annotated[str, typer.Option(help="Split of its items. Default: test.")] = "",
    checker: Annotated[list[str] | None, typer.Option(help="Program that checks answers; may be repeated.")] = None,
    judge: Annotated[list[str] | None, typer.Option(help="Model that judges; may be repeated.")] = None,
    generator: Annotated[
        list[str] | None,
        typer.Option(help="Makes media for models that write none, as `image=MODEL`; may be repeated."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Of `pairwise`: the model that others are compared with.")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all sampling.")] = None,
    max_items: Annotated[int | None, typer.Option(min=0, help="At most this many items of each benchmark.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask for every answer anew; reuse none of an earlier evaluation.")
    ] = False,
    set: Annotated[list[str] | None, typer.Option("--set", help="Set a field: sampling.temperature=0.7.")] = None,  # noqa: A002
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Run the pre-flight only; create nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the evaluation until it ends.")] = False,
) -> None:
    """Run an evaluation from a file, from options, or from a file with options that override it.

    The options of a benchmark make one; a file may list several.
    """
    from omnialign.cli import evaluation_view, spec
    from omnialign.v1 import evaluation_service_pb2

    values: dict[str, Any] = spec.read_file(file) if file else {}
    generators = [spec.generator(text) for text in generator or []]
    values |= _given(models=model, generators=generators, seed=seed, max_items=max_items, fresh=fresh or None)
    judges = [{"model": name} for name in judge or []]
    one = _given(name=benchmark, dataset=dataset, split=split, checkers=checker, judges=judges, baseline=baseline)
    if one:
        values["benchmarks"] = [one]
    merged = spec.with_settings(values, set or [])
    wanted = spec.build_spec(merged, evaluation_service_pb2.EvaluationSpec, required=REQUIRED)
    async with session.client() as client:
        await spec.pin_evaluation(wanted, client=client, session=session)
        found = await client.create_evaluation(id, wanted, validate_only=validate_only)
        if not watch or validate_only:
            session.out.record(found)
        evaluation_view.show_preflight(found, out=session.out)
        if validate_only:
            session.out.say("The specification is valid. Nothing was created.")
            return
        session.out.say(f"Submitted {found.name}")
        if watch:
            await _watch_to_end(session, client, found.name)


@app.command("list")
@command
async def list_(session: Session) -> None:
    """List evaluations, newest first."""
    from omnialign import names
    from omnialign.cli import job_view

    rows = []
    async with session.client() as client:
        async for found in client.list_evaluations():
            session.out.record(found)
            benchmarks = ", ".join(dict.fromkeys(benchmark.name for benchmark in found.spec.benchmarks))
            created = found.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
            rows.append((names.id_of(found.name), job_view.state(found), benchmarks, len(found.spec.models), created))
    headings = ("EVALUATION", "STATE", "BENCHMARKS", "MODELS", "CREATED (UTC)")
    session.out.table(headings, rows, empty="No evaluations yet.")


@app.command()
@command
async def show(session: Session, evaluation: Evaluation) -> None:
    """Show an evaluation: its stages, its scores and, if it failed, why."""
    from omnialign.cli import evaluation_view

    async with session.client() as client:
        found = await client.get_evaluation(session.name(COLLECTION, evaluation))
    session.out.record(found)
    if session.out.as_json:
        return
    session.out.console.print(evaluation_view.table(found))
    evaluation_view.show_modes(found, out=session.out)
    evaluation_view.show_scores(found, out=session.out)
    if found.error.message:
        session.out.say(f"failed: {found.error.message}")


@app.command()
@command
async def watch(session: Session, evaluation: Evaluation) -> None:
    """Follow an evaluation until it ends. Ctrl-C stops watching; the evaluation continues."""
    async with session.client() as client:
        await _watch_to_end(session, client, session.name(COLLECTION, evaluation))


@app.command()
@command
async def pause(session: Session, evaluation: Evaluation) -> None:
    """Pause an evaluation: it starts no new work; work in progress is finished."""
    await _change_state(session, "pause_evaluation", evaluation)


@app.command()
@command
async def resume(session: Session, evaluation: Evaluation) -> None:
    """Resume a paused evaluation."""
    await _change_state(session, "resume_evaluation", evaluation)


@app.command()
@command
async def cancel(session: Session, evaluation: Evaluation) -> None:
    """Cancel an evaluation at any stage."""
    await _change_state(session, "cancel_evaluation", evaluation)


@app.command()
@command
async def delete(session: Session, evaluation: Evaluation) -> None:
    """Delete an evaluation that has ended, with its events and its report. Its tables stay, and are named."""
    from omnialign.cli import dependents

    name = session.name(COLLECTION, evaluation)
    async with session.client() as client:
        made = await dependents.job_products(client, name)
        await client.delete_evaluation(name)
    session.out.record({"deleted": name, "kept": made})
    session.out.say(f"Deleted {name}" + (f"; kept: {dependents.named(made, session=session)}" if made else ""))


@app.command()
@command
async def report(
    session: Session,
    evaluation: Evaluation,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html and report.json. Default: <evaluation>-report.")
    ] = None,
) -> None:
    """Fetch the report of an evaluation that succeeded, and print its scores."""
    from omnialign import names
    from omnialign.cli import evaluation_view, job_view
    from omnialign.v1.evaluation_service_pb2 import GetEvaluationReportRequest as Format

    name = session.name(COLLECTION, evaluation)
    folder = out or Path(f"{names.id_of(name)}-report")
    async with session.client() as client:
        found = await client.get_evaluation(name)
        data = await client.get_evaluation_report(name, Format.FORMAT_JSON)
        page = await client.get_evaluation_report(name, Format.FORMAT_HTML)
    session.out.record(job_view.save_report(folder, data=data, page=page))
    evaluation_view.show_scores(found, out=session.out)
    session.out.say(f"Report: {(folder / 'report.html').resolve()}")


@app.command()
@command
async def compare(
    session: Session,
    evaluation: Evaluation,
    baseline: Annotated[
        str, typer.Argument(help="Evaluation of the baseline. Default: the same, for two models of one evaluation.")
    ] = "",
    model: Annotated[str, typer.Option(help="Model to compare, if its evaluation has several.")] = "",
    baseline_model: Annotated[str, typer.Option(help="Model to compare it with, if there are several.")] = "",
    allow_unlike: Annotated[
        bool, typer.Option("--allow-unlike", help="Compare even what was measured differently.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for compare.html and compare.json.")] = None,
) -> None:
    """Compare a model with a baseline on the same items: the difference, its interval, and a paired test."""
    from omnialign.cli import evaluation_view, job_view, spec
    from omnialign.v1.evaluation_service_pb2 import GetEvaluationReportRequest as Format

    name = session.name(COLLECTION, evaluation)
    async with session.client() as client:
        wanted: dict[str, Any] = {
            "baseline": session.name(COLLECTION, baseline) if baseline else "",
            "model": await spec.pinned_model(model, client=client, session=session),
            "baseline_model": await spec.pinned_model(baseline_model, client=client, session=session),
            "allow_unlike": allow_unlike,
        }
        found = await client.compare_evaluations(name, **wanted)
        if out is not None:
            data = await client.get_comparison_report(name, Format.FORMAT_JSON, **wanted)
            page = await client.get_comparison_report(name, Format.FORMAT_HTML, **wanted)
            job_view.save_report(out, data=data, page=page, name="compare")
    session.out.record(found)
    evaluation_view.show_comparison(found, out=session.out)
    if out is not None:
        session.out.say(f"Report: {(out / 'compare.html').resolve()}")


def _given(**values: Any) -> dict[str, Any]:
    """The values that were given."""
    return {key: value for key, value in values.items() if value not in ("", None, [])}


async def _watch_to_end(session: Session, client: AsyncClient, name: str) -> None:
    """Follows an evaluation until it ends; exit status 1 if it did not succeed. Ctrl-C stops watching."""
    import asyncio

    from omnialign import names
    from omnialign.cli import evaluation_view, job_view

    try:
        found = await evaluation_view.show_events(client.watch_evaluation(name), out=session.out)
    except asyncio.CancelledError:
        again = f"omnialign eval watch {names.id_of(name)}"
        session.out.complain(f"\nThe evaluation continues; follow it with `{again}`.")
        raise
    if job_view.state(found) != "succeeded":
        why = f": {found.error.message}" if found.error.message else ""
        session.out.complain(f"error: The evaluation {job_view.state(found)}{why}")
        raise typer.Exit(1)
    evaluation_view.show_scores(found, out=session.out)


async def _change_state(session: Session, method: str, evaluation: str) -> None:
    from omnialign.cli import job_view

    async with session.client() as client:
        changed = await getattr(client, method)(session.name(COLLECTION, evaluation))
    session.out.record(changed)
    session.out.say(f"{changed.name} is {job_view.state(changed)}")
