"""Connections: TLS with real certificates, which are renewed, and clients that spread calls over replicas."""

import asyncio
import contextlib
import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from omnialign.client import AsyncClient, Client, TokenFile, channel
from omnialign.client.datasets import DatasetCalls
from omnialign.errors import InvalidArgument, Unauthenticated, Unavailable
from services.runtime.config import ConfigError, ServerConfig, load
from services.runtime.connections import ClientConfig, ClientFactory
from services.runtime.server import Server
from tests.certificates import DAY, Authority, Pair

NAME = "projects/p/datasets/d"


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", "ca")


@pytest.fixture
def other_ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "other", "other")


def serving(pair: Pair, **more: Any) -> dict[str, Any]:
    return {"tls_certificate_file": pair.certificate, "tls_key_file": pair.key, **more}


async def reason(address: str, **how: Any) -> str:
    """How a call ends; empty for well."""
    async with AsyncClient(address, deadline_seconds=5, **how) as client:
        try:
            await client.get_dataset(NAME)
        except Unavailable as error:
            assert error.metadata["address"] in error.message
            return error.reason
    return ""


async def test_a_client_that_trusts_the_certificate_gets_through_and_one_that_does_not_is_told(
    start_server, ca, other_ca
):
    server = await start_server(**serving(ca.issue()))
    assert await reason(server.address, ca_file=ca.file) == ""
    assert await reason(f"grpcs://{server.address}", ca_file=ca.file) == ""
    assert await reason(server.address, ca_file=other_ca.file) == "CERTIFICATE_NOT_TRUSTED"
    assert await reason(f"grpcs://{server.address}") == "CERTIFICATE_NOT_TRUSTED"
    assert await reason(server.address, tls=True) == "CERTIFICATE_NOT_TRUSTED"
    assert await reason(server.address) == "CONNECTION_CLOSED"
    assert await reason(f"grpc://{server.address}", ca_file=ca.file) == "CONNECTION_CLOSED"


async def test_a_certificate_must_be_for_the_host_and_still_valid(start_server, ca):
    server = await start_server(**serving(ca.issue(hosts=("example.org",))))
    assert await reason(server.address, ca_file=ca.file) == "CERTIFICATE_OF_ANOTHER_HOST"
    expired = await start_server(**serving(ca.issue("old", lasting=-DAY)))
    assert await reason(expired.address, ca_file=ca.file) == "CERTIFICATE_EXPIRED"


async def test_tls_to_a_plain_server_is_told(server, ca):
    assert await reason(server.address, ca_file=ca.file) == "TLS_NOT_SPOKEN"


async def test_a_server_that_wants_a_client_certificate_lets_in_only_its_own(start_server, ca, other_ca):
    server = await start_server(**serving(ca.issue(), tls_client_ca_file=ca.file))
    mine, foreign = ca.issue("mine"), other_ca.issue("foreign")

    async def shown(pair: Pair) -> str:
        how = {"certificate_file": pair.certificate, "key_file": pair.key}
        return await reason(server.address, ca_file=ca.file, **how)

    assert await shown(mine) == ""
    assert await shown(foreign) == "CONNECTION_CLOSED"
    assert await shown(ca.issue("old", lasting=datetime.timedelta(seconds=-1))) == "CONNECTION_CLOSED"
    assert await reason(server.address, ca_file=ca.file) == "CONNECTION_CLOSED"


