"""Makes a folder with new weights a model that an engine loads, and checks that it fits the policy's base model.

Whoever sends weights sends nothing else: configuration, tokenizer and codecs are the base's own, so that nothing but
numbers changes from one version to the next. Files of weights are checked by their headers; no library has read them
when this is done.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from omnialign.folders import FileEntry, entries_digest, file_entry, list_files
from omnialign.modeling.lora import CONFIG as LORA_CONFIG
from omnialign.modeling.lora import WEIGHTS as LORA_WEIGHTS
from omnialign.modeling.lora import literal_config
from omnialign.modeling.lora_fit import check_lora_fits, parameter_shapes
from omnialign.modeling.model_files import (
    PICKLES,
    WEIGHTS,
    FolderFiles,
    check_files,
    is_plain_name,
    read_object,
    tensors,
    weight_paths,
)
from omnialign.modeling.weights_check import WeightsMismatch, check_weights
from services.inference.models.resolver import ModelFiles
from services.inference.policies.errors import files_invalid, weights_mismatch

INDEX = "model.safetensors.index.json"
SPARE_BYTES = 64 << 20
"""Bytes of headers, indices and settings beside the weights."""


def is_wanted(path: str) -> bool:
    """Whether a file belongs to a policy's weights; all others are ignored. Raises POLICY_FILES_INVALID."""
    if not is_plain_name(path) or path.startswith("."):
        raise files_invalid(path, "is not a plain name", "put the weights in one folder and send their names alone")
    if Path(path).suffix.lower() in PICKLES:
        raise files_invalid(path, "may be a pickle, which runs code when loaded", "save the weights as safetensors")
    return is_weights(path) or path == LORA_CONFIG


def max_bytes(base: ModelFiles) -> int:
    """Most bytes that the weights of a policy take: those of its base in float32 (blocking)."""
    files = FolderFiles(base.folder, name=base.base)
    return 4 * sum(tensor.num_elements for _, tensor in tensors(files, weight_paths(files))) + SPARE_BYTES


def complete(folder: Path, entries: Mapping[str, FileEntry], base: ModelFiles, *, name: str) -> str:
    """Adds to the weights in a folder, `entries` by path, what they need of the base, and returns their digest.

    Blocking. `name` is that of the version, for messages. Raises POLICY_FILES_INVALID, POLICY_WEIGHTS_MISMATCH,
    LORA_UNSUPPORTED, LORA_CONFIG_INVALID, MODEL_MANIFEST_INVALID, MODEL_WEIGHTS_INVALID.
    """
    if LORA_CONFIG not in entries:
        _complete_model(folder, base, name)
        return entries_digest(entries.values())
    if strays := entries.keys() - {LORA_CONFIG, LORA_WEIGHTS}:
        raise files_invalid(min(strays), "is beside a LoRA", f"send {LORA_CONFIG} and {LORA_WEIGHTS} alone")
    _complete_lora(folder, base, name)
    return entries_digest([entries[LORA_WEIGHTS], file_entry(folder / LORA_CONFIG, folder=folder)])


def _complete_lora(folder: Path, base: ModelFiles, name: str) -> None:
    # Where the trainer found the base says nothing here: the base is the policy's.
    config = read_object(FolderFiles(folder, name=name), LORA_CONFIG, reason="LORA_CONFIG_INVALID")
    (folder / LORA_CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": base.base}, sort_keys=True))
    literal_config(folder, name=name)
    check_lora_fits(folder, parameter_shapes(base.folder), name=name)


def _complete_model(folder: Path, base: ModelFiles, name: str) -> None:
    for path in companions(base.folder):
        target = folder / path.relative_to(base.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(path, target)
    files = FolderFiles(folder, name=name)
    check_files(files)
    found = {weight: info.shape for weight, info in tensors(files, weight_paths(files))}
    theirs = FolderFiles(base.folder, name=base.base)
    wanted = {weight: info.shape for weight, info in tensors(theirs, weight_paths(theirs))}
    if found == wanted:
        return
    # They need not be the same file by file: tied weights may be there or not, and names differ between releases of
    # the library. So it is asked, and what it says comes with the first weight that differs.
    try:
        check_weights(folder)
    except WeightsMismatch as error:
        weight, why = first_difference(found, wanted)
        raise weights_mismatch(name, base=base.base, weight=weight, why=why) from error


def first_difference(found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> tuple[str, str]:
    """The first weight, in order of name, that is not the same in both, and what is the matter with it."""
    weight = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if weight not in found:
        return weight, "is missing"
    if weight not in wanted:
        return weight, "is none of its weights"
    return weight, f"has the shape {list(found[weight])} instead of {list(wanted[weight])}"


def companions(folder: Path) -> list[Path]:
    """All files of a model but its own weights; those of its codecs are in folders below."""
    return [path for path in list_files(folder) if path.parent != folder or not is_weights(path.name)]


def is_weights(name: str) -> bool:
    """Whether a file at the top of a model's folder is of its weights."""
    return name.endswith(WEIGHTS) or name == INDEX


def link_or_copy(source: Path, target: Path) -> None:
    """Puts a file at another place too, without its bytes where the file system can."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or a file that belongs to another user
        shutil.copyfile(source, target)
