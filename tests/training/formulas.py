"""The loss of a step of every method, from its formula in plain torch, on rows one by one and without padding."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from tests.training.in_process import log_probs, row_inputs, token_scores
from training.examples import Example
from training.media import BatchMedia


@dataclass(frozen=True)
class Taken:
    """A step of a run: what learns, the model at the start, all examples and the settings of the method."""

    policy: Any
    start: torch.nn.Module
    examples: Sequence[Example]
    media: BatchMedia
    beta: float = 0.0
    sft_weight: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def log_probs(self, example: Example, answer: Sequence[int]) -> torch.Tensor:
        """The log-probability of each token of an answer, (tokens,)."""
        return log_probs(self.policy, example, answer, self.media)

    def reference(self, example: Example, answer: Sequence[int]) -> torch.Tensor:
        """The same by the model at the start, as a constant."""
        with torch.no_grad():
            return log_probs(self.start, example, answer, self.media)

    def hidden(self, example: Example, answer: Sequence[int]) -> torch.Tensor:
        """The last hidden states of a prompt with an answer, (tokens, hidden)."""
        output = self.policy(**row_inputs(example, answer, self.media), output_hidden_states=True)
        states: torch.Tensor = output.hidden_states[-1][0]
        return states

    def nll(self) -> torch.Tensor:
        """The mean over all tokens of the first answers."""
        return -torch.cat([self.log_probs(example, example.answers[0]) for example in self.examples]).mean()


def sft(taken: Taken) -> torch.Tensor:
    """The mean over all tokens of the answers."""
    return taken.nll()


def reward(taken: Taken) -> torch.Tensor:
    """Bradley and Terry on rewards at the last token, the term that keeps them around zero, and the likelihood."""
    losses = []
    for example in taken.examples:
        good, bad = (taken.hidden(example, answer)[-1] @ taken.policy.score.weight[0] for answer in example.answers)
        losses.append(-logsigmoid(good - bad) + taken.settings["center_weight"] * (good + bad) ** 2)
    return torch.stack(losses).mean() + taken.sft_weight * taken.nll()


def dpo(taken: Taken) -> torch.Tensor:
    """The sigmoid loss, or the one that the settings name; BCO's shift is that of the first step, 0."""
    settings, beta, losses = taken.settings, taken.beta, []
    smoothing, kind = settings.get("label_smoothing", 0.0), settings.get("loss", "sigmoid")
    for example in taken.examples:
        ratios = []
        for answer in example.answers:
            ratio = taken.log_probs(example, answer) - taken.reference(example, answer)
            ratios.append(ratio.mean() if settings.get("length_normalized") or kind == "ipo" else ratio.sum())
        ahead = ratios[0] - ratios[1]
        if kind == "ipo":
            losses.append((ahead - 1 / (2 * beta)) ** 2)
            continue
        loss = -(1 - smoothing) * logsigmoid(beta * ahead) - smoothing * logsigmoid(-beta * ahead)
        if kind == "mpo":
            quality = -logsigmoid(beta * ratios[0]) - logsigmoid(-beta * ratios[1])
            loss = 0.8 * loss + 0.2 * quality
        losses.append(loss)
    return torch.stack(losses).mean() + taken.sft_weight * taken.nll()


def kto(taken: Taken, *, others: Sequence[Sequence[int]], desirable: float, undesirable: float) -> torch.Tensor:
    """Good and bad answers against a point of reference: the mean ratio of `others`, another prompt's answers."""

    def ratio(example: Example, answer: Sequence[int]) -> torch.Tensor:
        return taken.log_probs(example, answer).sum() - taken.reference(example, answer).sum()

    with torch.no_grad():
        point = torch.stack([ratio(e, other) for e, other in zip(taken.examples, others, strict=True)]).mean()
    assert point > 0.1  # below zero it would count as zero
    losses, good_tokens = [], []
    for example in taken.examples:
        ahead = taken.beta * (ratio(example, example.answers[0]) - point)
        if example.value > 0:
            losses.append(desirable * (1 - torch.sigmoid(ahead)))
            good_tokens.append(taken.log_probs(example, example.answers[0]))
        else:
            losses.append(undesirable * (1 - torch.sigmoid(-ahead)))
    return torch.stack(losses).mean() - taken.sft_weight * torch.cat(good_tokens).mean()


def simpo(taken: Taken) -> torch.Tensor:
    """Mean log-probabilities, with a margin."""
    return _reference_free(taken, lambda mean: taken.beta * mean, margin=taken.settings["margin"])


