"""The leader board: what models reached in evaluations that did the same, side by side with their intervals.

Evaluations whose manifests are alike, models apart, make a board; scores of different boards are never in one table.
Nobody gets a rank: a model whose interval overlaps that of the best may be as good.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omnialign.v1.evaluation_service_pb2 import BenchmarkScore, Evaluation, EvaluationManifest
from services.console.context import Context
from services.console.job_kinds import EVALUATION
from services.console.job_list import found_jobs

EVALUATIONS_READ = 500
LOWER_IS_BETTER = frozenset({"loss", "calibration_error", "order_flip", "undecided"})
"""Measures of which less is better."""
SCORED = "score"
"""The stage whose table has every item with its scores."""
WIDTH = 100.0


@dataclass(frozen=True)
class Column:
    """What is measured, and on which items."""

    benchmark: str
    measure: str
    judge: str
    group: str
    ablation: str
    baseline: str

    @property
    def id(self) -> str:
        """Its name in an address."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]

    @property
    def rising(self) -> bool:
        """Whether less is better."""
        return self.measure in LOWER_IS_BETTER


@dataclass(frozen=True)
class Cell:
    """What a model reached, and in which evaluation."""

    score: BenchmarkScore
    evaluation: Evaluation

    @property
    def low(self) -> float:
        """Lower end of the interval; the value itself, without one."""
        return self.score.low if self.score.HasField("low") else self.score.value

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.score.high if self.score.HasField("high") else self.score.value

    @property
    def items(self) -> str:
        """The table of the items with their scores; empty without one."""
        return next((stage.dataset for stage in self.evaluation.stages if stage.stage == SCORED), "")

    def overlaps(self, other: "Cell") -> bool:
        """Whether the two intervals have a value in common."""
        return self.low <= other.high and other.low <= self.high


@dataclass
class Board:
    """Evaluations that did the same, newest first, with the newest score of each model in each column."""

    id: str
    manifest: EvaluationManifest
    evaluations: list[Evaluation] = field(default_factory=list)
    cells: dict[str, dict[Column, Cell]] = field(default_factory=dict)
    """By model, or by judge where that is what is measured."""

    def add(self, evaluation: Evaluation) -> None:
        """Takes in an evaluation older than those before."""
        self.evaluations.append(evaluation)
        for score in evaluation.scores:
            # A score without a model is about its judge.
            subject, judge = (score.model, score.judge) if score.model else (score.judge, "")
            if subject and score.HasField("value"):
                column = Column(score.benchmark, score.measure, judge, score.group, score.ablation, score.baseline)
                self.cells.setdefault(subject, {}).setdefault(column, Cell(score, evaluation))

    def columns(self, *, group: bool) -> list[Column]:
        """The columns over all items, or those of groups, in the order of the scores."""
        found = dict.fromkeys(column for cells in self.cells.values() for column in cells)
        return [column for column in found if bool(column.group) == group]


@dataclass(frozen=True)
class Row:
    """One model in the order of a column."""

    subject: str
    cells: Mapping[Column, Cell]
    line: Sequence[float]
    """Low, value and high of the sorted column, from 0 to WIDTH; empty without a score."""
    may_be_best: bool
    """Whether its interval overlaps that of the best."""


def leader_board_routes(context: Context) -> list[Route]:
    """The page."""

    async def show(request: Request) -> Response:
        client, asked = context.client(request), request.query_params
        found = await found_jobs(client, kinds=(EVALUATION,), state="succeeded", limit=EVALUATIONS_READ)
        boards = boards_of(one.job for one in found[:EVALUATIONS_READ])
        board = next((one for one in boards if one.id == asked.get("board")), boards[0] if boards else None)
        by_group = "groups" in asked
        columns = board.columns(group=by_group) if board else []
        wanted = [column for column in columns if column.id == asked.get("sort")]
        sorted_by = next(iter(wanted or columns), None)
        rising = {"rising": True, "falling": False}.get(asked.get("order", ""), bool(sorted_by and sorted_by.rising))
        return context.pages.page(
            request,
            "leader_board.html.j2",
            section="evaluations",
            boards=boards,
            board=board,
            columns=columns,
            by_group=by_group,
            has_groups=bool(board and board.columns(group=True)),
            sorted_by=sorted_by,
            rising=rising,
            rows=rows_of(board, sorted_by, rising=rising) if board and sorted_by else [],
            best=best_of(board, sorted_by) if board and sorted_by else None,
        )

    return [Route("/projects/{project}/leader-board", show)]


def boards_of(evaluations: Iterable[Evaluation]) -> list[Board]:
    """The boards of evaluations, which come newest first; those with the newest come first."""
    boards = dict[str, Board]()
    for evaluation in evaluations:
        manifest = EvaluationManifest()
        manifest.CopyFrom(evaluation.manifest)
        for names_of_models in ("models", "modes", "generators"):
            manifest.ClearField(names_of_models)  # type: ignore[arg-type]  # each is a field
        key = hashlib.sha256(manifest.SerializeToString(deterministic=True)).hexdigest()[:12]
        boards.setdefault(key, Board(key, manifest)).add(evaluation)
    return [board for board in boards.values() if board.cells]


def best_of(board: Board, column: Column) -> Cell | None:
    """The best score in a column."""
    cells = [cells[column] for cells in board.cells.values() if column in cells]
    return (min if column.rising else max)(cells, key=lambda cell: cell.score.value, default=None)


def rows_of(board: Board, column: Column, *, rising: bool) -> Sequence[Row]:
    """The models of a board in the order of a column; those without a score there come last."""
    best = best_of(board, column)
    scored = [cells[column] for cells in board.cells.values() if column in cells]
    low, high = min(cell.low for cell in scored), max(cell.high for cell in scored)

    def place(subject: str) -> tuple[bool, float, str]:
        cell = board.cells[subject].get(column)
        value = cell.score.value if cell else math.inf
        return cell is None, value if rising else -value, subject

    def row(subject: str) -> Row:
        cells = board.cells[subject]
        cell = cells.get(column)
        if cell is None or best is None:
            return Row(subject, cells, (), False)
        ends = (cell.low, cell.score.value, cell.high)
        line = [round((value - low) / ((high - low) or 1) * WIDTH, 2) for value in ends]
        return Row(subject, cells, line, cell.overlaps(best))

    return [row(subject) for subject in sorted(board.cells, key=place)]
