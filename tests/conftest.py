"""Fixtures for tests of every kind: a PostgreSQL server, and metadata databases of both kinds."""

import multiprocessing.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import services as services  # first of all: it says what gRPC does when a test starts a process
from tests.new_databases import copied_tables
from tests.postgresql import PostgreSQL
from tests.s3_server import S3Server

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Puts the engines' default caches into a folder of this run: cached features must not outlive their code."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.inference.config.default_cache", lambda: folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def short_socket_names() -> None:
    """Has `multiprocessing` choose the folder of its sockets before a test puts another one in the place of /tmp.

    It keeps the first one for as long as the process runs, and a socket's name may have 107 characters.
    """
    multiprocessing.util.get_temp_dir()


@pytest.fixture(scope="session", autouse=True)
def quick_databases() -> Iterator[None]:
    """Runs the revisions of each service once."""
    with copied_tables():
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A PostgreSQL server, started by the first test that asks for it, and ended with the last."""
    server = PostgreSQL()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_url(postgres: PostgreSQL) -> Iterator[str]:
    """The URL of a new database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database; a test that asks for it runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/database/test.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server over TLS, started by the first test that asks for it; its credentials are in the environment."""
    server = S3Server()
    try:
        with server.credentials():
            server.start()
            yield server
    finally:
        server.close()


@pytest.fixture
def own_postgres() -> Iterator[PostgreSQL]:
    """A PostgreSQL server that a test may stop."""
    server = PostgreSQL()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def own_s3() -> Iterator[S3Server]:
    """An S3 server that a test may stop; its credentials are in the environment."""
    server = S3Server()
    try:
        with server.credentials():
            server.start()
            yield server
    finally:
        server.close()
