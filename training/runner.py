"""The run itself, the same on every rank: examples, model, trainer, loop, finished model."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from omnialign.errors import OmnialignError, Unavailable
from omnialign.modeling import reward, reward_folder
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.codecs.vq_models import DECODER_FOLDER
from omnialign.modeling.model_files import PICKLES
from omnialign.modeling.weights_check import check_weights
from omnialign.v1.training_service_pb2 import TrainingProgress
from training import distributed, fused_lm_head, holdout, loop, lora, methods, source, tuning
from training.evaluation import Evaluator
from training.example_file import Examples
from training.files import replace_folder, staging_name
from training.media import BatchMedia, feature_cache, fillers
from training.methods import METHODS, complete
from training.methods.reward import REWARD
from training.run_context import RunContext
from training.sample_answers import SampleAnswers
from training.spec import Hyperparameters, Spec
from training.trainer_inputs import TrainerInputs
from training.watchdog import Phase

NOT_COPIED = (".safetensors", ".index.json", *sorted(PICKLES), reward_folder.REPORT)
"""What a finished model does not take over from its base: weights in any form, and how good they are."""
TEMPLATES = "additional_chat_templates"
NUM_SAMPLES = 2
"""Sample answers of each evaluation, where a spec does not say."""

log = logging.getLogger(__name__)


def train(context: RunContext) -> bool:
    """Trains and saves the model. False when stopped before the end. Raises the typed errors of its parts."""
    started_at = time.monotonic()
    spec = context.spec
    transformers_logging.set_verbosity_error()
    distributed.join()
    fused_lm_head.install()
    tuning.check(spec)
    hyperparameters = complete(spec, num_processes=distributed.world_size())
    adapter = load_adapter(spec.base_model_dir, feature_cache(spec.cache_dir / "features"))
    check_base(spec)
    check_weights(spec.base_model_dir)  # before a trainer exists: under ZeRO-3 it changes how models are made
    examples = _examples(context, hyperparameters, adapter=adapter)
    dropped = source.dropped(spec, max_length=hyperparameters.max_length)
    learnt, held_out = holdout.split(examples, fraction=methods.holdout_fraction(spec))
    context.progress.note_examples(len(learnt), held_out=len(held_out), dropped=dropped)
    context.progress.enter(TrainingProgress.PHASE_LOADING_MODEL)
    tokenizer = tuning.tokenizer_of(spec.base_model_dir, pad_id=adapter.pad_id, end_id=adapter.end_id)
    media = batch_media(spec, adapter, examples)
    trainer = METHODS[spec.method].build(
        TrainerInputs(
            load_model=partial(tuning.load_for_training, spec),
            tokenizer=tokenizer,
            examples=learnt,
            held_out=held_out,
            media=media,
            spec=spec,
            hyperparameters=hyperparameters,
            watchdog=context.watchdog,
        )
    )
    if held_out:
        samples = sample_answers(context.spec, held_out, media=media, tokenizer=tokenizer)
        trainer.evaluator = evaluator_of(trainer, context, hyperparameters, samples=samples)
    if spec.lora:
        lora.set_dropout(trainer.model, spec.lora.dropout)
    log.info("%d examples, %d held out; ready after %.1f s", len(learnt), len(held_out), time.monotonic() - started_at)
    if not loop.run(trainer, context):
        return False
    context.watchdog.enter(Phase.SAVE)
    context.progress.enter(TrainingProgress.PHASE_SAVING_MODEL)
    save_model(trainer, spec)
    return True


def check_base(spec: Spec) -> None:
    """Raises `InvalidArgument` (MODEL_IS_A_REWARD_MODEL) for a reward model where a language model is to be trained."""
    if reward_folder.is_reward_model(spec.base_model_dir) and spec.method != REWARD.name:
        raise reward_folder.writes_nothing(str(spec.base_model_dir), field="base_model_dir")


def _examples(context: RunContext, hyperparameters: Hyperparameters, *, adapter: Adapter) -> Examples:
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
    found = Examples(shared)
    _provide_media(spec, found)
    return found


def _provide_media(spec: Spec, examples: Examples) -> None:
    """Fetches the bytes of the examples' media to every node. Raises on all ranks if one node cannot get them."""
    error = None
    if distributed.is_first_of_node():
        try:
            source.provide_media(spec, examples)
        except OmnialignError as raised:
            error = raised
    if distributed.any_rank(error is not None):
        raise error or Unavailable("another node could not get the media", reason="MEDIA_UNAVAILABLE")


