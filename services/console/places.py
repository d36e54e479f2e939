"""Places for work that takes up disk: so many at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from omnialign.errors import ResourceExhausted


class Places:
    """How many may work at a time; the message says what others do."""

    def __init__(self, number: int, message: str, *, reason: str) -> None:
        self._free, self._message, self._reason = number, message, reason

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place, while the block runs. Raises ResourceExhausted with the reason."""
        if not self._free:
            raise ResourceExhausted(self._message, reason=self._reason)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
