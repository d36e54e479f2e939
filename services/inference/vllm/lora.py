"""LoRAs in the vLLM engine of their base: one engine for the base and all its LoRAs.

An engine starts without room for LoRAs. The first LoRA of a base restarts it with room for that rank, and a LoRA of
higher rank restarts it again; the base's own requests go there too, so that the base is never in memory twice. A LoRA
that cannot work is refused before it can harm its base or other LoRAs, wherever that can be known.
"""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from omnialign.errors import OmnialignError
from omnialign.modeling.lora import CONFIG, WEIGHTS, literal_config, unsupported
from services.inference.models.resolver import ModelFiles
from services.inference.vllm.process import EngineDied, VllmModel, one_line

MIN_RANK = 16
"""Least rank that an engine with LoRAs has room for: most LoRAs then need no second restart."""


class LoraRegistry:
    """The LoRAs that were requested, by base. For use on one event loop."""

    def __init__(self) -> None:
        self._ranks: dict[str, int] = {}
        self._ids: dict[str, int] = defaultdict(itertools.count(1).__next__)
        self._folders: dict[Path, TemporaryDirectory[str]] = {}

    def rank(self, base: str) -> int:
        """The rank that an engine of this base must have room for; 0 for none."""
        return self._ranks.get(base, 0)

    async def register(self, files: ModelFiles, *, name: str, check_size: Callable[[int], object]) -> None:
        """Notes that a model was requested. `check_size` raises if an engine with room for a rank is too large.

        Raises InvalidArgument LORA_UNSUPPORTED.
        """
        if files.lora is None:
            return
        rank = supported_rank(files.rank, name)
        if rank > self.rank(files.base):
            # Checked before the rank is noted: from then on the base's own engine is restarted for it.
            await asyncio.to_thread(check_supported, files.folder, name)
            await asyncio.to_thread(check_size, rank)
            self._ranks[files.base] = max(rank, self.rank(files.base))

    def withdraw(self, base: str) -> None:
        """Notes that an engine with room for LoRAs failed to start, so that the base can run without."""
        self._ranks.pop(base, None)

    def has_room(self, model: VllmModel, files: ModelFiles, *, name: str) -> bool:
        """Whether an engine can take requests for this model; if not, it must be restarted."""
        is_new = files.lora is not None and name not in model.lora_loads
        return model.lora_rank >= self.rank(files.base) and not (is_new and len(model.lora_loads) >= model.max_loras)

    async def attach(self, model: VllmModel, files: ModelFiles, *, name: str) -> VllmModel:
        """The engine with the LoRA that requests are for, if any. Raises LORA_UNSUPPORTED, EngineDied."""
        from vllm.lora.request import LoRARequest

        if files.lora is None:
            return model
        folder = await asyncio.to_thread(self._literal_folder, files.lora, name)
        lora = LoRARequest(name, self._ids[name], str(folder))  # vLLM keeps prefix caches apart by the name
        if name not in model.lora_loads:
            model.lora_loads[name] = asyncio.create_task(self._load(model, lora))
        try:
            await asyncio.shield(model.lora_loads[name])  # it continues for other callers if this one is cancelled
        except OmnialignError:
            model.lora_loads.pop(name, None)
            raise
        return replace(model, lora=lora)

    def _literal_folder(self, folder: Path, name: str) -> Path:
        """The LoRA's folder, or one like it if its settings have patterns, which vLLM would run in its workers."""
        config = literal_config(folder, name=name)
        if config == json.loads((folder / CONFIG).read_bytes()):
            return folder
        if folder not in self._folders:
            self._folders[folder] = TemporaryDirectory(prefix="omnialign-lora-")
        literal = Path(self._folders[folder].name)
        (literal / CONFIG).write_text(json.dumps(config))
        with suppress(FileExistsError):
            (literal / WEIGHTS).symlink_to((folder / WEIGHTS).resolve())
        return literal

    async def _load(self, model: VllmModel, lora: Any) -> None:
        """Has vLLM load a LoRA now: one that it failed to load while a batch runs would end the engine."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await model.llm.add_lora(lora)
            unplaced = await model.llm.collective_rpc("unplaced_lora_modules", args=(lora.lora_int_id,))
        except EngineDeadError as error:
            raise EngineDied(model.key.model) from error
        except Exception as error:  # vLLM raises whatever its parts raise
            raise unsupported(lora.lora_name, f"vLLM says {one_line(error)}") from error
        # A worker of a model that is split over devices has only its share of the modules, so a module is unplaced only
        # if no worker has it.
        if strays := sorted(set.intersection(*map(set, unplaced))):
            await model.llm.remove_lora(lora.lora_int_id)
            why = f"vLLM has no place for {len(strays)} of its modules, such as {strays[0]}"
            raise unsupported(lora.lora_name, why)


def supported_rank(rank: int, name: str) -> int:
    """The smallest rank with room for `rank` that vLLM supports. Raises InvalidArgument LORA_UNSUPPORTED."""
    from vllm.config.lora import MaxLoRARanks

    choices: tuple[int, ...] = get_args(MaxLoRARanks)
    if rank > max(choices):
        raise unsupported(name, f"its rank is {rank}, and vLLM takes {max(choices)} at most")
    return min(choice for choice in choices if choice >= max(rank, MIN_RANK))


def check_supported(folder: Path, name: str) -> None:
    """Raises InvalidArgument LORA_UNSUPPORTED for a base whose class in vLLM takes no LoRAs."""
    from vllm.model_executor.models import ModelRegistry, supports_lora

    for architecture in json.loads((folder / "config.json").read_text("utf-8")).get("architectures") or ():
        known = ModelRegistry.models.get(architecture)
        if known is not None and not supports_lora(known.load_model_cls()):
            raise unsupported(name, f"vLLM's {architecture} takes no LoRAs")
