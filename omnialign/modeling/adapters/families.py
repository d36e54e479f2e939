"""Adapters on top of `transformers`: those of native writers of media, and the general one for all others."""

from pathlib import Path

from omnialign.modeling.adapters.chameleon import ChameleonAdapter
from omnialign.modeling.adapters.emu3 import Emu3Adapter
from omnialign.modeling.adapters.janus import JanusAdapter
from omnialign.modeling.adapters.processor import ProcessorAdapter
from omnialign.modeling.architectures import read_config
from omnialign.modeling.feature_cache import NO_CACHE, Cache

FAMILIES: dict[str, type[ProcessorAdapter]] = {
    "chameleon": ChameleonAdapter,
    "emu3": Emu3Adapter,
    "janus": JanusAdapter,
}
"""Adapters of the families that write media in ways of their own, by the `model_type` of config.json."""


def family_adapter(folder: Path, cache: Cache = NO_CACHE) -> ProcessorAdapter:
    """The adapter of a folder with a tokenizer and no codecs. Raises what `ProcessorAdapter` raises."""
    return FAMILIES.get(read_config(folder).model_type, ProcessorAdapter)(folder, cache)
