"""Connections: plain ones, and ones under TLS whose certificates are read again when their files change.

gRPC reads a client's certificates once. Certificates are renewed while a process lives, so a connection that was made
with files is made anew when they change; calls that are under way end on the old one.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from omnialign.client.options import CHANNEL_OPTIONS
from omnialign.errors import InvalidArgument

LOOK_EVERY_SECONDS = 10.0
OLD_CALLS_SECONDS = 3600.0
SECURE, PLAIN = "grpcs://", "grpc://"


@dataclass(frozen=True)
class Tls:
    """What a connection under TLS trusts and shows. All files are PEM."""

    ca_file: Path | None = None
    """Certificates to trust; None means the public authorities that come with gRPC."""
    certificate_file: Path | None = None
    """The client's own certificate, for servers that want one."""
    key_file: Path | None = None
    """The key of that certificate."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that there are."""
        return tuple(file for file in (self.ca_file, self.certificate_file, self.key_file) if file is not None)

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC wants.

        Raises InvalidArgument (`TLS_FILE_UNREADABLE`, `TLS_FILES_INCOMPLETE`, `TLS_FILES_INVALID`).
        """
        if (self.certificate_file is None) != (self.key_file is None):
            raise InvalidArgument(
                "A certificate needs its key, and a key its certificate", reason="TLS_FILES_INCOMPLETE"
            )
        ca, certificate, key = (_read(file) for file in (self.ca_file, self.certificate_file, self.key_file))
        self._check()
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def _check(self) -> None:
        """gRPC takes any bytes, and fails at the first call with words that name no file."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self.ca_file is not None:
                context.load_verify_locations(self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(map(str, self.files))
            raise InvalidArgument(
                f"The files are not certificates with their key ({files}): {error}",
                reason="TLS_FILES_INVALID",
                metadata={"files": files},
            ) from None


def split_address(address: str, tls: Tls | None) -> tuple[str, Tls | None]:
    """(what gRPC connects to, how): `grpcs://host:port` asks for TLS, `grpc://host:port` for none."""
    if address.startswith(SECURE):
        return address.removeprefix(SECURE), tls or Tls()
    return address.removeprefix(PLAIN), None if address.startswith(PLAIN) else tls


def open_channel(target: str, tls: Tls | None) -> Any:
    """A `grpc.aio` channel, or what passes for one; plain for None. Raises what `Tls.credentials` raises."""
    if tls is None:
        return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
    if not tls.files:
        return grpc.aio.secure_channel(target, tls.credentials(), options=CHANNEL_OPTIONS)
    return RenewedChannel(target, tls)


class RenewedChannel:
    """A channel that stubs can be made of, and that follows its certificate files."""

    def __init__(self, target: str, tls: Tls) -> None:
        self._target = target
        self._tls = tls
        self._signature = _signature(tls)
        self._looked = time.monotonic()
        self._channel = self._open()
        self._closing: set[asyncio.Task[None]] = set()

    def unary_unary(self, path: str, *how: Any, **named: Any) -> Callable[..., Any]:
        """A method with one request and one answer."""
        return self._method("unary_unary", path, *how, **named)

    def unary_stream(self, path: str, *how: Any, **named: Any) -> Callable[..., Any]:
        """A method with one request and many answers."""
        return self._method("unary_stream", path, *how, **named)

    def stream_unary(self, path: str, *how: Any, **named: Any) -> Callable[..., Any]:
        """A method with many requests and one answer."""
        return self._method("stream_unary", path, *how, **named)

    def stream_stream(self, path: str, *how: Any, **named: Any) -> Callable[..., Any]:
        """A method with many requests and many answers."""
        return self._method("stream_stream", path, *how, **named)

    async def close(self, grace: float | None = None) -> None:
        """Closes the connection; calls get `grace` seconds to end, and are cancelled for None."""
        for task in list(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close(grace)

    async def __aenter__(self) -> "RenewedChannel":
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    def _method(self, kind: str, path: str, *how: Any, **named: Any) -> Callable[..., Any]:
        made: tuple[Any, Any] = (None, None)

        def call(*args: Any, **options: Any) -> Any:
            nonlocal made
            channel = self._current()
            if made[0] is not channel:
                made = channel, getattr(channel, kind)(path, *how, **named)
            return made[1](*args, **options)

        return call

    def _current(self) -> Any:
        """The channel in force. Files that cannot be read now leave it as it is, and are looked at again later."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY_SECONDS:
            self._looked = now
            found = _signature(self._tls)
            if found is not None and found != self._signature:
                self._renew(found)
        return self._channel

    def _renew(self, found: tuple[tuple[int, int, int], ...]) -> None:
        old = self._channel
        try:
            self._channel = self._open()
        except InvalidArgument:
            return
        self._signature = found
        task = asyncio.create_task(old.close(OLD_CALLS_SECONDS), name="close an old connection")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _open(self) -> Any:
        return grpc.aio.secure_channel(self._target, self._tls.credentials(), options=CHANNEL_OPTIONS)


def _signature(tls: Tls) -> tuple[tuple[int, int, int], ...] | None:
    """What changes when the files do; None while one is not there."""
    try:
        found = [os.stat(file) for file in tls.files]  # noqa: PTH116  the same call, without a Path in between
    except OSError:
        return None
    return tuple((file.st_mtime_ns, file.st_size, file.st_ino) for file in found)


def _read(file: Path | None) -> bytes | None:
    try:
        return None if file is None else file.read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"The file '{file}' cannot be read: {error.strerror}",
            reason="TLS_FILE_UNREADABLE",
            metadata={"file": str(file)},
        ) from None
