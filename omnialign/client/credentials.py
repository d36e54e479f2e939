"""What a client trusts and what it shows: TLS certificates, bearer tokens, and why a handshake failed.

Certificates and tokens are renewed while a process lives, so both are read again when their files change.
"""

import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import grpc

from omnialign.errors import InvalidArgument, Unauthenticated

Token = str | Callable[[], str]
"""A bearer token, or a function that returns the current one and is called before each RPC."""

FileVersion = tuple[int, int, int]
"""Modification time in ns, size in bytes and inode. The inode gives away a file replaced within the same tick."""


@dataclass(frozen=True)
class Tls:
    """The certificates of a connection under TLS. All files are PEM."""

    ca_file: Path | None = None
    """Certificates to trust; None means the public authorities that come with gRPC."""
    certificate_file: Path | None = None
    """The client's own certificate, for servers that require one."""
    key_file: Path | None = None
    """The private key of `certificate_file`."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are configured."""
        return tuple(file for file in (self.ca_file, self.certificate_file, self.key_file) if file is not None)

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files into gRPC's credentials.

        Raises InvalidArgument (`TLS_FILE_UNREADABLE`, `TLS_FILES_INCOMPLETE`, `TLS_FILES_INVALID`).
        """
        if (self.certificate_file is None) != (self.key_file is None):
            raise InvalidArgument(
                "A client certificate and its key only work together: give both files or neither.",
                reason="TLS_FILES_INCOMPLETE",
            )
        ca, certificate, key = (_read(file) for file in (self.ca_file, self.certificate_file, self.key_file))
        self._validate()
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def _validate(self) -> None:
        # gRPC accepts any bytes here and fails at the first call, with an error that names no file.
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self.ca_file is not None:
                context.load_verify_locations(self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(map(str, self.files))
            raise InvalidArgument(
                f"The TLS files are not valid PEM certificates with a matching key ({files}): {error}",
                reason="TLS_FILES_INVALID",
                metadata={"files": files},
            ) from None


class TokenFile:
    """A bearer token kept in a file. Calling the object returns the current token.

    While the file is missing or empty, as it may be during a renewal, the last token stays in use. Raises
    Unauthenticated (`TOKEN_FILE_UNREADABLE`) if no token was ever read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: FileVersion | None = None
        self._token = ""

    def __call__(self) -> str:
        """The current token; costs one `stat` unless the file changed."""
        try:
            version = _version(self._path)
            if version != self._version:
                token = self._path.read_text("utf-8").strip()
                self._token, self._version = token or self._token, version
        except (OSError, ValueError) as error:
            if not self._token:
                raise self._unreadable(str(error)) from None
        if not self._token:
            raise self._unreadable("it is empty")
        return self._token

    def _unreadable(self, problem: str) -> Unauthenticated:
        return Unauthenticated(
            f"The token file '{self._path}' holds no token: {problem}",
            reason="TOKEN_FILE_UNREADABLE",
            metadata={"file": str(self._path)},
        )


_HANDSHAKE_PROBLEMS = (  # words of gRPC or of the TLS library, reason, sentence with a place for the address
    (
        "Hostname Verification Check failed",
        "CERTIFICATE_OF_ANOTHER_HOST",
        "The certificate of the server at {} is for another name; connect by the name in the certificate.",
    ),
    (
        "certificate has expired",
        "CERTIFICATE_EXPIRED",
        "The certificate of the server at {} has expired; renew it.",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "CERTIFICATE_NOT_TRUSTED",
        "The certificate of the server at {} is not trusted; set the CA file to the authority that signed it.",
    ),
    (
        "certificate signature failure",
        "CERTIFICATE_NOT_TRUSTED",
        "The certificate of the server at {} was not signed by the key in the CA file; get the current CA file.",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "TLS_NOT_SPOKEN",
        "The server at {} does not speak TLS; connect without TLS.",
    ),
)
_CLOSED_SECURE = "The server at {} closed the connection at once; it may require a client certificate, or another one."
_CLOSED_PLAIN = "The server at {} closed the connection at once; it may accept only TLS (grpcs://...)."


def diagnose_handshake(details: str, *, is_secure: bool) -> tuple[str, str] | None:
    """(reason, sentence) for the `details` of a connection that could not be made; None for any other failure.

    gRPC reports every failed handshake as UNAVAILABLE, so the words of the TLS library are all there is to go by. The
    sentence has a `{}` for the address.
    """
    # gRPC says "last error" only when no attempt to connect succeeded. Without it the call did reach a server, and
    # "Socket closed" means one that went away in the middle, not a failed handshake.
    if "last error" not in details:
        return None
    closed = ("Socket closed", "CONNECTION_CLOSED", _CLOSED_SECURE if is_secure else _CLOSED_PLAIN)
    problems = (*_HANDSHAKE_PROBLEMS, closed)
    return next(((reason, sentence) for words, reason, sentence in problems if words in details), None)


def file_versions(files: Iterable[Path]) -> tuple[FileVersion, ...] | None:
    """The version of each file, to compare with an earlier answer; None while one of them is missing."""
    try:
        return tuple(map(_version, files))
    except OSError:
        return None


def _version(file: Path) -> FileVersion:
    found = os.stat(file)  # noqa: PTH116  the same call, without a Path in between
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"The file '{file}' cannot be read: {error.strerror}",
            reason="TLS_FILE_UNREADABLE",
            metadata={"file": str(file)},
        ) from None
