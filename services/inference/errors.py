"""Errors that engines share.

    OmnialignError
    ├── ResourceExhausted   QUEUE_FULL, DEVICE_OUT_OF_MEMORY (OutOfMemory)
    ├── Unavailable         ENGINE_CLOSED
    ├── NotFound            MODEL_NOT_FOUND
    ├── FailedPrecondition  MODEL_LOAD_FAILED, REWARD_NOT_FINITE, JSON_SCHEMA_UNSUPPORTED
    ├── InvalidArgument     PROMPT_TOO_LONG, TOKENS_UNSUPPORTED, REWARD_UNSUPPORTED
    └── Internal            PROMPT_UNREADABLE, ANSWER_UNREADABLE

What only one engine raises is defined beside that engine.
"""

from collections.abc import Iterator, Mapping

from omnialign import names
from omnialign.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OmnialignError,
    ResourceExhausted,
    Unavailable,
)


class OutOfMemory(ResourceExhausted):
    """The device has no room for a model or a batch; whatever else is in memory is unharmed."""

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, reason="DEVICE_OUT_OF_MEMORY", metadata=dict(metadata or {}))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a library means that the device, or the machine, has no memory left."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def queue_full(*, waiting: int, new: int, bound: int) -> ResourceExhausted:
    """The error for more requests than may wait."""
    return ResourceExhausted(
        f"{waiting} requests are waiting already; {new} more would exceed the engine's bound of {bound}. "
        "Try again later.",
        reason="QUEUE_FULL",
        metadata={"waiting": str(waiting), "new": str(new), "bound": str(bound)},
    )


def engine_closed() -> Unavailable:
    """The error of requests that were cut off because the engine shut down."""
    return Unavailable("The engine is shutting down.", reason="ENGINE_CLOSED")


def not_found(model: str, why: str) -> NotFound:
    """The error for a model that does not exist."""
    return NotFound(
        f"There is no model {names.shown(model)}: {why}.", reason="MODEL_NOT_FOUND", metadata={"model": model}
    )


def load_failed(
    model: str, why: str, *, reason: str = "MODEL_LOAD_FAILED", metadata: Mapping[str, str] | None = None
) -> FailedPrecondition:
    """The error for a model that exists but cannot be loaded."""
    return FailedPrecondition(
        f"The model {names.shown(model)} cannot be loaded: {why}",
        reason=reason,
        metadata={**(metadata or {}), "model": model},
    )


def prompt_too_long(model: str, *, prompt_tokens: int, context_tokens: int) -> InvalidArgument:
    """The error for a prompt that leaves no room for an answer."""
    return InvalidArgument(
        f"The prompt has {prompt_tokens} tokens, and {model} takes {context_tokens}, prompt and answer together.",
        reason="PROMPT_TOO_LONG",
        metadata={"prompt_tokens": str(prompt_tokens), "context_tokens": str(context_tokens)},
    )


def tokens_unsupported(model: str, why: str, mend: str, *, field: str = "return_tokens") -> InvalidArgument:
    """The error for tokens that an engine cannot report."""
    return InvalidArgument(
        f"The field {field} cannot be true for {model}, {why}; {mend}.",
        reason="TOKENS_UNSUPPORTED",
        metadata={"model": model},
    )


def schema_unsupported(model: str, why: str) -> FailedPrecondition:
    """The error for a JSON schema to which an engine cannot hold a model."""
    return FailedPrecondition(
        f"The model {names.shown(model)} {why}, so its answers cannot be constrained to a JSON schema; describe the "
        "form in the prompt and leave the schema out.",
        reason="JSON_SCHEMA_UNSUPPORTED",
        metadata={"model": model},
    )


def reward_unsupported(model: str, why: str) -> InvalidArgument:
    """The error for a reward that is asked of an engine which runs no reward models."""
    return InvalidArgument(
        f"ComputeRewards cannot take {model}, {why}; name a reward model that a transformers engine runs.",
        reason="REWARD_UNSUPPORTED",
        metadata={"model": model},
    )


def reward_not_finite(model: str, reward: float) -> FailedPrecondition:
    """The error for a reward that is no number."""
    return FailedPrecondition(
        f"The reward model {model} gives {reward}, so its weights or the response are out of range; name another "
        "version of it.",
        reason="REWARD_NOT_FINITE",
        metadata={"model": model, "reward": str(reward)},
    )


def prompt_unreadable(error: Exception) -> Internal:
    """The error for a prompt on which a codec failed unexpectedly."""
    return Internal(f"The prompt cannot be read: {type(error).__name__}: {error}", reason="PROMPT_UNREADABLE")


def answer_unreadable(error: Exception) -> Internal:
    """The error for an answer on which a codec failed unexpectedly."""
    return Internal(f"The answer cannot be read: {type(error).__name__}: {error}", reason="ANSWER_UNREADABLE")


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report of several that were raised together: a typed one if there is any."""
    flat = list(_flatten(errors))
    return next((error for error in flat if isinstance(error, OmnialignError)), flat[0])


def _flatten(errors: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flatten(error)
        else:
            yield error
