"""`omnialign data` and `omnialign lineage`: datasets, and what was made from what."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnialign.cli import uploads
from omnialign.cli.session import Session, command
from omnialign.cli.uploads import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from omnialign.cli.output import Output
    from omnialign.v1 import data_service_pb2, dataset_pb2


app = typer.Typer(help="Datasets.", no_args_is_help=True)

Dataset = Annotated[str, typer.Argument(help="Dataset, such as prompts, or a version, such as prompts/3.")]
Subtasks = Annotated[list[str] | None, typer.Option("--subtask", help="Only this subtask; may be repeated.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Only this split; may be repeated.")]


@app.command("import")
@command
async def import_(
    session: Session,
    dataset: Annotated[str, typer.Argument(help="Id of the dataset; created when missing.")],
    source: Annotated[str, typer.Argument(help="Folder or file in the schemas of align-anything-200k.")],
    subtask: Annotated[str, typer.Option(help="Subtask of all rows, when the file's name does not tell.")] = "",
    split: Annotated[str, typer.Option(help="Split of all rows, when the file's name does not tell.")] = "",
    upload: Upload = None,
) -> None:
    """Imports files as a new version; rows that cannot be used are set aside and counted by reason."""
    async with session.client() as client:
        uri = await uploads.reachable(client, source, session=session, upload=upload, keep_name=True)
        await show_import(client.import_dataset(dataset, uri, subtask=subtask, split=split), out=session.out)


async def show_import(
    events: AsyncIterator[data_service_pb2.ImportDatasetResponse], *, out: Output
) -> dataset_pb2.DatasetVersion:
    """Shows an import's progress and its result, and returns the new version."""
    last = None
    with out.console.status("importing") if out.is_live else _silence() as status:
        async for last in events:
            out.record(last)
            if status is not None:
                status.update(f"{last.records_imported:,} of {last.rows_read:,} rows imported")
    if last is None:
        from omnialign.errors import Internal

        raise Internal("The import ended without a word.", reason="IMPORT_SILENT")
    counts = ", ".join(f"{name} {number}" for name, number in sorted(last.subtask_counts.items()))
    out.say(f"{last.dataset_version.name}: {last.records_imported} records ({counts})")
    out.say(f"media: {last.media_bytes / 2**20:.1f} MiB; set aside: {last.rows_quarantined} rows")
    for reason, number in sorted(last.quarantine_reasons.items()):
        out.say(f"  {reason}: {number}")
    return last.dataset_version


class _silence:  # noqa: N801  used as a function
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


@app.command("list")
@command
async def list_(session: Session) -> None:
    """Lists datasets, newest first."""
    rows = []
    async with session.client() as client:
        async for dataset in client.list_datasets():
            session.out.record(dataset)
            created = dataset.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
            rows.append((dataset.name.split("/")[-1], dataset.latest_version, dataset.record_count, created))
    session.out.table(("DATASET", "VERSION", "RECORDS", "CREATED (UTC)"), rows, empty="No datasets yet.")


@app.command()
@command
async def show(
    session: Session,
    dataset: Dataset,
    limit: Annotated[int, typer.Option(min=1, help="At most this many records.")] = 5,
    id: Annotated[list[str] | None, typer.Option("--id", help="Only this record; may be repeated.")] = None,  # noqa: A002
    subtask: Subtasks = None,
    split: Splits = None,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Show the rows that were set aside.")] = False,
) -> None:
    """Prints records readably, media as references."""
    from omnialign.cli import records

    name = session.name("datasets", dataset)
    async with session.client() as client:
        if quarantine:
            stream = client.stream_quarantine(name.partition("/versions/")[0])
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
        session.out.say("No such records.")


@app.command()
@command
async def export(
    session: Session,
    dataset: Dataset,
    folder: Annotated[Path, typer.Argument(help="Folder to create, with records.jsonl and media/ in it.")],
    subtask: Subtasks = None,
    split: Splits = None,
    media: Annotated[bool, typer.Option(help="Fetch the media too.")] = True,
) -> None:
    """Writes records as JSON lines and their media as files; the folder appears when it is complete."""
    from omnialign.cli import records

    async with session.client() as client:
        stream = client.stream_records(session.name("datasets", dataset), subtasks=subtask or (), splits=split or ())
        done = await records.export(stream, folder, client=client, with_media=media)
    session.out.record({"folder": str(folder), "records": done.records, "media": done.media})
    session.out.say(f"{folder}: {done.records} records, {done.media} media files")


class Direction(enum.StrEnum):
    """Which way to walk."""

    BOTH = "both"
    SOURCES = "sources"
    PRODUCTS = "products"


@command
async def lineage(
    session: Session,
    name: Annotated[str, typer.Argument(help="Full name, or such as models/base/versions/2, alignmentJobs/demo.")],
    direction: Annotated[Direction, typer.Option(help="Which way to walk.")] = Direction.BOTH,
    depth: Annotated[int, typer.Option(min=0, help="At most this many steps; 0 means all.")] = 0,
) -> None:
    """Walks lineage from a model, dataset, job or record."""
    full = name if name.startswith("projects/") else f"projects/{session.project}/{name}"
    ways = list(Direction).index(direction)  # the order of the enum is that of GetLineageRequest.Direction
    async with session.client() as client:
        found = await client.get_lineage(full, direction=ways, max_depth=depth)
    session.out.record(found)
    project = f"projects/{session.project}/"
    rows = [(e.source.removeprefix(project), e.relation, e.target.removeprefix(project)) for e in found.edges]
    if rows or not found.records:
        session.out.table(("SOURCE", "RELATION", "PRODUCT"), rows, empty=f"No lineage is recorded for {full}.")
    _show_records(session, found)


def _show_records(session: Session, found: data_service_pb2.GetLineageResponse) -> None:
    from omnialign.cli import records

    for appearance in found.records:
        session.out.say(f"in {appearance.dataset}")
        session.out.say(records.record_text(appearance.record))
