"""Connections to a service: addresses, channel options, and channels that follow their certificate files.

gRPC reads a client's certificates once, when the channel is made. A channel that was made from files is therefore
replaced when the files change; calls in flight finish on the old one.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from omnialign.client.credentials import FileVersion, Tls, file_versions
from omnialign.errors import InvalidArgument

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Largest message either end accepts: gRPC's own default, because media travel in chunks and records in batches."""

Options: TypeAlias = tuple[tuple[str, int | str], ...]
"""Settings of a gRPC channel."""

CHANNEL_OPTIONS: Options = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # After a failed connection gRPC fails calls at once until its own back-off is over. With the default of a second,
    # all retries of the transport would fall into that gap.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A replaced pod has a new address. By default gRPC resolves a name again after 30 s at the earliest.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # Exactly one layer retries: `Transport`. gRPC's retries under it would multiply the attempts.
    ("grpc.enable_retries", 0),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)

CHECK_INTERVAL_SECONDS = 10.0
"""How often a channel checks its certificate files for changes."""
DRAIN_SECONDS = 3600.0
"""How long calls in flight may go on after their channel was replaced."""
SECURE_SCHEME, PLAIN_SCHEME = "grpcs://", "grpc://"


def split_address(address: str, tls: Tls | None) -> tuple[str, Tls | None]:
    """(gRPC target, TLS or None) of an address. A scheme wins over `tls`: `grpcs://` means TLS, `grpc://` plain."""
    if address.startswith(SECURE_SCHEME):
        return address.removeprefix(SECURE_SCHEME), tls or Tls()
    return address.removeprefix(PLAIN_SCHEME), None if address.startswith(PLAIN_SCHEME) else tls


def open_channel(target: str, tls: Tls | None, options: Options = ()) -> Any:
    """A `grpc.aio` channel, or a stand-in for one; plain if `tls` is None. Raises as `Tls.credentials` does.

    `options` come on top of those that all channels have.
    """
    options = (*CHANNEL_OPTIONS, *options)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    if not tls.files:
        return grpc.aio.secure_channel(target, tls.credentials(), options=options)
    return ReloadingChannel(target, tls, options)


class ReloadingChannel:
    """Stands in for a `grpc.aio` channel under stubs, and replaces the real one when the certificate files change."""

    def __init__(self, target: str, tls: Tls, options: Options = CHANNEL_OPTIONS) -> None:
        self._target = target
        self._tls = tls
        self._options = options
        # Versions before contents: a file that changes in between is read a second time, instead of being missed.
        self._versions = file_versions(tls.files)
        self._checked_at = time.monotonic()
        self._channel = self._open()
        self._draining: set[asyncio.Task[None]] = set()

    def unary_unary(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """A method with one request and one response."""
        return self._method("unary_unary", path, *args, **kwargs)

    def unary_stream(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """A method with one request and a stream of responses."""
        return self._method("unary_stream", path, *args, **kwargs)

    def stream_unary(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """A method with a stream of requests and one response."""
        return self._method("stream_unary", path, *args, **kwargs)

    def stream_stream(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """A method with streams in both directions."""
        return self._method("stream_stream", path, *args, **kwargs)

    async def close(self, grace: float | None = None) -> None:
        """Closes the connection. Calls in flight get `grace` seconds to finish; None cancels them at once."""
        for task in list(self._draining):
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)
        await self._channel.close(grace)

    async def __aenter__(self) -> "ReloadingChannel":
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    def _method(self, kind: str, path: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        # A stub asks for its methods once and keeps them. So what it gets is a function that looks up the current
        # channel at each call and makes the real method anew only after the channel was replaced.
        cached: tuple[Any, Any] = (None, None)  # channel, its method

        def call(*call_args: Any, **options: Any) -> Any:
            nonlocal cached
            channel = self._current()
            if cached[0] is not channel:
                cached = channel, getattr(channel, kind)(path, *args, **kwargs)
            return cached[1](*call_args, **options)

        return call

    def _current(self) -> Any:
        """The channel for a call that starts now."""
        now = time.monotonic()
        if now - self._checked_at >= CHECK_INTERVAL_SECONDS:
            self._checked_at = now
            found = file_versions(self._tls.files)
            if found is not None and found != self._versions:
                self._replace(found)
        return self._channel

    def _replace(self, versions: tuple[FileVersion, ...]) -> None:
        old = self._channel
        try:
            self._channel = self._open()
        except InvalidArgument:
            # Half-written, or a certificate whose new key is still to come: keep the old channel. As the versions are
            # not recorded, the next check tries again.
            return
        self._versions = versions
        task = asyncio.create_task(old.close(DRAIN_SECONDS), name="drain a replaced channel")
        self._draining.add(task)  # the event loop keeps only a weak reference to its tasks
        task.add_done_callback(self._draining.discard)

    def _open(self) -> Any:
        return grpc.aio.secure_channel(self._target, self._tls.credentials(), options=self._options)
