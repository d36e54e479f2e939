"""Reads the specification of a job: a YAML or JSON file, and settings from the command line.

Keys are the fields of `AlignmentSpec`, `TrainingSpec` or `EvaluationSpec`. All problems are reported at once, each with
its path, and an unknown key with the closest known one: a misspelt setting that is silently ignored would cost a
training run.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from omnialign import names
from omnialign.errors import InvalidArgument
from omnialign.v1 import alignment_service_pb2, evaluation_service_pb2, training_service_pb2

if TYPE_CHECKING:
    from omnialign.cli.session import Session
    from omnialign.client import AsyncClient

AlignmentSpec = alignment_service_pb2.AlignmentSpec
SpecT = TypeVar(
    "SpecT",
    alignment_service_pb2.AlignmentSpec,
    training_service_pb2.TrainingSpec,
    evaluation_service_pb2.EvaluationSpec,
)
Problem = tuple[str, str]

REQUIRED = ("base_model", "dataset")
MODELS = ("base_model", "feedback_model", "judge_model")
REASON = "SPEC_INVALID"


def read_file(path: Path) -> dict[str, Any]:
    """The mapping in a file, YAML or JSON by its suffix. Raises InvalidArgument SPEC_UNREADABLE."""
    try:
        text = path.read_text(encoding="utf-8")
        value = _parse_yaml(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(value, dict):
        raise _unreadable(path, "it is not a mapping of settings")
    return value


def _parse_yaml(text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        message = "YAML needs PyYAML, which is not installed; install it or write the file as JSON"
        raise ValueError(message) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _unreadable(path: Path, why: str) -> InvalidArgument:
    message = f"The specification '{path}' cannot be read: {why}."
    return InvalidArgument(message, reason="SPEC_UNREADABLE", metadata={"path": str(path)})


def with_settings(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of `values`, overridden by settings such as `optimization.method=simpo`. Raises InvalidArgument."""
    merged: dict[str, Any] = json.loads(json.dumps(values, default=str))
    for setting in settings:
        path, equals, text = setting.partition("=")
        *parents, last = path.strip().split(".")
        if not equals or not last:
            raise InvalidArgument(f"'{setting}' is not of the form key=value.", reason="SETTING_MALFORMED")
        target = merged
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise InvalidArgument(
                    f"'{path}' is a field of something that is a plain value.", reason="SETTING_MALFORMED"
                )
        target[last] = _value(text)
    return merged


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def build(values: Mapping[str, Any]) -> AlignmentSpec:
    """The specification of an alignment job. Raises as `build_spec` does."""
    return build_spec(values, AlignmentSpec, required=REQUIRED)


def build_spec(values: Mapping[str, Any], kind: type[SpecT], *, required: Sequence[str]) -> SpecT:
    """A specification. Raises InvalidArgument SPEC_INVALID, which lists every problem with its path."""
    normal, problems = _normal(values, kind.DESCRIPTOR, "")
    problems += [(key, "is required") for key in required if not values.get(key)]
    if problems:
        lines = "".join(f"\n  {path}: {what}" for path, what in problems)
        raise InvalidArgument(
            f"The specification has {len(problems)} problem{'s'[: len(problems) != 1]}:{lines}",
            reason=REASON,
            violations=problems,
        )
    return json_format.ParseDict(normal, kind())


async def pin_versions(
    wanted: alignment_service_pb2.AlignmentSpec | training_service_pb2.TrainingSpec,
    *,
    client: "AsyncClient",
    session: "Session",
) -> None:
    """Replaces short names of models and of the dataset by the exact versions that they mean now."""
    for field in (name for name in MODELS if name in wanted.DESCRIPTOR.fields_by_name):
        setattr(wanted, field, await pinned_model(getattr(wanted, field), client=client, session=session))
    wanted.dataset = await pinned_dataset(wanted.dataset, client=client, session=session)


async def pin_evaluation(
    wanted: evaluation_service_pb2.EvaluationSpec, *, client: "AsyncClient", session: "Session"
) -> None:
    """Does the same for an evaluation."""
    wanted.models[:] = [await pinned_model(text, client=client, session=session) for text in wanted.models]
    for benchmark in wanted.benchmarks:
        benchmark.dataset = await pinned_dataset(benchmark.dataset, client=client, session=session)
        if benchmark.annotated_pairs:
            pairs = benchmark.annotated_pairs
            benchmark.annotated_pairs = await pinned_dataset(pairs, client=client, session=session)
        benchmark.baseline = await pinned_model(benchmark.baseline, client=client, session=session)
        for judge in benchmark.judges:
            judge.model = await pinned_model(judge.model, client=client, session=session)
    for generator in wanted.generators:
        generator.model = await pinned_model(generator.model, client=client, session=session)


