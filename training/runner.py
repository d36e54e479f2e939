"""The run itself: data, model, trainer, loop, finished model; the same on every rank."""

import importlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from omnialign.errors import InvalidArgument, OmnialignError, Unavailable
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.model_folder import model_class
from training import defaults, distributed, final, heads, loop, source, tokens
from training.media import BatchMedia, feature_cache, fillers, modalities
from training.spec import Hyperparameters, Spec
from training.tokens import Example

CODEC = "vqmodel"
"""Name of the part of Chameleon, Emu3 and Janus that makes codes of pictures."""

log = logging.getLogger(__name__)


def train(companions: loop.Companions, *, is_main: bool) -> bool:
    """Trains and saves the model. False when stopped before the end. Raises the typed errors of its parts."""
    started_at = time.monotonic()
    spec, method = companions.spec, companions.method
    transformers_logging.set_verbosity_error()
    distributed.join()
    heads.install()
    hyperparameters = defaults.complete(spec.hyperparameters, method=method, num_processes=distributed.world_size())
    adapter = load_adapter(spec.base_model_dir, feature_cache(spec.cache_dir / "features"))
    examples = _examples(spec, hyperparameters, method=method, adapter=adapter, is_main=is_main)
    tokenizer = loop.tokenizer_of(spec.base_model_dir, pad_id=adapter.pad_id, end_id=adapter.end_id)
    builder = importlib.import_module(f"training.methods.{method}").trainer
    load = partial(load_model, spec.base_model_dir, train_towers=hyperparameters.train_towers)
    media = batch_media(spec, adapter, examples)
    trainer = builder(load, tokenizer, examples, media=media, spec=spec, hyperparameters=hyperparameters)
    log.info("%d examples; ready after %.1f s", len(examples), time.monotonic() - started_at)
    if not loop.run(trainer, companions):
        return False
    final.save(trainer, base_dir=spec.base_model_dir, to=spec.model_dir)
    return True


def load_model(folder: Path, *, train_towers: bool = False) -> PreTrainedModel:
    """The model in a folder. Raises `InvalidArgument`: MODEL_HAS_PICKLE or MODEL_UNLOADABLE."""
    pickles = [path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pkl", ".pth"}]
    if pickles:
        raise InvalidArgument(
            f"{folder.name} holds pickles, which can run code: {', '.join(pickles)}",
            reason="MODEL_HAS_PICKLE",
            metadata={"model": folder.name, "files": ", ".join(pickles)},
        )
    try:
        model = model_class(folder).from_pretrained(folder, dtype="auto", use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidArgument(
            f"{folder.name} cannot be loaded: {error}", reason="MODEL_UNLOADABLE", metadata={"model": folder.name}
        ) from error
    _forget_unused_conversions(model)
    freeze(model, towers=not train_towers)
    return model


def freeze(model: PreTrainedModel, *, towers: bool) -> None:
    """Leaves a codec within the model as it is, whose codes the examples are made of.

    With `towers`, the encoders of pictures, videos and sounds too; what joins them to the language model learns.
    """
    fixed = [module for name, module in model.named_modules() if name.rpartition(".")[2] == CODEC]
    if towers:
        # A model without such an encoder gives itself.
        fixed += [found for kind in ("image", "audio") if (found := model.get_encoder(modality=kind)) is not model]
    for module in fixed:
        module.requires_grad_(False)


def _forget_unused_conversions(model: PreTrainedModel) -> None:
    """Makes a model save its weights under the names that it loaded them by.

    Under ZeRO-3 transformers 5.23 remembers all conversions of names that a family ever needed, and inverts them on
    saving, those too that this checkpoint had no need of. Without ZeRO-3 it forgets these itself.
    """
    if known := getattr(model, "_weight_conversions", None):
        model._weight_conversions = [conversion for conversion in known if conversion.was_used()]


def batch_media(spec: Spec, adapter: Adapter, examples: Sequence[Example]) -> BatchMedia:
    """The media of the run's batches. Ranks that share out states or weights all run every tower in every batch."""
    sharded = distributed.world_size() > 1 and spec.distribution.zero_stage > 0
    wanted = modalities(examples) if sharded else frozenset()
    folder = source.media_folder(spec)
    return BatchMedia(adapter, folder, policy=spec.media_policy, fillers=fillers(adapter, wanted))


def _examples(
    spec: Spec, hyperparameters: Hyperparameters, *, method: str, adapter: Adapter, is_main: bool
) -> list[Example]:
    path, error = None, None
    if is_main:
        try:
            path = source.prepare(
                spec,
                method=method,
                max_length=hyperparameters.max_length,
                adapter=adapter,
                rows_per_batch=hyperparameters.micro_batch_size
                or hyperparameters.batch_size // distributed.world_size(),
            )
        except OmnialignError as raised:
            error = raised
    shared = distributed.share_outcome(path, error)
    distributed.share_file(shared)
    found = tokens.load(shared)
    _provide_media(spec, found)
    return found


def _provide_media(spec: Spec, examples: Sequence[Example]) -> None:
    """Every node gets the media's bytes. Raises on all ranks when one node cannot get them."""
    error = None
    if distributed.is_first_of_node():
        try:
            source.provide_media(spec, examples)
        except OmnialignError as raised:
            error = raised
    if distributed.any_rank(error is not None):
        raise error or Unavailable("another node could not get the media", reason="MEDIA_UNAVAILABLE")
