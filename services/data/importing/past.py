"""What is to be imported, and what of it earlier imports wrote."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from services.data.importing.file_keys import FileState
from services.data.importing.journal import Array, Journal, Part, sorted_states
from services.data.importing.media_files import MediaPaths
from services.data.importing.readers import Survey
from services.data.importing.sources import SourceFile


@dataclass(frozen=True)
class Plan:
    """A file that is to be imported."""

    survey: Survey
    key: str
    """Its digest: see `key_of`."""
    state: FileState

    @property
    def file(self) -> SourceFile:
        """The file, with its format."""
        return self.survey.file


class Past:
    """What earlier imports wrote into a dataset."""

    def __init__(self, journal: Journal, head: pa.Table | None = None, aside: pa.Table | None = None) -> None:
        self.journal = journal
        self._head, self._aside = sorted_states(head), sorted_states(aside)

    def written(self, plan: Plan) -> Iterator[tuple[Part, Array, Array]]:
        """The parts of a file that are there, as of `Journal.written` (blocking)."""
        has_changed = MediaPaths(plan.file).has_changed
        return self.journal.written(plan.key, self._head, self._aside, has_changed)
