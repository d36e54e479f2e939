"""How trainers score answers: with TRL's one projection over the backbone, or with a model's own logits.

TRL runs the backbone and multiplies only the positions that have a label by the output embeddings, in tiles, so that
the logits of (rows, columns, vocabulary) never exist at once. A model whose logits come from more than one projection
(Janus has a second head, for the codes of pictures) is asked for its own logits instead. All others run on packed rows
where their attention can (`packing`); which do not is logged with the reason.
"""

import functools
import logging
import types
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer import utils as trl_utils
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from training import packing
from training.media import MediaRows
from training.packing import IGNORED, Obstacle, OwnMask

OWN_LOGITS = ("JanusForConditionalGeneration",)
"""Classes whose logits are not one projection of the backbone's output."""
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask")
"""What is known of each label."""

log = logging.getLogger(__name__)


def install() -> None:
    """Makes the head of TRL 1.16 skip unlabelled positions on a CPU too.

    TRL skips them only on devices with Triton, for the sake of compilers that dislike changing shapes; on a CPU there
    is none. Skipping saves about a tenth of a run's CPU time where prompts are long and answers short, and nothing
    measurable where answers are most of the tokens. Can go when TRL offers a switch.
    """
    if not torch.cuda.is_available() and hasattr(trl_utils, "_use_triton"):
        trl_utils._use_triton = lambda device: True


def add_head(model: PreTrainedModel, **options: Any) -> None:
    """Makes `model(..., labels=labels, fused_lm_head=True)` return the log-probability of each label.

    Labels are (rows, columns), the result is (rows, columns - 1). `options` are those of TRL's `add_fused_lm_head`.
    """
    if type(model).__name__ in OWN_LOGITS:
        _score_with_own_logits(model, temperature=options.get("temperature", 1.0))
        obstacle: Obstacle | None = Obstacle.OWN_LOGITS
    else:
        add_fused_lm_head(model, **options)
        obstacle = packing.enable(model)
    _score_packed(model, obstacle)


def _score_packed(model: PreTrainedModel, obstacle: Obstacle | None) -> None:
    """Makes a model that scores labels do so on packed rows; what it returns stays in (rows, columns - 1).

    It takes `media_rows` beside the features, and the result has the `packing`, for those who look at the backbone's
    states themselves. With labels, rewards too (`omnialign.modeling.reward`) are read off packed rows. A model with an
    obstacle runs the rows as they are.
    """
    forward = model.forward
    stays_padded = functools.partial(log.info, "the rows of %s stay padded: %s, %s", type(model).__name__)
    if obstacle:
        stays_padded(obstacle.name, obstacle.value)

    @functools.wraps(forward)
    def packed(
        self: PreTrainedModel,
        *args: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        media_rows: MediaRows | None = None,
        reward_at: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        nonlocal obstacle
        asked: dict[str, Any] = {"fused_lm_head": fused_lm_head, "labels": labels}
        if reward_at is not None:
            asked = {"reward_at": reward_at}
        padded = functools.partial(forward, *args, **asked, **kwargs)
        is_scored = fused_lm_head or reward_at is not None
        if obstacle or not is_scored or labels is None or not packing.fits(self, kwargs["attention_mask"]):
            return padded()
        batch = {name: value for name, value in kwargs.items() if torch.is_tensor(value)}
        plan, inputs = packing.pack(self, batch, labels, media_rows)
        if reward_at is None:
            asked = {"fused_lm_head": True, "shift_labels": plan.labels[None]}
        else:
            asked = {"reward_at": plan.find(reward_at)}
        try:
            with packing.packed(plan):
                scored = forward(*args, **asked, **kwargs | inputs)
        except OwnMask:
            obstacle = Obstacle.OWN_MASK
            stays_padded(obstacle.name, obstacle.value)
            return padded()
        if reward_at is not None:
            return scored
        for name in PER_TOKEN:
            if getattr(scored, name) is not None:
                scored[name] = plan.unpack(getattr(scored, name))
        scored.packing = plan
        return scored

    model.forward = types.MethodType(packed, model)


def _score_with_own_logits(model: PreTrainedModel, *, temperature: float) -> None:
    forward = model.forward

    def scored(
        self: PreTrainedModel,
        *args: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head or labels is None:
            return forward(*args, **kwargs) if labels is None else forward(*args, labels=labels, **kwargs)
        kwargs.pop("num_items_in_batch", None)
        # Position t predicts token t + 1: the last logits and the first label have no partner.
        return _score(forward(*args, **kwargs).logits[:, :-1].float() / temperature, labels[:, 1:])

    model.forward = types.MethodType(scored, model)


def _score(logits: torch.Tensor, labels: torch.Tensor) -> FusedCausalLMOutput:
    """What TRL reads of each next token, (rows, columns) each; zero where the label is ignored.

    `logits` is (rows, columns, vocabulary), `labels` is (rows, columns).
    """
    mask = labels != IGNORED
    wanted = labels.clamp(min=0)  # an ignored label is no index; what it gathers is masked below
    all_log_probs = logits.log_softmax(-1)
    log_probs = all_log_probs.gather(-1, wanted[..., None])[..., 0].masked_fill(~mask, 0)
    with torch.no_grad():
        entropy = -(all_log_probs.exp() * all_log_probs).sum(-1)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / mask.sum().clamp(min=1),
        log_probs=log_probs,
        entropy=entropy.masked_fill(~mask, 0),
        mean_logits=logits.detach().mean(-1).masked_fill(~mask, 0),
        is_top1=(logits.argmax(-1) == wanted) & mask,
        label_mask=mask,
    )
