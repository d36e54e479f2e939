"""The token with which a job proves itself: random on a laptop, signed where the services share a key."""

import hashlib
import secrets
from collections.abc import Callable

from omnialign.v1.training_service_pb2 import TrainingJob
from services.runtime.auth.job_tokens import JobTokens

MakeToken = Callable[[TrainingJob, float], str]
"""Makes the token of a job that is valid for so many seconds."""


def random_token(job: TrainingJob, lifetime_seconds: float) -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


def token_digest(token: str) -> str:
    """What the store keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def signed(tokens: JobTokens) -> MakeToken:
    """Tokens that the training and the data service check by the key they share: they name the job and its inputs."""

    def make(job: TrainingJob, lifetime_seconds: float) -> str:
        inputs = [job.spec.dataset, job.spec.base_model]
        return tokens.make(job.name, inputs=inputs, lifetime_seconds=lifetime_seconds)

    return make
