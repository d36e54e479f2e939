"""`omnialign annotate`: campaigns, and the tasks of their annotators with a form as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnialign.cli import annotate_files, drafts
from omnialign.cli.session import Session, command
from omnialign.wording import counted

if TYPE_CHECKING:
    from omnialign.v1.annotation_service_pb2 import Campaign, CampaignProgress, GetAgreementResponse, Item, Priority

app = typer.Typer(help="Annotate pairs, and make datasets of what people say of them.", no_args_is_help=True)
app.command("draft")(drafts.draft)
app.add_typer(drafts.app, name="drafts")

COLLECTION = "campaigns"
QUALITY = "quality"

CampaignName = Annotated[str, typer.Argument(help="Id or full name of the campaign.")]
TaskName = Annotated[str, typer.Argument(help="Full name of the task, as `next` prints it.")]
Form = Annotated[Path, typer.Argument(help="The form that `next` wrote.")]
Person = Annotated[
    str, typer.Option("--as", help="Who you are; only for a server without tokens.", envvar="OMNIALIGN_ANNOTATOR")
]
Reason = Annotated[str, typer.Option(help="Why.")]


@app.command()
@command
async def create(
    session: Session,
    dataset: Annotated[
        str, typer.Argument(help="Dataset version of the pairs, such as `pairs/3`; `pairs` is its newest.")
    ],
    id: Annotated[str, typer.Option("--id", help="Id of the campaign. Default: the server chooses one.")] = "",  # noqa: A002
    title: Annotated[str, typer.Option(help="What it is, for people.")] = "",
    instructions: Annotated[Path | None, typer.Option(help="File with what annotators must know.")] = None,
    annotator: Annotated[
        list[str] | None, typer.Option(help="Who may annotate; may be repeated. Default: everyone with the role.")
    ] = None,
    overlap: Annotated[int, typer.Option(min=1, max=20, help="Annotations of each pair, by different people.")] = 1,
    first: Annotated[
        list[str] | None,
        typer.Option(help="What comes first: a label, `KEY` or `KEY=VALUE`, or `quality`; may be repeated."),
    ] = None,
    quality_label: Annotated[str, typer.Option(help="Label of records whose preference is a known answer.")] = "",
    lease_minutes: Annotated[
        int, typer.Option(min=1, max=10080, help="How long a pair is kept for somebody who saves nothing.")
    ] = 30,
    start_from: Annotated[
        str, typer.Option(help="Model with whose drafts annotators start, such as `judge@2` or an `openai+` address.")
    ] = "",
    keep_sides: Annotated[
        bool, typer.Option("--keep-sides", help="Show the responses in the record's order, not in one of chance.")
    ] = False,
) -> None:
    """Make a campaign over the pairs of a dataset version."""
    from omnialign import names
    from omnialign.v1.annotation_service_pb2 import Campaign

    version = session.name("datasets", dataset)
    if names.matches(version, names.DATASET):
        version = f"{version}/versions/{names.NEWEST}"
    wanted = Campaign(
        display_name=title,
        dataset_version=version,
        instructions=text_of(instructions) if instructions else "",
        annotators=annotator or [],
        overlap=overlap,
        priorities=[priority_of(text) for text in first or []],
        quality_label=quality_label,
        lease_seconds=60 * lease_minutes,
        keep_sides=keep_sides,
    )
    async with session.client() as client:
        wanted.start_from = await drafts.model_named(start_from, client=client, session=session)
        made = await client.create_campaign(id, wanted)
    session.out.record(made)
    counts = made.progress
    session.out.say(f"Made {made.name}: {size_of(counts)}.")
    if counts.left_out_count:
        session.out.say(f"Left out: {counted(counts.left_out_count, 'record')} without two responses.")


@app.command("list")
@command
async def list_(session: Session) -> None:
    """List campaigns, newest first."""
    from omnialign import names

    rows = []
    async with session.client() as client:
        async for found in client.list_campaigns():
            session.out.record(found)
            created = found.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
            rows.append((names.id_of(found.name), names.short_name(found.dataset_version), found.overlap, created))
    session.out.table(("CAMPAIGN", "PAIRS OF", "OVERLAP", "CREATED (UTC)"), rows, empty="No campaigns yet.")


@app.command()
@command
async def show(session: Session, campaign: CampaignName) -> None:
    """Show a campaign and how far it is."""
    async with session.client() as client:
        found = await client.get_campaign(session.name(COLLECTION, campaign))
    session.out.record(found)
    session.out.table(("COUNT", "OF"), _progress(found), empty="")
    if found.state == found.STATE_CLOSED:
        session.out.say("It is closed: nothing is given out or submitted.")
    for rubric in found.rubrics:
        session.out.say(f"{rubric.subtask}: {', '.join(dimension.name for dimension in rubric.dimensions)}")


@app.command("next")
@command
async def next_(
    session: Session,
    campaign: CampaignName,
    form: Annotated[Path, typer.Option(help="File to write the form to.")] = Path("annotation.yaml"),
    person: Person = "",
) -> None:
    """Take your next pair: it is printed, and its form written to a file."""
    from omnialign.cli import annotation_form, records

    async with session.client() as client:
        answer = await client.lease_task(session.name(COLLECTION, campaign), annotator=person)
    if not answer.HasField("task"):
        session.out.record(answer)
        held = answer.held_by_others_count
        session.out.say(f"No pair is free for you; others hold {held}." if held else "Nothing is left for you.")
        return
    annotation_form.write(form, answer.task)
    session.out.record(answer.task)
    session.out.say(records.record_text(answer.task.record).rstrip())
    until = answer.task.lease_expire_time.ToDatetime().strftime("%H:%M")
    session.out.say(f"{answer.task.name} is yours until {until} UTC; fill in {form}.")


@app.command()
@command
async def submit(
    session: Session,
    form: Form,
    draft: Annotated[bool, typer.Option("--draft", help="Only keep what is written so far, and the pair.")] = False,
    accept_rest: Annotated[
        bool, typer.Option("--accept-rest", help="Accept what is unchanged of the model's draft that it began with.")
    ] = False,
    person: Person = "",
) -> None:
    """Submit a filled form, which is final; with --draft, keep it for later."""
    from omnialign.cli import annotation_form
    from omnialign.v1.annotation_service_pb2 import Task

    name, revision, annotation = annotation_form.read(form)
    if accept_rest:
        annotation_form.accept_rest(annotation)
    async with session.client() as client:
        if draft:
            task = await client.save_draft(name, annotation, revision=revision, annotator=person)
        else:
            task = await client.submit_task(name, annotation, revision=revision, annotator=person)
    session.out.record(task)
    if draft:
        annotation_form.set_revision(form, task.revision)
        lost = " Somebody else has the pair now." if task.state == Task.STATE_LOST else ""
        session.out.say(f"Kept as a draft.{lost}")
    else:
        session.out.say(f"Submitted {task.name}; {form} can go.")


@app.command()
@command
async def skip(session: Session, task: TaskName, reason: Reason, person: Person = "") -> None:
    """Give a pair to others; you do not get it again."""
    async with session.client() as client:
        session.out.record(await client.skip_task(task, reason, annotator=person))
    session.out.say(f"Skipped {task}")


@app.command()
@command
async def flag(session: Session, task: TaskName, reason: Reason, person: Person = "") -> None:
    """Set a pair aside until somebody decides about it."""
    async with session.client() as client:
        session.out.record(await client.flag_task(task, reason, annotator=person))
    session.out.say(f"Flagged {task}")


@app.command()
@command
async def items(
    session: Session,
    campaign: CampaignName,
    only: Annotated[str, typer.Option(help="answered, disagreements, flagged or adjudicated. Default: all.")] = "",
) -> None:
    """List the pairs of a campaign with who said what."""
    from omnialign import names
    from omnialign.v1.annotation_service_pb2 import ListItemsRequest

    kinds = {name.removeprefix("FILTER_").lower(): number for name, number in ListItemsRequest.Filter.items()}
    which = kinds.get(only or "unspecified")
    if which is None:
        raise typer.BadParameter(f"'{only}' is none of answered, disagreements, flagged and adjudicated")
    rows = []
    async with session.client() as client:
        async for item in client.list_items(session.name(COLLECTION, campaign), which):
            session.out.record(item)
            rows.append((names.id_of(item.name), item.record_id, _votes(item), _decision(item)))
    session.out.table(("ITEM", "RECORD", "ANSWERS", "DECISION"), rows, empty="No such pairs.")


@app.command()
@command
async def agreement(session: Session, campaign: CampaignName) -> None:
    """Tell how far annotators agree, and how well they know the quality items."""
    async with session.client() as client:
        found = await client.get_agreement(session.name(COLLECTION, campaign))
    session.out.record(found)
    session.out.table(
        ("DIMENSION", "ALPHA OF SCORES", "ALPHA OF WINNERS"), _alphas(found), empty="Nothing to compare yet."
    )
    people = [
        (
            one.annotator,
            one.submitted_count,
            one.skipped_count,
            one.flagged_count,
            _share(one.quality_right_count, one.quality_count),
        )
        for one in found.annotators
    ]
    session.out.table(("ANNOTATOR", "SUBMITTED", "SKIPPED", "FLAGGED", "QUALITY"), people, empty="Nobody yet.")
    if found.HasField("pairwise_agreement"):
        share = f"{found.pairwise_agreement:.0%} of {counted(found.pair_count, 'comparison')}"
        session.out.say(f"Two annotators prefer the same response in {share}.")
    if found.HasField("first_shown_share"):
        session.out.say(f"{found.first_shown_share:.0%} of the annotations prefer the response that was shown first.")


@app.command()
@command
async def adjudicate(
    session: Session,
    campaign: CampaignName,
    item: Annotated[str, typer.Argument(help="Number of the pair, as `items` prints it.")],
    reason: Reason,
    annotator: Annotated[str, typer.Option(help="Whose answer counts.")] = "",
    form: Annotated[Path | None, typer.Option(help="A filled form with an answer of your own.")] = None,
    leave_out: Annotated[bool, typer.Option("--leave-out", help="Do not commit the pair.")] = False,
    person: Person = "",
) -> None:
    """Decide about a pair: by somebody's answer, by your own, or to leave it out."""
    from omnialign.cli import annotation_form
    from omnialign.v1.annotation_service_pb2 import Adjudication

    if sum(map(bool, (annotator, form, leave_out))) != 1:
        raise typer.BadParameter("give one of --annotator, --form and --leave-out")
    if form:
        decision = Adjudication(annotation=annotation_form.read(form)[2], reason=reason)
    else:
        decision = (
            Adjudication(annotator=annotator, reason=reason)
            if annotator
            else Adjudication(left_out=True, reason=reason)
        )
    name = f"{session.name(COLLECTION, campaign)}/items/{item}"
    async with session.client() as client:
        session.out.record(await client.adjudicate_item(name, decision, adjudicator=person))
    session.out.say(f"Decided about {name}")


