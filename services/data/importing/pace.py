"""How fast an import reads, and how long the rest will take."""

import time

from omnialign.v1.data_service_pb2 import ImportDatasetResponse as Progress

SHOWN_SECONDS = 1.0
"""Time between two messages about progress."""


class Pace:
    """The pace of one import, from when it begins to read."""

    def __init__(self) -> None:
        self._begun = self._shown = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for the next message."""
        if time.monotonic() - self._shown < SHOWN_SECONDS:
            return False
        self._shown = time.monotonic()
        return True

    def note(self, progress: Progress) -> None:
        """Writes the rate and the time left into the progress."""
        read = progress.rows_read - progress.rows_skipped
        progress.rows_per_second = read / max(1e-9, time.monotonic() - self._begun)
        if read:
            left = max(0, progress.rows_total - progress.rows_read)
            progress.time_left.FromNanoseconds(int(left / progress.rows_per_second * 1e9))
