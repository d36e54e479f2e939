"""The command line with tokens and TLS: what it sends, and what it says when the server does not agree."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from omnialign.cli.main import app
from omnialign.v1 import data_service_pb2, data_service_pb2_grpc
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.auth.tokens import digest, parse_tokens
from services.runtime.config import ServerConfig
from services.runtime.context import Role
from services.runtime.server import Server
from tests.certificates import Authority


class Models(data_service_pb2_grpc.DataServiceServicer):
    """Has no models."""

    async def ListModelVersions(self, request: Any, context: Any) -> Any:  # noqa: N802
        return data_service_pb2.ListModelVersionsResponse()


def command(*words: object, **environ: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={k: str(v) for k, v in environ.items()})


@pytest.fixture
async def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
async def models(tmp_path: Path, ca: Authority) -> AsyncIterator[Callable[..., Any]]:
    """`await models(...)` runs `omnialign models list` against a server that wants TLS and tokens."""
    tokens, pair = tmp_path / "tokens.yaml", ca.issue()
    entries = [
        {"name": "ann", "sha256": digest("good"), "roles": {"demo": "reader"}},
        {
            "name": "bob",
            "sha256": digest("late"),
            "roles": {"demo": "reader"},
            "expires": datetime(2020, 1, 1, tzinfo=UTC),
        },
    ]
    tokens.write_text(yaml.safe_dump({"tokens": entries}))
    config = ServerConfig(tls_certificate_file=pair.certificate, tls_key_file=pair.key)
    server = Server(config, name="models", auth=AuthConfig(tokens_file=tokens))
    server.add(data_service_pb2_grpc.add_DataServiceServicer_to_server, Models(), "omnialign.v1.DataService")
    await server.start()
    server.set_serving()

    async def run(*words: object, **environ: object) -> Result:
        base = {"OMNIALIGN_ADDRESS": server.address, "OMNIALIGN_PROJECT": "demo", "OMNIALIGN_CA_FILE": ca.file}
        return await asyncio.to_thread(command, "models", "list", *words, **base | environ)

    yield run
    await server.stop(0)


async def test_token_and_certificates_come_from_options_or_the_environment(models, ca, tmp_path):
    (tmp_path / "token").write_text("good\n")
    for words, environ in (
        (["--token", "good"], {}),
        ([], {"OMNIALIGN_TOKEN": "good"}),
        (["--token-file", tmp_path / "token"], {}),
        ([], {"OMNIALIGN_TOKEN_FILE": tmp_path / "token"}),
        (["--tls", "--ca-file", ca.file, "--token", "good"], {"OMNIALIGN_CA_FILE": ""}),
        ([], {"OMNIALIGN_TOKEN": "good", "OMNIALIGN_TLS": "true"}),
    ):
        result = await models(*words, **environ)
        assert (result.exit_code, result.stdout) == (0, "No models yet.\n"), result.stderr


async def test_what_is_wrong_is_said_in_one_sentence(models, tmp_path):
    other, namesake = Authority(tmp_path / "other", "other"), Authority(tmp_path / "namesake")
    for words, environ, said in (
        ([], {}, "[TOKEN_MISSING]"),
        (["--token", "bad"], {}, "[TOKEN_UNKNOWN]"),
        (["--token", "late"], {}, "The token has expired; ask for a new one [TOKEN_EXPIRED]"),
        (["--token", "good", "--project", "other"], {}, "There is no 'projects/other' [NOT_FOUND]"),
        (["--token-file", tmp_path / "nowhere"], {}, "[TOKEN_FILE_UNREADABLE]"),
        (["--token", "good", "--ca-file", other.file], {}, "set the CA file to the authority that signed it"),
        (["--token", "good", "--ca-file", namesake.file], {}, "get the current CA file. [CERTIFICATE_NOT_TRUSTED]"),
        (["--token", "good", "--ca-file", tmp_path / "nowhere"], {}, "[TLS_FILE_UNREADABLE]"),
        (["--token", "good"], {"OMNIALIGN_CA_FILE": ""}, "it may accept only TLS (grpcs://...). [CONNECTION_CLOSED]"),
    ):
        result = await models(*words, **environ)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1


async def test_the_one_sentence_about_a_certificate_is_all_that_a_terminal_shows(tmp_path: Path, ca: Authority) -> None:
    pair, other = ca.issue(), Authority(tmp_path / "other", "other")
    server = Server(ServerConfig(tls_certificate_file=pair.certificate, tls_key_file=pair.key), name="models")
    await server.start()
    words = ("-m", "omnialign.cli.main", "models", "list", "--address", server.address, "--ca-file", str(other.file))
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=asyncio.subprocess.PIPE)
    _, shown = await process.communicate()
    await server.stop(0)
    assert shown.decode().startswith("error: ")
    assert shown.decode().count("\n") == 1


async def test_a_grpcs_address_where_nothing_listens_is_told_at_once():
    result = await asyncio.to_thread(command, "models", "list", "--address", "grpcs://127.0.0.1:1")
    assert "There is no omnialign server at grpcs://127.0.0.1:1" in result.stderr


def test_a_new_token_is_shown_once_and_its_entry_does_not_tell_it():
    result = command("tokens", "new", "--name", 'ann "x": #', "--project", "demo", "--role", "submitter", "--days", 2)
    assert result.exit_code == 0, result.output
    token = result.stdout.splitlines()[1]
    entry = result.stdout[result.stdout.index("  - name") :]
    found = parse_tokens("tokens:\n" + entry)[digest(token)]
    assert found.caller.name == 'ann "x": #'
    assert (found.caller.role_in("demo"), found.caller.role_in("other")) == (Role.SUBMITTER, 0)
    assert timedelta(days=1) < found.expires - datetime.now(UTC) <= timedelta(days=2)
    assert token not in entry
    assert result.stdout.count(token) == 1


def test_a_token_of_a_service_comes_as_json_for_scripts():
    words = ("tokens", "new", "--name", "alignment", "--project", "*", "--role", "service", "--json")
    made = json.loads(command(*words).stdout)
    table = parse_tokens(yaml.safe_dump({"tokens": [made["entry"]]}))
    assert table[digest(made["token"])].caller.is_service
    assert made["token"] != json.loads(command(*words).stdout)["token"]


@pytest.mark.parametrize("options", [("demo", "service"), ("Demo/x", "reader"), ("demo", "owner")])
def test_what_the_file_would_refuse_is_refused(options):
    result = command("tokens", "new", "--name", "a", "--project", options[0], "--role", options[1])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