@app.command()
@command
async def commit(
    session: Session,
    campaign: CampaignName,
    dataset: Annotated[str, typer.Option(help="Id of the dataset to write. Default: that of the campaign.")] = "",
) -> None:
    """Write the pairs that are decided as a new version of a dataset."""
    async with session.client() as client:
        done = await client.commit_campaign(session.name(COLLECTION, campaign), dataset_id=dataset)
    session.out.record(done)
    session.out.say(f"Committed {counted(done.committed_count, 'pair')} as {done.dataset_version.name}")
    left = {"still open": done.open_count, "undecided": done.undecided_count, "set aside": done.set_aside_count}
    if any(left.values()):
        session.out.say("Left out: " + ", ".join(f"{count} {why}" for why, count in left.items() if count) + ".")


app.command("export")(annotate_files.export)
app.command("import")(annotate_files.import_)


@app.command()
@command
async def delete(session: Session, campaign: CampaignName) -> None:
    """Delete a campaign with its drafts and answers; dataset versions that it made stay."""
    name = session.name(COLLECTION, campaign)
    async with session.client() as client:
        await client.delete_campaign(name)
    session.out.record({"name": name})
    session.out.say(f"Deleted {name}")


def size_of(counts: CampaignProgress) -> str:
    """How many pairs a campaign has, and for how many annotations."""
    return f"{counted(counts.item_count, 'pair')} with {counted(counts.seat_count, 'seat')}"


