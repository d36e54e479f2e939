"""Connections under TLS, both ways: the certificates of a server, and the clients with which it calls other services.

A server's certificates are renewed while it runs. gRPC asks for them at each handshake; they are read again when their
files have changed. Files that cannot be read, or that do not match because only one of them has been renewed so far,
leave the previous ones in use and are tried again at the next handshake.

A client uses TLS, a certificate and a token as the environment says. Without any of these settings connections are
plain and calls carry no token: omnialign on a laptop.
"""

import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import grpc

from omnialign.client import AsyncClient
from omnialign.client.channel import Options, open_channel, split_address
from omnialign.client.clients import DEFAULT_DEADLINE_SECONDS
from omnialign.client.credentials import Tls, TokenFile
from omnialign.client.transport import Transport
from services.runtime.watched_file import FileVersion, file_version

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerTls:
    """The files of a server's TLS, all PEM."""

    certificate_file: Path
    key_file: Path
    client_ca_file: Path | None = None

    def problem(self) -> str:
        """Why the files cannot be used, phrased to follow the name of a setting; empty when they can."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate_file, self.key_file)
            if self.client_ca_file is not None:
                context.load_verify_locations(self.client_ca_file)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(str(file) for file in self.files)
            return f"cannot be used, or does not match its key or the client CA ({files}): {error}"
        return ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are set."""
        return tuple(file for file in (self.certificate_file, self.key_file, self.client_ca_file) if file is not None)


class _Certificates:
    """Answers gRPC at each handshake: a new configuration when the files have changed, None otherwise."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._versions = self._look()
        self._failed: list[FileVersion] = []
        self.first = self._read()

    def __call__(self) -> Any:
        """Called by gRPC, in a thread of its own."""
        try:
            found = self._look()
            if found in (self._versions, self._failed):
                return None
            return self._renewed(found)
        except OSError as error:
            _log.error("the certificates cannot be read, so the previous ones stay in use: %s", error)
            return None

    def _renewed(self, found: list[FileVersion]) -> Any:
        if problem := self._tls.problem():
            _log.error("the previous certificates stay in use; the new one %s", problem)
            self._failed = found
            return None
        renewed = self._read()
        if self._look() != found:  # changed again while they were read
            return None
        self._versions = found
        _log.info("the certificates were reloaded")
        return renewed

    def _look(self) -> list[FileVersion]:
        return [file_version(file) for file in self._tls.files]

    def _read(self) -> Any:
        pair = (self._tls.key_file.read_bytes(), self._tls.certificate_file.read_bytes())
        ca = self._tls.client_ca_file
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca.read_bytes() if ca else None)


def server_credentials(tls: ServerTls) -> Any:
    """The credentials of a secure port. Raises OSError for files that cannot be read."""
    certificates = _Certificates(tls)
    return grpc.dynamic_ssl_server_credentials(
        certificates.first, certificates, require_client_authentication=tls.client_ca_file is not None
    )


@dataclass(frozen=True)
class ClientConfig:
    """What a service trusts, and how it identifies itself, when it calls another one."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_PEER_"

    ca_file: Path | None = None
    """CA certificates of the other services, as PEM; set means TLS, unset means plain connections."""
    certificate_file: Path | None = None
    """The service's own certificate, for services that require one from their callers."""
    key_file: Path | None = None
    """The key of that certificate."""
    token_file: Path | None = None
    """File with the service's own bearer token. All these files are read again when they change."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields (field, problem) for files that are missing or incomplete."""
        if (self.certificate_file is None) != (self.key_file is None):
            yield "certificate_file", "needs OMNIALIGN_PEER_KEY_FILE, and vice versa"
        if self.certificate_file is not None and self.ca_file is None:
            yield "ca_file", "is required with a certificate, because it turns TLS on"
        for name in ("ca_file", "certificate_file", "key_file", "token_file"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                yield name, f"'{path}' is not a file"

    @property
    def tls(self) -> Tls | None:
        """How to connect; None for plain connections."""
        return None if self.ca_file is None else Tls(self.ca_file, self.certificate_file, self.key_file)


class ClientFactory:
    """Opens connections to other services."""

    def __init__(self, config: ClientConfig | None = None) -> None:
        self._config = config or ClientConfig()
        self._token = TokenFile(self._config.token_file) if self._config.token_file else None

    def client(self, address: str, *, project: str = "default", deadline_seconds: float | None = None) -> AsyncClient:
        """A client of the services at `address`, with this service's identity. The caller closes it."""
        tls = self._config.tls or Tls()
        return AsyncClient(
            address,
            project=project,
            token=self._token,
            tls=self._config.tls is not None,
            ca_file=tls.ca_file,
            certificate_file=tls.certificate_file,
            key_file=tls.key_file,
            deadline_seconds=deadline_seconds or DEFAULT_DEADLINE_SECONDS,
            waits_for_restarts=False,  # services show what they wait for, and have their own patience
        )

    @asynccontextmanager
    async def transport(self, address: str, *, server_name: str) -> AsyncIterator[Transport]:
        """A connection with this service's identity to one of several replicas, whose certificate is for a name."""
        tls = self._config.tls
        # Channels of one process share their connections, and so the pause after one that failed. A replica that has
        # just restarted would seem to be away for that long.
        options: Options = (("grpc.use_local_subchannel_pool", 1),)
        if tls is not None:
            options = (*options, ("grpc.ssl_target_name_override", server_name))
        transport = Transport(
            address,
            token=self._token,
            deadline_seconds=DEFAULT_DEADLINE_SECONDS,
            tls=tls,
            waits_for_restarts=False,
            options=options,
        )
        try:
            yield transport
        finally:
            await transport.close()

    def channel(self, address: str) -> Any:
        """A connection without this service's token, for calls that are forwarded. The caller closes it."""
        return open_channel(*split_address(address, self._config.tls))
