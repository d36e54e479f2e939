"""What runs in vLLM's own worker processes: a question about LoRAs, and seeds on a CPU."""

from collections.abc import Callable
from typing import Any


class WorkerExtension:
    """Methods that vLLM adds to its worker class."""

    model_runner: Any

    def unplaced_lora_modules(self, lora_id: int) -> list[str]:
        """The modules that a LoRA has weights for and this worker's part of the model has not.

        vLLM leaves those out without a word, and the answers would be wrong: those of layers that the base does not
        have, or of the vision tower of a model whose language model alone takes LoRAs.
        """
        manager = self.model_runner.lora_manager._adapter_manager
        found = {name.removesuffix(".base_layer") for name in manager.get_adapter(lora_id).loras}  # MoE: two in one
        return sorted(found - set(manager.modules))


def mend_generators(runner: Any) -> None:
    """Has a runner on a CPU take back what was drawn for prompts that were read in part.

    vLLM 0.32 sets the generator of a seeded request back by an offset, which those of a CPU do not have: the first
    seeded prompt that did not fit into a step whole ended the engine.
    """
    sample: Callable[..., Any] = runner._sample
    book: Callable[..., Any] = runner._bookkeeping_sync

    def sample_and_restore(self: Any, *args: Any, **kwargs: Any) -> Any:
        states = {generator: generator.get_state() for generator in _of_partial(self).values()}
        found = sample(self, *args, **kwargs)
        for generator, state in states.items():
            generator.set_state(state)
        return found

    def book_without_offsets(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch, partial = self.input_batch, _of_partial(self)
        for row in partial:
            del batch.generators[row]
        try:
            return book(self, *args, **kwargs)
        finally:
            batch.generators.update(partial)

    runner._sample, runner._bookkeeping_sync = sample_and_restore, book_without_offsets


def _of_partial(runner: Any) -> dict[int, Any]:
    """The generators of the rows whose token is thrown away, because their prompt goes on."""
    generators, thrown_away = runner.input_batch.generators, runner.discard_request_mask.np
    return {row: generator for row, generator in generators.items() if thrown_away[row]}


def _on_import() -> None:
    """vLLM imports this module in each worker before it has made its runner."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # the CPU's is made of it

        mend_generators(GPUModelRunner)


_on_import()