def priority_of(text: str) -> Priority:
    """What `--first` says."""
    from omnialign.v1.annotation_service_pb2 import LabelMatch, Priority

    if text == QUALITY:
        return Priority(quality_items=True)
    key, _, value = text.partition("=")
    return Priority(label=LabelMatch(key=key, value=value))


def text_of(path: Path) -> str:
    """The instructions in a file. Raises InvalidArgument INSTRUCTIONS_UNREADABLE."""
    from omnialign.errors import InvalidArgument

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        message = f"The instructions '{path}' cannot be read: {error}."
        raise InvalidArgument(message, reason="INSTRUCTIONS_UNREADABLE", metadata={"path": str(path)}) from error


def _progress(campaign: Campaign) -> list[tuple[int, str]]:
    counts = campaign.progress
    return [
        (counts.item_count, f"pairs, with {counted(counts.quality_item_count, 'quality item')}"),
        (counts.submitted_count, f"annotations submitted, of {counts.seat_count}"),
        (counts.leased_count, "pairs at work"),
        (counts.skipped_count, "times skipped"),
        (counts.flagged_count, "pairs set aside"),
        (counts.disagreement_count, "disagreements to decide"),
        (counts.adjudicated_count, "pairs adjudicated"),
    ]


def _votes(item: Item) -> str:
    from omnialign.v1.annotation_service_pb2 import Task

    words = {Task.STATE_SKIPPED: "skipped", Task.STATE_FLAGGED: "flagged"}
    return ", ".join(f"{one.annotator}: {words.get(one.state) or one.annotation.preferred}" for one in item.answers)


def _decision(item: Item) -> str:
    kind = item.adjudication.WhichOneof("decision")
    decisions: dict[Any, str] = {
        None: "flagged" if item.flagged else "",
        "annotator": f"as {item.adjudication.annotator}",
        "annotation": f"prefers {item.adjudication.annotation.preferred}",
        "left_out": "left out",
    }
    return decisions[kind]


def _alphas(found: GetAgreementResponse) -> list[tuple[str, str, str]]:
    def shown(message: Any, field: str) -> str:
        return f"{getattr(message, field):.2f}" if message.HasField(field) else "–"

    rows = [(one.dimension, shown(one, "score_alpha"), shown(one, "winner_alpha")) for one in found.dimensions]
    return [*rows, ("(preferred)", "–", shown(found, "preferred_alpha"))] if rows else []


def _share(right: int, count: int) -> str:
    return f"{right} of {count}" if count else "–"
