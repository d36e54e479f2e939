"""The run itself, the same on every rank: examples, model, trainer, loop, finished model."""

import json
import logging
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, Trainer
from transformers.utils import logging as transformers_logging

from omnialign.errors import InvalidArgument, OmnialignError, Unavailable
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.codecs.vq_models import DECODER_FOLDER
from omnialign.modeling.model_files import PICKLES
from omnialign.modeling.model_folder import model_class
from omnialign.modeling.weights_check import check_weights
from omnialign.v1.training_service_pb2 import TrainingProgress
from training import distributed, fused_lm_head, loop, source
from training.examples import Example, load_examples
from training.files import replace_folder
from training.media import BatchMedia, feature_cache, fillers, modalities
from training.methods import METHODS, complete
from training.spec import Hyperparameters, Spec
from training.watchdog import Phase

CODEC = "vqmodel"
"""Name of the part of Chameleon, Emu3 and Janus that turns pictures into codes."""
NOT_COPIED = (".safetensors", ".index.json", *sorted(PICKLES))
"""What a finished model does not take over from its base: weights in any form."""
TEMPLATES = "additional_chat_templates"
SAVED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The precisions in which a model is saved, by their names in `config.json`."""

log = logging.getLogger(__name__)


def train(context: loop.RunContext) -> bool:
    """Trains and saves the model. False when stopped before the end. Raises the typed errors of its parts."""
    started_at = time.monotonic()
    spec = context.spec
    transformers_logging.set_verbosity_error()
    distributed.join()
    fused_lm_head.install()
    hyperparameters = complete(spec, num_processes=distributed.world_size())
    adapter = load_adapter(spec.base_model_dir, feature_cache(spec.cache_dir / "features"))
    check_weights(spec.base_model_dir)  # before a trainer exists: under ZeRO-3 it changes how models are made
    examples = _examples(context, hyperparameters, adapter=adapter)
    dropped = source.dropped(spec, max_length=hyperparameters.max_length)
    context.progress.note_examples(len(examples), dropped=dropped)
    context.progress.enter(TrainingProgress.PHASE_LOADING_MODEL)
    tokenizer = loop.tokenizer_of(spec.base_model_dir, pad_id=adapter.pad_id, end_id=adapter.end_id)
    load = partial(load_model, spec.base_model_dir, train_towers=hyperparameters.train_towers)
    media = batch_media(spec, adapter, examples)
    trainer = METHODS[spec.method].build(
        loop.TrainerInputs(
            load_model=load,
            tokenizer=tokenizer,
            examples=examples,
            media=media,
            spec=spec,
            hyperparameters=hyperparameters,
            watchdog=context.watchdog,
        )
    )
    log.info("%d examples; ready after %.1f s", len(examples), time.monotonic() - started_at)
    if not loop.run(trainer, context):
        return False
    context.watchdog.enter(Phase.SAVE)
    context.progress.enter(TrainingProgress.PHASE_SAVING_MODEL)
    save_model(trainer, base_dir=spec.base_model_dir, to=spec.model_dir)
    return True


def _examples(context: loop.RunContext, hyperparameters: Hyperparameters, *, adapter: Adapter) -> list[Example]:
    """The same examples on every rank: rank 0 prepares the file, and nodes without it get a copy."""
    spec, on_read = context.spec, partial(context.progress.enter, TrainingProgress.PHASE_READING_RECORDS)
    on_read()
    shared = distributed.on_main(
        lambda: source.prepare(
            spec,
            max_length=hyperparameters.max_length,
            adapter=adapter,
            rows_per_batch=hyperparameters.micro_batch_size or hyperparameters.batch_size // distributed.world_size(),
            on_read=on_read,
        )
    )
    distributed.share_file(shared)
    found = load_examples(shared)
    _provide_media(spec, found)
    return found


def _provide_media(spec: Spec, examples: Sequence[Example]) -> None:
    """Fetches the bytes of the examples' media to every node. Raises on all ranks if one node cannot get them."""
    error = None
    if distributed.is_first_of_node():
        try:
            source.provide_media(spec, examples)
        except OmnialignError as raised:
            error = raised
    if distributed.any_rank(error is not None):
        raise error or Unavailable("another node could not get the media", reason="MEDIA_UNAVAILABLE")