async def test_health_stays_plain_on_its_own_port(start_server, ca):
    server = await start_server(**serving(ca.issue(), tls_client_ca_file=ca.file, health_port=0))
    async with grpc.aio.insecure_channel(server.health_address) as plain:
        answer = await health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest(service="liveness"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_renewed_certificate_is_served_and_a_broken_one_is_not(start_server, ca, other_ca, caplog):
    pair = ca.issue()
    server = await start_server(**serving(pair))
    assert await reason(server.address, ca_file=ca.file) == ""
    renewed = other_ca.issue("renewed")
    renewed.certificate.replace(pair.certificate)  # the certificate without its key
    assert await reason(server.address, ca_file=ca.file) == ""
    assert "the previous certificates stay in use" in caplog.text
    renewed.key.replace(pair.key)
    assert await reason(server.address, ca_file=other_ca.file) == ""
    assert await reason(server.address, ca_file=ca.file) == "CERTIFICATE_NOT_TRUSTED"
    pair.key.unlink()
    assert await reason(server.address, ca_file=other_ca.file) == ""


async def test_a_client_follows_its_certificate_files_and_its_calls_under_way_end_well(
    start_server, ca, other_ca, probe, monkeypatch
):
    monkeypatch.setattr(channel, "CHECK_INTERVAL_SECONDS", 0.0)
    trusted = ca.file.with_name("trusted.pem")
    trusted.write_bytes(ca.file.read_bytes())
    pair, mine = ca.issue(), ca.issue("mine")
    server = await start_server(**serving(pair, tls_client_ca_file=trusted))
    config = ClientConfig(ca_file=ca.file, certificate_file=mine.certificate, key_file=mine.key)
    async with ClientFactory(config).client(server.address) as client:
        waiting = asyncio.create_task(client.get_dataset("wait"))
        await probe.entered.wait()
        trusted.write_bytes(other_ca.file.read_bytes())
        later = other_ca.issue("later")
        other_ca.issue("half").certificate.replace(mine.certificate)
        assert (await client.get_dataset(NAME)).name == NAME  # a certificate without its key is not taken
        mine.certificate.unlink()
        assert (await client.get_dataset(NAME)).name == NAME  # on the old connection, while a file is away
        later.certificate.replace(mine.certificate)
        later.key.replace(mine.key)
        assert (await client.get_dataset(NAME)).name == NAME
        probe.release.set()
        assert (await waiting).name == "wait"


async def test_a_peer_shows_its_certificate_and_its_token_and_follows_the_file(start_server, ca, probe, tmp_path):
    server, mine = await start_server(**serving(ca.issue(), tls_client_ca_file=ca.file)), ca.issue("mine")
    token_file = tmp_path / "token"
    token_file.write_text("first\n")
    config = ClientConfig(ca_file=ca.file, certificate_file=mine.certificate, key_file=mine.key, token_file=token_file)
    assert list(config.problems()) == []
    factory = ClientFactory(config)
    async with factory.client(server.address, project="demo") as client:
        await client.get_dataset(NAME)
        token_file.write_text("the second")
        await client.get_dataset(NAME)
        assert client.project == "demo"
    assert [seen["token"] for seen in probe.seen] == ["first", "the second"]
    async with factory.channel(server.address) as bare:
        method = bare.unary_unary("/omnialign.v1.DataService/GetDataset")
        assert await method(b"\x0a\x01x", timeout=5) == b"\x0a\x01x"
    assert probe.seen[-1]["token"] == ""


async def test_without_settings_peers_are_plain(server, probe):
    async with ClientFactory().client(server.address) as client:
        await client.get_dataset(NAME)
    assert probe.seen[-1]["token"] == ""


async def test_a_replica_is_called_by_its_address_and_known_by_the_name_of_the_service(start_server, ca):
    server = await start_server(**serving(ca.issue(hosts=("refinement.svc",))))
    factory = ClientFactory(ClientConfig(ca_file=ca.file))
    async with factory.transport(server.address, server_name="refinement.svc") as transport:
        assert (await DatasetCalls(transport, project="p").get_dataset(NAME)).name == NAME
    async with factory.transport(server.address, server_name="somebody.else") as transport:
        with pytest.raises(Unavailable):
            await DatasetCalls(transport, project="p").get_dataset(NAME)


async def test_the_synchronous_client_speaks_tls_too(start_server, ca, probe):
    server = await start_server(**serving(ca.issue()))

    def ask() -> str:
        with Client(f"grpcs://{server.address}", ca_file=ca.file, token=lambda: "asked") as client:
            return client.get_dataset(NAME).name

    assert await asyncio.to_thread(ask) == NAME
    assert probe.seen[-1]["token"] == "asked"


async def test_round_robin_over_a_name_works_under_tls(start_server, ca):
    server = await start_server(**serving(ca.issue()))
    port = server.address.rpartition(":")[2]
    assert await reason(f"dns:///localhost:{port}", ca_file=ca.file) == ""


async def test_files_of_a_client_that_cannot_be_used_are_told_at_once(ca, tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        for how, wanted in (
            ({"ca_file": tmp_path / "nowhere"}, "TLS_FILE_UNREADABLE"),
            ({"ca_file": ca.file, "certificate_file": ca.file}, "TLS_FILES_INCOMPLETE"),
            ({"certificate_file": ca.file, "key_file": ca.issue().key}, "TLS_FILES_INVALID"),
            ({"ca_file": Path(__file__)}, "TLS_FILES_INVALID"),
        ):
            with pytest.raises(InvalidArgument) as caught:
                await stack.enter_async_context(AsyncClient("127.0.0.1:1", **how))
            assert caught.value.reason == wanted


def test_a_token_file_that_was_never_there_is_an_error_and_one_that_goes_away_is_not(tmp_path):
    token = TokenFile(tmp_path / "token")
    for content in (None, "", "\n"):
        if content is not None:
            (tmp_path / "token").write_text(content)
        with pytest.raises(Unauthenticated) as caught:
            token()
        assert caught.value.reason == "TOKEN_FILE_UNREADABLE"
    (tmp_path / "token").write_text("abc\n")
    assert token() == "abc"
    (tmp_path / "token").unlink()
    assert token() == "abc"


def test_settings_of_tls_are_checked_at_start(ca, other_ca, tmp_path):
    pair, other = ca.issue(), other_ca.issue("other")
    prefix = "OMNIALIGN_SERVER_TLS_"

    def problems(**files: Path) -> list[str]:
        try:
            load(ServerConfig, {f"{prefix}{name.upper()}_FILE": str(file) for name, file in files.items()})
        except ConfigError as error:
            return [variable.removeprefix(prefix) for variable, _ in error.problems]
        return []

    assert problems(certificate=pair.certificate, key=pair.key, client_ca=ca.file) == []
    assert problems(certificate=pair.certificate) == ["CERTIFICATE_FILE"]
    assert problems(client_ca=ca.file) == ["CLIENT_CA_FILE"]
    assert problems(certificate=pair.certificate, key=other.key) == ["CERTIFICATE_FILE"]
    assert problems(certificate=pair.certificate, key=tmp_path / "nowhere") == ["CERTIFICATE_FILE"]
    assert problems(certificate=pair.certificate, key=pair.key, client_ca=pair.key) == ["CERTIFICATE_FILE"]


def test_settings_of_peers_are_checked_at_start(ca, tmp_path):
    pair = ca.issue()
    assert [name for name, _ in ClientConfig(certificate_file=pair.certificate).problems()] == [
        "certificate_file",
        "ca_file",
    ]
    assert [name for name, _ in ClientConfig(token_file=tmp_path / "nowhere").problems()] == ["token_file"]


def answered(server: Server) -> float:
    labels = {"service": "omnialign.v1.DataService", "method": "GetDataset", "code": "OK"}
    return server.registry.get_sample_value("omnialign_rpc_requests_total", labels) or 0.0


async def test_calls_are_spread_over_the_replicas_and_go_to_those_that_are_left(start_server):
    servers = [await start_server() for _ in range(2)]
    address = "ipv4:" + ",".join(server.address for server in servers)
    async with ClientFactory().client(address) as client:
        await client.get_dataset("first")  # connected to one at least; the other follows
        while min(map(answered, servers)) < 3:
            await client.get_dataset("more")
        await servers[0].stop(0)
        before = answered(servers[1])
        for _ in range(5):
            await client.get_dataset("left")
    assert answered(servers[1]) == before + 5
