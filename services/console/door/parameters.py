"""The parameters of a request. What would change the answer is carried out, or refused by name; nothing is dropped.

A parameter is carried out, or says nothing about the answer (`IGNORED`), or is taken only with the value that changes
nothing (`NEUTRAL`), or is unknown and refused.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnialign.content import NAMES
from omnialign.v1.generation_pb2 import SamplingParams
from services.console.door.bodies import text_at
from services.console.door.errors import invalid, unsupported

MAX_SAMPLES = 64
MAX_STOPS = 16
MAX_NEW_TOKENS = 65_536
MAX_TEMPERATURE = 10.0
MAX_SCHEMA_CHARACTERS = 65_536
MAX_MODEL_CHARACTERS = 1024

SHARED = frozenset(
    {"model", "n", "seed", "stop", "temperature", "top_p", "max_tokens", "stream", "stream_options", "response_format"}
)
CHAT = SHARED | {"messages", "max_completion_tokens", "logprobs", "top_logprobs", "modalities"}
COMPLETION = SHARED | {"prompt"}
IGNORED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (-1, 0),
}
LIMITS = ("max_tokens", "max_completion_tokens")
MODALITIES = {name: modality for modality, name in NAMES.items()}


@dataclass(frozen=True)
class Parameters:
    """What a request asks for, besides its messages."""

    model: str
    sampling: SamplingParams
    seed: int
    num_samples: int = 1
    json_schema: str = ""
    return_tokens: bool = False
    modalities: frozenset[int] | None = None
    """What the caller takes; an answer with anything else is an error. None takes everything."""
    stream: bool = False
    wants_usage: bool = True
    """Whether a stream ends with the counts of tokens; any other answer has them."""


def read_parameters(body: Mapping[str, Any], known: frozenset[str]) -> Parameters:
    """The parameters in a body; null is as good as none.

    Raises InvalidArgument PARAMETER_INVALID, PARAMETER_UNSUPPORTED, PARAMETER_UNKNOWN.
    """
    given = {name: value for name, value in body.items() if value is not None}
    check_names(given, known)
    model = text_at(given.get("model"), "model")
    if not 1 <= len(model) <= MAX_MODEL_CHARACTERS or not model.isprintable():
        raise invalid("model", f"must be a name of at most {MAX_MODEL_CHARACTERS} printable characters")
    stream = _flag(given, "stream")
    return Parameters(
        model=model,
        sampling=_sampling(given),
        seed=_seed(given),
        num_samples=_whole(given, "n", 1, MAX_SAMPLES, default=1),
        json_schema=_schema(given.get("response_format")),
        return_tokens=_returns_tokens(given) if "logprobs" in known else False,
        modalities=_modalities(given.get("modalities")),
        stream=stream,
        wants_usage=not stream or _wants_usage(given.get("stream_options")),
    )


def check_names(given: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raises InvalidArgument for the first parameter that is neither carried out nor without effect."""
    for name in sorted(set(given) - known - IGNORED):
        if name not in NEUTRAL:
            problem = "is not known here, and might change the answer; leave it out"
            raise invalid(name[:100], problem, reason="PARAMETER_UNKNOWN")
        if not any(_same(given[name], value) for value in NEUTRAL[name]):
            values = " or ".join(json.dumps(value) for value in NEUTRAL[name])
            raise unsupported(name, f"leave it out, or set it to {values}" if values else "leave it out")


def _same(value: Any, neutral: Any) -> bool:
    """Whether two values are equal as JSON: 0 and 0.0 are, 0 and false are not."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


def _sampling(given: Mapping[str, Any]) -> SamplingParams:
    limits = {name: _whole(given, name, 1, MAX_NEW_TOKENS, default=0) for name in LIMITS if name in given}
    if len(set(limits.values())) > 1:
        raise invalid("max_tokens", "must equal max_completion_tokens, its newer name; give one of them")
    return SamplingParams(
        temperature=_number(given, "temperature", 0.0, MAX_TEMPERATURE, default=1.0),
        top_p=_number(given, "top_p", 1e-9, 1.0, default=1.0),
        max_new_tokens=next(iter(limits.values()), 0),
        stop=_stops(given.get("stop", [])),
    )


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise invalid("stop", f"must be a string or a list of at most {MAX_STOPS} strings")
    return [text_at(stop, f"stop[{index}]") for index, stop in enumerate(stops)]


def _seed(given: Mapping[str, Any]) -> int:
    """The seed as an unsigned number of 64 bits; a random one unless it is given."""
    if "seed" not in given:
        return secrets.randbits(63)
    return _whole(given, "seed", -(1 << 63), (1 << 64) - 1, default=0) & ((1 << 64) - 1)


def _returns_tokens(given: Mapping[str, Any]) -> bool:
    if given.get("top_logprobs", 0) != 0:
        raise unsupported("top_logprobs", "only the tokens that were written have log-probabilities; set it to 0")
    return _flag(given, "logprobs")


def _modalities(value: Any) -> frozenset[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or any(str(name) not in MODALITIES for name in value):
        raise invalid("modalities", f"must be a list of some of {', '.join(MODALITIES)}")
    return frozenset(MODALITIES[str(name)] for name in value)


def _schema(value: Any) -> str:
    """The JSON schema of a response format, as text; "" for plain text."""
    if value is None:
        return ""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return ""
    if kind == "json_object":
        return json.dumps({"type": "object"})
    schema = value.get("json_schema") if kind == "json_schema" else None
    if not isinstance(schema, Mapping) or not isinstance(schema.get("schema"), Mapping):
        kinds = '{"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": ...}}'
        raise invalid("response_format", f"must be one of {kinds}")
    text = json.dumps(schema["schema"])
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise invalid("response_format", f"has a schema of more than {MAX_SCHEMA_CHARACTERS} characters")
    return text


def _wants_usage(value: Any) -> bool:
    if value is None:
        return False
    if not isinstance(value, Mapping):
        raise invalid("stream_options", "must be an object")
    for name in sorted(set(value) - {"include_usage", "include_obfuscation"}):
        raise unsupported(f"stream_options.{name}"[:100], "leave it out")
    if value.get("include_obfuscation"):
        raise unsupported("stream_options.include_obfuscation", "leave it out, or set it to false")
    return _flag(value, "include_usage", prefix="stream_options.")


def _flag(given: Mapping[str, Any], name: str, *, prefix: str = "") -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise invalid(prefix + name, "must be true or false")
    return value


def _whole(given: Mapping[str, Any], name: str, least: int, most: int, *, default: int) -> int:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or (name in given and not least <= value <= most):
        raise invalid(name, f"must be a whole number from {least} to {most}")
    return value


def _number(given: Mapping[str, Any], name: str, least: float, most: float, *, default: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise invalid(name, f"must be a number from {least:g} to {most:g}")
    return float(value)
