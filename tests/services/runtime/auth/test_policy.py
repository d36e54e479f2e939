"""The table of who may call what, against the contract: nothing is missing, nothing is left over."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from omnialign import names
from omnialign.v1 import (
    alignment_service_pb2,
    annotation_service_pb2,
    critique_service_pb2,
    data_service_pb2,
    evaluation_service_pb2,
    judge_service_pb2,
    policy_service_pb2,
    refinement_service_pb2,
    training_service_pb2,
)
from services.runtime.auth import references
from services.runtime.auth.policy import POLICY
from services.runtime.context import Role

FILES = (
    alignment_service_pb2,
    annotation_service_pb2,
    critique_service_pb2,
    data_service_pb2,
    evaluation_service_pb2,
    judge_service_pb2,
    policy_service_pb2,
    refinement_service_pb2,
    training_service_pb2,
)
READS = (
    "CompareDatasets", "CompareEvaluations", "Get", "List", "Read", "Stream", "Watch", "Download",
    "CreateMediaDownload",
)  # fmt: skip
RUNS = (
    "Generate", "Refine", "Critique", "ScoreResponse", "CompareResponses", "ComputeRewards", "ScoreUnderstanding",
    "ScoreGeneration", "AnswerQuestions",
)  # fmt: skip
ANNOTATES = {"LeaseTask": True, "SaveDraft": False, "SubmitTask": True, "SkipTask": True, "FlagTask": True}
"""Whether the calls of annotators are in the audit log."""
ADDRESSES = {"name", "parent", "dataset", "model", "base_model", "feedback_model", "judge_model", "uri", "source_uri"}


def methods() -> dict[str, MethodDescriptor]:
    found = {}
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            found |= {f"/{service.full_name}/{method.name}": method for method in service.methods}
    return found


def strings(descriptor: Descriptor, seen: set[str]) -> Iterator[FieldDescriptor]:
    if descriptor.full_name in seen:
        return
    seen.add(descriptor.full_name)
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield field
        elif field.message_type is not None:
            yield from strings(field.message_type, seen)


def test_every_rpc_has_a_rule_and_every_rule_an_rpc():
    assert set(POLICY) == set(methods())


@pytest.mark.parametrize("path", methods())
def test_the_field_of_a_rule_is_text_in_the_request(path):
    descriptor = methods()[path].input_type
    *steps, last = POLICY[path].field.split(".")
    for step in steps:
        descriptor = descriptor.fields_by_name[step].message_type
    field = descriptor.fields_by_name[last]
    assert field.type == FieldDescriptor.TYPE_STRING
    assert not field.is_repeated


@pytest.mark.parametrize("path", methods())
def test_what_an_rpc_is_called_tells_what_it_takes(path):
    rule, name = POLICY[path], path.rpartition("/")[2]
    if name in ANNOTATES:
        assert (rule.role, rule.mutates) == (Role.ANNOTATOR, ANNOTATES[name])
    elif name in ("ListItems", "GetItem"):  # annotators must not see what others wrote
        assert (rule.role, rule.mutates) == (Role.SUBMITTER, False)
    elif name.startswith(READS):
        assert (rule.role, rule.mutates) == (Role.READER, False)
    elif name in RUNS:
        assert (rule.role, rule.mutates) == (Role.SUBMITTER, False)
    elif name in ("ReportProgress", "DeliverModel"):
        assert (rule.role, rule.job) == (None, "itself")
    else:
        is_for_admins = name.startswith(("Delete", "Collect")) or name in ("UpdateDataset", "BeginUse", "EndUse")
        assert (rule.role, rule.mutates) == (Role.ADMIN if is_for_admins else Role.SUBMITTER, True)


def test_only_what_a_training_job_needs_is_open_to_its_token():
    assert {path.rpartition("/")[2]: rule.job for path, rule in POLICY.items() if rule.job} == {
        "ReportProgress": "itself",
        "DeliverModel": "itself",
        "GetDataset": "inputs",
        "GetDatasetVersion": "inputs",
        "StreamRecords": "inputs",
        "DownloadModel": "inputs",
        "GetModelVersion": "inputs",
        "GetMedia": "project",
        "ReadMedia": "project",
        "Generate": "within",
        "Refine": "within",
        "OpenPolicy": "within",
        "UpdatePolicy": "within",
        "GetPolicy": "within",
        "ClosePolicy": "within",
        "Critique": "within",
        "ScoreResponse": "within",
        "CompareResponses": "within",
        "ComputeRewards": "within",
        "ScoreUnderstanding": "within",
        "ScoreGeneration": "within",
        "AnswerQuestions": "within",
    }


def test_what_is_listed_as_plain_or_as_a_place_exists_in_requests():
    seen: set[str] = set()
    names = {field.full_name for method in methods().values() for field in strings(method.input_type, seen)}
    assert names >= references.PLAIN_FIELDS
    assert names >= references.LOCATIONS
    assert seen >= references.PLAIN_MESSAGES


def test_no_field_that_says_what_a_request_is_about_is_plain():
    seen: set[str] = set()
    for method in methods().values():
        for field in strings(method.input_type, seen):
            if field.name in ADDRESSES and field.containing_type.full_name not in references.PLAIN_MESSAGES:
                assert field.full_name not in references.PLAIN_FIELDS
            if (
                field.name in ADDRESSES
                and "model" in field.name
                and field.full_name.endswith(("Request.model", "Spec.base_model"))
            ):
                assert field.full_name in references.LOCATIONS


def test_references_are_found_at_any_depth_and_data_is_not_searched():
    request = alignment_service_pb2.CreateAlignmentJobRequest(parent="projects/a")
    spec = request.alignment_job.spec
    spec.base_model, spec.dataset, spec.judge_model = "file:///m", "projects/b/datasets/d", "projects/c/models/j"
    assert dict(references.find_references(request)) == {
        "projects/a": False,
        "file:///m": True,
        "projects/b/datasets/d": False,
        "projects/c/models/j": True,
    }
    append = data_service_pb2.AppendRecordsRequest(dataset="projects/a/datasets/d")
    append.records.add(id="projects/b/x").prompt.parts.add(text="projects/b/datasets/d")
    assert list(references.find_references(append)) == [("projects/a/datasets/d", False)]


@pytest.mark.parametrize(
    "text", ["projects/../x", "projects/a/../b", "projects//x", "Projects/a", "projects/A", " projects/a", "projects"]
)
def test_what_is_not_quite_a_name_is_no_name(text):
    assert not names.is_resource(text)


def test_the_table_in_the_documentation_is_the_one_in_force():
    scopes = {"itself": "the job", "inputs": "the job's dataset or model", "project": "the job's project", None: ""}
    scopes["within"] = "what is in the job's project; the job's model"
    rows = []
    for path, rule in POLICY.items():
        service, method = path.removeprefix("/omnialign.v1.").split("/")
        role = rule.role.name.lower() if rule.role else "the job itself"
        audited = "yes" if rule.mutates else ""
        rows.append(f"| `{service}.{method}` | `{rule.field}` | {role} | {audited} | {scopes[rule.job]} |")
    page = (Path(__file__).parents[4] / "docs/security.md").read_text()
    assert page.split("|---|---|---|---|---|\n")[1].strip().splitlines() == rows
