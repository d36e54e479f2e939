"""The checker: scores any answer to an instruction, says what it does about it and how to write it instead.

It takes the place of human annotators and is the final yardstick. It reads only the prompt and the answer.
"""

from collections.abc import Sequence

from examples.instructions.constraints import NOTHING, Finding, core, is_whole, words_of
from examples.instructions.prompts import read_instruction
from omnialign.modeling.inputs import Piece
from omnialign.rubrics import MAX_SCORE, rubric
from omnialign.v1 import record_pb2

KEEP = "Keep it as it is."
FEWEST_WORDS = 4


def check(prompt: Sequence[Piece], response: Sequence[Piece], subtask: str) -> record_pb2.Feedback:
    """Language feedback on an answer: the constraint, then one whole sentence, each held against what was given.

    Raises InvalidArgument: PROMPT_FOREIGN, and SUBTASK_UNKNOWN.
    """
    family, fillers = read_instruction(_text(prompt))
    text = _text(response).strip()
    constraint, sentence = family.examine(text, fillers), _sentence(text)
    scores = {
        "prompt_following": MAX_SCORE * constraint.right,
        "objective_rules": MAX_SCORE * _is_alone(text),
        "clarity": MAX_SCORE * is_whole(text),
        "information_richness": min(MAX_SCORE, len(words_of(text)) * MAX_SCORE // FEWEST_WORDS),
    }
    better = KEEP if min(scores.values()) == MAX_SCORE else f"Write it like this: {family.mend(core(text), fillers)}"
    return record_pb2.Feedback(
        scores=[
            record_pb2.DimensionScore(dimension=name, score=scores.get(name, MAX_SCORE)) for name in rubric(subtask)
        ],
        critique=f"{constraint}." if sentence.right else f"{constraint}; {sentence}.",
        refinement=better,
    )


def total(feedback: record_pb2.Feedback) -> int:
    """The sum of the scores; the better of two answers has the higher one."""
    return sum(score.score for score in feedback.scores)


def _sentence(text: str) -> Finding:
    """Whether the answer is one whole sentence, or breaks off, or goes on."""
    last = next(iter(words_of(text)[-1:]), NOTHING)
    given = "more" if not _is_alone(text) else "one" if is_whole(text) else f'up to "{last}"'
    return Finding("one sentence", given, given == "one")


def _is_alone(text: str) -> bool:
    return words_of(core(text)) == words_of(text)


def _text(pieces: Sequence[Piece]) -> str:
    return " ".join(piece for piece in pieces if isinstance(piece, str))
