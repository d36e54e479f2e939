"""Errors that the parts of an engine share."""

from collections.abc import Iterator, Mapping

from omnialign.errors import FailedPrecondition, NotFound, OmnialignError, ResourceExhausted, Unavailable


class OutOfMemory(ResourceExhausted):
    """The device has no room left for a model or a batch; what else is in memory goes on."""

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, reason="DEVICE_OUT_OF_MEMORY", metadata=dict(metadata or {}))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library says that the device, or the machine, has no memory left."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


class EngineDied(Unavailable):
    """A model's process has ended; the next request starts it again."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The vLLM engine of {model} has ended; its log tells why. It starts anew when it is asked again.",
            reason="ENGINE_DIED",
            metadata={"model": model},
        )


def not_found(model: str, why: str) -> NotFound:
    """The error for a model that is not there."""
    return NotFound(f"There is no model {model}: {why}.", reason="MODEL_NOT_FOUND", metadata={"model": model})


def load_failed(model: str, why: str) -> FailedPrecondition:
    """The error for a model that is there but cannot be loaded."""
    return FailedPrecondition(
        f"The model {model} cannot be loaded: {why}", reason="MODEL_LOAD_FAILED", metadata={"model": model}
    )


def engine_closed() -> Unavailable:
    """The error of requests that the end of the engine cut off."""
    return Unavailable("The engine is shutting down.", reason="ENGINE_CLOSED")


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """An error to tell the caller of several that came together: ours before others."""
    flat = list(_flatten(errors))
    return next((error for error in flat if isinstance(error, OmnialignError)), flat[0])


def _flatten(errors: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flatten(error)
        else:
            yield error


def queue_full(waiting: int, new: int, bound: int) -> ResourceExhausted:
    """The error for more requests than may wait."""
    return ResourceExhausted(
        f"{waiting} requests wait already; {new} more would be over the engine's bound of {bound}. Try again later.",
        reason="QUEUE_FULL",
        metadata={"waiting": str(waiting), "new": str(new), "bound": str(bound)},
    )
