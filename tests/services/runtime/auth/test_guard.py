"""What a request may name, how often a project may call, and what is written down about it."""

import json
import logging

import pytest
from google.rpc import error_details_pb2

from omnialign.client import AsyncClient
from omnialign.errors import NotFound, PermissionDenied, Unauthenticated
from omnialign.v1 import (
    alignment_service_pb2,
    data_service_pb2,
    policy_service_pb2,
    refinement_service_pb2,
    training_service_pb2,
)
from services.data import __main__ as data
from services.data.config import DataConfig
from services.runtime import logs
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server

CREATE_JOB = "/omnialign.v1.AlignmentService/CreateAlignmentJob"
TRAIN = "/omnialign.v1.TrainingService/CreateTrainingJob"
GENERATE = "/omnialign.v1.RefinementService/Generate"
OPEN_POLICY = "/omnialign.v1.PolicyService/OpenPolicy"
GET = "/omnialign.v1.DataService/GetDataset"
DELETE = "/omnialign.v1.DataService/DeleteDataset"
IMPORT = "/omnialign.v1.DataService/ImportDataset"
REPORT = "/omnialign.v1.TrainingService/ReportProgress"
FOREIGN = "projects/elsewhere/datasets/d/versions/1"
OWN = "projects/demo/datasets/d/versions/1"


def job(**spec: str) -> alignment_service_pb2.CreateAlignmentJobRequest:
    wanted = {"base_model": "projects/demo/models/m/versions/1", "dataset": OWN} | spec
    request = alignment_service_pb2.CreateAlignmentJobRequest(parent="projects/demo")
    request.alignment_job.spec.CopyFrom(alignment_service_pb2.AlignmentSpec(**wanted))
    return request


@pytest.mark.parametrize("field", ["base_model", "dataset", "feedback_model", "judge_model"])
async def test_a_job_may_not_name_what_its_submitter_may_not_see(people, field):
    answer = await people.call(CREATE_JOB, job(**{field: FOREIGN}), token="submitter")
    assert (answer.code, answer.reason) == ("NOT_FOUND", "NOT_FOUND")
    assert (await people.call(CREATE_JOB, job(), token="submitter")).passed


async def test_a_job_may_name_what_its_submitter_may_read_elsewhere(guarded):
    guarded.grant("both", roles={"demo": "submitter", "elsewhere": "reader"})
    await guarded.start()
    assert (await guarded.call(CREATE_JOB, job(dataset=FOREIGN), token="both")).passed
    training = training_service_pb2.CreateTrainingJobRequest(parent="projects/elsewhere")
    assert (await guarded.call(TRAIN, training, token="both")).reason == "ROLE_TOO_SMALL"


async def test_a_lineage_edge_may_not_reach_into_another_project(people):
    request = data_service_pb2.AddLineageRequest(parent="projects/demo")
    request.edges.add(source=FOREIGN, target=OWN, relation="sampled_from")
    answer = await people.call("/omnialign.v1.DataService/AddLineage", request, token="submitter")
    assert (answer.code, answer.reason) == ("NOT_FOUND", "NOT_FOUND")


@pytest.mark.parametrize("place", ["file:///etc", "/etc/passwd", "hf://org/name", "projects/demo/../../etc"])
async def test_places_outside_of_the_projects_are_for_admins_of_all(people, place):
    generate = refinement_service_pb2.GenerateRequest(model=place)
    upload = data_service_pb2.ImportDatasetRequest(parent="projects/demo", dataset_id="dd", source_uri=place)
    for path, request in ((CREATE_JOB, job(base_model=place)), (GENERATE, generate), (IMPORT, upload)):
        answer = await people.call(path, request, token="admin")
        assert (answer.code, answer.reason) == ("PERMISSION_DENIED", "LOCATION_FORBIDDEN")
        assert (await people.call(path, request, token="service")).passed
        if "://" in place:
            assert (await people.call(path, request, token="root")).passed


@pytest.mark.parametrize(
    ("base", "passes"),
    [
        ("projects/demo/models/m/versions/1", True),
        ("file:///models/input", True),
        ("projects/elsewhere/models/m/versions/1", False),
        ("file:///models/other", False),
        ("projects/demo/../elsewhere/models/m", False),
    ],
)
async def test_a_job_opens_policies_on_models_of_its_project_and_on_its_inputs(people, base, passes):
    token = people.job_token("projects/demo/trainingJobs/mine", "file:///models/input")
    request = policy_service_pb2.OpenPolicyRequest(parent="projects/demo", policy_id="p", base_model=base)
    answer = await people.call(OPEN_POLICY, request, token=token)
    assert (answer.passed, answer.code) == (passes, "ABORTED" if passes else "NOT_FOUND")


async def test_a_name_that_is_not_quite_one_is_not_taken_for_a_place(people):
    answer = await people.call(CREATE_JOB, job(base_model="projects/demo/../elsewhere/models/m"), token="root")
    assert answer.reason == "NOT_FOUND"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "secret"])
async def test_a_header_without_a_bearer_token_counts_as_none(people, header):
    request = data_service_pb2.GetDatasetRequest(name="projects/demo/datasets/d")
    answer = await people.call_with(GET, request, metadata=(("authorization", header),))
    assert answer.reason == "TOKEN_MISSING"


async def test_a_giant_token_is_unknown(people):
    request = data_service_pb2.GetDatasetRequest(name="projects/demo/datasets/d")
    answer = await people.call(GET, request, token="x" * 8200)
    assert answer.code in ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED")  # gRPC itself may refuse such metadata


