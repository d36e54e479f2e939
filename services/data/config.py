"""Settings of the data service, read once from the environment (`OMNIALIGN_DATA_*`)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from services.runtime.database import url_problems

MIB = 1024 * 1024
GIB = 1024 * MIB
S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?")
LONGEST_LINK_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class DataConfig:
    """Where the state is kept, and the limits on what is accepted."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_DATA_"

    root: Path
    """Folder that holds `media/`, `lance/` and, unless `database_url` says otherwise, `data.db`."""
    database_url: str = ""
    """SQLAlchemy URL of the metadata; empty means SQLite in `root`."""
    migrate_at_start: bool = False
    """Whether the service makes the tables of a PostgreSQL database itself, instead of `services.migrate`."""
    objects_url: str = ""
    """Where media, models, uploads and tables are stored, as `s3://bucket/prefix`; empty means `root`. Credentials come
    from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""
    s3_endpoint: str = ""
    """`https://host:port` of the S3 server; empty means AWS."""
    s3_public_endpoint: str = ""
    """Endpoint in presigned URLs, for callers that reach the server by another name; empty means `s3_endpoint`."""
    s3_region: str = "us-east-1"
    """Region of the bucket."""
    s3_path_style: bool = True
    """Put the bucket in the path, as most servers expect; false puts it in the host name, as AWS expects."""
    s3_ca_file: Path | None = None
    """Certificates (PEM) to trust for the S3 server, in addition to the system's."""
    import_roots: tuple[Path, ...] = ()
    """Folders that imports and model registrations may read, separated by commas; empty means any."""
    accept_damaged_media: bool = False
    """Accept media of which only a part decodes; a job's media policy decides whether they are used."""
    max_media_bytes: int = 256 * MIB
    """Largest media object."""
    max_image_pixels: int = 64_000_000
    """Largest image in pixels, summed over the frames of an animation."""
    max_media_seconds: float = 7200.0
    """Longest audio or video."""
    max_video_frames: int = 20_000
    """Most frames of a video."""
    max_frame_pixels: int = 3840 * 2160
    """Largest frame of a video in pixels."""
    max_append_bytes: int = 256 * MIB
    """Most bytes of records in one AppendRecords call. They are held in memory, since they become visible together."""
    max_upload_files: int = 10_000
    """Most files of one upload."""
    max_upload_bytes: int = 256 * GIB
    """Most bytes of one upload."""
    upload_seconds: float = 24 * 3600.0
    """How long an upload is kept for the call that will use it."""
    export_seconds: float = 24 * 3600.0
    """How long the files of an export are kept."""
    export_part_bytes: int = 256 * MIB
    """About how large a file of an export gets before another begins; what an export takes of the local disk."""
    link_seconds: float = 900.0
    """How long presigned URLs are valid."""
    file_links: bool = False
    """Tell callers in which files below `root` media lie, for those on the same machine that may read them."""
    sweep_seconds: float = 3600.0
    """Interval between two removals of expired uploads and exports."""
    collect_seconds: float = 6 * 3600.0
    """Interval between two removals of media that nothing names."""
    garbage_grace_seconds: float = 24 * 3600.0
    """How long such media stay, for whoever is about to name them: longer than any import or upload takes."""
    unnamed_media_seconds: float = 30 * 24 * 3600.0
    """How long media that were uploaded one by one are kept for a record that names them."""
    media_workers: int = 4
    """Threads that decode and store media."""
    storage_workers: int = 8
    """Threads that read and write tables."""
    commit_retries: int = 30
    """How often a table commit that lost a race is retried."""
    commit_timeout_seconds: float = 60.0
    """Longest time for which a commit is retried."""
    compact_fragments: int = 32
    """Tables with more small fragments than this are compacted, in the background."""
    retention_seconds: float = 900.0
    """How long superseded states of a table stay readable, for streams that began on them."""

    def database(self) -> str:
        """URL of the metadata database."""
        return self.database_url or f"sqlite:///{self.root / 'data.db'}"

    def roots(self) -> tuple[Path, ...]:
        """The folders that may be read; empty means any."""
        return tuple(folder.resolve() for folder in self.import_roots)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Settings that are invalid: the field and what is wrong with it."""
        yield from url_problems(database_url=self.database_url)
        if self.objects_url and not S3_URL.fullmatch(self.objects_url):
            yield "objects_url", f"must be s3://bucket or s3://bucket/prefix, not '{self.objects_url}'"
        for field in ("s3_endpoint", "s3_public_endpoint"):
            if (value := getattr(self, field)) and not re.fullmatch(r"https?://[^/@\s]+/?", value):
                yield field, "must be http://host:port or https://host:port"
        if self.s3_ca_file is not None and not self.s3_ca_file.is_file():
            yield "s3_ca_file", f"is {self.s3_ca_file}, which is not a file"
        if not 1 <= self.link_seconds <= LONGEST_LINK_SECONDS:
            yield "link_seconds", f"must be between 1 and {LONGEST_LINK_SECONDS}"
        for field in (
            "upload_seconds",
            "export_seconds",
            "export_part_bytes",
            "sweep_seconds",
            "collect_seconds",
            "unnamed_media_seconds",
        ):
            if getattr(self, field) <= 0:
                yield field, "must be more than 0"
        if self.garbage_grace_seconds < 0:
            yield "garbage_grace_seconds", "must not be negative"
