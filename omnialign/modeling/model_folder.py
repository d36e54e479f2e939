"""A model folder as `transformers` reads it: the class that loads it, its processor, and whether the two fit.

Engine, trainer and tests all use these functions, so they always agree.
"""

import hashlib
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    ProcessorMixin,
)
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.auto.auto_factory import _get_model_class
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from omnialign.errors import InvalidArgument
from omnialign.modeling import chat_template

THINKERS = {
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
}
"""Families whose folders also hold a speech decoder; only the part that writes text is loaded."""

SPEECH_PARTS = ("talker.", "token2wav.", "code2wav.")
"""The weights of those speech decoders."""

PATCHED = frozenset({"chameleon", "janus", "qwen2_vl", "qwen2_5_vl"})
"""Families whose classes in `transformers` need a change; see `omnialign.modeling.patched_models`."""


def read_config(folder: Path) -> Any:
    """The configuration of the model in a folder. Raises InvalidArgument MODEL_CONFIG_INVALID."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises all kinds of errors
        raise InvalidArgument(
            f"The config.json of {folder.name} names no architecture of the installed version of transformers: {error}",
            reason="MODEL_CONFIG_INVALID",
            metadata={"folder": folder.name},
        ) from error
    return getattr(config, "thinker_config", config) if config.model_type in THINKERS else config


def model_class(folder: Path) -> Any:
    """The class whose `from_pretrained` loads the weights of a folder, patched where its family needs it.

    Raises InvalidArgument MODEL_CONFIG_INVALID.
    """
    kind = read_config(folder).model_type.removesuffix("_thinker")
    if kind in THINKERS:
        return getattr(transformers, THINKERS[kind])
    if kind in PATCHED:
        from omnialign.modeling import patched_models  # pulls in modeling code that no other family needs

        if kind in patched_models.WRITERS:
            return patched_models.WRITERS[kind]
        patched_models.patch_rope(kind)
    return AutoModelForMultimodalLM if kind in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES else AutoModelForCausalLM


def concrete_class(folder: Path, config: Any) -> Any:
    """The class that `model_class` leads to for a configuration. Raises InvalidArgument MODEL_CONFIG_INVALID."""
    auto = model_class(folder)
    if (mapping := getattr(auto, "_model_mapping", None)) is None:
        return auto
    try:
        return _get_model_class(config, mapping)
    except KeyError as error:
        raise InvalidArgument(
            f"The config.json of {folder.name} is that of a {config.model_type}, which is no language model.",
            reason="MODEL_CONFIG_INVALID",
            metadata={"folder": folder.name},
        ) from error


FILES = ("*token*.json", "vocab.*", "merges.txt", "*.model", "*processor*.json", "chat_template*", "config.json")
"""The files that determine a model's inputs."""
FORMAT = "1"
"""Increase it whenever this package makes different features from the same files: it invalidates cached ones."""
PROCESSORS = ("processor_config.json", "preprocessor_config.json")


def load_processor(folder: Path) -> Any:
    """The processor of a folder, or the tokenizer of a plain language model.

    Raises InvalidArgument PROCESSOR_UNSUPPORTED.
    """
    chat_template.install()
    auto = AutoProcessor if any((folder / name).is_file() for name in PROCESSORS) else AutoTokenizer
    try:
        found = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises all kinds of errors
        raise _unsupported(folder, f"it does not load: {type(error).__name__}: {error}") from error
    tokenizer = getattr(found, "tokenizer", found)
    if not (isinstance(found, (ProcessorMixin, Tokenizer)) and isinstance(tokenizer, Tokenizer)):
        raise _unsupported(folder, f"{type(found).__name__} has no tokenizer")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise _unsupported(folder, f"{type(tokenizer).__name__} cannot be written as tokenizer.json")
    return found


def revision_of(folder: Path) -> str:
    """Sixteen hexadecimal digits that change with the files that determine a model's inputs, and with transformers."""
    digest = hashlib.sha256(f"{FORMAT}/{transformers.__version__}".encode())
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def check_fit(folder: Path, tokenizer: Any, processor: Any) -> None:
    """Raises InvalidArgument TOKENIZER_MISMATCH if the tokenizer or the processor belongs to another model."""
    config = read_config(folder)
    rows = config.get_text_config(decoder=True).vocab_size
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise _mismatch(folder, f"the tokenizer produces ids up to {highest}, but the model has {rows} embeddings")
    for name in ("image", "audio", "video"):
        wanted = getattr(config, f"{name}_token_id", None) or getattr(config, f"{name}_token_index", None)
        found = getattr(processor, f"{name}_token_id", None)
        if wanted is not None and found is not None and wanted != found:
            raise _mismatch(folder, f"the model expects {name}s at id {wanted}, but the processor writes id {found}")


def _unsupported(folder: Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"The general adapter cannot use the processor of {folder.name} ({why}); the family needs its own adapter.",
        reason="PROCESSOR_UNSUPPORTED",
        metadata={"folder": folder.name},
    )


def _mismatch(folder: Path, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"The tokenizer of {folder.name} belongs to another model: {why}; take both from the same release.",
        reason="TOKENIZER_MISMATCH",
        metadata={"folder": folder.name},
    )
