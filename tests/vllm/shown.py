"""What the tests have shown of a family on vLLM, written to where the table of families is made from."""

import json
from collections.abc import Sequence

from tests.processes import REPOSITORY

RESULTS = REPOSITORY / "out" / "families"


def record(family: str, *, reads: Sequence[str], writes: Sequence[str] = ()) -> None:
    """Notes that a family's media were read, and written, as they should be."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    shown = {"family": family, "engine": "vllm", "reads": list(reads), "writes": list(writes), "passed": True}
    (RESULTS / f"{family}.vllm.json").write_text(json.dumps(shown) + "\n")