def generator(text: str) -> dict[str, str]:
    """The generator that an option names, such as `image=painter`. Raises InvalidArgument GENERATOR_MALFORMED."""
    modality, equals, model = text.partition("=")
    if not (modality and equals and model):
        message = f"--generator '{text}' is not of the form image=MODEL, audio=MODEL or video=MODEL."
        raise InvalidArgument(message, reason="GENERATOR_MALFORMED")
    return {"modality": modality, "model": model}


async def pinned_model(text: str, *, client: "AsyncClient", session: "Session") -> str:
    """The version that a short name of a model means now; a location, or nothing, as it is."""
    if not text or "://" in text:
        return text
    return (await client.get_model_version(session.name("models", text))).name


async def pinned_dataset(text: str, *, client: "AsyncClient", session: "Session") -> str:
    """The version that a short name of a dataset means now."""
    name = session.name("datasets", text)
    name = name if names.matches(name, names.DATASET_VERSION) else f"{name}/versions/-"
    return (await client.get_dataset_version(name)).name


def _normal(values: Mapping[str, Any], kind: Descriptor, prefix: str) -> tuple[dict[str, Any], list[Problem]]:
    """The mapping in the JSON format of a protobuf message, and its problems."""
    normal: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, value in values.items():
        field = kind.fields_by_name.get(key)
        if field is None:
            problems.append((f"{prefix}{key}", _unknown(str(key), kind)))
        elif field.message_type is not None and isinstance(value, Mapping):
            normal[key], inner = _normal(value, field.message_type, f"{prefix}{key}.")
            problems += inner
        elif field.message_type is not None and _is_list_of_mappings(value):
            found = [_normal(one, field.message_type, f"{prefix}{key}[{i}].") for i, one in enumerate(value)]
            normal[key] = [one for one, _ in found]
            problems += [problem for _, inner in found for problem in inner]
        else:
            normal[key] = _enum_name(field, value)
            problems += _type_problems(kind, field, normal[key], prefix)
    return normal, problems


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) for one in value)


def _unknown(key: str, kind: Descriptor) -> str:
    known = list(kind.fields_by_name)
    inner = [f"{f.name}.{key}" for f in kind.fields if f.message_type and key in f.message_type.fields_by_name]
    if near := inner or difflib.get_close_matches(key, known, n=1, cutoff=0.5):
        return f"is not a setting; did you mean '{near[0]}'?"
    return f"is not a setting; use one of {', '.join(known)}"


def _enum_name(field: FieldDescriptor, value: Any) -> Any:
    """Allows `binary` for `PAIR_SOURCE_BINARY`: the prefix that protobuf style requires is noise in a file."""
    if field.enum_type is None or not isinstance(value, str):
        return value
    wanted = value.upper().replace("-", "_")
    return next(
        (name for name in field.enum_type.values_by_name if name == wanted or name.endswith(f"_{wanted}")), value
    )


def _type_problems(kind: Descriptor, field: FieldDescriptor, value: Any, prefix: str) -> Iterator[Problem]:
    from google.protobuf import message_factory

    try:
        json_format.ParseDict({field.name: value}, message_factory.GetMessageClass(kind)())
    except json_format.ParseError:
        yield f"{prefix}{field.name}", f"cannot be {value!r}; it must be {_expected(field)}"


def _expected(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return f"a mapping with {', '.join(field.message_type.fields_by_name)}"
    if field.enum_type is not None:
        unset, *names = field.enum_type.values_by_name
        common = unset.removesuffix("UNSPECIFIED")
        return "one of " + ", ".join(name.removeprefix(common).lower() for name in names)
    kinds = {
        FieldDescriptor.CPPTYPE_STRING: "text",
        FieldDescriptor.CPPTYPE_BOOL: "true or false",
        FieldDescriptor.CPPTYPE_DOUBLE: "a number",
        FieldDescriptor.CPPTYPE_FLOAT: "a number",
    }
    one = kinds.get(field.cpp_type, "a whole number")
    return f"a list of {one}" if field.is_repeated else one
