"""Tokens of training jobs: made and checked with the keys of a file."""

import time

import jwt
import pytest

from omnialign.errors import InvalidArgument, OmnialignError, Unauthenticated
from services.runtime.auth import watched
from services.runtime.auth.job_tokens import JobTokens, parse_keys

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
    monkeypatch.setattr(watched, "LOOK_EVERY_SECONDS", 0.0)
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
