"""Every RPC of every service, called on a real server by everybody who might."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from services.runtime.auth.policy import POLICY
from services.runtime.context import Role
from tests.services.runtime.auth.conftest import (
    METHODS,
    Answer,
    Guarded,
    name_for,
    request_of,
    start_with_people,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

PEOPLE = {"reader": Role.READER, "annotator": Role.ANNOTATOR, "submitter": Role.SUBMITTER, "admin": Role.ADMIN}
JOB = "projects/demo/trainingJobs/mine"
every_rpc = pytest.mark.parametrize("path", METHODS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """One server for all of these calls: none of them changes what it knows."""
    guarded = Guarded(tmp_path_factory.mktemp("guarded"))
    await start_with_people(guarded)
    yield guarded
    await guarded.stop()


async def ask(
    people: Guarded, path: str, token: str | None, *, project: str = "demo", identity: str = "thing"
) -> Answer:
    return await people.call(path, request_of(path, name_for(path, project, identity)), token=token)


@every_rpc
async def test_without_a_good_token_the_caller_is_unknown(people, path):
    assert await reasons(people, path, None, "made-up", "late", "a.b.c") == [
        ("UNAUTHENTICATED", "TOKEN_MISSING"),
        ("UNAUTHENTICATED", "TOKEN_UNKNOWN"),
        ("UNAUTHENTICATED", "TOKEN_EXPIRED"),
        ("UNAUTHENTICATED", "TOKEN_UNKNOWN"),
    ]


async def reasons(people: Guarded, path: str, *tokens: str | None) -> list[tuple[str, str]]:
    answers = [await ask(people, path, token) for token in tokens]
    return [(answer.code, answer.reason) for answer in answers]


@every_rpc
async def test_a_stranger_is_told_the_same_of_what_exists_and_of_what_does_not(people, path):
    existing = await ask(people, path, "stranger", identity="aaaa")
    missing = await ask(people, path, "stranger", identity="bbbb")
    assert (existing.code, existing.reason) == ("NOT_FOUND", "NOT_FOUND")
    assert existing.status.replace(b"aaaa", b"bbbb") == missing.status
    # Nor does it learn which projects there are: `elsewher` is no more unknown to it than `demo` is.
    nowhere = await ask(people, path, "reader", project="nowhere1")
    hidden = await ask(people, path, "reader", project="elsewher")
    assert hidden.status.replace(b"elsewher", b"nowhere1") == nowhere.status


@every_rpc
async def test_each_role_may_do_what_the_table_says(people, path):
    rule = POLICY[path]
    for person, role in PEOPLE.items():
        answer = await ask(people, path, person)
        if rule.role is None:
            assert (answer.code, answer.reason) == ("PERMISSION_DENIED", "JOB_TOKEN_REQUIRED")
        elif role < rule.role:
            assert (answer.code, answer.reason) == ("PERMISSION_DENIED", "ROLE_TOO_SMALL")
        else:
            assert answer.passed, (person, answer)


@every_rpc
async def test_a_role_in_all_projects_counts_in_each_and_a_service_may_everything(people, path):
    answers = [await ask(people, path, token, project="anywhere") for token in ("root", "service")]
    wanted = POLICY[path].role is not None
    assert [answer.passed for answer in answers] == [wanted, wanted]


@every_rpc
async def test_a_training_jobs_token_opens_only_what_is_the_jobs(people, path):
    scope = POLICY[path].job
    own = {"itself": JOB, "inputs": "projects/demo/datasets/d/versions/1", "project": "projects/demo"}
    own["within"] = name_for(path, "demo")
    token = people.job_token(JOB, own["inputs"], "projects/demo/models/m/versions/1")
    mine = own[scope] if scope else name_for(path, "demo")
    other = f"{own[scope]}0" if scope else name_for(path, "demo", "other")
    if scope == "within":
        other = name_for(path, "elsewhere")
    answer = await people.call(path, request_of(path, mine), token=token)
    refused = await people.call(path, request_of(path, other), token=token)
    assert answer.passed if scope else (answer.code, answer.reason) == ("NOT_FOUND", "NOT_FOUND")
    assert (refused.code, refused.reason) == ("NOT_FOUND", "NOT_FOUND")


@every_rpc
async def test_a_request_that_does_not_say_what_it_is_about_is_refused(people, path):
    for resource in ("", "thing", "projects/", "projects/demo/../elsewhere"):
        answer = await people.call(path, request_of(path, resource), token="admin")
        assert answer.code in ("INVALID_ARGUMENT", "PERMISSION_DENIED", "NOT_FOUND"), resource
        assert answer.reason in ("RESOURCE_NAME_INVALID", "LOCATION_FORBIDDEN", "NOT_FOUND")


@pytest.mark.parametrize("path", [path for path, method in METHODS.items() if method.client_streaming])
async def test_a_stream_is_judged_by_its_first_message_and_may_not_turn_to_another_resource(people, path):
    token = people.job_token(JOB) if POLICY[path].role is None else "submitter"
    mine = JOB if POLICY[path].role is None else name_for(path, "demo")
    first, later = request_of(path, mine), request_of(path, f"{mine}2")
    plain: Message = type(first)()
    assert (await people.call(path, plain, first, token=token)).reason == "RESOURCE_NAME_INVALID"
    turned = await people.call(path, first, later, token=token)
    assert turned.reason in ("RESOURCE_NAME_INVALID", "REQUEST_INVALID")  # a bare header may not even be valid
    assert (await people.call(path, token=token)).reason == "REQUEST_EMPTY"
    assert (await people.call(path, token=None)).reason == "TOKEN_MISSING"
    assert (await people.call(path, first, plain, token=token)).passed
