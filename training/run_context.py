"""What goes through a whole run with its trainer."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from training import distributed
from training.methods import complete
from training.progress import Progress
from training.spec import Spec
from training.watchdog import Watchdog


@dataclass(frozen=True)
class RunContext:
    """A run: what it is to do, whom it tells, and who notices that it is stuck."""

    spec: Spec
    progress: Progress
    watchdog: Watchdog

    def shape(self) -> dict[str, int | float | str]:
        """What a run must share with a checkpoint to be able to go on from it as if it had not been interrupted."""
        settings = complete(self.spec, num_processes=distributed.world_size())
        return {
            **{name: value for name, value in asdict(settings).items() if name != "checkpoint_every_steps"},
            "dataset": self.spec.dataset,
            "method": self.spec.method,
            **{f"{self.spec.method}.{name}": _plain(value) for name, value in asdict(self.spec.settings).items()},
            **{
                f"lora.{name}": str(value) for name, value in (asdict(self.spec.lora) if self.spec.lora else {}).items()
            },
            "num_processes": distributed.world_size(),
            "zero_stage": self.spec.distribution.zero_stage,
        }


def _plain(value: Any) -> int | float | str:
    """A setting as a manifest holds it: a section, or a list of them, as text."""
    return value if isinstance(value, int | float | str) else json.dumps(value, sort_keys=True)
