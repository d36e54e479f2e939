"""Tasks of the sandbox's tests: each does one thing that a hostile file can make a decoder do."""

import os
import resource
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnialign.errors import InvalidArgument


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def compute_for_ever() -> None:
    while True:
        pass


def wait_for_ever() -> None:
    signal.pause()


def fill_memory() -> int:
    return len(bytes(2 << 30))


def refuse(why: str) -> None:
    raise InvalidArgument(why, reason="MEDIA_UNDECODABLE", metadata={"found": why})


def fail() -> None:
    raise ZeroDivisionError("integer division")


def environment() -> list[str]:
    return sorted(os.environ)


def process() -> int:
    return os.getpid()


def faults_of_a_picture() -> int:
    """How many pages of new memory the system gives for arrays as large as those of a picture."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(8 << 20, dtype=np.uint8) for _ in range(2)]
    del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def double(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    return 2 * numbers


def count(numbers: int) -> Iterator[int]:
    yield from range(numbers)


def count_and_crash(numbers: int) -> Iterator[int]:
    yield from range(numbers)
    crash()


class Forged:
    """A result whose pickle calls a function where it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.unlink, ("no-such-file",)


def forge() -> Forged:
    return Forged()