async def test_refusals_are_counted_by_reason(people):
    request = data_service_pb2.GetDatasetRequest(name="projects/demo/datasets/d")
    for token in (None, "made-up", "stranger"):
        await people.call(GET, request, token=token)
    counted = {reason: people.failures(reason) for reason in ("TOKEN_MISSING", "TOKEN_UNKNOWN", "NO_ROLE_IN_PROJECT")}
    assert counted == dict.fromkeys(counted, 1.0)
    assert people.failures("ROLE_TOO_SMALL") == 0.0


async def test_without_a_key_for_jobs_a_report_is_left_to_the_training_service(guarded):
    guarded.grant("reader", roles={"demo": "reader"})
    guarded.key_file = None
    await guarded.start()
    report = training_service_pb2.ReportProgressRequest(name="projects/demo/trainingJobs/t")
    assert (await guarded.call(REPORT, report, token="the job's own random one")).passed
    assert (await guarded.call(REPORT, report)).reason == "TOKEN_MISSING"


async def test_too_many_calls_of_a_project_are_told_when_to_come_again(guarded):
    guarded.grant("a", roles={"*": "reader"})
    guarded.grant("service", roles={"*": "service"})
    await guarded.start(rate_per_second=0.5, rate_burst=2)
    request = data_service_pb2.GetDatasetRequest(name="projects/demo/datasets/d")
    answers = [await guarded.call(GET, request, token="a") for _ in range(3)]
    assert [answer.reason for answer in answers[:2]] == ["REACHED", "REACHED"]
    assert (answers[2].code, answers[2].reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
    retry = error_details_pb2.RetryInfo()
    assert [detail.Unpack(retry) for detail in answers[2].details] == [False, True]
    assert 0 < retry.retry_delay.ToNanoseconds() <= 2e9
    other = data_service_pb2.GetDatasetRequest(name="projects/other/datasets/d")
    assert (await guarded.call(GET, other, token="a")).passed
    assert (await guarded.call(GET, request, token="service")).passed
    assert guarded.failures("RATE_LIMITED") == 1.0


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    records = [record for record in caplog.records if record.name == "services.runtime.audit"]
    return [json.loads(logs.JsonFormatter().format(record)) for record in records]


async def test_what_changes_something_is_in_the_audit_log_and_what_was_refused_too(people, caplog):
    caplog.set_level(logging.WARNING, logger="services.runtime")
    caplog.set_level(logging.INFO, logger="services.runtime.audit")
    name = "projects/demo/datasets/d"
    for token in ("admin", "reader", "stranger", None):
        await people.call(DELETE, data_service_pb2.DeleteDatasetRequest(name=name), token=token)
    await people.call(GET, data_service_pb2.GetDatasetRequest(name=name), token="reader")
    lines = audited(caplog)
    assert [(line["caller"], line["code"], line["reason"]) for line in lines] == [
        ("bearer of admin", "ABORTED", "REACHED"),
        ("bearer of reader", "PERMISSION_DENIED", "ROLE_TOO_SMALL"),
        ("bearer of stranger", "NOT_FOUND", "NOT_FOUND"),
        ("", "UNAUTHENTICATED", "TOKEN_MISSING"),
    ]
    assert {(line["rpc"], line["project"], line["resource"]) for line in lines[:3]} == {
        ("omnialign.v1.DataService/DeleteDataset", "demo", name)
    }
    assert all(len(line["request_id"]) == 32 for line in lines)


async def test_the_audit_log_holds_no_token_and_no_content(people, caplog):
    caplog.set_level(logging.DEBUG)
    request = job()
    request.alignment_job.spec.sampling.stop.append("a private matter")
    for token in ("submitter-with-a-typo-9f3", "root"):
        await people.call(CREATE_JOB, request, token=token)
    text = json.dumps(audited(caplog)) + caplog.text
    assert "9f3" not in text
    assert "a private matter" not in text


async def test_the_real_data_service_answers_a_stranger_the_same_of_all_names(guarded, tmp_path):
    guarded.grant("owner", roles={"demo": "admin"})
    guarded.grant("stranger", roles={"elsewhere": "admin"})
    server = Server(ServerConfig(), name="data", auth=AuthConfig(tokens_file=guarded.tokens_file))
    async with data.wire(server, DataConfig(root=tmp_path / "data")):
        await server.start()
        server.set_serving()
        try:
            async with (
                AsyncClient(server.address, project="demo", token="owner") as owner,
                AsyncClient(server.address, project="demo", token=lambda: "stranger") as stranger,
                AsyncClient(server.address, project="demo") as nobody,
            ):
                await owner.create_dataset("dogs")
                answers = [await refusal(stranger, f"projects/demo/datasets/{name}") for name in ("dogs", "cats")]
                assert answers[0].replace("dogs", "cats") == answers[1]
                with pytest.raises(Unauthenticated):
                    await nobody.get_dataset("projects/demo/datasets/dogs")
                assert (await owner.get_dataset("projects/demo/datasets/dogs")).name.endswith("dogs")
        finally:
            await server.stop(0)


async def refusal(client: AsyncClient, name: str) -> str:
    with pytest.raises(NotFound) as caught:
        await client.get_dataset(name)
    return f"{caught.value.message} {caught.value.reason} {caught.value.metadata}"


async def test_our_own_client_gets_the_errors_typed(people):
    async with AsyncClient(people.server.address, project="demo", token="reader") as client:
        with pytest.raises(PermissionDenied) as caught:
            await client.create_dataset("mine")
    assert caught.value.metadata == {"role": "submitter", "project": "demo"}
    assert "submitter" in caught.value.message
