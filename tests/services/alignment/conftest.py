"""The fixture that most tests of the alignment service work with."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.services.alignment.stack import Stack


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """All servers, running."""
    made = Stack(tmp_path)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
