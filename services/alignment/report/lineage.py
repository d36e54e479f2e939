"""The lineage graph as a drawing: nodes in rows by their distance from the sources, edges between them."""

from collections.abc import Iterable
from dataclasses import dataclass

from omnialign import names as resource_names
from omnialign.v1 import data_service_pb2

NODE_WIDTH, NODE_HEIGHT = 196, 44
COLUMN_GAP, ROW_GAP, MARGIN = 24, 34, 8
NODES_MAX = 40
LABEL_CHARACTERS = 26
KINDS = {
    "datasets": "dataset",
    "models": "model",
    "alignmentJobs": "alignment job",
    "trainingJobs": "training job",
    "records": "record",
}


@dataclass(frozen=True)
class Node:
    """A box. Coordinates are of its upper left corner, in CSS pixels."""

    name: str
    label: str
    kind: str
    x: int
    y: int


@dataclass(frozen=True)
class Link:
    """A line from the lower side of one box to the upper side of another."""

    x1: int
    y1: int
    x2: int
    y2: int
    relation: str


@dataclass(frozen=True)
class Graph:
    """A drawing of known size."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    width: int
    height: int


def kind(name: str) -> str:
    """What a resource name stands for, as people call it."""
    return next((label for key, label in reversed(KINDS.items()) if f"/{key}/" in name), "artefact")


def label(name: str) -> str:
    """The part of a resource name that tells it from others of its kind: `base/1` of `.../models/base/versions/1`."""
    short = resource_names.short_name(name)
    return short if len(short) <= LABEL_CHARACTERS else f"…{short[1 - LABEL_CHARACTERS :]}"


def drawable(edges: Iterable[data_service_pb2.LineageEdge]) -> list[data_service_pb2.LineageEdge]:
    """The edges between whole artefacts, each once: edges of single records would bury the picture."""
    chosen = {(e.source, e.target, e.relation): e for e in edges if "/records/" not in e.source + e.target}
    return list(chosen.values())


def draw(edges: Iterable[data_service_pb2.LineageEdge]) -> Graph:
    """Lays out a graph. Cycles, which lineage should not have, are drawn without looping forever."""
    links = [e for e in drawable(edges) if e.source != e.target]
    names = list(dict.fromkeys(name for e in links for name in (e.source, e.target)))[:NODES_MAX]
    links = [e for e in links if e.source in names and e.target in names]
    rows: dict[int, list[str]] = {}
    for name, depth in _depths(names, links).items():
        rows.setdefault(depth, []).append(name)
    width = max((_row_width(row) for row in rows.values()), default=0) + 2 * MARGIN
    nodes = {
        name: _node(name, depth, column, left=(width - _row_width(row)) // 2)
        for depth, row in rows.items()
        for column, name in enumerate(row)
    }
    lines = [_link(nodes[e.source], nodes[e.target], e.relation) for e in links]
    height = max((node.y + NODE_HEIGHT for node in nodes.values()), default=0) + MARGIN
    return Graph(tuple(nodes.values()), tuple(lines), width, height)


def _row_width(row: list[str]) -> int:
    return len(row) * (NODE_WIDTH + COLUMN_GAP) - COLUMN_GAP


def _depths(names: list[str], links: list[data_service_pb2.LineageEdge]) -> dict[str, int]:
    depths = dict.fromkeys(names, 0)
    for _ in names:  # the longest path without a ring has fewer steps than there are nodes
        before = dict(depths)
        for edge in links:
            depths[edge.target] = min(max(depths[edge.target], depths[edge.source] + 1), len(names) - 1)
        if depths == before:
            break
    return depths


def _node(name: str, depth: int, column: int, *, left: int) -> Node:
    y = MARGIN + depth * (NODE_HEIGHT + ROW_GAP)
    return Node(name, label(name), kind(name), left + column * (NODE_WIDTH + COLUMN_GAP), y)


def _link(source: Node, target: Node, relation: str) -> Link:
    middle = NODE_WIDTH // 2
    return Link(source.x + middle, source.y + NODE_HEIGHT, target.x + middle, target.y, relation)
