"""GRPO (Shao et al. 2024), with what later work changed in it as options.

For G answers y_i to one prompt with rewards r_i, the advantage is A_i = (r_i - mean(r)) / (std(r) + 1e-6); Dr. GRPO
does not divide, and RLOO compares with the mean of the other G - 1 answers. With the ratio of probabilities
ρ_t = π_θ(y_t) / π_old(y_t) and d_t = log π_ref(y_t) - log π_θ(y_t), the loss of a token is

    -w_t min(ρ_t A, clip(ρ_t, 1 - ε_low, 1 + ε_high) A) + β (exp(d_t) - d_t - 1)

with the truncated importance weight w_t of `online`. GSPO replaces ρ_t and w_t by the geometric mean over the tokens of
the answer. The loss of a step is the mean over all its tokens (DAPO), over answers of the mean over their tokens
(GRPO), or the sum over tokens divided by the number of answers and the longest that an answer can be (Dr. GRPO).
"""

from collections.abc import Sequence
from statistics import fmean, pstdev

import torch

from training.methods.grpo import GrpoSettings
from training.rollout.answers import Rollout
from training.trainer_inputs import TrainerInputs
from training.trainers.online import OnlineTrainer, Pass, Row, require_addresses

STD_FLOOR = 1e-6


class Grpo(OnlineTrainer):
    """Answers to one prompt compared with one another."""

    _settings: GrpoSettings

    def rows(self, rollout: Rollout) -> list[Row]:
        """The answers of a step, each with its advantage and the share of its tokens in the loss."""
        answers = rollout.answers
        shares = token_shares(
            [len(answer.ids) for answer in answers],
            normalization=self._settings.loss_normalization,
            longest=self._settings.rollout.max_new_tokens,
        )
        gains = [gain for group in rollout.groups for gain in self._advantages([answer.reward for answer in group])]
        return [
            self.answer_row(answer, advantages=[gain] * len(answer.ids), weights=[share] * len(answer.ids))
            for answer, gain, share in zip(answers, gains, shares, strict=True)
        ]

    def _advantages(self, rewards: Sequence[float]) -> list[float]:
        settings = self._settings
        return advantages(
            rewards, leave_one_out=settings.baseline == "leave_one_out", scale=not settings.no_std_scaling
        )

    def pass_loss(self, model: torch.nn.Module, inputs: Pass) -> torch.Tensor:
        """The loss of one pass: its share of the step's."""
        log_probs = self.answer_log_probs(model, inputs)
        losses, measures = token_losses(log_probs, inputs, settings=self._settings, beta=self.reference_weight)
        for name, values in measures.items():
            self.measure(name, values, counted=inputs["weights"] > 0)  # not those of a blank row
        return (losses * inputs["weights"]).sum()


def token_losses(
    log_probs: torch.Tensor, inputs: Pass, *, settings: GrpoSettings, beta: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of each token, and what is measured of it; all (rows, columns), as are the tensors of a pass.

    Without `old_log_probs` the policy is at its first iteration, and so is π_old itself.
    """
    old, mask = inputs.get("old_log_probs", log_probs.detach()), inputs["answer_mask"]
    is_sequence = settings.importance_sampling == "sequence"
    ratio = ratios(log_probs - old, mask, per_sequence=is_sequence)
    importance = ratios(old - inputs["engine_log_probs"], mask, per_sequence=is_sequence)
    importance = importance.clamp(max=settings.rollout.max_importance_weight)
    losses, is_clipped = clipped_loss(ratio, inputs["advantages"], low=settings.epsilon_low, high=settings.epsilon_high)
    losses = importance * losses
    measures = {"clip_ratio": is_clipped.float(), "importance/mean": importance, "log_probs/mean": log_probs}
    if beta:
        measures["kl"] = k3(log_probs, inputs["reference_log_probs"])
        losses = losses + beta * measures["kl"]
    return losses, measures


def advantages(rewards: Sequence[float], *, leave_one_out: bool = False, scale: bool = True) -> list[float]:
    """How much better each answer of a group is than the others; zeros for a group whose rewards are all equal."""
    count, mean = len(rewards), fmean(rewards)
    # r - mean of the others = (r - mean) · G / (G - 1)
    factor = count / (count - 1) if leave_one_out else 1.0
    spread = pstdev(rewards) + STD_FLOOR if scale else 1.0
    return [factor * (reward - mean) / spread for reward in rewards]


def token_shares(lengths: Sequence[int], *, normalization: str, longest: int) -> list[float]:
    """The share of each token of each answer in the loss of the step."""
    count, total = len(lengths), sum(lengths)
    return {
        "token": [1 / total for _ in lengths],
        "sequence": [1 / (count * length) for length in lengths],
        "constant": [1 / (count * longest) for _ in lengths],
    }[normalization]


def ratios(log_ratios: torch.Tensor, mask: torch.Tensor, *, per_sequence: bool) -> torch.Tensor:
    """exp of log-ratios (rows, columns) of the tokens in `mask`; with `per_sequence`, of their mean in each row."""
    if not per_sequence:
        return torch.exp(log_ratios * mask)
    means = (log_ratios * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.exp(means).expand_as(log_ratios)


def clipped_loss(
    ratio: torch.Tensor, gains: torch.Tensor, *, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """-min(ρ A, clip(ρ) A) for each token, and whether the clip decides; all of the same shape."""
    clipped = ratio.clamp(1 - low, 1 + high)
    losses = -torch.minimum(ratio * gains, clipped * gains)
    return losses, (ratio * gains > clipped * gains) & (gains != 0)


def k3(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """An estimate of the KL divergence from the reference that is never negative (Schulman 2020), for each token."""
    ahead = reference - log_probs
    return torch.exp(ahead) - ahead - 1


def build(inputs: TrainerInputs) -> Grpo:
    """The trainer of a run. Raises `FailedPrecondition` (SERVICE_ADDRESS_MISSING)."""
    require_addresses(inputs.spec)
    return Grpo(inputs, max_redraws=inputs.spec.settings.max_redraws)
