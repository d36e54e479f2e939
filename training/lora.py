"""LoRA in training (Hu et al. 2021): W x becomes W x + (alpha / rank) B A x, where only A (rank, in) and B (out, rank)
learn.

PEFT's layers are put into the model itself, which keeps its class: every trainer and loss works on it as on any other.
B begins at zero, so a new LoRA changes nothing, and the model before the first step is its base. One that training goes
on from is part of the policy from the start. Either way a reference that is computed before the first step is the
policy at the start, without a second copy of the weights.

The base stays as it is. Only linear layers of the language model are changed: engines serve no others, and the output
head is multiplied outside of its module (`fused_lm_head`), where a LoRA on it would have no effect.
"""

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from omnialign.errors import InvalidArgument
from omnialign.modeling.lora import CONFIG, WEIGHTS, is_lora, literal_config, plain_settings, unsupported
from training.files import replace_folder, staging_name
from training.spec import DEFAULT_RANK, Lora

ADAPTER = "default"
"""PEFT's name of the one LoRA that a model here has; it is part of the parameters' names."""
LINEAR = (torch.nn.Linear, Conv1D)


def add_lora(model: PreTrainedModel, wanted: Lora, *, seed: int) -> None:
    """Puts a new LoRA into a model. Raises `InvalidArgument` (LORA_TARGET_UNKNOWN)."""
    rank = wanted.rank or DEFAULT_RANK
    config = LoraConfig(
        r=rank,
        lora_alpha=wanted.alpha or 2 * rank,
        lora_dropout=wanted.dropout,
        target_modules=targets(model, wanted.target_modules),
        task_type="CAUSAL_LM",
    )
    _inject(model, config, seed=seed)


def continue_lora(model: PreTrainedModel, folder: Path, wanted: Lora) -> None:
    """Puts the LoRA of a folder into a model, to train on from it.

    Raises `InvalidArgument`: LORA_UNSUPPORTED if it does not fit the model, and what `literal_config` raises.
    """
    name = folder.name
    settings = plain_settings(literal_config(folder, name=name))
    if settings.pop("target_parameters", None):
        raise unsupported(name, "it changes parameters that are no modules")
    try:
        _inject(model, LoraConfig(**settings, lora_dropout=wanted.dropout, task_type="CAUSAL_LM"), seed=0)
    except (ValueError, TypeError) as error:  # PEFT's word for modules that are not there or of another kind
        raise unsupported(name, f"PEFT says: {' '.join(str(error).split())}") from error
    linear = set(linear_layers(model))
    if others := [name for name, _ in lora_layers(model) if name not in linear]:
        raise unsupported(name, f"it changes {others[0]}, and training takes linear layers of the language model")
    own = {saved_name(name): weight for name, weight in model.named_parameters() if weight.requires_grad}
    found = load_file(folder / WEIGHTS)
    if wrong := sorted(own.keys() ^ found.keys()) or [n for n in own if own[n].shape != found[n].shape]:
        raise unsupported(name, f"it does not fit its base ({len(wrong)} weights, such as {wrong[0]})")
    with torch.no_grad():
        for saved, weight in own.items():
            weight.copy_(found[saved])


def check_continued(folder: Path, wanted: Lora) -> None:
    """Checks the LoRA that training goes on from without its weights.

    Raises `InvalidArgument`: LORA_CONFIG_INVALID if there is none, LORA_DIFFERS if other settings are wanted than its,
    and what `literal_config` raises.
    """
    if not is_lora(folder):
        raise InvalidArgument(
            f"{folder} holds no {CONFIG} of a LoRA, which initial_lora_dir must; leave it out to start a new LoRA",
            reason="LORA_CONFIG_INVALID",
            metadata={"folder": str(folder)},
        )
    settings = literal_config(folder, name=folder.name)
    for field, has in (("rank", settings["r"]), ("alpha", settings.get("lora_alpha"))):
        given = getattr(wanted, field)
        if given and given != has:
            raise InvalidArgument(
                f"lora.{field} is {given}, and the LoRA that training goes on from has {has}; leave it out to go on, "
                f"or start a new LoRA from the base model",
                reason="LORA_DIFFERS",
                metadata={"field": f"lora.{field}", "given": str(given), "has": str(has)},
            )
    if wanted.target_modules:
        raise InvalidArgument(
            "lora.target_modules must be left out, because the LoRA that training goes on from has its own",
            reason="LORA_DIFFERS",
            metadata={"field": "lora.target_modules", "given": ", ".join(wanted.target_modules)},
        )


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers of the language model, without towers, what joins them to it, and the output head."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    within = {id(module) for module in decoder.modules()} - {id(head)}
    # Where there is a LoRA already, its own small matrices are no layers, and what it wraps counts under its name.
    wrapped = {id(layer.base_layer) for _, layer in lora_layers(model)}
    return [
        name
        for name, module in model.named_modules()
        if id(module) in within
        and id(module) not in wrapped
        and ".lora_" not in name
        and isinstance(getattr(module, "base_layer", module), LINEAR)
    ]


