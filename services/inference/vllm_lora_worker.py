"""What runs in vLLM's own worker processes for LoRAs: saying which of a LoRA's weights have no place in the model.

vLLM leaves those out without a word, and the answers would be wrong: those of layers that the base does not have, or of
the vision tower of a model whose language model alone takes LoRAs.
"""

from typing import Any


class LoraWorker:
    """Methods that vLLM adds to its worker class."""

    model_runner: Any

    def unplaced_lora_modules(self, lora_id: int) -> list[str]:
        """The modules that a LoRA has weights for and this worker's part of the model has not."""
        manager = self.model_runner.lora_manager._adapter_manager
        found = {name.removesuffix(".base_layer") for name in manager.get_adapter(lora_id).loras}  # MoE: two in one
        return sorted(found - set(manager.modules))
