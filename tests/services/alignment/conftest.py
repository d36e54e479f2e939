"""The fixture that most tests of the alignment service work with."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.service_stack import ServiceStack


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[ServiceStack]:
    """All servers, running."""
    made = ServiceStack(tmp_path)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
