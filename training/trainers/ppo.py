"""PPO (Schulman et al. 2017) as in RLHF (Ouyang et al. 2022).

The reward of an answer comes at its last token, and each token costs what it departs from the reference:

    r_t = -β (log π_old(y_t) - log π_ref(y_t)) + [t is the last token] (r(x, y) - μ) / σ

μ and σ are mean and standard deviation of all rewards of the run so far; with `normalize_rewards` off, 0 and 1.
    δ_t = r_t + γ V_{t+1} - V_t,    A_t = δ_t + γλ A_{t+1},    R_t = A_t + V_t

V is the value head before the first iteration, and 0 behind the last token (GAE, Schulman et al. 2016). The advantages
are whitened over all tokens of the step. With ρ_t = π_θ / π_old and the truncated importance weight w_t of `online`,
the loss of a token, averaged over the tokens of the step, is

    -w_t min(ρ_t A, clip(ρ_t, 1 ± ε) A) + c/2 max((V_θ - R)², (clip(V_θ, V ± ε_v) - R)²)

β is fixed, or controlled towards a KL per answer (Ziegler et al. 2019): after n answers,
β ← β (1 + clip(KL / target - 1, ±0.2) n / horizon).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedModel

from training.methods.ppo import PpoSettings
from training.rollout.answers import Rollout
from training.trainer_inputs import TrainerInputs
from training.trainers import value_head
from training.trainers.grpo import clipped_loss, ratios
from training.trainers.online import NOT_INPUTS, OnlineTrainer, Pass, Row, require_addresses

SMALLEST_STD = 1e-8
MAX_KL_ERROR = 0.2


@dataclass(frozen=True)
class Moments:
    """Of numbers that come batch by batch (Chan et al. 1979)."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of the squared departures from the mean."""

    def with_numbers(self, numbers: Sequence[float]) -> "Moments":
        """These and more numbers."""
        mean = fmean(numbers)
        count, apart = self.count + len(numbers), mean - self.mean
        squares = self.squares + sum((number - mean) ** 2 for number in numbers)
        squares += apart**2 * self.count * len(numbers) / count
        return Moments(count, self.mean + apart * len(numbers) / count, squares)

    def normalized(self, numbers: Sequence[float]) -> list[float]:
        """Numbers less the mean, by the standard deviation; zeros where there is none."""
        std = (self.squares / self.count) ** 0.5
        return [(number - self.mean) / (std + SMALLEST_STD) for number in numbers]


