"""What an expression uses: a walk over promql-parser's tree."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import promql_parser


class Use(NamedTuple):
    """A metric in an expression: its name, the labels it is matched by, and the function around its range, if any."""

    metric: str
    labels: tuple[str, ...]
    function: str


def uses(text: str) -> list[Use]:
    """Every metric that an expression uses. Raises ValueError where it does not parse."""
    return list(_walk(promql_parser.parse(text), ""))


def _walk(node: Any, function: str) -> Iterator[Use]:
    match node:
        case promql_parser.VectorSelector():
            yield _use(node, "")
        case promql_parser.MatrixSelector():
            yield _use(node.vector_selector, function)
        case promql_parser.Call():
            for argument in node.args:
                yield from _walk(argument, node.func.name)
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            yield from _walk(node.expr, function)
        case promql_parser.SubqueryExpr():
            yield from _walk(node.expr, function)
        case promql_parser.BinaryExpr():
            yield from _walk(node.lhs, function)
            yield from _walk(node.rhs, function)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return
        case _:
            raise AssertionError(f"unknown part of an expression: {node!r}")


def _use(selector: Any, function: str) -> Use:
    return Use(selector.name, tuple(matcher.name for matcher in selector.matchers.matchers), function)


def selectors(text: str) -> list[str]:
    """The metrics that an expression uses, each as an expression of its own."""
    found: dict[str, None] = {}

    def note(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found[str(node)] = None
        elif isinstance(node, promql_parser.MatrixSelector):
            found[str(node.vector_selector)] = None

    promql_parser.walk(promql_parser.parse(text), note)
    return list(found)
