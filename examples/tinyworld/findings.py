"""What was found out about an answer: scores, and what was asked for held against what was given, point by point."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from omnialign.modeling.answers import MAX_RATING, MIN_RATING
from omnialign.rubrics import MAX_SCORE
from omnialign.v1 import record_pb2

KEEP = "keep it as it is."


@dataclass(frozen=True)
class Comparison:
    """One thing that was checked: what was asked for, and what was given."""

    name: str
    asked: str
    given: str

    @property
    def right(self) -> bool:
        """Whether what was given is what was asked for."""
        return self.asked == self.given

    def __str__(self) -> str:
        return f"{self.name} {self.asked}, {self.given}"


@dataclass
class Findings:
    """What was found out about an answer: scores with reasons, comparisons, and advice on what to fix."""

    scores: dict[str, tuple[int, str]] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    fixes: list[str] = field(default_factory=list)

    def score(self, dimension: str, value: int, why: str = "") -> None:
        """Records a score; of two scores on one dimension, the lower one counts."""
        value = max(0, min(MAX_SCORE, value))
        if value < self.scores.get(dimension, (MAX_SCORE + 1, ""))[0]:
            self.scores[dimension] = (value, why if value < MAX_SCORE else "")

    def compare(self, name: str, asked: str, given: str, *, fix: str) -> None:
        """Records what was asked for and given, and `fix` if they differ."""
        comparison = Comparison(name, asked, given)
        self.comparisons.append(comparison)
        if not comparison.right and fix not in self.fixes:
            self.fixes.append(fix)

    def account(self) -> str:
        """What was asked for and what was given, without a judgement."""
        return f"asked, given: {'; '.join(map(str, self.comparisons))}."

    def critique(self) -> str:
        """The account with a judgement on each thing, and the number of wrong ones."""
        judged = [f"{one}, {'good' if one.right else 'wrong'}" for one in self.comparisons]
        wrong = sum(not one.right for one in self.comparisons)
        return f"asked, given: {'; '.join(judged)}. {wrong or 'nothing'} wrong."

    def feedback(self, dimensions: Sequence[str]) -> record_pb2.Feedback:
        """Scores on `dimensions`, and a critique that compares point by point, as a careful annotator would."""
        scores = [
            record_pb2.DimensionScore(dimension=name, score=value, rationale=why)
            for name in dimensions
            for value, why in [self.scores.get(name, (MAX_SCORE, ""))]
        ]
        return record_pb2.Feedback(scores=scores, critique=self.critique(), refinement=" ".join(self.fixes) or KEEP)

    def rating(self) -> int:
        """1 to 10: the share of things that are as asked for."""
        right = sum(one.right for one in self.comparisons)
        return MIN_RATING + round((MAX_RATING - MIN_RATING) * right / max(1, len(self.comparisons)))
