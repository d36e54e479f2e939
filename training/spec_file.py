"""The spec file of a run: YAML, read strictly.

An unknown key is an error that names the nearest known one, and all problems of the file are reported at once: a run
that silently ignores a setting wastes hours before anybody notices.
"""

import difflib
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import yaml

from omnialign.errors import InvalidArgument
from training.methods import METHODS, holdout_fraction
from training.spec import MAX_HOLDOUT, Spec

NOT_KEYS = ("method", "settings")
"""Fields of a spec that are said in another way than by a key of their name."""


def read_spec(path: Path, *, method: str) -> Spec:
    """The spec in a YAML file. Raises `InvalidArgument` (TRAINING_SPEC_INVALID) with every problem found."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise spec_invalid([(str(path), f"cannot be read as YAML: {error}")]) from error
    return parse_spec(document, method=method)


def parse_spec(document: object, *, method: str) -> Spec:
    """The spec in a parsed YAML document. Raises `InvalidArgument` (TRAINING_SPEC_INVALID) with every problem found."""
    problems: list[tuple[str, str]] = []
    given = dict(document) if isinstance(document, Mapping) else document
    settings: object = {}
    if isinstance(given, dict):
        settings = given.pop(method, {})
        for other in sorted(METHODS.keys() & given.keys()):
            problems.append((other, f"is a section of {other}, and this run's method is {method}"))
            del given[other]
    spec = _build(Spec, given, path="", problems=problems)
    own = _build(METHODS[method].settings, settings, path=f"{method}.", problems=problems)
    if not problems:
        spec = replace(typing.cast(Spec, spec), method=method, settings=own)
        problems.extend(_contradictions(spec))
    if problems:
        raise spec_invalid(problems)
    return typing.cast(Spec, spec)


def spec_invalid(problems: list[tuple[str, str]]) -> InvalidArgument:
    """The error for (path, problem) pairs."""
    listed = "; ".join(f"{path}: {problem}" for path, problem in problems)
    return InvalidArgument(
        f"the training spec is wrong: {listed}",
        reason="TRAINING_SPEC_INVALID",
        metadata={"problems": listed},
        violations=problems,
    )


def _build(cls: type[Any], document: object, *, path: str, problems: list[tuple[str, str]]) -> object:
    """An instance of a dataclass from a mapping, or None after noting what is wrong."""
    if not isinstance(document, Mapping):
        problems.append((path.rstrip(".") or "spec", "must be a mapping of keys to values"))
        return None
    hints, known = typing.get_type_hints(cls), {item.name: item for item in fields(cls) if item.name not in NOT_KEYS}
    before, values = len(problems), {}
    for key in document:
        if key not in known:
            problems.append((f"{path}{key}", _unknown(str(key), list(known))))
    for name, item in known.items():
        if name in document:
            values[name] = _value(hints[name], document[name], path=f"{path}{name}", problems=problems)
        elif item.default is MISSING and item.default_factory is MISSING:
            problems.append((f"{path}{name}", "is required"))
    return cls(**values) if len(problems) == before else None


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"is not a known key; did you mean `{near[0]}`?"
    return f"is not a known key; known: {', '.join(sorted(known)) or 'none'}"


def _value(hint: Any, value: object, *, path: str, problems: list[tuple[str, str]]) -> object:
    """A value of type `hint`, or None after noting what is wrong; booleans and strings never pass for numbers."""
    if type(None) in typing.get_args(hint):  # a section that may be left out, but is never empty
        hint = next(item for item in typing.get_args(hint) if item is not NoneType)
    if is_dataclass(hint):
        return _build(typing.cast(type[Any], hint), value, path=f"{path}.", problems=problems)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value in choices:
            return value
        problems.append((path, f"must be one of {', '.join(repr(c) for c in choices)}, not {value!r}"))
    elif typing.get_origin(hint) is tuple and is_dataclass(typing.get_args(hint)[0]):
        return _sections(typing.get_args(hint)[0], value, path=path, problems=problems)
    elif typing.get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        problems.append((path, "must be a list of strings"))
    elif hint is Path or hint is str:
        if isinstance(value, str | Path) and (value or hint is str):
            return hint(value)
        problems.append((path, "must be a string"))
    elif hint is bool:
        if isinstance(value, bool):
            return value
        problems.append((path, f"must be true or false, not {value!r}"))
    else:
        return _number(hint, value, path=path, problems=problems)
    return None


def _sections(cls: Any, value: object, *, path: str, problems: list[tuple[str, str]]) -> object:
    """A tuple of instances of a dataclass from a list of mappings."""
    if not isinstance(value, list | tuple):
        problems.append((path, "must be a list of mappings"))
        return None
    return tuple(_build(cls, item, path=f"{path}[{index}].", problems=problems) for index, item in enumerate(value))


def _number(hint: type[int] | type[float], value: object, *, path: str, problems: list[tuple[str, str]]) -> object:
    accepted = (int,) if hint is int else (int, float)
    if isinstance(value, bool | NoneType) or not isinstance(value, accepted):
        problems.append((path, f"must be {'a whole number' if hint is int else 'a number'}, not {value!r}"))
        return None
    if not 0 <= value < float("inf"):
        problems.append((path, f"must be a finite number of at least 0, not {value!r}"))
    return hint(value)


def _contradictions(spec: Spec) -> list[tuple[str, str]]:
    """Problems between settings that are each valid alone."""
    found: list[tuple[str, str]] = []
    hyperparameters, distribution = spec.hyperparameters, spec.distribution
    if not 0 <= distribution.zero_stage <= 3:
        found.append(("distribution.zero_stage", f"must be 0, 1, 2 or 3, not {distribution.zero_stage}"))
    for name in ("num_processes", "num_nodes"):
        if getattr(distribution, name) < 1:
            found.append((f"distribution.{name}", "must be at least 1"))
            return found
    found.extend(_memory_contradictions(spec))
    found.extend(_evaluation_contradictions(spec))
    if hyperparameters.warmup_ratio >= 1:
        found.append(("hyperparameters.warmup_ratio", f"must be below 1, not {hyperparameters.warmup_ratio}"))
    if hyperparameters.no_warmup and hyperparameters.warmup_ratio:
        found.append(("hyperparameters.no_warmup", "must be false when warmup_ratio is set"))
    if hyperparameters.seed >= 2**64:
        found.append(("hyperparameters.seed", f"must be below 2^64, not {hyperparameters.seed}"))
    method = METHODS[spec.method]
    if spec.target and method.rows != "answer":
        found.append(("target", f"must be empty for {spec.method}, which reads {method.rows} rows"))
    for name in method.lacks:
        if getattr(hyperparameters, name):
            found.append((f"hyperparameters.{name}", f"must be 0 for {spec.method}, whose loss has no such term"))
    found.extend(method.contradictions(spec))
    if spec.max_dropped_fraction > 1:
        found.append(("max_dropped_fraction", f"must be at most 1, not {spec.max_dropped_fraction}"))
    if method.rows == "prompt":
        return found  # processes share the answers to a step's prompts, whatever their number
    for name in ("batch_size", "micro_batch_size"):
        unit = distribution.world_size * (1 if name == "batch_size" else max(hyperparameters.micro_batch_size, 1))
        if hyperparameters.batch_size % unit:
            wanted = f"the processes{'' if name == 'batch_size' else ' times micro_batch_size'} ({unit})"
            found.append((f"hyperparameters.{name}", f"batch_size must be divisible by {wanted}"))
    return found


def _evaluation_contradictions(spec: Spec) -> list[tuple[str, str]]:
    """Problems with what is held out, and with settings that need it."""
    given, share, key = spec.hyperparameters.evaluation, holdout_fraction(spec), "hyperparameters.evaluation"
    if share > MAX_HOLDOUT:
        return [(f"{key}.holdout_fraction", f"must be at most {MAX_HOLDOUT:g}, not {share:g}")]
    if share and METHODS[spec.method].rows == "prompt":
        return [(f"{key}.holdout_fraction", f"must be 0 for {spec.method}, which has no loss on rows held out")]
    return [
        (f"{key}.{name}", "needs holdout_fraction, which is 0: nothing would be evaluated")
        for name in ("every_steps", "patience")
        if getattr(given, name) and not share
    ]


def _memory_contradictions(spec: Spec) -> list[tuple[str, str]]:
    """Problems between the settings that say what is trained and where it is held."""
    found: list[tuple[str, str]] = []
    stage, offload, lora = spec.distribution.zero_stage, spec.distribution.offload, spec.lora
    lowest = {"": 0, "optimizer": 1, "optimizer_and_weights": 3}[offload]
    if stage < lowest:
        found.append(("distribution.offload", f"{offload!r} needs zero_stage {lowest} or higher, not {stage}"))
    if spec.initial_lora_dir and lora is None:
        found.append(("initial_lora_dir", "needs the section lora, which may be `{}`"))
    if lora is None:
        return found
    if lora.dropout >= 1:
        found.append(("lora.dropout", f"must be below 1, not {lora.dropout}"))
    if lora.quantize and lora.merge:
        found.append(("lora.merge", "must be false with quantize: weights of 4 bits cannot take the LoRA"))
    if lora.quantize and stage == 3:
        found.append(("lora.quantize", "needs zero_stage 0 to 2, because ZeRO-3 shards no weights of 4 bits"))
    if spec.hyperparameters.train_towers:
        found.append(("hyperparameters.train_towers", "must be false with lora, which leaves towers as they are"))
    return found