def targets(model: PreTrainedModel, wanted: Sequence[str]) -> list[str]:
    """Names of the layers that get a LoRA: all linear ones, or those whose names end in one of `wanted`."""
    layers = linear_layers(model)
    for end in wanted:
        if not any(_ends(layer, end) for layer in layers):
            kinds = sorted({layer.rpartition(".")[2] for layer in layers})
            near = difflib.get_close_matches(end, kinds, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(kinds)}"
            raise InvalidArgument(
                f"lora.target_modules names {end!r}, which is no linear layer of the language model; {hint}",
                reason="LORA_TARGET_UNKNOWN",
                metadata={"target": end, "known": ", ".join(kinds)},
            )
    return [layer for layer in layers if not wanted or any(_ends(layer, end) for end in wanted)]


def lora_layers(model: torch.nn.Module) -> list[tuple[str, LoraLayer]]:
    """The layers that have a LoRA, by name; none if the model has none."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def set_dropout(model: torch.nn.Module, dropout: float) -> None:
    """Sets the dropout of a model's LoRA, because methods with a reference turn off every dropout that they find."""
    for _, layer in lora_layers(model):
        for module in layer.lora_dropout.values():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout


@contextlib.contextmanager
def switched_off(model: torch.nn.Module) -> Iterator[None]:
    """The model is its base within the block."""
    layers = [layer for _, layer in lora_layers(model)]
    # Not `enable_adapters`, which also changes what learns.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def saved_name(parameter: str) -> str:
    """The name that PEFT and the engines know a LoRA's weight by in a file."""
    return f"base_model.model.{parameter.replace(f'.{ADAPTER}.', '.')}"


def write_lora(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], *, base: str, to: Path) -> None:
    """Writes a LoRA folder in one move: `weights` by their names in the model, and settings that name the base."""
    staged = staging_name(to)
    staged.mkdir(parents=True)
    config: Any = model.peft_config[ADAPTER]
    config.base_model_name_or_path = base
    config.save_pretrained(staged)
    state = {saved_name(name): weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(state, staged / WEIGHTS, metadata={"format": "pt"})
    replace_folder(staged, to)


def merged(model: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's weights with its LoRA merged into them: W + (alpha / rank) B A, under the names of the base."""
    weights = dict(state)
    for name, layer in lora_layers(model):
        a = weights.pop(f"{name}.lora_A.{ADAPTER}.weight").float()  # (rank, in)
        b = weights.pop(f"{name}.lora_B.{ADAPTER}.weight").float()  # (out, rank)
        change = layer.scaling[ADAPTER] * (b @ a)  # (out, in)
        weight = weights.pop(f"{name}.base_layer.weight")
        weights[f"{name}.weight"] = weight.float() + (change.T if isinstance(layer.base_layer, Conv1D) else change)
        if (bias := weights.pop(f"{name}.base_layer.bias", None)) is not None:
            weights[f"{name}.bias"] = bias
    return weights


def _inject(model: PreTrainedModel, config: LoraConfig, *, seed: int) -> None:
    model.requires_grad_(False)
    # The same on every rank, whatever the state of its generator.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(config, ADAPTER)
    for weight in model.parameters():
        if weight.requires_grad:  # float32, as all weights that learn are
            weight.data = weight.data.float()


def _ends(layer: str, end: str) -> bool:
    return layer == end or layer.endswith(f".{end}")
