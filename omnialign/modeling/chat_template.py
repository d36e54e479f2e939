"""Chat templates within limits: they are programs of whoever published a model, and run in our processes.

The sandbox of Jinja, which `transformers` uses, keeps a template from reading what is not its own. It does not keep it
from computing for ever: `n ** (n ** n)`, loops within loops, a text that doubles itself. Nothing can stop a thread from
outside, so the template stops itself:

- every pass of a loop, call, filter and comparison costs steps, more for large values, and a rendering has
  `MAX_STEPS`;
- what makes a large value of small ones (`*`, `**`, `~`, `center`, `replace`, ...) is refused before it does, beyond
  `MAX_SIZE` characters or elements.

The limits are a hundred times what published templates need for long conversations, and count steps, not seconds, so
that the same conversation is never taken on one machine and refused on another.
"""

import functools
import importlib
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Sized, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_STEPS = 200_000
MAX_SIZE = 1 << 24
MAX_BITS = 1024
"""Size of a whole number."""
MAX_NODES = 1 << 17
"""Values in a list or a mapping that is turned into text or compared, those within its values included."""
CHARACTERS_PER_STEP = 256
MAX_TEMPLATE = 1 << 20

WIDENING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice", "tojson"})
"""Methods and filters whose result may be as large as what they are given times their argument."""
FORBIDDEN = frozenset({"translate", "to_bytes"})
SHALLOW = frozenset(
    {"length", "count", "first", "last", "list", "items", "default", "d"}
    | {"map", "select", "selectattr", "reject", "rejectattr", "reverse"}
)
"""Filters that do not look into the values of a list."""
UNUSED = ("lipsum", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")
"""Filters and globals that no chat template needs."""
CONTAINERS = (list, tuple, dict, set, frozenset, KeysView, ValuesView, ItemsView)
_WIDTH = re.compile(r"\d{4}|\*")

_steps_left: ContextVar[list[int] | None] = ContextVar("steps_left", default=None)


class TemplateTooCostly(SecurityError):
    """The template computes more than any conversation needs."""


def install() -> None:
    """Makes `transformers` compile chat templates within limits, in this process. Idempotent."""
    module: Any = importlib.import_module("transformers.utils.chat_template_utils")
    if module.ImmutableSandboxedEnvironment is not BoundedEnvironment:
        module.ImmutableSandboxedEnvironment = BoundedEnvironment
        module._compile_jinja_template.cache_clear()


@contextmanager
def limited_steps(steps: int = MAX_STEPS) -> Iterator[None]:
    """Gives the templates that are rendered inside the `with` block this many steps together."""
    token = _steps_left.set([steps])
    try:
        yield
    finally:
        _steps_left.reset(token)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with limits on what a template computes."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *args: Any, **options: Any) -> None:
        # Without the optimizer, which would compute constant expressions while the template is compiled.
        super().__init__(*args, **options, optimized=False, finalize=self.written)

    def from_string(self, source: Any, *args: Any, **options: Any) -> Template:
        """Compiles a template. Its filters and tests, those that were added too, are within limits."""
        if len(source) > MAX_TEMPLATE:
            raise TemplateTooCostly(f"the template has {len(source)} characters, and {MAX_TEMPLATE} is the most")
        for name in UNUSED:
            self.filters.pop(name, None)
            self.globals.pop(name, None)
        self.filters = {name: _bounded(name, function) for name, function in self.filters.items()}
        self.tests = {name: _bounded(name, function) for name, function in self.tests.items()}
        return super().from_string(source, *args, **options)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Instrument().visit(super()._parse(source, name, filename))
        return tree

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  as in Jinja
        """A call in a template."""
        # `str.format` comes wrapped by the sandbox.
        subject = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if not isinstance(__obj, Macro):
            _check_call(getattr(__obj, "__name__", ""), subject, [*args, *kwargs.values()])
        spend(1)
        return _checked(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """A binary operation in a template."""
        spend(1)
        if operator == "**":
            _check_bits(_bits(left) * max(1, abs(right)) if isinstance(right, int) else 0)
        elif operator == "*":
            _check_bits(_bits(left) + _bits(right))
            _check_size(_count(left, right) if isinstance(right, int) else _count(right, left))
        elif operator == "%" and isinstance(left, str):
            _check_format(left, [right])
        elif isinstance(left, Sized) and isinstance(right, Sized):
            _check_size(len(left) + len(right))
        return _checked(super().call_binop(context, operator, left, right))

    def written(self, value: Any) -> Any:
        """A value that becomes part of the output."""
        return charged(value)

    # What `_Instrument` puts into templates:

    def joined(self, *parts: Any) -> str:
        """The `~` operator."""
        texts = [str(charged(part)) for part in parts]
        _check_size(sum(map(len, texts)))
        return "".join(texts)

    def iterated(self, values: Any) -> Any:
        """What a loop runs over."""
        spend(1)
        if isinstance(values, Sized) or not isinstance(values, Iterable):
            return values
        return _spending(values)

    def compared(self, value: Any) -> Any:
        """An operand of a comparison, or what a slice is cut from."""
        return charged(value)

    def passed(self, steps: int) -> None:
        """The beginning of a pass of a loop, or of a macro, with this much fixed text."""
        spend(steps)


class _Instrument(NodeTransformer):
    """Puts the calls that count steps into a template."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _call("iterated", node.iter)
        if node.test is not None:
            node.test = nodes.And(nodes.Not(_call("passed", nodes.Const(1))), node.test)
        self._count_passes(node)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        self.generic_visit(node)
        self._count_passes(node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _call("compared", node.expr)
        for operand in node.ops:
            operand.expr = _call("compared", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _call("compared", node.node)
        return node

    def _count_passes(self, node: nodes.For | nodes.Macro) -> None:
        fixed = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        count = _call("passed", nodes.Const(1 + fixed // CHARACTERS_PER_STEP))
        node.body.insert(0, nodes.ExprStmt(count, lineno=node.lineno))


def spend(steps: int) -> None:
    """Takes steps from the rendering. Raises TemplateTooCostly when it has none left."""
    if (left := _steps_left.get()) is not None:
        left[0] -= steps
        if left[0] < 0:
            raise TemplateTooCostly("the template takes more steps than any conversation needs")


def charged(value: Any) -> Any:
    """A value that is about to be read as a whole, after its size was paid for."""
    if isinstance(value, str | bytes):
        spend(1 + len(value) // CHARACTERS_PER_STEP)
    elif isinstance(value, (*CONTAINERS, Namespace)):
        spend(_num_nodes(value))
    return value


def _call(name: str, *args: Any) -> nodes.Call:
    """A call of a method of the environment, which a template cannot replace."""
    line = args[0].lineno if args else 1
    function = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(function, list(args), [], None, None, lineno=line)


def _bounded(name: str, function: Any) -> Callable[..., Any]:
    """A filter or a test within limits."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0  # its first argument is Jinja's

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        head, subject, rest = args[:skipped], args[skipped], args[skipped + 1 :]
        if isinstance(subject, Iterator):
            subject = list(_spending(subject))
        _check_call(name, subject, [*rest, *kwargs.values()])
        return _checked(function(*head, subject, *rest, **kwargs))

    return bounded


def _check_call(name: str, subject: Any, args: list[Any]) -> None:
    """Refuses a method or filter `name` of `subject` that would make a value beyond the limits."""
    if name in FORBIDDEN:
        raise TemplateTooCostly(f"the template calls {name}, which no conversation needs")
    for value in (subject, *args):
        if name in SHALLOW and not isinstance(value, str):
            spend(len(value) if isinstance(value, Sized) else 1)
        else:
            charged(value)
    if name in WIDENING:
        factors = [_amount(value) for value in (subject, *args)]
        _check_size(functools.reduce(lambda total, factor: min(total * factor, MAX_SIZE + 1), factors, 1))
    elif name == "replace" and isinstance(subject, str) and len(args) > 1:
        old, new = str(args[0]), str(args[1])
        _check_size(len(subject) + (subject.count(old) if old else len(subject) + 1) * len(new))
    elif name == "join":
        items, separator = (args[0], subject) if isinstance(subject, str) and args else (subject, [*args, ""][0])
        if isinstance(items, Sized) and isinstance(items, Iterable):
            _check_size(sum(len(str(item)) + len(str(separator)) for item in items))
    elif name in ("format", "format_map"):
        _check_format(str(subject), args)


def _check_format(pattern: str, args: list[Any]) -> None:
    if _WIDTH.search(pattern):
        raise TemplateTooCostly("the template formats to a width that no conversation needs")
    longest = max((len(str(charged(value))) for value in args), default=0)
    _check_size(len(pattern) + (pattern.count("{") + pattern.count("%")) * longest)


def _checked(result: Any) -> Any:
    """The result of an operation, after its size was paid for."""
    if isinstance(result, str | bytes):
        spend(len(result) // CHARACTERS_PER_STEP)
        _check_size(len(result))
    elif isinstance(result, list | tuple | dict | range):
        spend(len(result))
        _check_size(len(result))
    return result


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise TemplateTooCostly(f"the template makes a value of {size} elements, and {MAX_SIZE} is the most")


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise TemplateTooCostly("the template computes a number that no conversation needs")


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _count(values: Any, times: Any) -> int:
    return len(values) * times if isinstance(values, Sized) and isinstance(times, int) else 0


def _amount(value: Any) -> int:
    """By how much an argument may widen a text."""
    if isinstance(value, Undefined):
        return 1
    if isinstance(value, int):
        return max(1, abs(value))
    return 1 + (len(value) if isinstance(value, Sized) else 0)


def _num_nodes(value: Any) -> int:
    """The number of values in a list or mapping, counted at each place where they are.

    Lists that hold one list twice, that one again, and so on, are small in memory and endless as a text.
    """
    waiting, count = [value], 0
    while waiting:
        found = waiting.pop()
        count += 1 + (len(found) // CHARACTERS_PER_STEP if isinstance(found, str) else 0)
        if isinstance(found, dict):
            waiting += [*found.keys(), *found.values()]
        elif isinstance(found, CONTAINERS):
            waiting += found
        elif isinstance(found, Namespace):
            raise TemplateTooCostly("the template uses a namespace as a value")
        if count + len(waiting) > MAX_NODES:
            raise TemplateTooCostly("the template reads a list with more values than any conversation has")
    return count


def _spending(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        spend(1)
        yield value
