"""Settings of the data service, read once from the environment (`OMNIALIGN_DATA_*`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

MIB = 1024 * 1024


@dataclass(frozen=True)
class DataConfig:
    """Where the state lies, and the limits on what is let in."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_DATA_"

    root: Path
    """Folder that holds `media/`, `lance/` and, unless `database_url` says otherwise, `data.db`."""
    database_url: str = ""
    """SQLAlchemy URL of the metadata; empty means SQLite in `root`."""
    import_roots: tuple[Path, ...] = ()
    """Folders that imports and model registrations may read, separated by commas; none means any."""
    max_media_bytes: int = 256 * MIB
    """Largest media object."""
    max_image_pixels: int = 64_000_000
    """Largest picture, all frames of an animation together."""
    max_media_seconds: float = 1800.0
    """Longest sound or video."""
    max_video_frames: int = 20_000
    """Most frames of a video."""
    max_frame_pixels: int = 3840 * 2160
    """Largest frame of a video."""
    max_append_bytes: int = 256 * MIB
    """Most bytes of records that one AppendRecords call may hold: they become visible together."""
    media_workers: int = 4
    """Threads that decode and store media."""
    storage_workers: int = 8
    """Threads that read and write tables."""
    commit_retries: int = 30
    """How often a commit that lost a race is tried again."""
    commit_timeout_seconds: float = 60.0
    """How long a commit is tried again at most."""
    compact_fragments: int = 32
    """A table with more fragments is compacted."""
    retention_seconds: float = 3600.0
    """Uncommitted states of a table stay readable this long, for streams that began on them."""

    def database(self) -> str:
        """URL of the metadata database."""
        return self.database_url or f"sqlite+aiosqlite:///{self.root / 'data.db'}"

    def roots(self) -> tuple[Path, ...]:
        """The folders that may be read; empty means any."""
        return tuple(folder.resolve() for folder in self.import_roots)
