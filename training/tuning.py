"""What of a model is trained and how it is held: full weights or a LoRA, towers, precision, attention, checkpointing.

Weights that learn are float32, whatever the folder holds. At a usual learning rate an update is smaller than the
distance between two bfloat16 numbers: weights of that precision would round it away and stay as they are.
`precision: bf16` computes in bfloat16 on these weights. Weights that do not learn, because only a LoRA does, stay in
bfloat16 then if they are saved so, which halves their memory, or are held in 4 bits.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import is_flash_attn_2_available

from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.modeling.model_files import PICKLES
from omnialign.modeling.model_folder import concrete_class, model_class, read_config
from training import lora
from training.spec import Distribution, Spec

CODEC = "vqmodel"
"""Name of the part of Chameleon, Emu3 and Janus that turns pictures into codes."""
FLASH = "flash_attention_2"
SAVED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The precisions in which a model is saved, by their names in `config.json`."""


def check(spec: Spec) -> None:
    """Raises for what cannot be trained as the spec says, before anything is read or loaded.

    Raises `FailedPrecondition` (QUANTIZATION_UNAVAILABLE, ATTENTION_UNAVAILABLE) for what this machine lacks, and what
    `lora.check_continued` raises.
    """
    if spec.lora and spec.lora.quantize and (lacking := _lacking_for_quantization()):
        raise FailedPrecondition(
            f"lora.quantize is {spec.lora.quantize!r}, which needs {' and '.join(lacking)}; leave it out here",
            reason="QUANTIZATION_UNAVAILABLE",
            metadata={"quantize": spec.lora.quantize, "lacking": ", ".join(lacking)},
        )
    if spec.distribution.attention == FLASH and not _has_flash(spec.distribution):
        raise FailedPrecondition(
            f"distribution.attention is {FLASH!r}, which needs a GPU, the package flash-attn and precision bf16; leave "
            "it out to take the fastest that is there",
            reason="ATTENTION_UNAVAILABLE",
            metadata={"attention": FLASH},
        )
    if spec.lora and spec.initial_lora_dir:
        lora.check_continued(Path(spec.initial_lora_dir), spec.lora)


def _lacking_for_quantization() -> list[str]:
    packages = [] if importlib.util.find_spec("bitsandbytes") else ["the package bitsandbytes"]
    return packages if torch.cuda.is_available() else ["a GPU", *packages]


def load_for_training(spec: Spec) -> PreTrainedModel:
    """The model that a run trains: loaded, with its LoRA, and with everything frozen that does not learn.

    Raises `InvalidArgument`: MODEL_HAS_PICKLE, MODEL_UNLOADABLE, and what `add_lora` and `continue_lora` raise.
    """
    settings, distribution = spec.lora, spec.distribution
    options: dict[str, Any] = {"attn_implementation": attention(spec)}
    if settings and distribution.precision == "bf16" and saved_dtype(spec.base_model_dir) == torch.bfloat16:
        options["dtype"] = torch.bfloat16
    if settings and settings.quantize:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=settings.quantize,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if distribution.precision == "bf16" else torch.float32,
        )
        options["device_map"] = {"": torch.cuda.current_device()}
    model = load_model(spec.base_model_dir, train_towers=spec.hyperparameters.train_towers, **options)
    if settings:
        if spec.initial_lora_dir:
            lora.continue_lora(model, Path(spec.initial_lora_dir), settings)
        else:
            lora.add_lora(model, settings, seed=spec.hyperparameters.seed)
    return model


def load_model(folder: Path, *, train_towers: bool = False, **options: Any) -> PreTrainedModel:
    """The model in a folder, with weights in float32 unless `options` of `from_pretrained` say otherwise.

    Raises `InvalidArgument`: MODEL_HAS_PICKLE or MODEL_UNLOADABLE.
    """
    pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
    if pickles:
        raise InvalidArgument(
            f"{folder.name} holds pickles, which can run code; save it as safetensors: {', '.join(pickles)}",
            reason="MODEL_HAS_PICKLE",
            metadata={"model": folder.name, "files": ", ".join(pickles)},
        )
    try:
        model = model_class(folder).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, **{"dtype": torch.float32, **options}
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InvalidArgument(
            f"{folder.name} cannot be loaded: {error}", reason="MODEL_UNLOADABLE", metadata={"model": folder.name}
        ) from error
    _drop_unused_conversions(model)
    freeze(model, towers=not train_towers)
    return model


def freeze(model: PreTrainedModel, *, towers: bool) -> None:
    """Freezes a codec within the model, because the examples are made of its codes.

    With `towers`, also the encoders of pictures, videos and sounds; what joins them to the language model still learns.
    """
    frozen = [module for name, module in model.named_modules() if name.rpartition(".")[2] == CODEC]
    if towers:
        # A model without such an encoder returns itself.
        frozen += [found for kind in ("image", "audio") if (found := model.get_encoder(modality=kind)) is not model]
    for module in frozen:
        module.requires_grad_(False)


def attention(spec: Spec) -> str | None:
    """The implementation of attention; None lets the library take SDPA where the family has it."""
    folder, wanted = spec.base_model_dir, spec.distribution.attention
    if wanted or not _has_flash(spec.distribution):
        return wanted or None
    return FLASH if concrete_class(folder, read_config(folder))._supports_flash_attn else None


def saved_dtype(folder: Path) -> torch.dtype:
    """The precision of a model folder: what its config says, otherwise that of its first weight."""
    config = json.loads((folder / "config.json").read_bytes())
    for part in (config, config.get("text_config") or {}):
        if found := SAVED_DTYPES.get(str(part.get("dtype") or part.get("torch_dtype"))):
            return found
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, a file of safetensors is no mapping
                dtype: torch.dtype = file.get_tensor(name).dtype
                if dtype in SAVED_DTYPES.values():
                    return dtype
    return torch.float32


def checkpointing(spec: Spec) -> dict[str, Any]:
    """The trainer's arguments for gradient checkpointing: activations of a layer are computed again when needed."""
    # Under ZeRO-3, the other kind (`use_reentrant=False`) compares a frozen weight that is gathered with one that is
    # not, and fails (trl#2514).
    is_reentrant = spec.distribution.zero_stage == 3 and spec.lora is not None
    return {
        "activation_checkpointing": spec.distribution.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": is_reentrant},
    }


def _has_flash(distribution: Distribution) -> bool:
    # Its kernels take no float32.
    return torch.cuda.is_available() and bool(is_flash_attn_2_available()) and distribution.precision == "bf16"


def _drop_unused_conversions(model: PreTrainedModel) -> None:
    """Makes a model save its weights under the names it loaded them by.

    Under ZeRO-3, transformers 5.23 remembers every renaming that a family ever needed and inverts them all on saving,
    those too that this checkpoint did not need. Without ZeRO-3 it drops the unused ones itself.
    """
    if known := getattr(model, "_weight_conversions", None):
        model._weight_conversions = [conversion for conversion in known if conversion.was_used()]


def tokenizer_of(folder: Path, *, pad_id: int, end_id: int) -> PreTrainedTokenizerFast:
    """The tokenizer that trainers insist on; nothing is tokenised with it."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end_id)
    return tokenizer
