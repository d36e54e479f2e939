"""`omnialign data` and `omnialign lineage`: datasets, and what was made from what."""

from __future__ import annotations

import datetime
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnialign.cli import uploads
from omnialign.cli.session import Session, command
from omnialign.cli.uploads import Upload
from omnialign.wording import counted, size_text

if TYPE_CHECKING:
    from omnialign.v1 import data_service_pb2, dataset_pb2


app = typer.Typer(help="Import, show, export, derive, compare and delete datasets.", no_args_is_help=True)

MIN_DAYS = 0.001

Dataset = Annotated[str, typer.Argument(help="Dataset, such as `prompts`, or version, such as `prompts/3`.")]
Subtasks = Annotated[list[str] | None, typer.Option("--subtask", help="Only this subtask; repeatable.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Only this split; repeatable.")]


@app.command("import")
@command
async def import_(
    session: Session,
    dataset: Annotated[str, typer.Argument(help="Id of the dataset; created if it does not exist.")],
    source: Annotated[str, typer.Argument(help="Folder or file in any of the formats of docs/importing.md.")],
    subtask: Annotated[str, typer.Option(help="Subtask of all rows, if not clear from the file name.")] = "",
    split: Annotated[str, typer.Option(help="Split of all rows, if not clear from the file name.")] = "",
    score_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOWEST HIGHEST", help="Worst and best score, if not 0 and 3; scores become 0-3."),
    ] = None,
    winner_labels: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="FIRST SECOND", help="Labels of the first and second response, if not 1 and 2."),
    ] = None,
    answer_labels: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="GOOD BAD", help="Labels of a good and of a bad answer, if not true and false."),
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Leave out this column; repeatable.")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="THEIRS=OURS", help="Read a column by another name; repeatable.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="Format, such as trl, if neither a name nor the columns tell it.")
    ] = "",
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OURS=THEIRS", help="Read OURS from THEIRS, a column or column.field."),
    ] = None,
    mapping: Annotated[Path | None, typer.Option(help="YAML or JSON file with format, map, score_range, ...")] = None,
    references: Annotated[int | None, typer.Option(help="References of an AMU item, if not 10; 0: any number.")] = None,
    append: Annotated[bool, typer.Option("--append", help="Keep what earlier imports of these files gave.")] = False,
    expires_in: Annotated[
        float | None,
        typer.Option(
            min=MIN_DAYS, metavar="DAYS", help="How long a dataset that this creates is kept, if not for ever."
        ),
    ] = None,
    upload: Upload = None,
) -> None:
    """Import files as a new version of a dataset; unusable rows are quarantined and counted by reason.

    A file replaces what an earlier import of it gave: the same path in the source, subtask and split.
    """
    from omnialign.cli.importing import show_import
    from omnialign.cli.mapping import read_mapping, renamed_columns

    told = read_mapping(mapping)
    renamed = renamed_columns(told.get("map", {}), map_ or (), rename or ())
    async with session.client() as client:
        uri = await uploads.server_uri(client, source, session=session, upload=upload, keep_name=True)
        events = client.import_dataset(
            dataset,
            uri,
            subtask=subtask or told.get("subtask", ""),
            split=split or told.get("split", ""),
            score_range=score_range or told.get("score_range"),
            winner_labels=winner_labels or told.get("winner_labels"),
            answer_labels=answer_labels or told.get("answer_labels"),
            ignored_columns=(*(ignore or ()), *told.get("ignore", ())),
            renamed_columns=renamed,
            format=form or told.get("format", ""),
            reference_count=references if references is not None else told.get("references"),
            append=append,
            ttl=None if expires_in is None else datetime.timedelta(days=expires_in),
        )
        await show_import(events, out=session.out)


@app.command()
@command
async def quarantine(
    session: Session,
    dataset: Dataset,
    reason: Annotated[list[str] | None, typer.Option(help="Only rows with this reason; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many rows.")] = 50,
    export: Annotated[Path | None, typer.Option(help="Folder to create with the rows as files to mend.")] = None,
) -> None:
    """List the rows that were set aside, or export them to be mended and imported again with --append."""
    from omnialign import names
    from omnialign.cli import quarantine as rows

    name = session.name("datasets", dataset)
    async with session.client() as client:
        head = names.unversioned(name)
        found = rows.with_reasons(client.stream_quarantine(head), reason or ())
        if export is not None:
            done = await rows.export_rows(found, export)
            session.out.record({"folder": str(export), "rows": done.rows, "left_out": done.left_out})
            session.out.say(
                f"{export}: {counted(done.rows, 'row')}; put their media beside them, mend, import with --append"
            )
            if done.left_out:
                session.out.say(f"left out: {counted(done.left_out, 'row')} whose columns were not kept")
            return
        shown = 0
        async for record in found:
            shown += 1
            if shown > limit:
                session.out.say(f"more than {limit} rows: see --limit, --reason and --export")
                break
            session.out.record(record)
            session.out.say(rows.row_text(record))
    if not shown:
        session.out.say("No rows are set aside.")


