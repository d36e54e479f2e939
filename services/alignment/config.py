"""Configuration of the alignment service, read once from the environment."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from services.runtime.database import url_problems


@dataclass(frozen=True)
class AlignmentConfig:
    """Where the other services are, where state is kept, and how much work is in flight."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_ALIGNMENT_"

    root: Path
    """Folder of this service's state: databases, unless a URL is given."""
    data_address: str
    """`host:port` of the DataService."""
    refinement_address: str
    """`host:port` of the RefinementService."""
    critique_address: str
    """`host:port` of the CritiqueService."""
    judge_address: str
    """`host:port` of the JudgeService."""
    training_address: str
    """`host:port` of the TrainingService."""
    database_url: str = ""
    """SQLAlchemy URL of the jobs, SQLite or `postgresql+psycopg://`; empty means `alignment.db` in the root."""
    workflow_database_url: str = ""
    """SQLAlchemy URL of the workflow engine's system database; empty means `dbos.db` in the root."""
    executor_id: str = "alignment-0"
    """Identity of this replica. It must be the same after a restart, and differ between replicas."""
    chunks_per_job: int = 12
    """Chunks of one job that a replica takes up at once."""
    active_steps: int = 4
    """Steps that a replica works on at once, over all jobs."""
    queue_polling_seconds: float = 0.05
    """How often a replica looks for queued chunks."""
    step_deadline_seconds: float = 900.0
    """Longest time for one call of one chunk to a model service."""
    retry_cap_seconds: float = 10.0
    """Longest pause between two tries of a call."""
    retry_budget_seconds: float = 1800.0
    """How long a job waits for a service or a database that does not answer before it fails."""
    heartbeat_seconds: float = 5.0
    """How often a replica says that it lives."""
    silence_seconds: float = 30.0
    """After how long a silent replica's work is taken over."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """URLs that no database has."""
        yield from url_problems(database_url=self.database_url, workflow_database_url=self.workflow_database_url)

    @property
    def jobs_url(self) -> str:
        """The URL of the job database in force."""
        return self.database_url or f"sqlite:///{self.root / 'alignment.db'}"

    @property
    def workflows_url(self) -> str:
        """The URL of the workflow engine's database in force."""
        return self.workflow_database_url or f"sqlite:///{self.root / 'dbos.db'}"
