"""Settings of the annotation service, read once from the environment (`OMNIALIGN_ANNOTATION_*`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from services.runtime.database import url_problems


@dataclass(frozen=True)
class AnnotationConfig:
    """Where the state is kept, and where datasets are."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_ANNOTATION_"

    root: Path
    """Folder that holds `annotation.db`, unless `database_url` says otherwise."""
    data_address: str
    """`host:port` of the DataService."""
    database_url: str = ""
    """SQLAlchemy URL of campaigns and answers; empty means SQLite in `root`."""
    migrate_at_start: bool = False
    """Whether the service makes the tables of a PostgreSQL database itself, instead of `services.migrate`."""
    max_items: int = 200_000
    """Most pairs of a campaign."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """An invalid URL, and numbers out of range."""
        yield from url_problems(database_url=self.database_url)
        if self.max_items < 1:
            yield "max_items", "must be 1 or more"

    def database(self) -> str:
        """URL of the database."""
        return self.database_url or f"sqlite:///{self.root / 'annotation.db'}"
