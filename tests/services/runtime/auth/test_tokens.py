"""Our own tokens: the file of tokens, read again when it changes, and the signed tokens of training jobs."""

import hashlib
import os
import time
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument, OmnialignError, Unauthenticated
from services.runtime import watched_file
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.auth.tokens import JobTokens, TokensInvalid, digest, parse_keys, parse_tokens
from services.runtime.context import Role
from services.runtime.watched_file import WatchedFile

GOOD = {"name": "alice", "sha256": "a" * 64, "roles": {"demo": "submitter"}}


def text(*entries: Any) -> str:
    return yaml.safe_dump({"tokens": list(entries)})


def test_an_entry_gives_its_bearer_the_roles():
    entry = parse_tokens(text(GOOD | {"roles": {"demo": "submitter", "*": "reader"}}))["a" * 64]
    assert (entry.caller.name, entry.expires) == ("alice", None)
    assert [entry.caller.role_in(project) for project in ("demo", "other")] == [Role.SUBMITTER, Role.READER]
    assert not entry.caller.is_service


@pytest.mark.parametrize(
    "written", ["2027-01-31T00:00:00Z", "2027-01-31", "2027-01-31 01:00:00+01:00", '"2027-01-31T00:00:00Z"']
)
def test_a_time_without_a_zone_is_utc(written):
    entry = parse_tokens(text(GOOD) + f"  expires: {written}\n")["a" * 64]
    moment = datetime(2027, 1, 31, tzinfo=UTC)
    assert entry.expires == moment
    assert (entry.expired(moment), entry.expired(datetime(2027, 1, 30, tzinfo=UTC))) == (True, False)


def test_all_problems_are_told_at_once():
    wrong = {"name": "", "sha256": "AA", "roles": {"Demo": "owner", True: "reader"}, "expires": "soon", "colour": "red"}
    with pytest.raises(TokensInvalid) as caught:
        parse_tokens(text(wrong, "alice", GOOD, GOOD, {}))
    assert [where for where, _ in caught.value.problems] == [
        "tokens[0].colour",
        "tokens[0].name",
        "tokens[0].sha256",
        "tokens[0].roles.Demo",
        "tokens[0].roles.Demo",
        "tokens[0].roles.True",
        "tokens[0].expires",
        "tokens[1]",
        "tokens[3].name",
        "tokens[3].sha256",
        "tokens[4].name",
        "tokens[4].sha256",
        "tokens[4].roles",
    ]


@pytest.mark.parametrize("roles", [{"demo": "service"}, {"*": "service", "demo": "reader"}])
def test_a_service_is_one_in_all_projects_and_nothing_else(roles):
    with pytest.raises(TokensInvalid, match="service is a role"):
        parse_tokens(text(GOOD | {"roles": roles}))


@pytest.mark.parametrize(
    "content", ["", "tokens", "tokens: {}", "{", "tokens: []\nusers: []", "\x00", "a: &a [*a, *a]"]
)
def test_another_kind_of_file_is_refused(content):
    with pytest.raises(TokensInvalid, match="file:"):
        parse_tokens(content)


@given(st.text())
def test_any_text_is_read_or_refused(content):
    try:
        parse_tokens(content)
    except TokensInvalid as error:
        assert error.problems


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.datetimes()
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(scalars, v, max_size=3), max_leaves=6
)
entries = st.dictionaries(st.sampled_from(["name", "sha256", "roles", "expires", "x"]), values | st.just("a" * 64))


@given(st.lists(entries | values, max_size=4))
def test_any_list_of_entries_is_read_or_refused_with_the_place_of_each_problem(found):
    try:
        parse_tokens(yaml.dump({"tokens": found}))
    except TokensInvalid as error:
        assert all(where.startswith(("tokens[", "file")) for where, _ in error.problems)


names = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=20)
projects = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True) | st.just("*")
roles = st.dictionaries(projects, st.sampled_from(["reader", "submitter", "admin"]), min_size=1, max_size=4)


@given(st.dictionaries(names, roles, max_size=5))
def test_what_was_granted_is_what_is_read(granted):
    entries = [{"name": n, "sha256": digest(n), "roles": r} for n, r in granted.items()]
    table = parse_tokens(text(*entries))
    read = {e.caller.name: {p: r.name.lower() for p, r in e.caller.roles.items()} for e in table.values()}
    assert read == granted


@given(st.text())
def test_a_digest_is_sha256(token):
    assert digest(token) == hashlib.sha256(token.encode()).hexdigest()


def test_wrong_files_are_problems_of_the_configuration(tmp_path):
    (tmp_path / "tokens").write_text(text(GOOD | {"sha256": 1}, GOOD | {"roles": {}}))
    (tmp_path / "quotas").write_text("default: {cars: 1}")
    (tmp_path / "key").write_text("short")
    config = AuthConfig(
        tokens_file=tmp_path / "tokens",
        quotas_file=tmp_path / "quotas",
        job_key_file=tmp_path / "key",
        oidc_issuer="http://issuer",
        oidc_ca_file=tmp_path / "nowhere",
        rate_per_second=-1,
    )
    found = [(field, problem.partition(":")[0]) for field, problem in config.problems()]
    assert [field for field, _ in found] == [
        "oidc_issuer",
        "oidc_audience",
        "rate_per_second",
        "tokens_file",
        "tokens_file",
        "job_key_file",
        "quotas_file",
        "oidc_ca_file",
    ]
    assert found[3:5] == [("tokens_file", "tokens[0].sha256"), ("tokens_file", "tokens[1].roles")]


