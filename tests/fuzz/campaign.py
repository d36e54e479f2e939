"""A campaign of fuzzing: one target gets mutated inputs until its time is up, and every finding can be repeated.

`OMNIALIGN_FUZZ_SECONDS` is the time for each target, `OMNIALIGN_FUZZ_SEED` chooses the inputs. A failing input is kept
in `out/fuzz/`.
"""

import asyncio
import os
import pickle
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnialign.errors import Internal, OmnialignError
from tests.processes import REPOSITORY

SECONDS = float(os.environ.get("OMNIALIGN_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("OMNIALIGN_FUZZ_SEED", "0"))
LONGEST_SECONDS = 10.0
FINDINGS = REPOSITORY / "out" / "fuzz"

Make = Callable[[random.Random], Any]
Run = Callable[[Any], Awaitable[object]]


@dataclass
class Campaign:
    """What one campaign tried: the number of inputs, and how they ended, by reason ("" for those accepted)."""

    target: str
    tried: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    async def run(self, make: Make, run: Run, *, seconds: float = SECONDS) -> "Campaign":
        """Runs a target on one input after another.

        A target may return, or raise an OmnialignError with a reason. Anything else is a finding and fails the test:
        another exception, INTERNAL or UNKNOWN, and an answer that takes more than ten seconds.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or not self.tried:
            seed = f"{SEED}/{self.target}/{self.tried}"
            await self._try(make(random.Random(seed)), run, seed)
            self.tried += 1
        print(f"{self.target}: {self.tried} inputs, {dict(self.outcomes.most_common())}", file=sys.stderr)
        return self

    async def _try(self, given: Any, run: Run, seed: str) -> None:
        reason = ""
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                await run(given)
        except TimeoutError as error:
            raise AssertionError(self._finding(given, seed, f"no answer in {LONGEST_SECONDS:g} s")) from error
        except Exception as error:
            reason = error.reason if isinstance(error, OmnialignError) else ""
            if not reason or isinstance(error, Internal) or reason == "UNKNOWN":
                raise AssertionError(self._finding(given, seed, f"{type(error).__name__}: {error}")) from error
        self.outcomes[reason] += 1

    def _finding(self, given: Any, seed: str, what: str) -> str:
        path = FINDINGS / f"{self.target}-{self.tried}.pickle"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(given))
        return f"{self.target}, input {seed}: {what}; the input is in {path.relative_to(REPOSITORY)}"


def read_finding(path: Path) -> Any:
    """The input of a finding, to be debugged."""
    return pickle.loads(path.read_bytes())
