"""Settings that the service of every job kind has. A kind's own config adds addresses, and an environment prefix."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path

from omnialign.retry import RetryPolicy
from services.runtime.database import url_problems

ADDRESS = "_address"
MAX_TABLE_DAYS = 36_500
GROUPS = 4
"""Into how many workflows the chunks go that a replica works on at once: while one ends, the others go on."""


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Where state is kept, how much work is in flight, and how long others are waited for."""

    root: Path
    """Folder of this service's state: databases, unless a URL is given."""
    database_url: str = ""
    """SQLAlchemy URL of the jobs, SQLite or `postgresql+psycopg://`; empty means a file in the root."""
    workflow_database_url: str = ""
    """SQLAlchemy URL of the workflow engine's system database; empty means `dbos.db` in the root."""
    migrate_at_start: bool = False
    """Whether the service makes the tables of a PostgreSQL database itself, instead of `services.migrate`."""
    executor_id: str = "replica-0"
    """Identity of this replica. It must be the same after a restart, and differ between replicas."""
    chunks_per_job: int = 32
    """Chunks of one job that a replica takes up at once."""
    active_steps: int = 4
    """Steps that a replica works on at once, over all jobs."""
    queue_polling_seconds: float = 0.5
    """How often a replica looks for chunks that another one has queued; each look costs processor time, also when there
    are none."""
    step_deadline_seconds: float = 900.0
    """Longest time for one call of one chunk to a model service."""
    retry_cap_seconds: float = 10.0
    """Longest pause between two attempts of a call."""
    retry_budget_seconds: float = 1800.0
    """How long a job waits for a service or a database that does not answer before it fails."""
    heartbeat_seconds: float = 2.0
    """How often a replica says that it lives, and looks for those that do not."""
    table_days: float = 0.0
    """How long each table of a job is kept after it is made, and while anything uses it; 0 keeps them for ever."""
    silence_seconds: float = 10.0
    """After how long a silent replica's work is taken over: within 15 seconds, with the time until it is noticed."""

    @property
    def chunks_per_group(self) -> int:
        """Chunks that one workflow works on, in a large job."""
        return max(self.chunks_per_job // GROUPS, 1)

    @property
    def groups_per_job(self) -> int:
        """Workflows of one job that a replica takes up at once."""
        return max(self.chunks_per_job // self.chunks_per_group, 1)

    def problems(self) -> Iterator[tuple[str, str]]:
        """URLs that no database has, and days that no calendar has."""
        yield from url_problems(database_url=self.database_url, workflow_database_url=self.workflow_database_url)
        if not 0 <= self.table_days <= MAX_TABLE_DAYS:
            yield "table_days", f"must be between 0 and {MAX_TABLE_DAYS:,}"

    @property
    def table_ttl(self) -> timedelta | None:
        """How long the tables of a job are kept; None for ever."""
        return timedelta(days=self.table_days) if self.table_days else None

    @property
    def jobs_url(self) -> str:
        """URL of the job database in force."""
        return self.database_url or f"sqlite:///{self.root / 'jobs.db'}"

    @property
    def workflows_url(self) -> str:
        """URL of the workflow engine's database in force."""
        return self.workflow_database_url or f"sqlite:///{self.root / 'dbos.db'}"

    @property
    def service_addresses(self) -> Mapping[str, str]:
        """`host:port` of each service that the kind calls, by its name: every field that ends in `_address`."""
        found = (f.name for f in fields(self) if f.name.endswith(ADDRESS))
        return {name.removesuffix(ADDRESS): getattr(self, name) for name in found}

    @property
    def retry_policy(self) -> RetryPolicy:
        """How calls to services that are away are repeated."""
        return RetryPolicy(
            base_seconds=min(0.2, self.retry_cap_seconds),
            cap_seconds=self.retry_cap_seconds,
            budget_seconds=self.retry_budget_seconds,
        )
