"""A cluster of processes on PostgreSQL and S3, under TLS and with tokens."""

import secrets
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnialign.client import AsyncClient
from services.runtime.auth.tokens import digest
from tests.certificates import Authority
from tests.integration.cluster import SERVICES, Cluster
from tests.integration.data_service import serve_data
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server


@dataclass(frozen=True)
class Identity:
    """The credentials of one caller."""

    ca_file: Path
    token_file: Path

    @property
    def token(self) -> str:
        """The token in clear text."""
        return self.token_file.read_text().strip()


@dataclass(frozen=True)
class Security:
    """Certificates and tokens of one cluster."""

    folder: Path
    environment: Mapping[str, str]
    people: Mapping[str, Identity]


def make_security(folder: Path) -> Security:
    """Certificates for 127.0.0.1, tokens for the services and for two people, one from another project."""
    authority = Authority(folder)
    pair = authority.issue("service")
    tokens = {name: secrets.token_urlsafe(32) for name in ("services", "researcher", "stranger")}
    roles = {"services": {"*": "service"}, "researcher": {"default": "submitter"}, "stranger": {"other": "admin"}}
    entries = [{"name": name, "sha256": digest(tokens[name]), "roles": roles[name]} for name in tokens]
    (folder / "tokens.yaml").write_text(yaml.safe_dump({"tokens": entries}))
    (folder / "job.key").write_text(secrets.token_urlsafe(48) + "\n")
    for name, token in tokens.items():
        (folder / f"{name}.token").write_text(token)
    environment = {
        "OMNIALIGN_SERVER_TLS_CERTIFICATE_FILE": pair.certificate,
        "OMNIALIGN_SERVER_TLS_KEY_FILE": pair.key,
        "OMNIALIGN_PEER_CA_FILE": authority.file,
        "OMNIALIGN_PEER_CERTIFICATE_FILE": pair.certificate,
        "OMNIALIGN_PEER_KEY_FILE": pair.key,
        "OMNIALIGN_PEER_TOKEN_FILE": folder / "services.token",
        "OMNIALIGN_AUTH_TOKENS_FILE": folder / "tokens.yaml",
        "OMNIALIGN_AUTH_JOB_KEY_FILE": folder / "job.key",
        "OMNIALIGN_SERVER_TLS_CLIENT_CA_FILE": authority.file,
    }
    people = {name: Identity(authority.file, folder / f"{name}.token") for name in ("researcher", "stranger")}
    return Security(folder, {key: str(value) for key, value in environment.items()}, people)


@pytest.fixture
def security(tmp_path: Path) -> Security:
    """Certificates and tokens."""
    return make_security(tmp_path / "security")


Start = Callable[..., AbstractAsyncContextManager[Cluster]]


@pytest.fixture
def start_cluster(tmp_path: Path, security: Security) -> Start:
    """Starts a cluster for a block: `async with start_cluster(database_url, s3) as cluster`."""

    @asynccontextmanager
    async def start(database_url: str, s3: S3Server, **settings: Any) -> AsyncIterator[Cluster]:
        credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        objects = {key.upper(): str(value) for key, value in s3.settings(tmp_path.name).items()}
        cluster = Cluster(
            tmp_path, database_url, objects, {**security.environment, **credentials}, **{"names": SERVICES, **settings}
        )
        try:
            await cluster.start()
            yield cluster
        finally:
            cluster.stop()

    return start


@pytest.fixture(params=["local", "s3"])
def backend(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings for where objects are: a separate folder, or a separate prefix in the bucket."""
    if request.param == "local":
        return {}
    return request.getfixturevalue("s3").settings(uuid.uuid4().hex)  # type: ignore[no-any-return]


@pytest.fixture
def on_s3(s3: S3Server) -> dict[str, Any]:
    return s3.settings(uuid.uuid4().hex)


@pytest.fixture
async def client(backend: dict[str, Any], tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with serve_data(tmp_path / "state", **backend) as found:
        yield found
