"""The server's certificates, read again when their files change: they are renewed while the server runs.

gRPC asks for them at each handshake. Files that cannot be read, or that do not belong together because only one of
them has been renewed so far, leave the former ones in use and are tried again at the next handshake.
"""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from services.runtime.auth.watched import Signature, signature

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerTls:
    """The files, all PEM."""

    certificate_file: Path
    key_file: Path
    client_ca_file: Path | None = None

    def problem(self) -> str:
        """Why the files cannot be used, in words that follow the name of a setting; empty when they can."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate_file, self.key_file)
            if self.client_ca_file is not None:
                context.load_verify_locations(self.client_ca_file)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(str(file) for file in self.files)
            return f"cannot be used, or not with its key or the callers' certificates ({files}): {error}"
        return ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that there are."""
        return tuple(file for file in (self.certificate_file, self.key_file, self.client_ca_file) if file is not None)


class _Certificates:
    """What gRPC is given at a handshake: a new configuration when the files have changed, None otherwise."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._signatures = self._look()
        self._failed: list[Signature] = []
        self.first = self._read()

    def __call__(self) -> Any:
        """Called by gRPC, in a thread of its own."""
        try:
            found = self._look()
            if found in (self._signatures, self._failed):
                return None
            return self._renewed(found)
        except OSError as error:
            _log.error("the certificates cannot be read; the former ones stay in use: %s", error)
            return None

    def _renewed(self, found: list[Signature]) -> Any:
        if problem := self._tls.problem():
            _log.error("the former certificates stay in use; the new one %s", problem)
            self._failed = found
            return None
        renewed = self._read()
        if self._look() != found:  # changed again while they were read
            return None
        self._signatures = found
        _log.info("the certificates were read again")
        return renewed

    def _look(self) -> list[Signature]:
        return [signature(file) for file in self._tls.files]

    def _read(self) -> Any:
        pair = (self._tls.key_file.read_bytes(), self._tls.certificate_file.read_bytes())
        ca = self._tls.client_ca_file
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca.read_bytes() if ca else None)


def server_credentials(tls: ServerTls) -> Any:
    """What a secure port is made with. Raises OSError for files that cannot be read."""
    certificates = _Certificates(tls)
    return grpc.dynamic_ssl_server_credentials(
        certificates.first, certificates, require_client_authentication=tls.client_ca_file is not None
    )
