"""Configuration from the environment: frozen dataclasses, read once, with every problem reported at once.

A configuration class names its prefix in `ENV_PREFIX`; field `data_address` of prefix `OMNIALIGN_ALIGNMENT_` is read
from `OMNIALIGN_ALIGNMENT_DATA_ADDRESS`. A field without a default is required. A class may add rules that span fields
as `def problems(self) -> Iterator[tuple[str, str]]`, yielding (field name, what is wrong).

An unknown variable with the prefix is a problem too: it is nearly always a misspelt one. The variables that Kubernetes
injects for each Service of the namespace look alike and are let through.
"""

import dataclasses
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from omnialign.errors import InvalidArgument
from services.runtime.connections import ServerTls

T = TypeVar("T")

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_SERVICE_LINK = re.compile(r"(.*_)?(SERVICE_(HOST|PORT)(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


class ConfigError(InvalidArgument):
    """The environment cannot be a configuration. `problems` are (variable, what is wrong), all of them."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        lines = "\n".join(f"  {variable}: {problem}" for variable, problem in problems)
        super().__init__(
            f"{len(problems)} problem(s) in the configuration:\n{lines}", reason="CONFIG_INVALID", violations=problems
        )
        self.problems = tuple(problems)


@dataclass(frozen=True)
class ServerConfig:
    """How a service's gRPC server listens and ends."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_SERVER_"

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` or `[::]` in a container."""
    port: int = 0
    """Port of the services; 0 takes a free one."""
    metrics_port: int | None = None
    """Port of the Prometheus endpoint; 0 takes a free one, unset means none."""
    health_port: int | None = None
    """Port of a second, plaintext server with health alone; 0 takes a free one, unset means none."""
    grace_seconds: float = 20.0
    """How long calls in flight may go on after the server stopped taking new ones."""
    drain_seconds: float = 0.0
    """How long to go on serving after SIGTERM, so that load balancers notice first; 3 to 5 in a cluster."""
    max_concurrent_rpcs: int = 256
    """Calls in flight beyond which new ones are refused with RESOURCE_EXHAUSTED; health and reflection are exempt.
    One caller may have half of them, one project three quarters; our own services alone may have the last eighth."""
    first_message_seconds: float = 10.0
    """How long a call may wait for its first message before it is refused with DEADLINE_EXCEEDED."""
    max_connections: int = 4096
    """Connections at once, beyond which new ones are closed."""
    reflection: bool = True
    """Whether tools may ask the server for its schema."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe log line to write. DEBUG logs reads too."""
    tls_certificate_file: Path | None = None
    """The server's certificate and what it was signed with, as PEM; set means that the port speaks TLS alone. The
    three files are read again when they change."""
    tls_key_file: Path | None = None
    """The key of the certificate."""
    tls_client_ca_file: Path | None = None
    """What the callers' certificates are signed with; set means that callers must show one."""

    @property
    def tls(self) -> ServerTls | None:
        """The files of TLS; None for a plain port."""
        if self.tls_certificate_file is None or self.tls_key_file is None:
            return None
        return ServerTls(self.tls_certificate_file, self.tls_key_file, self.tls_client_ca_file)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        for field in ("port", "metrics_port", "health_port"):
            if not 0 <= (getattr(self, field) or 0) <= 65535:
                yield field, "must be between 0 and 65535"
        for field in ("grace_seconds", "drain_seconds"):
            if not 0 <= getattr(self, field) < float("inf"):
                yield field, "must be a number of seconds, 0 or more"
        if not 0 < self.first_message_seconds < float("inf"):
            yield "first_message_seconds", "must be a number of seconds above 0"
        for field in ("max_concurrent_rpcs", "max_connections"):
            if getattr(self, field) < 1:
                yield field, "must be 1 or more"
        yield from self._tls_problems()

    def _tls_problems(self) -> Iterator[tuple[str, str]]:
        """Files that are missing, cannot be used, or do not belong together."""
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            yield "tls_certificate_file", "needs OMNIALIGN_SERVER_TLS_KEY_FILE, and the other way round"
        elif self.tls is None and self.tls_client_ca_file is not None:
            yield "tls_client_ca_file", "needs a certificate and a key of the server"
        elif self.tls is not None and (problem := self.tls.problem()):
            yield "tls_certificate_file", problem


def load(cls: type[T], environ: Mapping[str, str] | None = None) -> T:
    """An instance of `cls` read from the environment. Raises ConfigError with every problem found."""
    source = os.environ if environ is None else environ
    prefix: str = cls.ENV_PREFIX  # type: ignore[attr-defined]
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    problems = list(_unknown(source, prefix, fields))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        variable = prefix + name.upper()
        if variable in source:
            try:
                values[name] = parse_value(source[variable], hints[name])
            except ValueError as error:
                problems.append((variable, str(error)))
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append((variable, "is required and not set"))
    problems += _inconsistencies(cls, fields, values, prefix)
    if problems:
        raise ConfigError(problems)
    return cls(**values)


def load_all(*classes: type[Any], environ: Mapping[str, str] | None = None) -> tuple[Any, ...]:
    """One instance of each class; raises one ConfigError with the problems of all of them."""
    loaded: list[Any] = []
    problems: list[tuple[str, str]] = []
    for cls in classes:
        try:
            loaded.append(load(cls, environ))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tuple(loaded)


def _unknown(source: Mapping[str, str], prefix: str, fields: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    known = {prefix + name.upper() for name in fields}
    for variable in sorted(source):
        rest = variable.removeprefix(prefix)
        if rest != variable and variable not in known and not _SERVICE_LINK.fullmatch(rest):
            yield variable, f"is not a setting; known are {', '.join(sorted(known)) or 'none'}"


def _inconsistencies(
    cls: type[Any], fields: Mapping[str, dataclasses.Field[Any]], values: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, str]]:
    """Problems that the class itself finds, looked for as far as its fields could be read."""
    required = {name for name, f in fields.items() if f.default is MISSING and f.default_factory is MISSING}
    if not required <= values.keys():
        return
    try:
        instance = cls(**values)
        for name, problem in instance.problems() if hasattr(instance, "problems") else ():
            yield prefix + name.upper(), problem
    except ValueError as error:  # from a __post_init__
        yield prefix + "*", str(error)


def parse_value(text: str, hint: Any) -> Any:
    """`text` as the type `hint`: str, int, float, bool, Path, a Literal, a tuple (by commas) or one of these or None.

    Raises ValueError with what is wrong, in words that follow the name of the variable.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kind = next(arg for arg in args if arg is not type(None))
        return None if text == "" else parse_value(text, kind)
    if origin is tuple:
        return tuple(parse_value(part.strip(), args[0]) for part in text.split(",") if part.strip())
    if origin is Literal:
        if text not in args:
            raise ValueError(f"must be one of {', '.join(map(str, args))}, not '{text}'")
        return text
    return _scalar(text, hint)


def _scalar(text: str, hint: Any) -> Any:
    parsers: dict[Any, tuple[Callable[[str], Any], str]] = {
        str: (str, "text"),
        int: (int, "a whole number"),
        float: (float, "a number"),
        bool: (_boolean, "true or false"),
        Path: (_path, "a path"),
    }
    parser, expected = parsers[hint]
    try:
        return parser(text)
    except ValueError:
        raise ValueError(f"must be {expected}, not '{text}'") from None


def _boolean(text: str) -> bool:
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(text)
    return word in _TRUE


def _path(text: str) -> Path:
    if not text:
        raise ValueError(text)
    return Path(text).expanduser()
