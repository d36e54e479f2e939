"""Merging a LoRA into its base, so that both run as one model with weights of its own."""

from pathlib import Path
from typing import Any

from omnialign.modeling.lora import unsupported


def merge_lora(module: Any, lora: Path, *, model: str) -> Any:
    """The module with a LoRA's updates in its weights. Raises InvalidArgument LORA_UNSUPPORTED.

    A LoRA that does not fit is refused whole: PEFT would leave out what has no place, and the answers would be wrong.
    """
    from peft import LoraConfig, PeftModel  # seconds to import, and few models need it

    try:
        adapted = PeftModel(module, LoraConfig.from_pretrained(str(lora)), autocast_adapter_dtype=False)
        loaded = adapted.load_adapter(str(lora), "default", torch_device=str(module.device))
    except Exception as error:  # the library raises whatever its parts raise
        why = " ".join(str(error).split())
        raise unsupported(model, f"PEFT says {type(error).__name__}: {why}") from error
    if strays := [*loaded.unexpected_keys, *loaded.missing_keys]:
        raise unsupported(model, f"it does not fit its base ({len(strays)} weights, such as {strays[0]})")
    return adapted.merge_and_unload()
