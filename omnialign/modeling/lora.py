"""The settings of a LoRA folder as PEFT writes it: its base model and its rank.

A folder with an adapter_config.json and no config.json is a LoRA: low-rank updates of a base model, which is registered
separately. Only plain updates of the base's weights are accepted, because those can be applied and merged by every
engine; so one name means the same model wherever it runs.

PEFT takes patterns in several settings, and matches them with every module of the base. A pattern is a program that
may run for ever (`(a|aa)+$`), and none is needed: the names of a LoRA's weights say which modules it changes. So
`literal_config` puts names in the place of patterns. Nothing here reads weights beyond their names.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnialign import names
from omnialign.errors import InvalidArgument
from omnialign.modeling.safetensors_header import HeaderInvalid, read_file_header

CONFIG = "adapter_config.json"
MAX_CONFIG_BYTES = 16 << 20
MERGE = "merge it into its base (PEFT's merge_and_unload) and register the result as a model of its own"
"""What to do about a LoRA that cannot be used as it is."""

PLAIN_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Initialisations that leave the base's weights unchanged; PiSSA, OLoRA and the like change them."""
EXTRAS = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
    "megatron_config",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
"""Settings by which PEFT does more than add low-rank updates; in a plain LoRA they are false or empty."""

PLAIN = (
    "r",
    "lora_alpha",
    "use_rslora",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "target_parameters",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
)
"""The settings of a plain LoRA that decide what it adds to its base."""

WEIGHTS = "adapter_model.safetensors"
MAX_NAMES, MAX_NAME = 4096, 512
MODULE = re.compile(r"base_model\.model\.(.+)\.lora_(?:embedding_)?[AB](?:\.weight)?")
"""The name of a weight; the group is the module in the base that it changes."""
_LITERAL = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")
"""A pattern that matches one name, or the end of names: it is as safe as a name."""


@dataclass(frozen=True)
class LoraSettings:
    """`base` is a model version `projects/...` or a `file://` folder; `rank` is the largest rank of any module."""

    base: str
    rank: int


def is_lora(folder: Path) -> bool:
    """Whether a folder holds a LoRA rather than a whole model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def read_lora(folder: Path, *, name: str) -> LoraSettings:
    """The settings of a LoRA folder. Raises like `parse_lora`."""
    with (folder / CONFIG).open("rb") as file:
        return parse_lora(file.read(MAX_CONFIG_BYTES + 1), name=name)


def parse_lora(text: bytes, *, name: str) -> LoraSettings:
    """The settings in an adapter_config.json; error messages call the LoRA `name`.

    Raises InvalidArgument LORA_CONFIG_INVALID, LORA_UNSUPPORTED or BASE_MODEL_INVALID.
    """
    config = _object(text, name)
    if config.get("peft_type") != "LORA":
        raise unsupported(name, f"its peft_type is {config.get('peft_type')!r}, not 'LORA'")
    extras = [key for key in EXTRAS if config.get(key)]
    if config.get("bias", "none") != "none":
        extras.append("bias")
    if not _is_plain(config.get("init_lora_weights")):
        extras.append("init_lora_weights")
    if extras:
        raise unsupported(name, f"it has {', '.join(extras)}")
    for field in ("target_modules", "exclude_modules", "layers_pattern"):
        _check_names(field, config.get(field), name)
    for field in ("rank_pattern", "alpha_pattern"):
        _check_patterns(field, config.get(field) or {}, name)
    return LoraSettings(_base(config.get("base_model_name_or_path"), name), _rank(config, name))


def literal_config(folder: Path, *, name: str) -> dict[str, Any]:
    """The adapter_config.json of a LoRA folder, with the names of modules in the place of patterns.

    Raises as `parse_lora`, and InvalidArgument LORA_UNSUPPORTED for weights whose names are not those of a plain LoRA.
    """
    read_lora(folder, name=name)
    config = dict(_object((folder / CONFIG).read_bytes(), name))
    if not has_patterns(config):
        return config
    no_choice = dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern"))
    return {**config, "target_modules": _modules(folder, name), **no_choice}


def plain_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings in an adapter_config.json that decide what is added to the base."""
    return {field: config[field] for field in PLAIN if field in config}


def has_patterns(config: Mapping[str, Any]) -> bool:
    """Whether the settings choose modules by a pattern."""
    layers = config.get("layers_pattern") or ()
    layers = [layers] if isinstance(layers, str) else layers
    chosen = (config.get("target_modules"), config.get("exclude_modules"))
    return any(isinstance(names, str) for names in chosen) or not all(map(_LITERAL.fullmatch, layers))


