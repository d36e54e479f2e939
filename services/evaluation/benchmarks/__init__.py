"""The benchmarks by name."""

from collections.abc import Mapping

from services.evaluation.benchmarks.amu import Understanding
from services.evaluation.benchmarks.benchmark import Benchmark
from services.evaluation.benchmarks.checkers import Checkers
from services.evaluation.benchmarks.instruction_following import InstructionFollowing
from services.evaluation.benchmarks.multiple_choice import MultipleChoice
from services.evaluation.benchmarks.pairwise import Pairwise
from services.evaluation.benchmarks.preference import Preference
from services.evaluation.benchmarks.selection import Selection
from services.evaluation.benchmarks.synergy import Synergy

KINDS: tuple[type[Benchmark], ...] = (
    Understanding,
    InstructionFollowing,
    Selection,
    Synergy,
    Checkers,
    Pairwise,
    MultipleChoice,
    Preference,
)
BENCHMARKS: Mapping[str, type[Benchmark]] = {kind.name: kind for kind in KINDS}

__all__ = ["BENCHMARKS", "Benchmark"]
