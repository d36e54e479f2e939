"""What every command shares: its common options, the client, short names, and errors said in one sentence."""

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
EXIT_ERROR, EXIT_INTERRUPTED = 1, 130

COMMON: dict[str, tuple[Any, Any]] = {
    "address": (
        Annotated[
            str | None,
            typer.Option(help="host:port, or grpcs://host:port for TLS; default: the server that `omnialign up` runs."),
        ],
        None,
    ),
    "project": (Annotated[str, typer.Option(envvar="OMNIALIGN_PROJECT", help="Project to work in.")], "default"),
    "token": (
        Annotated[str | None, typer.Option(envvar="OMNIALIGN_TOKEN", help="Bearer token.", show_envvar=True)],
        None,
    ),
    "token_file": (
        Annotated[
            Path | None,
            typer.Option(envvar="OMNIALIGN_TOKEN_FILE", help="File with the bearer token.", show_envvar=True),
        ],
        None,
    ),
    "tls": (
        Annotated[
            bool,
            typer.Option(
                "--tls", envvar="OMNIALIGN_TLS", help="Connect under TLS, as to grpcs://...", show_envvar=True
            ),
        ],
        False,
    ),
    "ca_file": (
        Annotated[
            Path | None,
            typer.Option(
                envvar="OMNIALIGN_CA_FILE", help="Certificates to trust, as PEM; means TLS.", show_envvar=True
            ),
        ],
        None,
    ),
    "json": (Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")], False),
}


@dataclass(frozen=True)
class Session:
    """How one command was called."""

    address: str | None = None
    project: str = "default"
    token: str | None = None
    token_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    out: Output = field(default_factory=Output)

    @contextlib.asynccontextmanager
    async def client(self) -> "AsyncIterator[AsyncClient]":
        """A client of the server. Raises Unavailable at once when nothing listens there."""
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

        `text` may be a full name already. Of a dataset, `demo` alone is its head.
        """
        if text.startswith("projects/"):
            return text
        identity, _, version = text.partition("/")
        tail = f"/versions/{version}" if version else "/versions/-" if collection == "models" else ""
        return f"projects/{self.project}/{collection}/{identity}{tail}"


def local_uri(source: str) -> str:
    """A path as `file://`, so that the server finds it from another folder; a URI as it is."""
    return source if "://" in source else Path(source).expanduser().resolve().as_uri()


def command(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes a typer command of `async def f(session, ...)`: adds the common options, runs it, and says its errors."""
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
    """Runs a coroutine to its end; an error becomes one sentence on stderr and exit status 1."""
    import asyncio

    from omnialign.errors import OmnialignError

    interrupted = False

    async def body() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            loop.remove_signal_handler(signal.SIGINT)  # the second one ends the program where it stands
            if task is not None:
                task.cancel()

        # Not asyncio's own way: there a signal just before the loop waits is seen only when something else happens.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
            loop.add_signal_handler(signal.SIGINT, interrupt)
        await call()

    try:
        asyncio.run(body())
    except OmnialignError as error:
        fail(error, out=out)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except asyncio.CancelledError:
        if not interrupted:
            raise
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader, such as `head`, has had enough
        raise typer.Exit(0) from None


def fail(error: "OmnialignError", *, out: Output) -> NoReturn:
    """Says what is wrong, with its reason and what else the server knows, and ends with status 1."""
    if out.as_json:
        record = {"reason": error.reason, "message": error.message, "metadata": error.metadata}
        line = json.dumps({"error": record | {"violations": [list(v) for v in error.violations]}}, ensure_ascii=False)
    else:
        details = "".join(f"\n  {where}: {what}" for where, what in error.violations if what not in error.message)
        line = f"error: {error.message} [{error.reason}]{details}"
    typer.echo(line, err=True)
    raise typer.Exit(EXIT_ERROR)


async def _require_listener(address: str) -> None:
    """Tells a server that is not there from one that is busy, without waiting for the client's retries."""
    import asyncio

    from omnialign.errors import Unavailable

    host, colon, port = address.removeprefix("grpcs://").removeprefix("grpc://").rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return  # a resolver's address, such as dns:///name: the client finds out
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        sentence = f"There is no omnialign server at {address}; start one with `omnialign up`."
        raise Unavailable(sentence, reason="SERVER_UNREACHABLE", metadata={"address": address}) from None
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
