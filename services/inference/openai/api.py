"""What the two ways to ask an endpoint have in common: a body to send, and an answer to read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from omnialign.errors import OmnialignError
from omnialign.modeling.inputs import MediaLoss, Pieces
from omnialign.v1 import generation_pb2
from services.inference import stop_strings
from services.inference.engine import EngineRequest
from services.inference.openai.errors import Source

LARGEST_SEED = (1 << 63) - 1


@dataclass(frozen=True)
class Body:
    """The JSON of a request, and what of its media was left out."""

    json: bytes
    losses: tuple[MediaLoss, ...] = ()


@dataclass(frozen=True)
class Reply:
    """An answer as its pieces, or why it cannot be read, with what the endpoint counted."""

    answer: Pieces | OmnialignError
    finish_reason: int
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Dialect(Protocol):
    """One way to ask."""

    @property
    def path(self) -> str:
        """What follows the base URL."""
        ...

    async def body(self, request: EngineRequest, *, bounded: bool) -> Body:
        """What to send; without the bound of new tokens where not `bounded`. Raises OmnialignError for a bad prompt."""
        ...

    async def reply(self, request: EngineRequest, answer: Mapping[str, Any], source: Source) -> Reply:
        """What came back. Raises FailedPrecondition ENDPOINT_INVALID for an object of another shape."""
        ...


def sampling_of(request: EngineRequest, *, with_stops: bool = True) -> dict[str, Any]:
    """How to draw, in the words of the API. Seeds there have 63 bits."""
    sampling = request.sampling
    options: dict[str, Any] = {"temperature": sampling.temperature, "seed": request.seed & LARGEST_SEED}
    if sampling.top_p:
        options["top_p"] = sampling.top_p
    if with_stops and (stops := stops_of(request)):
        options["stop"] = stops
    return options


def stops_of(request: EngineRequest) -> list[str]:
    """The texts that end the answer."""
    return [stop for stop in request.sampling.stop if stop]


def choice_of(answer: Mapping[str, Any], source: Source) -> Mapping[str, Any]:
    """The first choice of an answer. Raises FailedPrecondition ENDPOINT_INVALID."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise source.invalid("has no choices", str(answer))
    found: dict[str, Any] = choices[0]
    return found


def finish_of(choice: Mapping[str, Any]) -> int:
    """Why an answer ended. Only some endpoints tell a stop text from the end, by naming it in `stop_reason`."""
    if choice.get("finish_reason") == "length":
        return generation_pb2.FINISH_REASON_LENGTH
    if choice.get("finish_reason") != "stop":
        return generation_pb2.FINISH_REASON_UNSPECIFIED
    is_stop = isinstance(choice.get("stop_reason"), str)
    return generation_pb2.FINISH_REASON_STOP if is_stop else generation_pb2.FINISH_REASON_END


def cut_at_stop(pieces: Pieces, finish: int, stop: Sequence[str]) -> tuple[Pieces, int]:
    """The pieces up to the first stop text, and why the answer ended then."""
    cut = stop_strings.cut(pieces, stop)
    return (cut, finish) if cut == pieces else (cut, generation_pb2.FINISH_REASON_STOP)


def usage_of(answer: Mapping[str, Any], name: str) -> int:
    """A count of the endpoint's; 0 where it does not say."""
    usage = answer.get("usage")
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) and 0 <= count < 1 << 31 else 0
