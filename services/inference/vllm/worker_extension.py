"""What runs inside vLLM's worker processes: a question about LoRAs, and a fix for seeded requests on a CPU.

vLLM imports this module in each worker by its name (`services.inference.vllm.process.WORKER_EXTENSION`).
"""

from collections.abc import Callable
from typing import Any


class WorkerExtension:
    """Methods that vLLM adds to its worker class."""

    model_runner: Any

    def unplaced_lora_modules(self, lora_id: int) -> list[str]:
        """The modules that a LoRA has weights for and this worker's part of the model does not have.

        vLLM ignores such weights silently, and the answers would be wrong: those of layers that the base does not have,
        or of the vision tower of a model in which only the language model takes LoRAs.
        """
        manager = self.model_runner.lora_manager._adapter_manager
        found = {name.removesuffix(".base_layer") for name in manager.get_adapter(lora_id).loras}  # MoE: two in one
        return sorted(found - set(manager.modules))


def patch_generators(runner: Any) -> None:
    """Makes a runner on a CPU take back what was drawn for prompts that were read in part.

    A prompt that does not fit into one step is read in parts, and the token that each part but the last draws is thrown
    away. vLLM 0.32 then sets the generator of a seeded request back by an offset, which generators on a CPU do not
    have: the first such prompt ended the engine. Here the states are saved and restored instead.
    """
    sample: Callable[..., Any] = runner._sample
    bookkeeping: Callable[..., Any] = runner._bookkeeping_sync

    def sample_and_restore(self: Any, *args: Any, **kwargs: Any) -> Any:
        states = {generator: generator.get_state() for generator in _partial_generators(self).values()}
        found = sample(self, *args, **kwargs)
        for generator, state in states.items():
            generator.set_state(state)
        return found

    def bookkeeping_without_offsets(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch, partial = self.input_batch, _partial_generators(self)
        for row in partial:  # hidden from the code that would set their offsets
            del batch.generators[row]
        try:
            return bookkeeping(self, *args, **kwargs)
        finally:
            batch.generators.update(partial)

    runner._sample, runner._bookkeeping_sync = sample_and_restore, bookkeeping_without_offsets


def _partial_generators(runner: Any) -> dict[int, Any]:
    """The generators of the rows whose token is thrown away, because their prompt is not read to its end."""
    generators, thrown_away = runner.input_batch.generators, runner.discard_request_mask.np
    return {row: generator for row, generator in generators.items() if thrown_away[row]}


def _patch_on_import() -> None:
    """Patches the runner's class, before the worker that imports this module makes its runner."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # the base class of the CPU's runner

        patch_generators(GPUModelRunner)


_patch_on_import()
