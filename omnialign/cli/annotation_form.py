"""The form of an annotation as a YAML file: written with a task, filled in by a person, and read back."""

from pathlib import Path
from typing import Any

from google.protobuf import json_format

from omnialign.annotation_parts import parts_of
from omnialign.cli import spec
from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from omnialign.v1.annotation_pb2 import ORIGIN_ACCEPTED, ORIGIN_REJECTED, ORIGIN_UNSPECIFIED, Annotation, Rubric
from omnialign.v1.annotation_service_pb2 import Task
from omnialign.v1.record_pb2 import DimensionScore

HEAD = """# Task {name}
# Fill in every null, then run: omnialign annotate submit {path}
# `winners` and `preferred` are 1 or 2, the better response; of a dimension also 0, if they are equal.
# `marks` point into media, whose parts are numbered from 0, by fractions of a picture or by seconds:
# {{part: 0, in_prompt: true, note: hazy, region: {{left: 0.1, top: 0.2, width: 0.3, height: 0.3}}}}
# {{part: 0, note: noise, span: {{start_seconds: 1.5, end_seconds: 2}}}}
"""
STARTED = """# It begins with a draft of {model}: in `origins`, each part is `accepted` or `rejected`; what you change
# counts as edited, and submitting with --accept-rest accepts what is still null there.
"""


def write(path: Path, task: Task) -> None:
    """Writes the form of a task, with what its draft has.

    Raises AlreadyExists FORM_EXISTS for a file that is there, and FailedPrecondition YAML_MISSING.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        message = "Forms are YAML and need PyYAML, which is not installed: `pip install pyyaml`."
        raise FailedPrecondition(message, reason="YAML_MISSING") from error
    head = [HEAD.format(name=task.name, path=path)]
    if task.HasField("draft"):
        head.append(STARTED.format(model=task.draft.model))
    for dimension in task.rubric.dimensions:
        levels = "; ".join(f"{score} {level}" for score, level in enumerate(dimension.levels))
        head.append(f"# {dimension.name}: {dimension.description} {levels}".rstrip() + "\n")
    body = yaml.safe_dump(_body(task), sort_keys=False, allow_unicode=True, width=100)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("".join(head) + body)
    except FileExistsError as error:
        message = f"'{path}' exists: submit it, or name another file."
        raise AlreadyExists(message, reason="FORM_EXISTS", metadata={"path": str(path)}) from error


def read(path: Path) -> tuple[str, int, Annotation]:
    """Task, revision and annotation of a filled form; what is null is left out. Raises InvalidArgument FORM_INVALID."""
    values = spec.read_file(path)
    try:
        task, revision = str(values.pop("task")), int(values.pop("revision"))
        annotation = annotation_of(values)
    except (KeyError, TypeError, ValueError, AttributeError, json_format.ParseError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split()).rstrip(".")
        raise InvalidArgument(
            f"The form '{path}' cannot be read: {what}.", reason="FORM_INVALID", metadata={"path": str(path)}
        ) from error
    return task, revision, annotation


def annotation_of(values: dict[str, Any]) -> Annotation:
    """The annotation in the fields of a form. Raises ParseError, TypeError and AttributeError for what is none."""
    feedback = []
    for one in values.get("feedback") or []:
        scores = [
            {"dimension": name, "unscored": entry.get("score") is None, **_without_nulls(entry)}
            for name, entry in (one.get("scores") or {}).items()
            if entry and (entry.get("score") is not None or entry.get("rationale"))
        ]
        feedback.append(_without_nulls(one) | {"scores": scores})
    fields = _without_nulls(values) | {"feedback": feedback}
    if isinstance(fields.get("winners"), dict):
        fields["winners"] = _without_nulls(fields["winners"])
    if isinstance(fields.get("origins"), dict):
        given = _without_nulls(fields["origins"])
        fields["origins"] = {part: f"ORIGIN_{str(word).upper()}" for part, word in given.items()}
    return json_format.ParseDict(fields, Annotation())


def accept_rest(annotation: Annotation) -> None:
    """Accepts every part of a model's draft of which nothing is said."""
    for part in parts_of(annotation):
        annotation.origins[part] = annotation.origins.get(part) or ORIGIN_ACCEPTED


def set_revision(path: Path, revision: int) -> None:
    """Notes in a form that its draft was saved, so that it can be sent again."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    changed = [f"revision: {revision}\n" if line.startswith("revision:") else line for line in lines]
    path.write_text("".join(changed), encoding="utf-8")


def _body(task: Task) -> dict[str, Any]:
    draft, names = task.annotation, _names(task.rubric)
    sides = [draft.feedback[side] if side < len(draft.feedback) else None for side in (0, 1)]
    feedback = []
    for one in sides:
        given = {score.dimension: score for score in one.scores} if one else {}
        scores = {
            name: {"score": None if one.unscored else one.score, "rationale": one.rationale}
            for name in names
            for one in [given.get(name, DimensionScore(unscored=True))]
        }
        marks = [json_format.MessageToDict(mark, preserving_proto_field_name=True) for mark in one.marks] if one else []
        critique, refinement = (one.critique, one.refinement) if one else ("", "")
        feedback.append({"scores": scores, "critique": critique, "refinement": refinement, "marks": marks})
    started: dict[str, Any] = {}
    if task.HasField("draft"):
        words = {ORIGIN_ACCEPTED: "accepted", ORIGIN_REJECTED: "rejected"}
        origins = {
            part: words.get(draft.origins.get(part, ORIGIN_UNSPECIFIED)) for part in parts_of(task.draft.annotation)
        }
        started = {"draft_model": draft.draft_model, "origins": origins}
    return {
        "task": task.name,
        "revision": task.revision,
        "feedback": feedback,
        "winners": {name: draft.winners.get(name) for name in names},
        "preferred": draft.preferred or None,
        "reason": draft.reason,
        **started,
    }


def _names(rubric: Rubric) -> list[str]:
    return [dimension.name for dimension in rubric.dimensions]


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    return {key: found for key, found in values.items() if found is not None}
