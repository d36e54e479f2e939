"""What all tests of imports share."""

import resource
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def limit_on_processor_time() -> Iterator[None]:
    """Takes back the limit that reading media sets on its process: here, that is the one of the tests."""
    before = resource.getrlimit(resource.RLIMIT_CPU)
    yield
    resource.setrlimit(resource.RLIMIT_CPU, before)
