"""The statistics of a dataset as one HTML page that loads nothing, in the style of the reports."""

from collections.abc import Mapping

from omnialign import names
from omnialign.v1.dataset_operations_pb2 import DatasetStatistics, NumberDistribution
from omnialign.wording import size_text
from services.pipeline.pages.template import environment

PACKAGE = "services.data.operations"


def render(name: str, found: DatasetStatistics) -> str:
    """The page of a dataset or a version."""
    made = environment(PACKAGE, size=size_text, ranked=_ranked)
    lengths = [
        ("Prompts", "characters", found.prompt_characters),
        ("Messages before prompts", "characters", found.history_characters),
        ("Responses", "characters", found.response_characters),
        ("Critiques", "characters", found.critique_characters),
        ("Media", "bytes", found.media_bytes),
    ]
    return made.get_template("statistics.html.j2").render(
        name=names.short_name(name), n=found, lengths=[one for one in lengths if one[2].count], highest=_highest
    )


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """Names, counts, and shares of the largest count; the most frequent first."""
    most = max(counts.values(), default=1) or 1
    return [(name, count, count / most) for name, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]


def _highest(found: NumberDistribution) -> int:
    return max(one.count for one in found.bins)
