"""URIs of models behind OpenAI-compatible endpoints.

`openai+https://host:port/v1#name` asks the chat API of that endpoint. `openai+http://host/v1#name?adapter=MODEL` asks
for completions of token ids, which the adapter of MODEL (a `file://` folder or a registered version) encodes and
decodes: that is how a token model reads and writes media behind `vllm serve`.
"""

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit

from omnialign.errors import InvalidArgument

PREFIXES = ("openai+http://", "openai+https://")
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class EndpointModel:
    """A model behind an endpoint. `adapter` is the model whose adapter is used; empty means the chat API."""

    base_url: str
    name: str
    adapter: str = ""


def is_endpoint_model(model: str) -> bool:
    """Whether a model is behind an endpoint."""
    return model.startswith(PREFIXES)


@lru_cache(maxsize=256)
def parse_endpoint_model(model: str) -> EndpointModel:
    """The parts of a model's URI. Raises InvalidArgument MODEL_NAME_INVALID."""
    if not is_endpoint_model(model):
        raise _invalid(model, "it must begin with openai+http:// or openai+https://")
    url, _, fragment = model.removeprefix("openai+").partition("#")
    name, _, query = fragment.partition("?")
    if not name:
        raise _invalid(model, "the address must be followed by #name")
    try:
        options = parse_qs(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise _invalid(model, "the ? must be followed by key=value") from error
    adapters = options.pop("adapter", [""])
    if options or len(adapters) > 1:
        raise _invalid(model, "the ? may be followed by one adapter=MODEL only")
    return EndpointModel(base_url_of(url, model=model), name, adapters[0])


def base_url_of(url: str, *, model: str) -> str:
    """An endpoint's address in canonical spelling. Raises InvalidArgument MODEL_NAME_INVALID, naming `model`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _invalid(model, f"its address cannot be parsed ({error})") from error
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or any(c.isspace() or not c.isprintable() for c in url):
        raise _invalid(model, "its address must be http://host or https://host")
    if parts.username is not None or parts.query or parts.fragment:
        raise _invalid(model, "its address contains a user or a query; keys belong in the keys file")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = host if port in (None, DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"
    return f"{parts.scheme}://{authority}{parts.path.rstrip('/')}"


def _invalid(model: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"The model {model[:256]!r} is not of the form openai+http(s)://host:port/path#name: {why}.",
        reason="MODEL_NAME_INVALID",
        metadata={"model": model[:256]},
    )
