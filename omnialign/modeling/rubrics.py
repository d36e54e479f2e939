"""Rubrics: the dimensions on which a response is scored, which depend on its modalities.

The dimensions are those of align-anything-200k (paper section 3.1; data card columns `*_rate_1`). Each is scored
0 to 3.
"""

from omnialign.errors import InvalidArgument

SUBTASKS = ("t2t", "ti2t", "ta2t", "tv2t", "t2i", "t2a", "t2v", "ti2ti")
MIN_SCORE, MAX_SCORE = 0, 3

TEXT = ("prompt_following", "objective_rules", "clarity", "information_richness", "safety")
IMAGE = ("prompt_following", "objective_rules", "aesthetics", "information_richness", "safety")
AUDIO = ("prompt_following", "audio_quality", "consistency", "information_richness", "safety")
VIDEO = (
    "prompt_following",
    "objective_rules",
    "aesthetics",
    "information_richness",
    "safety",
    "temporal_consistency",
    "content_coherence",
    "motion_naturalness",
)
INTERLEAVED = ("prompt_following", "objective_rules", "ca", "information_richness", "safety", "consistency")

_BY_OUTPUT = {"t": TEXT, "i": IMAGE, "a": AUDIO, "v": VIDEO, "ti": INTERLEAVED}


def rubric(subtask: str) -> tuple[str, ...]:
    """The dimensions of a subtask such as `t2i`. Raises InvalidArgument SUBTASK_UNKNOWN."""
    dimensions = _BY_OUTPUT.get(subtask.partition("2")[2])
    if dimensions is None:
        raise InvalidArgument(
            f"There is no rubric for the subtask {subtask!r}; use one of {', '.join(SUBTASKS)}.",
            reason="SUBTASK_UNKNOWN",
            metadata={"subtask": subtask},
        )
    return dimensions
