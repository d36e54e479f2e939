"""The media spans of a model as plain lists, the form in which vLLM carries them to its worker processes."""

from collections.abc import Mapping, Sequence
from typing import Any

from omnialign.modeling.spans import MediaSpan, Slot

KEY = "omnialign_media_spans"


def span_config(spans: Sequence[MediaSpan]) -> dict[str, Any]:
    """The part of vLLM's `additional_config` that `read_spans` reads; JSON can write it."""
    return {KEY: [_written(span) for span in spans]}


def read_spans(config: Mapping[str, Any]) -> list[MediaSpan]:
    """The spans in vLLM's `additional_config`."""
    return [_read(entry) for entry in config.get(KEY, ())]


def _written(span: MediaSpan) -> dict[str, Any]:
    slots = {"codes": _ranges(span.codes)}
    lists = {"unit": [_ranges(slot) for slot in span.unit], "head": [_ranges(slot) for slot in span.head]}
    names = ("begin_id", "end_id", "min_units", "max_units")
    return {name: getattr(span, name) for name in names} | slots | lists


def _read(entry: Mapping[str, Any]) -> MediaSpan:
    lists = {name: tuple(_slot(slot) for slot in entry[name]) for name in ("unit", "head")}
    return MediaSpan(**{**entry, **lists, "codes": _slot(entry["codes"])})


def _ranges(slot: Slot) -> list[list[int]]:
    return [[ids.start, ids.stop] for ids in slot]


def _slot(ranges: Sequence[Sequence[int]]) -> Slot:
    return tuple(range(start, stop) for start, stop in ranges)
