"""Errors that the parts of an engine share."""

from collections.abc import Iterator

from omnialign.errors import OmnialignError, Unavailable


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