def batch_media(spec: Spec, adapter: Adapter, examples: Sequence[Example]) -> BatchMedia:
    """The media of the run's batches, with fillers where ranks must all run the same towers in every batch.

    That is so when ZeRO shards states or weights over several ranks; `training.media` says why.
    """
    sharded = distributed.world_size() > 1 and spec.distribution.zero_stage > 0
    wanted = modalities(examples) if sharded else frozenset()
    folder = source.media_folder(spec)
    return BatchMedia(adapter, folder, policy=spec.media_policy, fillers=fillers(adapter, wanted))


def load_model(folder: Path, *, train_towers: bool = False) -> PreTrainedModel:
    """The model in a folder, with weights in float32 whatever the folder holds.

    At a usual learning rate an update is smaller than the distance between two bfloat16 numbers: weights of that
    precision would round it away and stay as they are. `precision: bf16` computes in bfloat16 on these weights.

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
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
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


def _drop_unused_conversions(model: PreTrainedModel) -> None:
    """Makes a model save its weights under the names it loaded them by.

    Under ZeRO-3, transformers 5.23 remembers every renaming that a family ever needed and inverts them all on saving,
    those too that this checkpoint did not need. Without ZeRO-3 it drops the unused ones itself.
    """
    if known := getattr(model, "_weight_conversions", None):
        model._weight_conversions = [conversion for conversion in known if conversion.was_used()]


def save_model(trainer: Trainer, *, base_dir: Path, to: Path) -> None:
    """Writes the model folder in one move. All ranks take part, because sharded weights must be gathered.

    Raises `FailedPrecondition` (WEIGHTS_NOT_FINITE) instead of saving a broken model.
    """
    loop.require_finite_weights(trainer.model, step=trainer.state.global_step)
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if distributed.rank() == 0:
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        write_model(model, state, base_dir=base_dir, to=to)
    distributed.barrier()


def write_model(model: PreTrainedModel, state: dict[str, torch.Tensor], *, base_dir: Path, to: Path) -> None:
    """Writes a model folder: the weights in `state`, and everything else as the base model has it.

    The weights get the precision of the base, and a weight that is tied to another is written once.
    """
    staged = to.with_name(f".{to.name}.{uuid.uuid4().hex}")
    dtype = saved_dtype(base_dir)
    weights = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in state.items()
        if name not in model.all_tied_weights_keys
    }
    model.save_pretrained(staged, state_dict=weights)
    # `save_pretrained` writes the precision of the model in memory.
    model.config.dtype = dtype
    model.config.save_pretrained(staged)
    for path in _companion_files(base_dir, model):
        if path.is_dir():
            shutil.copytree(path, staged / path.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, staged / path.name)
    replace_folder(staged, to)


def saved_dtype(folder: Path) -> torch.dtype:
    """The precision of a model folder: what its config says, otherwise that of its first weight."""
    config = _json(folder / "config.json")
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


def _companion_files(base_dir: Path, model: PreTrainedModel) -> Iterator[Path]:
    """What a model folder needs besides weights: tokenizer, processor, templates, settings, codecs.

    The base's config is left behind when it is that of a larger model of which `model` is a part.
    """
    for path in base_dir.iterdir():
        is_part = path.name == "config.json" and _json(path).get("model_type") != model.config.model_type
        if path.is_file() and not path.name.endswith(NOT_COPIED) and not is_part:
            yield path
    for name in sorted({TEMPLATES, DECODER_FOLDER, *_codec_folders(base_dir / "codecs.json")}):
        if (base_dir / name).is_dir():
            yield base_dir / name


def _codec_folders(path: Path) -> Iterator[str]:
    """The top folders of learned codecs; a codec whose weights are the model's own has none."""
    for entry in _json(path).get("codecs", []) if path.is_file() else []:
        yield from Path(entry.get("options", {}).get("folder", "")).parts[:1]


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found
