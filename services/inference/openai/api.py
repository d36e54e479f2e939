"""What the two APIs of an endpoint, chat completions and completions of token ids, have in common.

Each builds the body of a request and reads the answer; sending is the endpoint's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from omnialign.errors import OmnialignError
from omnialign.modeling.inputs import MediaLoss, Pieces
from omnialign.v1 import generation_pb2
from services.inference import stop_strings
from services.inference.engine import EngineRequest
from services.inference.openai.errors import ErrorContext

MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class Body:
    """The JSON of a request, and what was left out of its media."""

    json: bytes
    losses: tuple[MediaLoss, ...] = ()


@dataclass(frozen=True)
class Reply:
    """An answer as its pieces, or the error that makes it unreadable, with the endpoint's counts."""

    answer: Pieces | OmnialignError
    finish_reason: int
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Api(Protocol):
    """One way to ask an endpoint."""

    @property
    def path(self) -> str:
        """What follows the base URL."""
        ...

    async def body(self, request: EngineRequest, *, bounded: bool) -> Body:
        """What to send; without the bound of new tokens if not `bounded`. Raises OmnialignError for a bad prompt."""
        ...

    async def reply(self, request: EngineRequest, answer: Mapping[str, Any], context: ErrorContext) -> Reply:
        """What came back. Raises FailedPrecondition ENDPOINT_INVALID for an object of another shape."""
        ...


def sampling_options(request: EngineRequest, *, with_stops: bool = True) -> dict[str, Any]:
    """The sampling parameters of a request in the words of the API, whose seeds have 63 bits."""
    sampling = request.sampling
    options: dict[str, Any] = {"temperature": sampling.temperature, "seed": request.seed & MAX_SEED}
    if sampling.top_p:
        options["top_p"] = sampling.top_p
    if with_stops and (stops := stop_strings.stops_of(sampling)):
        options["stop"] = stops
    return options


def choice_of(answer: Mapping[str, Any], context: ErrorContext) -> Mapping[str, Any]:
    """The first choice of an answer. Raises FailedPrecondition ENDPOINT_INVALID."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise context.invalid("has no choices", str(answer))
    found: dict[str, Any] = choices[0]
    return found


def finish_reason_of(choice: Mapping[str, Any]) -> int:
    """Why an answer ended. Only some endpoints tell a stop string from the end, by naming it in `stop_reason`."""
    if choice.get("finish_reason") == "length":
        return generation_pb2.FINISH_REASON_LENGTH
    if choice.get("finish_reason") != "stop":
        return generation_pb2.FINISH_REASON_UNSPECIFIED
    is_stop = isinstance(choice.get("stop_reason"), str)
    return generation_pb2.FINISH_REASON_STOP if is_stop else generation_pb2.FINISH_REASON_END


def cut_at_stop(pieces: Pieces, finish_reason: int, stops: Sequence[str]) -> tuple[Pieces, int]:
    """The pieces up to the first stop string, and the finish reason that follows from it."""
    cut = stop_strings.cut(pieces, stops)
    return (cut, finish_reason) if cut == pieces else (cut, generation_pb2.FINISH_REASON_STOP)


def usage_of(answer: Mapping[str, Any], name: str) -> int:
    """A token count of the endpoint; 0 if it gives none."""
    usage = answer.get("usage")
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) and 0 <= count < 1 << 31 else 0
