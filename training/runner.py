"""The run itself: data, model, trainer, loop, finished model; the same on every rank."""

import importlib
import logging
import time
from functools import partial
from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.modeling.adapters import load_adapter
from training import defaults, distributed, final, loop, source, tokens
from training.spec import Hyperparameters, Spec

log = logging.getLogger(__name__)


def train(companions: loop.Companions, *, is_main: bool) -> bool:
    """Trains and saves the model. False when stopped before the end. Raises the typed errors of its parts."""
    started_at = time.monotonic()
    spec, method = companions.spec, companions.method
    transformers_logging.set_verbosity_error()
    distributed.join()
    loop.score_answers_only()
    hyperparameters = defaults.complete(spec.hyperparameters, method=method, num_processes=distributed.world_size())
    examples = tokens.load(_examples(spec, hyperparameters, method=method, is_main=is_main))
    adapter = load_adapter(spec.base_model_dir)
    tokenizer = loop.tokenizer_of(spec.base_model_dir, pad_id=adapter.pad_id, end_id=adapter.end_id)
    builder = importlib.import_module(f"training.methods.{method}").trainer
    load = partial(load_model, spec.base_model_dir)
    trainer = builder(load, tokenizer, examples, spec=spec, hyperparameters=hyperparameters)
    log.info("%d examples; ready after %.1f s", len(examples), time.monotonic() - started_at)
    if not loop.run(trainer, companions):
        return False
    final.save(trainer, base_dir=spec.base_model_dir, to=spec.model_dir)
    return True


def load_model(folder: Path) -> PreTrainedModel:
    """The model in a folder. Raises `InvalidArgument`: MODEL_HAS_PICKLE or MODEL_UNLOADABLE."""
    pickles = [path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pkl", ".pth"}]
    if pickles:
        raise InvalidArgument(
            f"{folder.name} holds pickles, which can run code: {', '.join(pickles)}",
            reason="MODEL_HAS_PICKLE",
            metadata={"model": folder.name, "files": ", ".join(pickles)},
        )
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidArgument(
            f"{folder.name} cannot be loaded: {error}", reason="MODEL_UNLOADABLE", metadata={"model": folder.name}
        ) from error


def _examples(spec: Spec, hyperparameters: Hyperparameters, *, method: str, is_main: bool) -> Path:
    path, error = None, None
    if is_main:
        try:
            path = source.prepare(spec, method=method, max_length=hyperparameters.max_length)
        except OmnialignError as raised:
            error = raised
    shared = distributed.share_outcome(path, error)
    distributed.share_file(shared)
    return shared