def orpo(taken: Taken) -> torch.Tensor:
    """Odds of the geometric means."""
    return _reference_free(taken, lambda mean: mean - torch.log(1 - mean.exp()), weight=taken.beta)


def _reference_free(taken: Taken, value: Any, *, margin: float = 0.0, weight: float = 1.0) -> torch.Tensor:
    ahead = []
    for example in taken.examples:
        good, bad = (value(taken.log_probs(example, answer).mean()) for answer in example.answers)
        ahead.append(good - bad - margin)
    return -weight * logsigmoid(torch.stack(ahead)).mean() + taken.sft_weight * taken.nll()


def sdpo(taken: Taken) -> torch.Tensor:
    """The divergence of every token from the model at the start that has read the feedback."""
    losses = []
    for example in taken.examples:
        (answer,) = example.answers
        shown = Example(example.teacher_prompt, [answer], example.teacher_media)
        with torch.no_grad():
            wanted = token_scores(taken.start, shown, answer, taken.media)
        given = token_scores(taken.policy, example, answer, taken.media)
        losses += [divergence(p, q, taken.settings) for p, q in zip(wanted, given, strict=True)]
    return torch.stack(losses).mean()


def divergence(teacher: torch.Tensor, student: torch.Tensor, settings: Mapping[str, Any]) -> torch.Tensor:
    """The divergence of one token, from both log-probabilities of the vocabulary."""
    if "top_k" in settings:
        kept = teacher.topk(settings["top_k"]).indices
        teacher, student = (torch.cat([p[kept], torch.log(1 - p[kept].exp().sum())[None]]) for p in (teacher, student))
    p, q = teacher.exp(), student.exp()
    kind = settings.get("divergence", "forward")
    if kind == "forward":
        return (p * (p / q).log()).sum()
    if kind == "reverse":
        return (q * (q / p).log()).sum()
    m = (p + q) / 2
    return ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2


def grpo(taken: Taken, *, rewards: Sequence[float], engine_is_ahead: Sequence[float], cap: float) -> torch.Tensor:
    """The first iteration of a step in which every group has these rewards: the ratio is 1, its gradient is not."""
    mean, terms = sum(rewards) / len(rewards), []
    spread = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5 + 1e-6
    for example in taken.examples:
        for answer, gained, lead in zip(example.answers, rewards, engine_is_ahead, strict=True):
            own = taken.log_probs(example, answer)
            ratio, behind = (own - own.detach()).exp(), taken.reference(example, answer) - own
            policy_loss = -min(math.exp(-lead), cap) * (gained - mean) / spread * ratio
            terms.append(policy_loss + taken.beta * (behind.exp() - behind - 1))
    return torch.cat(terms).mean()


def ppo(taken: Taken, *, rewards: Sequence[float], engine_is_ahead: Sequence[float], cap: float) -> torch.Tensor:
    """The same for PPO: whitened GAE of the normalised rewards, and the value head's error."""
    own, values, gains, weights = [], [], [], []
    mean, spread = statistics.fmean(rewards), statistics.pstdev(rewards)
    for example in taken.examples:
        for answer, gained, lead in zip(example.answers, rewards, engine_is_ahead, strict=True):
            log_prob, first = taken.log_probs(example, answer), len(example.prompt) - 1
            value = taken.hidden(example, answer)[first : first + len(answer)] @ taken.policy.value_head.weight[0]
            costs = -taken.beta * (log_prob.detach() - taken.reference(example, answer))
            costs[-1] += (gained - mean) / spread
            gains += gae(costs.tolist(), value.tolist(), discount=1.0, gae_lambda=0.95)
            own.append(log_prob)
            values.append(value)
            weights += [min(math.exp(-lead), cap)] * len(answer)
    gain, value, log_prob = torch.tensor(gains), torch.cat(values), torch.cat(own)
    returns, whitened = gain + value.detach(), (gain - gain.mean()) / gain.std(unbiased=False)
    policy_losses = -torch.tensor(weights) * whitened * (log_prob - log_prob.detach()).exp()
    return (policy_losses + 0.1 * (value - returns) ** 2 / 2).mean()


def gae(rewards: Sequence[float], values: Sequence[float], *, discount: float, gae_lambda: float) -> list[float]:
    """Σ_k (γλ)^k δ_{t+k} for each token of one answer."""
    ahead = [*values[1:], 0.0]
    deltas = [r + discount * b - v for r, b, v in zip(rewards, ahead, values, strict=True)]
    return [
        sum((discount * gae_lambda) ** k * delta for k, delta in enumerate(deltas[at:])) for at in range(len(deltas))
    ]
