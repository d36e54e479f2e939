"""Which modalities a model writes, as its files tell it: without torch, and without loading anything."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeAlias, cast

from omnialign.content import LETTERS
from omnialign.modeling.codecs import CODEC_TYPES
from omnialign.modeling.codecs.vq_models import DECODER_FOLDER
from omnialign.modeling.model_files import CODECS, CONFIG, MAX_JSON_BYTES, ModelSource
from omnialign.modeling.reward_folder import HEAD
from omnialign.v1 import content_pb2

Modality: TypeAlias = content_pb2.Modality.ValueType
TEXT, IMAGE = content_pb2.MODALITY_TEXT, content_pb2.MODALITY_IMAGE
IMAGE_WRITERS = ("emu3", "janus")
"""Families that write images of themselves; Chameleon does with the weights of an image decoder beside it."""


def written_modalities(names: Collection[str], read: Callable[[str], bytes]) -> tuple[Modality, ...]:
    """The modalities that a whole model writes, in order, text first; none for a reward model or a LoRA.

    `names` are those of the files and folders of its folder, `read` reads a file.
    """
    if CONFIG not in names or HEAD in names:
        return ()
    if CODECS in names and "tokenizer.json" in names:  # as `load_adapter` decides
        entries = _parsed(read(CODECS)).get("codecs")
        listed = entries if isinstance(entries, list) else []
        kinds = [str(entry.get("type")) for entry in listed if isinstance(entry, dict)]
        found = {getattr(CODEC_TYPES[kind], "modality", TEXT) for kind in kinds if kind in CODEC_TYPES}
    else:
        family = _parsed(read(CONFIG)).get("model_type")
        writes_images = family in IMAGE_WRITERS or (family == "chameleon" and DECODER_FOLDER in names)
        found = {IMAGE} if writes_images else set()
    written = (modality for modality in LETTERS.values() if modality == TEXT or modality in found)
    return tuple(cast("Modality", modality) for modality in written)


def written_by_files(files: ModelSource) -> tuple[Modality, ...]:
    """What the model writes that has these files."""
    names = {path.partition("/")[0] for path in files.sizes()}
    return written_modalities(names, lambda path: files.read(path, start=0, length=MAX_JSON_BYTES))


def written_by_folder(folder: Path) -> tuple[Modality, ...]:
    """What the model in a folder writes; none if there is no such folder."""
    if not folder.is_dir():
        return ()
    return written_modalities({path.name for path in folder.iterdir()}, lambda path: _head(folder / path))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_JSON_BYTES)


def _parsed(data: bytes) -> dict[str, Any]:
    """An object of JSON; an empty one for anything else, which whoever loads the model will refuse."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
