"""What all commands share: common options, the client, short names, and errors as one sentence."""

import contextlib
import functools
import inspect
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from omnialign.cli.output import Output

if TYPE_CHECKING:
    from omnialign.client import AsyncClient
    from omnialign.errors import OmnialignError

CONNECT_TIMEOUT_SECONDS = 3.0
EXIT_ERROR = 1
EXIT_SIGNALLED = 128
"""Added to the number of the signal that ended a command, as a shell does."""


def _server(text: str, *flags: str, envvar: str | None = None) -> Any:
    """An option of the connection; help lists these in a panel of their own."""
    return typer.Option(*flags, help=text, envvar=envvar, rich_help_panel="Server")


_ADDRESS = _server("host:port, or grpcs://host:port for TLS. Default: the server started by `omnialign up`.")
_PROJECT = _server("Project to work in.", envvar="OMNIALIGN_PROJECT")
_TOKEN = _server("Bearer token.", envvar="OMNIALIGN_TOKEN")
_TOKEN_FILE = _server("File with the bearer token.", envvar="OMNIALIGN_TOKEN_FILE")
_TLS = _server("Connect over TLS, like grpcs://.", "--tls", envvar="OMNIALIGN_TLS")
_CA_FILE = _server("PEM file of certificates to trust; implies --tls.", envvar="OMNIALIGN_CA_FILE")

COMMON: dict[str, tuple[Any, Any]] = {
    "address": (Annotated[str | None, _ADDRESS], None),
    "project": (Annotated[str, _PROJECT], "default"),
    "token": (Annotated[str | None, _TOKEN], None),
    "token_file": (Annotated[Path | None, _TOKEN_FILE], None),
    "tls": (Annotated[bool, _TLS], False),
    "ca_file": (Annotated[Path | None, _CA_FILE], None),
    "json": (Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")], False),
}
"""The options of every command, with their defaults."""


@dataclass(frozen=True)
class Session:
    """The common options of one call of a command."""

    address: str | None = None
    project: str = "default"
    token: str | None = None
    token_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    out: Output = field(default_factory=Output)

    @contextlib.asynccontextmanager
    async def client(self) -> "AsyncIterator[AsyncClient]":
        """A client of the server. Raises Unavailable at once if nothing listens there."""
        from omnialign.cli.state import find_address
        from omnialign.client import AsyncClient, TokenFile

        address = find_address(self.address)
        token = self.token or (TokenFile(self.token_file) if self.token_file else None)
        await _require_listener(address)
        async with AsyncClient(
            address, project=self.project, token=token, tls=self.tls, ca_file=self.ca_file
        ) as client:
            yield client

    def name(self, collection: str, text: str) -> str:
        """The full resource name of `text`: `base/2` of models is `projects/{project}/models/base/versions/2`.

        So is `base/versions/2`. A full name is returned as it is. Without a version, a model means its latest; a
        dataset stays a dataset.
        """
        if text.startswith("projects/"):
            return text
        identity, _, version = text.replace("/versions/", "/", 1).partition("/")
        tail = f"/versions/{version}" if version else "/versions/-" if collection == "models" else ""
        return f"projects/{self.project}/{collection}/{identity}{tail}"


def local_uri(source: str) -> str:
    """An absolute `file://` URI for a local path; a URI is returned as it is."""
    return source if "://" in source else Path(source).expanduser().resolve().as_uri()


def command(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Turns `async def f(session, ...)` into a typer command with the common options that reports errors."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in COMMON.items()
    ]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        out = Output(as_json=values.pop("json"))
        session = Session(**{name: values.pop(name) for name in COMMON if name != "json"}, out=out)
        run_guarded(lambda: function(session, **values), out=out)

    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    run.__signature__ = inspect.Signature([*keyword, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*keyword, *shared)}
    del run.__wrapped__  # type: ignore[attr-defined]
    return run


def run_guarded(call: Callable[[], Awaitable[None]], *, out: Output) -> None:
    """Runs a coroutine; an error becomes one sentence on stderr and exit status 1.

    Ctrl-C and SIGTERM cancel the coroutine, which then ends what it started, and give exit status 130 and 143.
    """
    import asyncio

    from omnialign.errors import OmnialignError

    received: list[signal.Signals] = []

    async def body() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def interrupt(number: signal.Signals) -> None:
            received.append(number)
            loop.remove_signal_handler(number)  # a second one kills the program at once
            if task is not None:
                task.cancel()

        # Instead of asyncio's own handler, which notices a signal that arrives just before the loop waits only later.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, interrupt, number)
        await call()

    try:
        asyncio.run(body())
    except OmnialignError as error:
        fail(error, out=out)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_SIGNALLED + signal.SIGINT) from None
    except asyncio.CancelledError:
        if not received:
            raise
        raise typer.Exit(EXIT_SIGNALLED + received[0]) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader, such as `head`, has closed the pipe
        raise typer.Exit(0) from None


def fail(error: "OmnialignError", *, out: Output) -> NoReturn:
    """Prints an error with its reason and violations, and exits with status 1."""
    if out.as_json:
        record = {"reason": error.reason, "message": error.message, "metadata": error.metadata}
        line = json.dumps({"error": record | {"violations": [list(v) for v in error.violations]}}, ensure_ascii=False)
    else:
        details = "".join(f"\n  {where}: {what}" for where, what in error.violations if what not in error.message)
        line = f"error: {error.message} [{error.reason}]{details}"
    out.complain(line)
    raise typer.Exit(EXIT_ERROR)


async def _require_listener(address: str) -> None:
    """Fails fast if no server is there; otherwise the client would retry, as with a busy server."""
    import asyncio

    from omnialign.errors import Unavailable

    host, colon, port = address.removeprefix("grpcs://").removeprefix("grpc://").rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return  # the address of a resolver, such as dns:///name: leave it to the client
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        sentence = f"There is no omnialign server at {address}; start one with `omnialign up`."
        raise Unavailable(sentence, reason="SERVER_UNREACHABLE", metadata={"address": address}) from None
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
