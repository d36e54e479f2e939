"""`omnialign data filter`, `split`, `sample`, `merge`, `dedupe`, `diff` and `stats`: operations on whole datasets.

A command that is repeated has the same request id, so that it finishes what an earlier one began, or has its answer.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnialign.cli.data import Dataset, Splits, Subtasks
from omnialign.cli.follow import last_message
from omnialign.cli.session import Session, command
from omnialign.wording import counted, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from omnialign.client import AsyncClient
    from omnialign.v1.data_service_pb2 import DeriveDatasetResponse, GetDatasetStatisticsResponse
    from omnialign.v1.dataset_operations_pb2 import DatasetStatistics, DuplicatePair, SplitShare

app = typer.Typer()

New = Annotated[str, typer.Argument(metavar="NEW", help="Id of the dataset to make.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the random draw.")]
MODALITIES = ("text", "image", "audio", "video")
ON_CONFLICT = ("refuse", "keep-first", "keep-last", "rename")
MARKS = {1: "+", 2: "-", 3: "~"}


@app.command("filter")
@command
async def filter_(
    session: Session,
    dataset: Dataset,
    new: New,
    subtask: Subtasks = None,
    split: Splits = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="Only with text, image, audio or video in it; repeatable.")
    ] = None,
    text: Annotated[str, typer.Option(help="Only with this in prompt, responses or feedback, in any case.")] = "",
    dimension: Annotated[str, typer.Option(help="Only with a score on this dimension.")] = "",
    min_score: Annotated[int | None, typer.Option(min=0, max=3, help="Only with a score of this or more.")] = None,
    max_score: Annotated[int | None, typer.Option(min=0, max=3, help="Only with a score of this or less.")] = None,
) -> None:
    """Make a dataset of the records that meet all conditions."""
    from omnialign.v1.content_pb2 import Modality
    from omnialign.v1.data_service_pb2 import RecordFilter

    if unknown := [name for name in modality or () if name not in MODALITIES]:
        raise typer.BadParameter(f"'{unknown[0]}' is none of {', '.join(MODALITIES)}", param_hint="--modality")
    wanted = RecordFilter(
        subtasks=subtask or (),
        splits=split or (),
        modalities=[Modality.Value(f"MODALITY_{name.upper()}") for name in modality or ()],
        text=text,
        dimension=dimension,
        min_score=min_score,
        max_score=max_score,
    )
    if not wanted.ByteSize():
        raise typer.BadParameter("say which records to keep: see --help")
    await _derive(session, new, [dataset], filter=wanted)


@app.command()
@command
async def split(
    session: Session,
    dataset: Dataset,
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="Id of the dataset to make; DATASET-split if left out.")
    ] = "",
    by: Annotated[str, typer.Option(metavar="NAME=SHARE,...", help="The splits, and their shares.")] = (
        "train=0.9,test=0.1"
    ),
    seed: Seed = 0,
    stable: Annotated[
        bool, typer.Option("--stable", help="Keep each record's split when the dataset grows; shares are approximate.")
    ] = False,
) -> None:
    """Make a dataset in which each record has a split: the same for equal prompts, with the shares in each subtask."""
    from omnialign import names
    from omnialign.v1.dataset_operations_pb2 import Split

    source = session.name("datasets", dataset)
    wanted = Split(shares=shares_of(by), seed=seed, stable=stable)
    await _derive(session, new or f"{names.id_of(names.unversioned(source))}-split", [dataset], split=wanted)


@app.command()
@command
async def sample(
    session: Session,
    dataset: Dataset,
    new: New,
    count: Annotated[int, typer.Option(min=1, help="Number of records.")],
    seed: Seed = 0,
) -> None:
    """Make a dataset of records drawn at random; with the same seed, a smaller sample is part of a larger one."""
    from omnialign.v1.dataset_operations_pb2 import Sample

    await _derive(session, new, [dataset], sample=Sample(count=count, seed=seed))


@app.command()
@command
async def merge(
    session: Session,
    datasets: Annotated[list[str], typer.Argument(help="Datasets or versions, such as `a b/3`.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Id of the dataset to make.")],
    on_conflict: Annotated[
        str, typer.Option(help="Different records with the same id: refuse, keep-first, keep-last or rename.")
    ] = ON_CONFLICT[0],
) -> None:
    """Make a dataset of the records of several; each gets the label `merged_from`."""
    from omnialign.v1.dataset_operations_pb2 import Merge

    if on_conflict not in ON_CONFLICT:
        raise typer.BadParameter(f"'{on_conflict}' is none of {', '.join(ON_CONFLICT)}", param_hint="--on-conflict")
    place = ON_CONFLICT.index(on_conflict)  # same order as in Merge.OnConflict
    await _derive(session, output, datasets, merge=Merge(on_conflict=Merge.OnConflict.ValueType(place)))


@app.command()
@command
async def dedupe(
    session: Session,
    dataset: Dataset,
    new: New,
    near: Annotated[bool, typer.Option("--near", help="Remove near duplicates too.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.5, max=1, help="Least similarity of near duplicates; 0.9 for texts, 0.95 for media."),
    ] = None,
    prompts_only: Annotated[bool, typer.Option("--prompts-only", help="Compare prompts alone.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="List at most this many pairs.")] = 20,
) -> None:
    """Make a dataset without duplicates: of equal records that with the first id stays. Lists which repeats which."""
    from omnialign.v1.dataset_operations_pb2 import Deduplication

    if threshold is not None and not near:
        raise typer.BadParameter("is for near duplicates: add --near", param_hint="--threshold")
    wanted = Deduplication(near=near, threshold=threshold, prompts_only=prompts_only)
    await _derive(session, new, [dataset], pairs_shown=limit, deduplication=wanted)


@app.command()
@command
async def diff(
    session: Session,
    dataset: Dataset,
    other: Annotated[str, typer.Argument(help="Dataset or version to compare with.")],
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="List at most this many differences.")] = 50,
) -> None:
    """List the records that differ: `+` only in the other one, `-` only in the first, `~` in both, with the fields."""
    from omnialign import names

    one, two = session.name("datasets", dataset), session.name("datasets", other)
    found, listed = None, 0
    async with session.client() as client:
        async for found in client.compare_datasets(one, two, limit=limit):
            for difference in found.differences:
                listed += 1
                session.out.record(difference)
                fields = f"  {', '.join(difference.fields)}" if difference.fields else ""
                session.out.say(f"{MARKS[difference.kind]} {difference.id}{fields}".replace("\n", "\\n"))
    assert found is not None  # the counts come in any case
    counts = {
        "added": found.added_count,
        "removed": found.removed_count,
        "changed": found.changed_count,
        "equal": found.equal_count,
    }
    differing = found.added_count + found.removed_count + found.changed_count
    if differing > listed:
        session.out.say(f"... and {differing - listed:,} more: see --limit")
    session.out.record(counts)
    words = ", ".join(f"{count:,} {word}" for word, count in counts.items())
    session.out.say(f"{names.short_name(one)} → {names.short_name(two)}: {words}")


@app.command()
@command
async def stats(
    session: Session,
    dataset: Dataset,
    page: Annotated[Path | None, typer.Option(help="HTML file to write, with plots.")] = None,
) -> None:
    """Show statistics of a dataset or version: subtasks, lengths, media, ratings, duplicates."""

    def text(found: GetDatasetStatisticsResponse) -> str:
        return f"{found.records_read:,} of {found.record_count:,} records read"

    async with session.client() as client:
        found = client.get_dataset_statistics(session.name("datasets", dataset), with_page=page is not None)
        last = await last_message(found, out=session.out, doing="reading", text=text)
    session.out.record(last.statistics)
    for line in statistics_lines(last.statistics):
        session.out.say(line)
    if page is not None:
        from omnialign.cli.state import replace_file

        replace_file(page, last.page)
        session.out.say(f"page: {page}")


def statistics_lines(found: DatasetStatistics) -> Iterator[str]:
    """The statistics for a terminal."""
    yield f"records: {found.record_count:,} ({_counts_text(found.subtask_counts)})"
    yield f"splits: {_counts_text(found.split_counts)}"
    yield f"duplicates: {counted(found.duplicate_count, 'record')}, {counted(found.repeated_prompt_count, 'prompt')}"
    if found.continued_count:
        records = counted(found.continued_count, "record")
        yield f"messages before prompts: {found.history_message_count:,} in {records}"
    yield f"responses: {found.response_count:,}, {found.critique_count:,} with a critique"
    for what, one in (
        ("prompts", found.prompt_characters),
        ("messages before prompts", found.history_characters),
        ("responses", found.response_characters),
        ("critiques", found.critique_characters),
    ):
        if one.count:
            yield f"characters of {what}: median {one.median:,}, 90 % up to {one.percentile_90:,}, at most {one.most:,}"
    for kind in found.media_types:
        objects = f"{counted(kind.object_count, 'object')}, {size_text(kind.size_bytes)}"
        yield f"{kind.mime_type}: {objects}, shown {counted(kind.use_count, 'time')}"
    for dimension, scores in sorted(found.scores.items()):
        yield f"scores of {dimension}, from 0 to 3: " + ", ".join(f"{count:,}" for count in scores.counts)
    if found.preferences.first or found.preferences.second:
        preferred = found.preferences
        yield f"preferred: first {preferred.first:,}, second {preferred.second:,}, none {preferred.none:,}"
    if found.verdict_counts:
        yield f"verdicts: {_counts_text(found.verdict_counts)}"
    for agreement in found.agreements:
        alpha = f"{agreement.alpha:.2f}" if agreement.HasField("alpha") else "none"
        equal = f"equal {agreement.equal_share:.0%} of {agreement.item_count:,}"
        yield f"agreement on {agreement.what}: alpha {alpha}, {equal}"


def _counts_text(counts: Mapping[str, int]) -> str:
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{name or 'none'} {count:,}" for name, count in ranked)


def shares_of(text: str) -> list[SplitShare]:
    """`train=0.9,test=0.1` as shares. Raises typer.BadParameter."""
    from omnialign.v1.dataset_operations_pb2 import SplitShare

    shares = list[SplitShare]()
    for one in text.split(","):
        name, _, share = one.strip().partition("=")
        try:
            shares.append(SplitShare(split=name.strip(), share=float(share)))
        except ValueError:
            problem = f"'{one}' is not NAME=SHARE, such as train=0.9"
            raise typer.BadParameter(problem, param_hint="--by") from None
    return shares


async def _derive(
    session: Session, new: str, datasets: Sequence[str], *, pairs_shown: int = 0, **operation: Any
) -> None:
    """Runs an operation, shows its progress and the duplicates that it finds, and says what was made."""
    (kind, wanted), listed = next(iter(operation.items())), 0

    def text(progress: DeriveDatasetResponse) -> str:
        return f"{progress.records_read:,} of {progress.records_to_read:,} records read"

    def see(progress: DeriveDatasetResponse) -> None:
        nonlocal listed
        session.out.record(progress)
        for pair in progress.duplicates[: pairs_shown - listed]:
            session.out.say(_pair_text(pair))
            listed += 1

    async with session.client() as client:
        sources = [await _version(client, session.name("datasets", one)) for one in datasets]
        body = "\n".join((session.project, new, *sources, kind, wanted.SerializeToString(deterministic=True).hex()))
        request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, body))
        events = client.derive_dataset(new, sources, request_id=request_id, **operation)
        last = await last_message(events, out=session.out, doing=kind, text=text, see=see)
    if pairs_shown and last.duplicate_count > listed:
        session.out.say(f"... and {last.duplicate_count - listed:,} more: see --limit")
    _show(session, last)


async def _version(client: AsyncClient, name: str) -> str:
    """The name with a number: a command that is repeated after a new version is another one."""
    from omnialign import names

    wanted = name if names.matches(name, names.DATASET_VERSION) else f"{name}/versions/{names.NEWEST}"
    return (await client.get_dataset_version(wanted)).name


def _show(session: Session, last: DeriveDatasetResponse) -> None:
    from omnialign import names

    sources = ", ".join(names.short_name(source) for source in last.sources)
    made = f"{counted(last.records_written, 'record')} of {sources}"
    again = "" if last.records_to_read else "; the same command made it before"
    session.out.say(f"{last.dataset_version.name}: {made}{again}")
    for name, count in sorted(last.split_counts.items()):
        session.out.say(f"{name}: {counted(count, 'record')}")
    if last.duplicate_count:
        session.out.say(f"duplicates removed: {last.duplicate_count:,}")
    if last.unread_media_count:
        session.out.say(f"media compared by their bytes alone, as they cannot be read: {last.unread_media_count:,}")
    if last.conflict_count:
        session.out.say(f"different records with one id: {last.conflict_count:,}")


def _pair_text(pair: DuplicatePair) -> str:
    from omnialign.content import NAMES

    how = "the same" if pair.exact else f"near, {NAMES[pair.differs_most]} differs by {pair.distance:.3f}"
    more = "; annotated differently" if pair.annotated_differently else ""
    return f"{pair.removed_id} repeats {pair.kept_id}: {how}{more}".replace("\n", "\\n")
