"""The contract as a whole: comments, rules and names. buf checks the details in `make check`."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor

from buf.validate import validate_pb2
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
from services.runtime.auth.references import LOCATIONS

ROOT = Path(__file__).resolve().parents[2]
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
# Fields that say which resource a call is about. In a client stream only the first message must set it.
ADDRESSES = ("name", "parent", "dataset", "source", "model")
CHECKED_BY_THE_SERVICE = {"omnialign.v1.AppendRecordsRequest.dataset"}
BOUNDED_BY_THE_SERVICE = {"omnialign.v1.ModelVersion.uri", "omnialign.v1.ImportDatasetRequest.source_uri"}


def services() -> Iterator[ServiceDescriptor]:
    for file in FILES:
        yield from file.DESCRIPTOR.services_by_name.values()


METHODS = [pytest.param(method, id=method.full_name) for service in services() for method in service.methods]


@cache
def image() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Our files with their comments, by name."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "protos.binpb")
        command = [sys.executable, str(ROOT / "tools/generate_protos.py"), "--image", str(out)]
        subprocess.run(command, check=True, timeout=60)
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return {file.name: file for file in files if file.package == "omnialign.v1"}


def rules(field: FieldDescriptor) -> validate_pb2.FieldRules:
    return field.GetOptions().Extensions[validate_pb2.field]


def has_rule(field: FieldDescriptor) -> bool:
    return bool(rules(field).ByteSize())


def fields(message: object, seen: set[str]) -> Iterator[FieldDescriptor]:
    """All fields of a request, through the messages of our own package."""
    if message.full_name in seen or not message.full_name.startswith("omnialign."):
        return
    seen.add(message.full_name)
    for field in message.fields:
        yield field
        if field.message_type:
            yield from fields(field.message_type, seen)


def comment(method: MethodDescriptor) -> str:
    file = image()[method.containing_service.file.name]
    service = [s.name for s in file.service].index(method.containing_service.name)
    path = [6, service, 2, method.index]
    found = [place.leading_comments for place in file.source_code_info.location if list(place.path) == path]
    return found[0].strip() if found else ""


def test_every_service_of_the_design_is_there() -> None:
    wanted = {"AlignmentService", "CritiqueService", "DataService", "JudgeService", "RefinementService"}
    assert {service.name for service in services()} == wanted | {
        "AnnotationService",
        "EvaluationService",
        "PolicyService",
        "TrainingService",
    }


@pytest.mark.parametrize("method", METHODS)
def test_method_is_explained_in_whole_sentences(method: MethodDescriptor) -> None:
    text = comment(method)
    assert text[:1].isupper() and text.endswith(".")


@pytest.mark.parametrize("method", METHODS)
def test_method_has_a_request_of_its_own(method: MethodDescriptor) -> None:
    assert method.input_type.name == f"{method.name}Request"


@pytest.mark.parametrize("method", METHODS)
def test_method_answers_with_its_response_or_a_resource(method: MethodDescriptor) -> None:
    answer = method.output_type
    resource = "name" in answer.fields_by_name and answer.fields_by_name["name"].number == 1
    assert answer.name in (f"{method.name}Response", "Empty") or resource


@pytest.mark.parametrize("method", METHODS)
def test_request_cannot_leave_open_what_it_is_about(method: MethodDescriptor) -> None:
    known = method.input_type.fields_by_name
    addressed = [known[name] for name in ADDRESSES if name in known and not known[name].message_type]
    unchecked = [field.full_name for field in addressed if not has_rule(field)]
    assert set(unchecked) <= CHECKED_BY_THE_SERVICE


@pytest.mark.parametrize("method", METHODS)
def test_numbers_and_batches_of_a_request_are_bounded(method: MethodDescriptor) -> None:
    signed = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_DOUBLE)
    # The answers of models and of services come back inside records and jobs; those are not a caller's numbers.
    inner = {"omnialign.v1.GenerationInfo", "omnialign.v1.Dataset", "omnialign.v1.ModelVersion"}
    inner |= {f"omnialign.v1.{name}" for name in ("StageStatus", "PairCounts", "PreflightReport", "TrainingProgress")}
    inner |= {f"omnialign.v1.{name}" for name in ("TrainingJob", "AlignmentJob", "MemoryEstimate", "Assessment")}
    inner |= {f"omnialign.v1.{name}" for name in ("BenchmarkIdentity", "BenchmarkScore", "EvaluationPreflight")}
    inner |= {
        f"omnialign.v1.{name}"
        for name in ("GateCalibration", "RuleYield", "ReliabilityBin", "CampaignProgress", "DraftJob")
    }
    open_fields = [
        field.full_name
        for field in fields(method.input_type, set())
        if field.type in signed
        and field.containing_type.full_name not in inner
        and not field.containing_type.GetOptions().map_entry
        and not has_rule(field)
    ]
    assert open_fields == []


@pytest.mark.parametrize("method", [m for m in METHODS if m.values[0].name.startswith("List")])
def test_list_is_paged(method: MethodDescriptor) -> None:
    assert {"parent", "page_size", "page_token"} <= set(method.input_type.fields_by_name)
    assert "next_page_token" in method.output_type.fields_by_name
    assert not method.server_streaming


@pytest.mark.parametrize("method", [m for m in METHODS if m.values[0].name.startswith("Watch")])
def test_watch_can_be_resumed(method: MethodDescriptor) -> None:
    assert "resume_after" in method.input_type.fields_by_name
    assert "sequence" in method.output_type.fields_by_name
    assert method.server_streaming


@pytest.mark.parametrize("method", [m for m in METHODS if re.match(r"Create(?!Media)", m.values[0].name)])
def test_create_takes_a_request_id_that_is_a_uuid(method: MethodDescriptor) -> None:
    assert rules(method.input_type.fields_by_name["request_id"]).string.uuid


def test_no_control_message_carries_media_bytes() -> None:
    carriers = {
        "DownloadExport",
        "GetMedia",
        "ReadMedia",
        "StreamRecords",
        "UploadMedia",
        "UploadManyMedia",
        "UploadFiles",
        "DownloadModel",
        "DeliverModel",
        "GetAlignmentReport",
    }
    carriers |= {"GetEvaluationReport", "GetComparisonReport", "GetDatasetStatistics"}
    carriers |= {"UpdatePolicy"}
    for service in services():
        for method in service.methods:
            for message in (method.input_type, method.output_type):
                found = [f.full_name for f in fields(message, set()) if f.type == FieldDescriptor.TYPE_BYTES]
                assert not found or method.name in carriers, found


@pytest.mark.parametrize("name", sorted(LOCATIONS - BOUNDED_BY_THE_SERVICE))
def test_the_name_of_a_model_fits_into_lineage_and_records(name: str) -> None:
    field = descriptor_pool.Default().FindFieldByName(name)
    found = (rules(field).repeated.items if field.is_repeated else rules(field)).string
    assert found.max_len == rules(data_service_pb2.LineageEdge.DESCRIPTOR.fields_by_name["source"]).string.max_len
