"""Tokens of jobs."""

from omnialign.v1.training_service_pb2 import TrainingJob
from services.runtime.auth.tokens import JobTokens
from services.training.launcher import random_token, signed_token, token_digest


def test_random_tokens_differ_and_their_digest_tells_nothing():
    first, second = random_token(TrainingJob(), (), 1.0), random_token(TrainingJob(), (), 1.0)
    assert first != second
    assert len(token_digest(first)) == 64 and first not in token_digest(first)


def test_a_signed_token_names_the_job_and_exactly_its_inputs(tmp_path):
    (tmp_path / "key").write_text("k" * 32)
    tokens = JobTokens(tmp_path / "key")
    job = TrainingJob(name="projects/team/trainingJobs/tune")
    job.spec.dataset, job.spec.base_model = "projects/team/datasets/d", "projects/team/models/m/versions/1"
    caller = tokens.check(signed_token(tokens)(job, [job.spec.dataset, job.spec.base_model], 60.0))
    assert caller.job == job.name
    assert caller.inputs == {job.spec.dataset, job.spec.base_model}