def test_rates_and_quotas_need_to_know_who_calls(tmp_path):
    (tmp_path / "quotas").write_text("")
    problems = dict(AuthConfig(rate_per_second=1, quotas_file=tmp_path / "quotas").problems())
    assert set(problems) == {"rate_per_second", "quotas_file"}
    assert not AuthConfig().enabled


def test_a_file_that_changes_is_read_again_and_a_bad_one_is_not_taken(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(watched_file, "LOOK_EVERY_SECONDS", 0.0)
    path = tmp_path / "tokens.yaml"
    path.write_text(text(GOOD))
    tokens = WatchedFile(path, parse_tokens)
    replace(path, text(GOOD | {"sha256": "b" * 64}))
    assert set(tokens.current()) == {"b" * 64}
    replace(path, "tokens: [nonsense]")
    assert set(tokens.current()) == {"b" * 64}
    assert "its previous content stays in force" in caplog.text
    path.unlink()
    assert set(tokens.current()) == {"b" * 64}
    replace(path, text())
    assert set(tokens.current()) == set()


def test_a_file_is_not_looked_at_with_every_call(tmp_path):
    path = tmp_path / "tokens.yaml"
    path.write_text(text(GOOD))
    tokens = WatchedFile(path, parse_tokens)
    path.unlink()
    assert set(tokens.current()) == {"a" * 64}


def replace(path: Any, content: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(content)
    os.utime(new, ns=(time.time_ns(), time.time_ns()))
    new.rename(path)


async def test_a_token_taken_out_of_the_file_stops_working_while_the_server_runs(people, monkeypatch):
    from omnialign.v1 import data_service_pb2

    monkeypatch.setattr(watched_file, "LOOK_EVERY_SECONDS", 0.0)
    request = data_service_pb2.GetDatasetRequest(name="projects/demo/datasets/d")
    path = "/omnialign.v1.DataService/GetDataset"
    assert (await people.call(path, request, token="reader")).passed
    people.entries = [entry for entry in people.entries if "reader" not in entry["name"]]
    people.grant("new", roles={"demo": "reader"})
    assert (await people.call(path, request, token="reader")).reason == "TOKEN_UNKNOWN"
    assert (await people.call(path, request, token="new")).passed


JOB = "projects/demo/trainingJobs/mine"
KEY = "k" * 40


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    return path


def test_a_token_tells_the_job_and_its_inputs(key_file):
    tokens = JobTokens(key_file)
    caller = tokens.check(tokens.make(JOB, inputs=["d", "m", "d"], lifetime_seconds=5))
    assert (caller.job, caller.project, caller.inputs) == (JOB, "demo", {"d", "m"})
    assert (caller.is_service, caller.role_in("demo")) == (False, 0)


def test_a_token_of_another_key_is_unknown_and_an_old_one_has_expired(key_file, tmp_path):
    (tmp_path / "other").write_text("o" * 40)
    tokens, others = JobTokens(key_file), JobTokens(tmp_path / "other")
    assert refused(tokens, others.make(JOB, inputs=[], lifetime_seconds=5)) == "TOKEN_UNKNOWN"
    assert refused(tokens, forged(exp=int(time.time()) - 60)) == "TOKEN_EXPIRED"


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "projects/demo/datasets/d"},
        {"sub": 7},
        {"inputs": "all"},
        {"iss": "somebody"},
        {"exp": None},
        {"exp": "never"},
    ],
)
def test_a_token_that_does_not_say_all_of_it_is_unknown(key_file, claims):
    assert refused(JobTokens(key_file), forged(**claims)) == "TOKEN_UNKNOWN"


def forged(**claims: object) -> str:
    now = int(time.time())
    base = {"iss": "omnialign-training", "sub": JOB, "inputs": [], "iat": now, "exp": now + 60}
    return jwt.encode({k: v for k, v in (base | claims).items() if v is not None}, KEY, algorithm="HS256")


def test_a_token_without_a_signature_is_unknown(key_file):
    body = forged().split(".")[1]
    head = jwt.encode({}, "", algorithm="none").split(".")[0]
    assert refused(JobTokens(key_file), f"{head}.{body}.") == "TOKEN_UNKNOWN"


def refused(tokens: JobTokens, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        tokens.check(token)
    return caught.value.reason


def test_a_new_key_above_the_old_one_signs_while_both_are_accepted(key_file, monkeypatch):
    monkeypatch.setattr(watched_file, "LOOK_EVERY_SECONDS", 0.0)
    tokens = JobTokens(key_file)
    old = tokens.make(JOB, inputs=[], lifetime_seconds=60)
    key_file.write_text(f"{'n' * 40}\n{KEY}\n")
    new = tokens.make(JOB, inputs=[], lifetime_seconds=60)
    assert (tokens.check(old).job, tokens.check(new).job) == (JOB, JOB)
    key_file.write_text("n" * 40)
    assert refused(tokens, old) == "TOKEN_UNKNOWN"
    assert tokens.check(new).job == JOB


@pytest.mark.parametrize("text", ["", "\n", "short", f"{KEY}\nshort"])
def test_a_file_of_weak_keys_is_refused(text):
    with pytest.raises(InvalidArgument, match="32 bytes"):
        parse_keys(text)


@pytest.mark.parametrize(("job", "seconds"), [("projects/demo/datasets/d", 5), (JOB, 0)])
def test_no_token_is_made_for_what_is_no_job_or_for_no_time(key_file, job, seconds):
    with pytest.raises(OmnialignError):
        JobTokens(key_file).make(job, inputs=[], lifetime_seconds=seconds)
