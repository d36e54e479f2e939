"""Tests of the chart need Helm; without it they are skipped, and say what to run."""

from pathlib import Path

import pytest

from tests.chart import rendering


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        rendering.helm_program()
    except FileNotFoundError as error:
        here = Path(__file__).parent
        for item in items:
            if item.path.is_relative_to(here):
                item.add_marker(pytest.mark.skip(reason=str(error)))
