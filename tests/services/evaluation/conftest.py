"""The fixture that the tests of the evaluation service work with."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.evaluation_stack import EvaluationStack


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[EvaluationStack]:
    """All servers, running."""
    made = EvaluationStack(tmp_path)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