@app.command("list")
@command
async def list_(session: Session) -> None:
    """List datasets, newest first."""
    from omnialign import names

    rows = []
    async with session.client() as client:
        async for dataset in client.list_datasets():
            session.out.record(dataset)
            created = dataset.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
            users = ", ".join(map(names.id_of, dataset.users))
            numbers = (dataset.latest_version, dataset.record_count)
            rows.append((names.id_of(dataset.name), *numbers, created, _expiry(dataset), users))
    columns = ("DATASET", "VERSION", "RECORDS", "CREATED (UTC)", "EXPIRES (UTC)", "USED BY")
    session.out.table(columns, rows, empty="No datasets yet.")


@app.command()
@command
async def show(
    session: Session,
    dataset: Dataset,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many records.")] = 5,
    id: Annotated[list[str] | None, typer.Option("--id", help="Only the record with this id; repeatable.")] = None,  # noqa: A002
    subtask: Subtasks = None,
    split: Splits = None,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Show the quarantined rows instead.")] = False,
) -> None:
    """Print records as text, with references to their media."""
    from omnialign import names
    from omnialign.cli import records

    name = session.name("datasets", dataset)
    async with session.client() as client:
        if quarantine:
            stream = client.stream_quarantine(names.unversioned(name))
        else:
            stream = client.stream_records(name, subtasks=subtask or (), splits=split or (), ids=id or (), limit=limit)
        shown = 0
        async for record in stream:
            session.out.record(record)
            session.out.say(records.record_text(record))
            shown += 1
            if shown == limit:
                break
    if not shown:
        session.out.say("No records found.")


@app.command()
@command
async def export(
    session: Session,
    dataset: Dataset,
    folder: Annotated[Path, typer.Argument(help="Folder to create; gets records.jsonl and media/.")],
    subtask: Subtasks = None,
    split: Splits = None,
    media: Annotated[bool, typer.Option(help="Export the media too.")] = True,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            "--columns",
            help="Columns to write instead, with media: align-anything, trl, messages, ms-swift, sharegpt, "
            "llama-factory, rlaif-v, ultrafeedback, helpsteer, helpsteer3, argilla; datasets for Parquet with typed "
            "features, webdataset for tar files of whole records.",
        ),
    ] = "",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="For a large version: the service writes files, and a call that broke goes on."),
    ] = False,
) -> None:
    """Export records as JSON lines and their media as files. The folder appears once it is complete."""
    from omnialign import exporting, names
    from omnialign.cli import export_by_service, export_report

    form = form or exporting.RECORDS
    if form not in exporting.FORMS:
        raise typer.BadParameter(f"'{form}' is none of {', '.join(exporting.FORMS)}")
    name, subtasks, splits = session.name("datasets", dataset), subtask or (), split or ()
    if resume and not names.matches(name, names.DATASET_VERSION):
        raise typer.BadParameter(f"--resume exports a version, such as {dataset}/3, or {dataset}/- for the newest")
    async with session.client() as client:
        if resume:
            done = await export_by_service.export(
                client,
                name,
                folder,
                form=form,
                subtasks=subtasks,
                splits=splits,
                with_media=media,
                out=session.out,
            )
        else:
            stream = client.stream_records(name, subtasks=subtasks, splits=splits)
            done = await exporting.export(stream, folder, form=form, read=client.fetch_media, with_media=media)
    noun = "record" if form == exporting.RECORDS else "row"
    export_report.report(done, folder, out=session.out, noun=noun)