class Ppo(OnlineTrainer):
    """Answers compared with what a value head expected of them."""

    columns = (*NOT_INPUTS, "rewards", "old_values", "returns")
    _settings: PpoSettings

    def __init__(self, inputs: TrainerInputs) -> None:
        self._kl_weight = float(inputs.hyperparameters.beta)
        self._seen_rewards = Moments()
        super().__init__(inputs)

    def prepare_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """Adds the value head."""
        value_head.add_value_head(super().prepare_model(model))
        return model

    def saved_weights(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The policy without the value head."""
        return {name: value for name, value in state.items() if not name.startswith(f"{value_head.NAME}.")}

    def rows(self, rollout: Rollout) -> list[Row]:
        """The answers of a step, each with its reward at its last token."""
        answers, rewards = rollout.answers, [answer.reward for answer in rollout.answers]
        if self._settings.normalize_rewards:
            self._seen_rewards = self._seen_rewards.with_numbers(rewards)
            rewards = self._seen_rewards.normalized(rewards)
        share = 1 / sum(len(answer.ids) for answer in answers)
        return [
            self.answer_row(answer, rewards=[0.0] * (len(answer.ids) - 1) + [reward], weights=[share] * len(answer.ids))
            for answer, reward in zip(answers, rewards, strict=True)
        ]

    def prepare_passes(self, passes: list[Pass]) -> None:
        """Adds log-probabilities, values, returns and advantages, which are those of before the first iteration."""
        settings = self._settings
        sums = torch.zeros(5, dtype=torch.float64, device=self.args.device)
        for inputs in passes:
            inputs.update(self._prepare_inputs(inputs))
            counted = inputs["weights"] > 0  # not those of a blank row
            self.model_wrapped.eval()
            with torch.no_grad():
                log_probs, values = self._log_probs_and_values(self.model_wrapped, inputs)
            inputs["old_log_probs"], inputs["old_values"] = log_probs.float(), values.float() * inputs["answer_mask"]
            divergence = (inputs["old_log_probs"] - self.reference_scored(inputs)) * counted
            inputs["advantages"] = gae(
                inputs["rewards"] - self._kl_weight * divergence,
                inputs["old_values"],
                inputs["answer_mask"],
                discount=settings.discount,
                gae_lambda=settings.gae_lambda,
            )
            inputs["returns"] = inputs["advantages"] + inputs["old_values"]
            gains = inputs["advantages"][counted].double()
            sums += torch.stack(
                [counted.sum(), gains.sum(), gains.square().sum(), divergence.sum(), counted.any(1).sum()]
            ).to(sums)
        tokens, total, squares, divergence_sum, answers = self.accelerator.gather(sums[None]).sum(0).tolist()
        mean = total / tokens
        std = max(squares / tokens - mean**2, 0.0) ** 0.5
        for inputs in passes:
            inputs["advantages"] = (inputs["advantages"] - mean) / (std + SMALLEST_STD)
        self._measures |= {"kl": divergence_sum / tokens, "kl_weight": self._kl_weight}
        self._kl_weight = controlled(self._kl_weight, divergence_sum / answers, int(answers), settings=settings)

    def _log_probs_and_values(self, model: Any, inputs: Pass) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each token of the answers, (rows, columns - 1) each."""
        given, labels = self.model_inputs(inputs)
        found: tuple[torch.Tensor, torch.Tensor] = model(
            **given, labels=labels, use_cache=False, fused_lm_head=True, with_values=True
        )
        return found

    def pass_loss(self, model: Any, inputs: Pass) -> torch.Tensor:
        """The loss of one pass: its share of the step's."""
        log_probs, values = self._log_probs_and_values(model, inputs)
        losses, measures = token_losses(log_probs, values, inputs, settings=self._settings)
        for name, numbers in measures.items():
            self.measure(name, numbers, counted=inputs["weights"] > 0)
        return (losses * inputs["weights"]).sum()

    def method_state(self) -> dict[str, torch.Tensor]:
        """The weight of the KL and the moments of the rewards beside what every method keeps."""
        numbers = {"kl_weight": self._kl_weight} | {f"rewards/{k}": v for k, v in asdict(self._seen_rewards).items()}
        own = {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}
        return {**super().method_state(), **own}

    def restore_method_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from a checkpoint's weight of the KL and moments of the rewards."""
        super().restore_method_state(state)
        self._kl_weight = float(state["kl_weight"])
        self._seen_rewards = Moments(**{field.name: float(state[f"rewards/{field.name}"]) for field in fields(Moments)})


def token_losses(
    log_probs: torch.Tensor, values: torch.Tensor, inputs: Pass, *, settings: PpoSettings
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of each token, and what is measured of it; all (rows, columns), as are the tensors of a pass."""
    old, mask = inputs["old_log_probs"], inputs["answer_mask"]
    importance = ratios(old - inputs["engine_log_probs"], mask, per_sequence=False)
    importance = importance.clamp(max=settings.rollout.max_importance_weight)
    ratio = ratios(log_probs - old, mask, per_sequence=False)
    losses, is_clipped = clipped_loss(ratio, inputs["advantages"], low=settings.epsilon, high=settings.epsilon)
    nearby = inputs["old_values"] + (values - inputs["old_values"]).clamp(
        -settings.value_epsilon, settings.value_epsilon
    )
    misses = torch.maximum((values - inputs["returns"]).square(), (nearby - inputs["returns"]).square()) / 2
    measures = {
        "clip_ratio": is_clipped.float(),
        "importance/mean": importance,
        "log_probs/mean": log_probs,
        "value_loss": misses,
    }
    return importance * losses + settings.value_weight * misses, measures


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, discount: float, gae_lambda: float
) -> torch.Tensor:
    """The advantages (rows, columns) of the tokens in `mask`, which are side by side in each row; 0 elsewhere."""
    found = torch.zeros_like(values)
    behind = value_behind = torch.zeros_like(values[:, 0])
    for column in reversed(range(values.shape[1])):
        delta = rewards[:, column] + discount * value_behind - values[:, column]
        behind = (delta + discount * gae_lambda * behind) * mask[:, column]
        value_behind = values[:, column] * mask[:, column]
        found[:, column] = behind
    return found


def controlled(weight: float, divergence: float, answers: int, *, settings: PpoSettings) -> float:
    """The weight of the KL after a step of so many answers, whose mean KL is `divergence`."""
    if not settings.kl_target:
        return weight
    error = min(max(divergence / settings.kl_target - 1, -MAX_KL_ERROR), MAX_KL_ERROR)
    return weight * (1 + error * answers / settings.kl_horizon)


def build(inputs: TrainerInputs) -> Ppo:
    """The trainer of a run. Raises `FailedPrecondition` (SERVICE_ADDRESS_MISSING)."""
    require_addresses(inputs.spec)
    return Ppo(inputs)