def _modules(folder: Path, name: str) -> list[str]:
    """The modules of the base that the weights change."""
    try:
        found = [MODULE.fullmatch(weight) for weight in read_file_header(folder / WEIGHTS)]
    except (OSError, HeaderInvalid) as error:
        raise unsupported(name, f"its {WEIGHTS} cannot be read ({error})") from error
    modules = sorted({match[1] for match in found if match})
    if not modules or len(modules) > MAX_NAMES:
        raise unsupported(name, f"its weights are those of {len(modules)} modules, and 1 to {MAX_NAMES} are taken")
    return modules


def check_base_in_project(settings: LoraSettings, *, name: str, parent: str) -> None:
    """Raises InvalidArgument BASE_MODEL_NOT_IN_PROJECT unless a LoRA's base is in the project `parent`.

    The right to register a LoRA must not give access to the models of other projects, or to folders of the server.
    """
    if not settings.base.startswith(f"{parent}/"):
        raise InvalidArgument(
            f"The LoRA {name} belongs to {settings.base}, which is not registered in {parent}; register that model "
            f"there and put the version's name into {CONFIG} as base_model_name_or_path.",
            reason="BASE_MODEL_NOT_IN_PROJECT",
            metadata={"model": name, "base": settings.base},
        )


def unsupported(name: str, why: str) -> InvalidArgument:
    """The error for a LoRA that is valid but not supported."""
    return InvalidArgument(
        f"The LoRA {name} cannot be used: {why}; {MERGE}.", reason="LORA_UNSUPPORTED", metadata={"model": name}
    )


def lora_of_lora(name: str, base: str) -> InvalidArgument:
    """The error for a LoRA whose base is a LoRA."""
    return InvalidArgument(
        f"The LoRA {name} belongs to {base}, which is a LoRA itself; merge that one into its base and use the result.",
        reason="LORA_OF_LORA",
        metadata={"model": name, "base": base},
    )


def not_trainable(name: str, *, field: str) -> InvalidArgument:
    """The error for a LoRA as the starting point of an alignment job."""
    message = f"'{name}' is a LoRA, which an alignment job cannot start from; {MERGE}"
    return InvalidArgument(
        message, reason="BASE_MODEL_NOT_TRAINABLE", metadata={"model": name}, violations=[(field, message)]
    )


def _object(text: bytes, name: str) -> Mapping[str, Any]:
    if len(text) > MAX_CONFIG_BYTES:
        raise _invalid(name, f"is larger than {MAX_CONFIG_BYTES >> 20} MiB")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(name, f"is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise _invalid(name, "is not an object")
    return config


def _is_plain(init: object) -> bool:
    return init is None or isinstance(init, bool) or (isinstance(init, str) and init.lower() in PLAIN_INITS)


def _rank(config: Mapping[str, Any], name: str) -> int:
    pattern = config.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        raise _invalid(name, "has a rank_pattern that is not an object")
    found = [config.get("r"), *pattern.values()]
    ranks = [rank for rank in found if type(rank) is int and rank > 0]
    if len(ranks) < len(found):
        raise _invalid(name, "needs positive integers as r and in rank_pattern")
    return max(ranks)


def _check_names(field: str, value: object, name: str) -> None:
    """Refuses what is neither a pattern, which is never run, nor a list of names."""
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise _invalid(name, f"has a {field} that is not a list of at most {MAX_NAMES} names")
    if not all(isinstance(entry, str) and len(entry) <= MAX_NAME for entry in value):
        raise _invalid(name, f"has a {field} with a name that is not a text of at most {MAX_NAME} letters")


def _check_patterns(field: str, value: object, name: str) -> None:
    """Refuses keys that PEFT would match as patterns rather than names."""
    if not isinstance(value, dict) or len(value) > MAX_NAMES:
        raise _invalid(name, f"has a {field} that is not an object of at most {MAX_NAMES} names")
    if wrong := [key for key in value if len(key) > MAX_NAME or not _LITERAL.fullmatch(key)]:
        raise unsupported(name, f"its {field} has the pattern {wrong[0]!r:.80}, where a module's name is taken")


def _base(base: object, name: str) -> str:
    """The reference to the base; PEFT writes the path from which the base was loaded."""
    if isinstance(base, str) and base.isprintable():
        if base.startswith("file://"):
            return base
        if Path(base).is_absolute():
            return Path(base).as_uri()
        if names.matches(base, names.MODEL_VERSION) and names.id_of(base).isdecimal():
            return base
    raise InvalidArgument(
        f"The LoRA {name} names {base!r} as its base; put projects/{{project}}/models/{{model}}/versions/{{number}}, "
        f"a file:// folder or an absolute path into {CONFIG} as base_model_name_or_path.",
        reason="BASE_MODEL_INVALID",
        metadata={"model": name, "base": repr(base)[:512]},
    )


def _invalid(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"The {CONFIG} of {name} {why}; save the LoRA again with PEFT.",
        reason="LORA_CONFIG_INVALID",
        metadata={"model": name},
    )