@app.command()
@command
async def expire(
    session: Session,
    dataset: Annotated[str, typer.Argument(help="Dataset, such as `prompts`.")],
    days: Annotated[
        float | None, typer.Option("--in", min=MIN_DAYS, metavar="DAYS", help="How long it is kept from now on.")
    ] = None,
    never: Annotated[bool, typer.Option("--never", help="Keep it for ever.")] = False,
) -> None:
    """Say how long a dataset is kept. Once that is over, it is deleted as soon as no job and no campaign uses it."""
    from omnialign.v1 import dataset_pb2

    if (days is not None) == never:
        raise typer.BadParameter("give --in DAYS or --never")
    wanted = dataset_pb2.Dataset(name=session.name("datasets", dataset))
    if days is not None:
        wanted.ttl.FromTimedelta(datetime.timedelta(days=days))
    async with session.client() as client:
        changed = await client.update_dataset(wanted, ["ttl"])
    session.out.record(changed)
    expiry = _expiry(changed)
    session.out.say(f"{changed.name} expires: {f'{expiry} UTC' if expiry else 'never'}")


@app.command()
@command
async def delete(
    session: Session,
    dataset: Annotated[
        str,
        typer.Argument(help="Dataset, such as `prompts`, with all its versions; or one version, such as `prompts/3`."),
    ],
    force: Annotated[bool, typer.Option("--force", help="Delete it even if something depends on it.")] = False,
) -> None:
    """Delete a dataset or a version. If anything uses it or was made from it, that is listed, and --force is needed.

    Media that nothing else names are removed in time: see `omnialign data gc`.
    """
    from omnialign import names
    from omnialign.cli import dependents

    name = session.name("datasets", dataset)
    async with session.client() as client:
        if names.matches(name, names.DATASET_VERSION):
            await client.delete_dataset_version(name, force=force)
        else:
            await client.get_dataset(name)
            if not force:
                dependents.refuse(name, await dependents.dataset_products(client, name), session=session)
            await client.delete_dataset(name, force=force)
    session.out.record({"deleted": name})
    session.out.say(f"Deleted {name}")


@app.command()
@command
async def gc(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; count what nothing names.")] = False,
) -> None:
    """Remove media that nothing has named for the grace period, as the service does by itself at intervals."""
    from omnialign.cli.follow import last_message

    async with session.client() as client:
        done = client.collect_garbage(dry_run=dry_run)
        last = await last_message(done, out=session.out, doing="looking", text=_collected_text)
    session.out.record(last)
    will = "would" if dry_run else "will"
    freed = f", {size_text(last.freed_bytes)} freed" if last.freed_bytes else ""
    more = f"{last.condemned_count:,} more {will} be removed after the grace period"
    session.out.say(f"{_collected_text(last)}{freed}; {more}")


def _collected_text(done: data_service_pb2.CollectGarbageResponse) -> str:
    return f"{done.examined_count:,} media looked at: {done.removed_count:,} removed"


class Direction(enum.StrEnum):
    """Which way to follow lineage."""

    BOTH = "both"
    SOURCES = "sources"
    PRODUCTS = "products"


@command
async def lineage(
    session: Session,
    name: Annotated[
        str, typer.Argument(help="Full name, or a short one such as models/base/versions/2 or alignmentJobs/demo.")
    ],
    direction: Annotated[
        Direction, typer.Option(help="Follow lineage to sources, to products, or both.")
    ] = Direction.BOTH,
    depth: Annotated[int, typer.Option(min=0, help="Follow at most this many steps; 0 for all.")] = 0,
) -> None:
    """Show what a model, dataset, job or record was made from, and what was made from it."""
    full = name if name.startswith("projects/") else f"projects/{session.project}/{name}"
    number = list(Direction).index(direction)  # same order as in GetLineageRequest.Direction
    async with session.client() as client:
        found = await client.get_lineage(full, direction=number, max_depth=depth)
    session.out.record(found)
    project = f"projects/{session.project}/"
    rows = [(e.source.removeprefix(project), e.relation, e.target.removeprefix(project)) for e in found.edges]
    if rows or not found.records:
        session.out.table(("SOURCE", "RELATION", "PRODUCT"), rows, empty=f"No lineage is recorded for {full}.")
    _show_records(session, found)


def _expiry(dataset: dataset_pb2.Dataset) -> str:
    return f"{dataset.expire_time.ToDatetime():%Y-%m-%d %H:%M}" if dataset.HasField("expire_time") else ""


def _show_records(session: Session, found: data_service_pb2.GetLineageResponse) -> None:
    from omnialign.cli import records

    for appearance in found.records:
        session.out.say(f"in {appearance.dataset}")
        session.out.say(records.record_text(appearance.record))
