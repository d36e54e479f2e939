"""Which class of `transformers` loads a model folder: one answer for engine, trainer and tests."""

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from omnialign.errors import InvalidArgument
from omnialign.modeling.rope import mend_positions

THINKERS = {
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
}
"""Families whose folders hold a model that speaks too; the part that reads everything and writes text is loaded."""

WRITERS = ("chameleon", "janus")
"""Families whose own class cannot write the pictures that they were trained to write."""


def read_config(folder: Path) -> Any:
    """The configuration of the model that is loaded from a folder. Raises InvalidArgument MODEL_CONFIG_INVALID."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever its parts raise
        raise InvalidArgument(
            f"The config.json of {folder.name} names no architecture that this version of transformers has: {error}",
            reason="MODEL_CONFIG_INVALID",
            metadata={"folder": folder.name},
        ) from error
    return getattr(config, "thinker_config", config) if config.model_type in THINKERS else config


def model_class(folder: Path) -> Any:
    """The class whose `from_pretrained` loads the weights of a folder; media and text in, logits out.

    Raises InvalidArgument MODEL_CONFIG_INVALID.
    """
    kind = read_config(folder).model_type.removesuffix("_thinker")
    mend_positions(kind)
    if kind in THINKERS:
        return getattr(transformers, THINKERS[kind])
    if kind in WRITERS:
        from omnialign.modeling import writers  # the modeling code of both families, which no other model needs

        return getattr(writers, f"{kind.capitalize()}ForConditionalGeneration")
    return AutoModelForMultimodalLM if kind in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES else AutoModelForCausalLM
