"""The servers beside which the pipeline is tested."""

from tests.services.alignment.conftest import stack

__all__ = ["stack"]
