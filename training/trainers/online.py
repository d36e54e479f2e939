"""What all methods share that learn from answers drawn from the policy itself: rollouts, hand-over, passes.

The data are prompts. Every `num_iterations` optimiser steps the weights go to the engine, rank 0 has it answer the
step's prompts and has the answers rewarded, and every rank gets all of them. Advantages are computed over the whole
step; then the answers are cut into the passes of each rank, even in tokens.

π_θ is the policy that learns, π_old the same at the step's first iteration, and μ the engine's account of how likely
it drew each token. μ differs from π_old by the engine's arithmetic, and by weights that are older (`max_staleness`).
Each token's loss is weighted by min(π_old / μ, cap) for that (truncated importance sampling, Espeholt et al. 2018).
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainingArguments
from trl.models import prepare_deepspeed

from omnialign.errors import FailedPrecondition, OmnialignError
from training import distributed, fused_lm_head, lora
from training.batch_order import BatchOrder, PromptOrder, shared_out
from training.batches import AnswerCollator
from training.loop import DurableTrainer
from training.methods.rollout import OnlineSettings, RolloutSettings
from training.packing import IGNORED
from training.rollout.answers import Prompt, Rewarded, Rollout
from training.rollout.groups import Sampler
from training.rollout.handover import HandOver
from training.runner import write_weights
from training.spec import Hyperparameters, Spec
from training.trainer_inputs import NEVER, TrainerInputs
from training.watchdog import Phase

Row = dict[str, Any]
"""An answer as `AnswerCollator` takes it. Its columns are at least `engine_log_probs`, `advantages` and `weights`: the
share of each token in the loss of the step, 0 in a blank row."""
Pass = dict[str, torch.Tensor]
NOT_INPUTS = ("answer_mask", "engine_log_probs", "advantages", "weights", "old_log_probs", "reference_log_probs")
"""What a pass holds beside the model's inputs."""

log = logging.getLogger(__name__)


