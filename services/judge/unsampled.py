"""Requests of which nothing is sampled, because the answers are given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omnialign.v1 import generation_pb2


@dataclass(frozen=True)
class UnsampledRequest:
    """A request of which nothing is sampled, as the item loop takes it; `sampling` says whether it is deterministic."""

    model: str
    items: Sequence[Any]
    media_policy: generation_pb2.MediaPolicy
    sampling: generation_pb2.SamplingParams
