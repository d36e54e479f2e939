"""Configuration of the alignment service, read once from the environment."""

from dataclasses import dataclass
from typing import ClassVar

from services.pipeline.config import PipelineConfig


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(PipelineConfig):
    """Where the other services are; the rest is the pipeline's."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_ALIGNMENT_"

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
    executor_id: str = "alignment-0"
    """Identity of this replica. It must be the same after a restart, and differ between replicas."""

    @property
    def jobs_url(self) -> str:
        """URL of the job database in force; `alignment.db` in the root if none is given."""
        return self.database_url or f"sqlite:///{self.root / 'alignment.db'}"