class OnlineTrainer(DurableTrainer):
    """Draws answers to each step's prompts and trains on them. A method says advantages and loss."""

    columns: tuple[str, ...] = NOT_INPUTS

    def __init__(self, inputs: TrainerInputs, *, max_redraws: int = 0, **options: Any) -> None:
        self._spec, self._inputs = inputs.spec, inputs
        self._settings: OnlineSettings = inputs.spec.settings
        self._rollouts: RolloutSettings = self._settings.rollout
        # In between, a run that goes on would lack the answers in use, or the weights that the engine draws from.
        self.checkpoint_border = steps_between_hand_overs(self._rollouts)
        self._handover = HandOver(inputs.spec)
        self._is_open = False
        self._sampler = Sampler(
            inputs.spec,
            self._settings,
            handover=self._handover,
            max_redraws=max_redraws,
            on_answer=inputs.watchdog.beat,
            unwritable=inputs.media.adapter.unwritable_ids,
        )
        self._passes: list[Pass] = []
        self._dropped: Counter[str] = Counter()
        self._measures: dict[str, float] = {}
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(2))
        self._reference: Any = None
        self._total_train_tokens = 0.0
        pad_id = inputs.tokenizer.pad_token_id
        self._collate = AnswerCollator(pad_id=pad_id, media=inputs.media)
        # Before the model: under ZeRO-3 the arguments decide how `from_pretrained` places the weights.
        hyperparameters = in_answers(inputs.hyperparameters, num_samples=self._settings.samples_per_prompt)
        arguments = TrainingArguments(**replace(inputs, hyperparameters=hyperparameters).arguments)
        arguments.save_steps = whole_borders(arguments.save_steps, self.checkpoint_border)
        super().__init__(
            model=self.prepare_model(inputs.load_model()),
            args=arguments,
            train_dataset=list(range(len(inputs.examples))),
            processing_class=inputs.tokenizer,
            data_collator=list,
            **options,
        )
        # The loss is that of a pass, already weighted: the trainer is to average over passes, and over nothing else.
        self.model_accepts_loss_kwargs = False
        # Prompts of all lengths in each step: it is answers that are cut into passes, and a step should see all kinds.
        self.lengths = np.ones(len(inputs.examples), dtype=np.int64)

    # ---- what a method says ----

    def rows(self, rollout: Rollout) -> list[Row]:
        """The answers of a step with their columns."""
        raise NotImplementedError

    def prepare_passes(self, passes: list[Pass]) -> None:
        """Adds to this rank's passes what the policy and its reference say of them before the first iteration."""
        for inputs in passes:
            if self._rollouts.num_iterations > 1:
                inputs["old_log_probs"] = self.scored(self.model_wrapped, inputs)
            if self.reference_weight:
                inputs["reference_log_probs"] = self.reference_scored(inputs)

    def pass_loss(self, model: Any, inputs: Pass) -> torch.Tensor:
        """The weighted loss of one pass."""
        raise NotImplementedError

    @property
    def reference_weight(self) -> float:
        """Weight of the KL divergence from the start; without one, no reference is kept."""
        return float(self._inputs.hyperparameters.beta)

    # ---- the model ----

    def prepare_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """Makes a model score answers at the temperature at which they are drawn."""
        fused_lm_head.add_head(model, temperature=self._rollouts.temperature)
        return model

    def reference_scored(self, inputs: Pass) -> torch.Tensor:
        """The log-probabilities of a pass under the policy at the start: without its LoRA, or a frozen copy of it."""
        if self._spec.lora and not self._spec.initial_lora_dir:
            with lora.switched_off(self.model):
                return self.scored(self.model_wrapped, inputs)
        if self._reference is None:
            model = OnlineTrainer.prepare_model(self, self._inputs.load_model())
            model.requires_grad_(False)
            self._reference = prepare_deepspeed(model, self.accelerator)
        return self.scored(self._reference, inputs)

    def answer_log_probs(self, model: Any, inputs: Pass) -> torch.Tensor:
        """The log-probability of each token of the answers, (rows, columns - 1); zero elsewhere."""
        given, labels = self.model_inputs(inputs)
        found: torch.Tensor = model(**given, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        return found

    def model_inputs(self, inputs: Pass) -> tuple[Pass, torch.Tensor]:
        """What the model is given of a pass, and the labels: the answers' tokens."""
        given = {name: value for name, value in inputs.items() if name not in self.columns}
        labels = inputs["input_ids"].clone()
        labels[:, 0] = IGNORED
        labels[:, 1:].masked_fill_(inputs["answer_mask"] == 0, IGNORED)
        return given, labels

    def scored(self, model: Any, inputs: Pass) -> torch.Tensor:
        """The same as a constant."""
        model.eval()
        with torch.no_grad():
            return self.answer_log_probs(model, self._prepare_inputs(inputs)).float()

    # ---- rollouts ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The prompts of each step, the same on every rank."""
        size = self._inputs.hyperparameters.batch_size
        order = BatchOrder(self.lengths, batch_size=size, num_passes=1, num_ranks=1, rank=0, seed=self.args.seed)
        self._order = PromptOrder(
            order,
            num_passes=self.args.gradient_accumulation_steps,
            num_iterations=self._rollouts.num_iterations,
        )
        return DataLoader(self.train_dataset, batch_sampler=self._order, collate_fn=self.data_collator)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The passes of an optimiser step: new answers, or those of the last step once more."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self._passes or self.state.global_step % self._rollouts.num_iterations == 0:
            with self.context.watchdog.during(Phase.ROLLOUT):
                self._passes = self._roll_out([row for batch in batches for row in batch])
        return self._passes, None

    def _roll_out(self, rows: Sequence[int]) -> list[Pass]:
        self._hand_over()
        prompts = [Prompt.of(row, self._inputs.examples[row]) for row in rows]
        step = self.state.global_step
        rollout = distributed.on_main(lambda: asyncio.run(self._sampler.draw(prompts, step=step)))
        self._note(rollout)
        passes = self._cut(self.rows(rollout))
        self.prepare_passes(passes)
        return passes

    def _cut(self, rows: list[Row]) -> list[Pass]:
        """This rank's passes."""
        # A blank row weighs nothing; a rank without answers must still use all weights, as the others do.
        blank = blank_row(rows[0], token=self._collate.pad_id)
        shares = shared_out(
            range(len(rows)),
            lengths=[len(row["prompt_ids"]) + len(row["answer_ids"]) for row in rows],
            num_passes=self.args.gradient_accumulation_steps,
            num_ranks=distributed.world_size(),
            blank=len(rows),
        )
        whole = [*rows, blank]
        return [self._collate([whole[at] for at in ranks[distributed.rank()]]) for ranks in shares]

    def answer_row(self, answer: Rewarded, **columns: Sequence[float]) -> Row:
        """An answer as a row."""
        example = self._inputs.examples[answer.row]
        return {
            "prompt_ids": example.prompt,
            "answer_ids": answer.ids,
            "media": example.media,
            "columns": {"engine_log_probs": answer.log_probs, **columns},
        }

    # ---- the engine's weights ----

    def _hand_over(self) -> None:
        """Gives the engine the weights of this step, unless those that it has are new enough."""
        step = self.state.global_step
        if self._is_open and step - self._handover.step <= self._rollouts.max_staleness:
            return
        folder = self._handover.folder(step)
        # A collective: under ZeRO-3 every rank has a part of the weights.
        write_weights(self, self._spec, to=folder)
        distributed.on_main(lambda: asyncio.run(self._handover.bring(step)))
        self._handover.step = step
        self._is_open = True

    def close(self) -> None:
        """Frees the policy's memory in the engine, as well as that can be done."""
        if self._is_open and distributed.rank() == 0:
            try:
                asyncio.run(self._handover.close())
            except OmnialignError as error:
                log.warning("the policy could not be closed; the service closes it by itself later: %s", error)
        super().close()

    # ---- checkpoints ----

    def method_state(self) -> dict[str, torch.Tensor]:
        """How many answers were dropped so far, by reason."""
        return {f"dropped/{reason}": torch.tensor(number) for reason, number in self._dropped.items()}

    def restore_method_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from a checkpoint's counts."""
        kept = {name.removeprefix("dropped/"): int(n) for name, n in state.items() if name.startswith("dropped/")}
        self._dropped = Counter(kept)

    # ---- loss and measures ----

    def compute_loss(self, model: Any, inputs: Pass, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of one pass, so that the step's is the sum over passes and ranks."""
        # A trainer averages over passes and ranks; the weights of the tokens hold the step's own averages.
        num_passes: int = self.current_gradient_accumulation_steps
        return self.pass_loss(model, inputs) * num_passes * distributed.world_size()

    def measure(self, name: str, values: torch.Tensor, *, counted: torch.Tensor) -> None:
        """Adds numbers (rows, columns) of a pass to a measure of the step, those where `counted` is true."""
        found = values.detach()[counted]
        self._sums[name] = self._sums[name] + torch.tensor([float(found.sum()), float(found.numel())])

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs a step with its measures, averaged over the tokens of all ranks."""
        if self._sums and "loss" in logs:
            names = sorted(self._sums)
            mine = torch.stack([self._sums[name] for name in names])[None].to(self.args.device)
            totals = self.accelerator.gather(mine).sum(0).tolist()
            means = {name: total / count for name, (total, count) in zip(names, totals, strict=True) if count}
            logs = {**logs, **self._measures, **means, "num_tokens": self._total_train_tokens}
            self._sums.clear()
        super().log(logs, *args, **kwargs)

    def _note(self, rollout: Rollout) -> None:
        """Keeps what a rollout measures, which is the same on every rank."""
        answers, step = rollout.answers, self.state.global_step
        rewards = [answer.reward for answer in answers]
        self._dropped.update(rollout.dropped)
        self.context.progress.note_dropped(self._dropped)
        self._measures = {
            "rewards/mean": fmean(rewards),
            "rewards/std": pstdev(rewards),
            "completions/length": fmean(len(answer.ids) for answer in answers),
            "dropped/samples": float(rollout.dropped.total()),
            "dropped/groups": float(rollout.dropped_groups),
            "redrawn/groups": float(rollout.redrawn_groups),
            "staleness": fmean(step - answer.step for answer in answers),
            **{f"rewards/{name}": mean for name, mean in rollout.terms.items()},
        }
        tokens = sum(len(self._inputs.examples[answer.row].prompt) + len(answer.ids) for answer in answers)
        self._total_train_tokens += tokens


def steps_between_hand_overs(settings: RolloutSettings) -> int:
    """How many optimiser steps learn from the answers of one version of the policy.

    Answers come every `num_iterations` steps, and from older weights for as long as these are new enough.
    """
    return settings.num_iterations * (settings.max_staleness // settings.num_iterations + 1)


def whole_borders(save_steps: int, border: int) -> int:
    """The steps between checkpoints, rounded up to where they may fall; `NEVER` stays what it is."""
    return save_steps if save_steps == NEVER else -(-save_steps // border) * border


def in_answers(hyperparameters: Hyperparameters, *, num_samples: int) -> Hyperparameters:
    """Hyperparameters whose batch sizes count answers, as passes are made of these, and not prompts.

    A micro batch counts answers already. The batch is rounded up to whole passes.
    """
    ranks = distributed.world_size()
    per_rank = -(-hyperparameters.batch_size * num_samples // ranks)
    micro = min(hyperparameters.micro_batch_size or per_rank, per_rank)
    passes = -(-per_rank // micro)
    return replace(hyperparameters, batch_size=passes * micro * ranks, micro_batch_size=micro)


def blank_row(row: Row, *, token: int) -> Row:
    """A row of two tokens that weighs nothing, with the columns of another one."""
    return {"prompt_ids": [token], "answer_ids": [token], "columns": {name: [0.0] for name in row["columns"]}}


def require_addresses(spec: Spec) -> None:
    """Raises `FailedPrecondition` (SERVICE_ADDRESS_MISSING) when the run cannot know where its services are."""
    kinds = {term.name for term in spec.settings.rollout.rewards}
    wanted = ["refinement_address"] + ["judge_address"] * bool(kinds & {"judge", "reward_model"})
    wanted += ["critique_address"] * ("critic" in kinds) + ["data_address"] * ("checker" in kinds)
    for name in wanted:
        if not getattr(spec, name):
            raise FailedPrecondition(
                f"{spec.method} needs {name}, which is empty: set it in the spec, or OMNIALIGN_TRAINING_{name.upper()} "
                "of the training service",
                reason="SERVICE_ADDRESS_MISSING",
                metadata={"setting": name},
            )