def batch_media(spec: Spec, adapter: Adapter, examples: Examples) -> BatchMedia:
    """The media of the run's batches, with fillers where ranks must all run the same towers in every batch.

    That is so when ZeRO shards states or weights over several ranks; `training.media` says why.
    """
    sharded = distributed.world_size() > 1 and spec.distribution.zero_stage > 0
    wanted = examples.modalities() if sharded else frozenset()
    folder = source.media_folder(spec)
    return BatchMedia(adapter, folder, policy=spec.media_policy, fillers=fillers(adapter, wanted))


def save_model(trainer: loop.DurableTrainer, spec: Spec) -> None:
    """Puts the finished model folder, or that of a LoRA, in its place in one move: the best one, or else the last.

    All ranks take part. Raises `FailedPrecondition` (WEIGHTS_NOT_FINITE) instead of saving a broken model.
    """
    if trainer.evaluator is None or not trainer.evaluator.deliver(spec.model_dir):
        write_finished(trainer, spec, to=spec.model_dir)
    distributed.barrier()


def write_finished(
    trainer: loop.DurableTrainer, spec: Spec, *, to: Path, files: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Writes the model as it is now in the form in which a run delivers it. All ranks take part."""
    loop.require_finite_weights(trainer.model, step=trainer.state.global_step)
    write_weights(trainer, spec, to=to, merge=spec.lora is not None and spec.lora.merge, files=files)


def sample_answers(
    spec: Spec, held_out: Examples, *, media: BatchMedia, tokenizer: PreTrainedTokenizerBase
) -> SampleAnswers | None:
    """What writes sample answers to prompts held out; None where none are wanted, or the model writes none."""
    wanted = spec.hyperparameters.evaluation.num_samples
    count = min(NUM_SAMPLES if wanted is None else wanted, len(held_out))
    if not count or spec.method == REWARD.name:
        return None
    return SampleAnswers(
        [held_out[place] for place in range(count)],
        media=media,
        tokenizer=tokenizer,
        folder=spec.output_dir / "samples",
        is_sharded=spec.distribution.zero_stage == 3,
    )


def evaluator_of(
    trainer: loop.DurableTrainer,
    context: RunContext,
    hyperparameters: Hyperparameters,
    *,
    samples: SampleAnswers | None = None,
) -> Evaluator:
    """What evaluates a run's trainer."""

    def write_samples(step: int) -> None:
        if samples is not None:
            samples.write(trainer.model, step=step)

    return Evaluator(
        hyperparameters.evaluation,
        folder=context.spec.output_dir / "best",
        write_model=partial(write_finished, trainer, context.spec),
        write_samples=write_samples,
        progress=context.progress,
        watchdog=context.watchdog,
    )


def write_weights(
    trainer: loop.DurableTrainer,
    spec: Spec,
    *,
    to: Path,
    merge: bool = False,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Writes a model folder, or that of a LoRA unless it is to be merged. All ranks take part, and rank 0 writes."""
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if spec.lora and not merge:
        weights = distributed.what_learns(trainer.model_wrapped)
        if distributed.rank() == 0:
            base = spec.base_model or spec.base_model_dir.resolve().as_uri()
            lora.write_lora(model, trainer.saved_weights(weights), base=base, to=to)
    else:
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if distributed.rank() == 0:
            state = lora.merged(model, state) if spec.lora else state
            write_model(model, trainer.saved_weights(state), base_dir=spec.base_model_dir, to=to, files=files)


def write_model(
    model: PreTrainedModel,
    state: dict[str, torch.Tensor],
    *,
    base_dir: Path,
    to: Path,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Writes a model folder: the weights in `state`, `files`, and everything else as the base model has it.

    The weights get the precision of the base, and a weight that is tied to another is written once. A reward head has a
    file of its own, in float32.
    """
    staged = staging_name(to)
    dtype = tuning.saved_dtype(base_dir)
    weights = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in state.items()
        if name not in model.all_tied_weights_keys and name != reward_folder.WEIGHT
    }
    has_lora = getattr(model, "_hf_peft_config_loaded", False)
    model._hf_peft_config_loaded = False  # else it would save the LoRA alone, which is in the weights by now
    model.save_pretrained(staged, state_dict=weights)
    model._hf_peft_config_loaded = has_lora  # training may go on
    if reward_folder.WEIGHT in state:
        reward.save_head(state[reward_folder.WEIGHT], staged)
    # `save_pretrained` writes the precision of the model in memory.
    model.config.dtype = dtype
    model.config.save_pretrained(staged)
    for path in _companion_files(base_dir, model):
        if path.is_dir():
            shutil.copytree(path, staged / path.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, staged / path.name)
    for name, content in files.items():
        (staged / name).write_bytes(content)
    replace_folder(staged, to)


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
