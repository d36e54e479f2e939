"""Settings of the annotation service, read once from the environment (`OMNIALIGN_ANNOTATION_*`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from services.pipeline.config import PipelineConfig


@dataclass(frozen=True, kw_only=True)
class AnnotationConfig(PipelineConfig):
    """Where the other services are, and bounds; the rest is the pipeline's, which runs the draft jobs."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_ANNOTATION_"

    data_address: str
    """`host:port` of the DataService."""
    refinement_address: str
    """`host:port` of the RefinementService, which asks models for drafts."""
    executor_id: str = "annotation-0"
    """Identity of this replica. It must be the same after a restart, and differ between replicas."""
    chunks_per_job: int = 4
    """Chunks of one draft job that a replica takes up at once: so many end after the job's budget is used."""
    max_items: int = 200_000
    """Most pairs of a campaign."""
    draft_token_budget: int = 2_000_000
    """Tokens, read and written, that a draft job may use whose spec does not say."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Invalid URLs, and numbers out of range."""
        yield from super().problems()
        for name in ("max_items", "chunks_per_job", "draft_token_budget"):
            if getattr(self, name) < 1:
                yield name, "must be 1 or more"

    @property
    def jobs_url(self) -> str:
        """URL of the database of campaigns and draft jobs in force; `annotation.db` in the root if none is given."""
        return self.database_url or f"sqlite:///{self.root / 'annotation.db'}"
