"""How a service calls another: TLS with a certificate of its own, and its own token, as the environment says.

Without any of these settings connections are plain and calls carry no token: omnialign on a laptop.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omnialign.client import AsyncClient
from omnialign.client.channel import Tls, open_channel, split_address
from omnialign.client.tokens import TokenFile


@dataclass(frozen=True)
class PeerConfig:
    """What a service trusts and shows when it calls another."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_PEER_"

    ca_file: Path | None = None
    """Certificates that the other services' are signed with, as PEM; set means TLS, unset means plain connections."""
    certificate_file: Path | None = None
    """The service's own certificate, for services that want one of their callers."""
    key_file: Path | None = None
    """The key of that certificate."""
    token_file: Path | None = None
    """File with the service's own bearer token. All of these files are read again when they change."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Files that are missing or do not belong together."""
        if (self.certificate_file is None) != (self.key_file is None):
            yield "certificate_file", "needs OMNIALIGN_PEER_KEY_FILE, and the other way round"
        if self.certificate_file is not None and self.ca_file is None:
            yield "ca_file", "is required with a certificate: it makes the connections be under TLS"
        for name in ("ca_file", "certificate_file", "key_file", "token_file"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                yield name, f"'{path}' is not a file"

    @property
    def tls(self) -> Tls | None:
        """How to connect; None for plain connections."""
        return None if self.ca_file is None else Tls(self.ca_file, self.certificate_file, self.key_file)


class Peers:
    """Makes connections to other services."""

    def __init__(self, config: PeerConfig | None = None) -> None:
        self._config = config or PeerConfig()
        self._token = TokenFile(self._config.token_file) if self._config.token_file else None

    def client(self, address: str, *, project: str = "default") -> AsyncClient:
        """A client of the services at an address, with this service's identity. The caller closes it."""
        tls = self._config.tls or Tls()
        return AsyncClient(
            address,
            project=project,
            token=self._token,
            tls=self._config.tls is not None,
            ca_file=tls.ca_file,
            certificate_file=tls.certificate_file,
            key_file=tls.key_file,
        )

    def channel(self, address: str) -> Any:
        """A bare connection without this service's token, for calls that are passed on. The caller closes it."""
        return open_channel(*split_address(address, self._config.tls))
