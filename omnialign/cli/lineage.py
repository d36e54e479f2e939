"""`omnialign lineage`: what an artefact was made from, and what was made from it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from omnialign.cli.session import Session, command

if TYPE_CHECKING:
    from omnialign.v1 import data_service_pb2


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
    from omnialign.cli import reading

    for appearance in found.records:
        session.out.say(f"in {appearance.dataset}")
        session.out.say(reading.record_text(appearance.record))
