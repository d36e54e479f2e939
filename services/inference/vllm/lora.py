"""LoRAs in the vLLM engine of their base: one engine for all of them and the base.

An engine starts without room for LoRAs. The first LoRA of a base has it started anew with room for that rank, and one
of a higher rank again; from then on the base's own requests go there too, so that the base is never in memory twice.
What can be known to fail is found before, so that a LoRA which cannot run harms neither its base nor other LoRAs.
"""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from omnialign.errors import OmnialignError
from omnialign.modeling.lora import unsupported
from services.inference.errors import EngineDied
from services.inference.models.resolver import ModelFiles
from services.inference.vllm.process import VllmModel, words_of

LEAST_RANK = 16
"""Rank that an engine with LoRAs has room for at least: most LoRAs need no second start."""


class Loras:
    """The LoRAs that were asked for. For use on one event loop."""

    def __init__(self) -> None:
        self._ranks: dict[str, int] = {}
        self._ids: dict[str, int] = defaultdict(itertools.count(1).__next__)

    def rank(self, base: str) -> int:
        """The rank that an engine of this base must have room for; 0 for none."""
        return self._ranks.get(base, 0)

    async def admit(self, files: ModelFiles, *, name: str, check_size: Callable[[int], object]) -> None:
        """Notes that a model was asked for. `check_size` raises if an engine with room for a rank is too large.

        Raises InvalidArgument LORA_UNSUPPORTED.
        """
        if files.lora is None:
            return
        rank = rounded(files.rank, name)
        if rank > self.rank(files.base):
            await asyncio.to_thread(check_supported, files.folder, name)
            await asyncio.to_thread(check_size, rank)
            self._ranks[files.base] = max(rank, self.rank(files.base))

    def withdraw(self, base: str) -> None:
        """Notes that an engine with room for LoRAs did not start, so that the base alone can."""
        self._ranks.pop(base, None)

    def fit(self, model: VllmModel, files: ModelFiles, *, name: str) -> bool:
        """Whether an engine can take requests of this model; else it must be started anew."""
        is_new = files.lora is not None and name not in model.loras
        return model.lora_rank >= self.rank(files.base) and not (is_new and len(model.loras) >= model.most_loras)

    async def put_on(self, model: VllmModel, files: ModelFiles, *, name: str) -> VllmModel:
        """The engine with the LoRA that its requests are for, if any. Raises LORA_UNSUPPORTED, EngineDied."""
        from vllm.lora.request import LoRARequest

        if files.lora is None:
            return model
        lora = LoRARequest(name, self._ids[name], str(files.lora))  # vLLM keeps cached prefixes apart by the name
        if name not in model.loras:
            model.loras[name] = asyncio.create_task(self._load(model, lora))
        try:
            await asyncio.shield(model.loras[name])  # which goes on for the others when one of them goes away
        except OmnialignError:
            model.loras.pop(name, None)
            raise
        return replace(model, lora=lora)

    async def _load(self, model: VllmModel, lora: Any) -> None:
        """Has vLLM read a LoRA now: one that it cannot read when a batch runs would end the engine."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await model.llm.add_lora(lora)
            parts = await model.llm.collective_rpc("unplaced_lora_modules", args=(lora.lora_int_id,))
        except EngineDeadError as error:
            raise EngineDied(model.key.model) from error
        except Exception as error:  # vLLM raises whatever its parts raise
            raise unsupported(lora.lora_name, f"vLLM says {words_of(error)}") from error
        if strays := sorted(set.intersection(*map(set, parts))):  # a part of a split model has its share of modules
            await model.llm.remove_lora(lora.lora_int_id)
            why = f"vLLM has no place for {len(strays)} of its modules, such as {strays[0]}"
            raise unsupported(lora.lora_name, why)


def rounded(rank: int, name: str) -> int:
    """The least rank of those that vLLM makes room for. Raises InvalidArgument LORA_UNSUPPORTED."""
    from vllm.config.lora import MaxLoRARanks

    choices: tuple[int, ...] = get_args(MaxLoRARanks)
    if rank > max(choices):
        raise unsupported(name, f"its rank is {rank}, and vLLM takes {max(choices)} at most")
    return min(choice for choice in choices if choice >= max(rank, LEAST_RANK))


def check_supported(folder: Path, name: str) -> None:
    """Raises InvalidArgument LORA_UNSUPPORTED for a base whose class in vLLM takes no LoRAs."""
    from vllm.model_executor.models import ModelRegistry, supports_lora

    for architecture in json.loads((folder / "config.json").read_text("utf-8")).get("architectures") or ():
        known = ModelRegistry.models.get(architecture)
        if known is not None and not supports_lora(known.load_model_cls()):
            raise unsupported(name, f"vLLM's {architecture} takes no LoRAs")
