"""The words in which judges meet the items of a benchmark: categories and references."""

from collections.abc import Sequence

from omnialign.errors import InvalidArgument
from omnialign.v1 import record_pb2

PERCEPTION, REASONING, INSTRUCTION_FOLLOWING, SAFETY = CATEGORIES = (
    "perception",
    "reasoning",
    "instruction_following",
    "safety",
)
"""What questions about media test (paper section 4.1); each category is judged by what counts in it."""


def known_category(category: str) -> str:
    """The category; `perception` for none. Raises InvalidArgument CATEGORY_UNKNOWN."""
    if category and category not in CATEGORIES:
        raise InvalidArgument(
            f"There is no category {category[:40]!r}; use one of {', '.join(CATEGORIES)}.",
            reason="CATEGORY_UNKNOWN",
            metadata={"category": category[:40]},
        )
    return category or PERCEPTION


def write_references(references: Sequence[record_pb2.ReferenceAnswer]) -> str:
    """The answers that people gave, one a line, with their key terms by modality in alphabetical order."""
    return "\n".join(f"{number}. {_reference(reference)}" for number, reference in enumerate(references, start=1))


def _reference(reference: record_pb2.ReferenceAnswer) -> str:
    by_modality = sorted(reference.key_terms.items())  # a map has no order of its own
    terms = "; ".join(f"{modality}: {', '.join(found.terms)}" for modality, found in by_modality if found.terms)
    return f"{reference.answer} ({terms})" if terms else reference.answer
