"""How TRL's trainers score answers: with one head over the language model, or with a model's own logits.

TRL runs the backbone and projects the positions that are learnt by the output embeddings, in tiles. A model whose
logits come of more than that (Janus has a second head, for the codes of pictures) is asked for its logits instead.
"""

import types
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer import dpo_trainer, sft_trainer
from trl.trainer import utils as trl_utils
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

OWN_LOGITS = ("JanusForConditionalGeneration",)
"""Classes whose logits are not one projection of the backbone's output."""
IGNORED = -100


def install() -> None:
    """Makes TRL 1.16's trainers use the head that fits, and skip the prompt's positions on processors.

    Skipping is worth about a tenth of a run's processor time where prompts are long and answers short; not measurable
    where answers are most of the tokens. TRL does so on devices with Triton and scores every position elsewhere, for
    the sake of compilers that dislike changing shapes; there is none on a processor. Can go when TRL offers a switch.
    """
    sft_trainer.add_fused_lm_head = dpo_trainer.add_fused_lm_head = add_head
    if not torch.cuda.is_available() and hasattr(trl_utils, "_use_triton"):
        trl_utils._use_triton = lambda device: True


def add_head(model: PreTrainedModel, **options: Any) -> None:
    """Makes `model(..., labels=labels, fused_lm_head=True)` give the log-probability of each label.

    They are of shape (rows, columns - 1). `options` are those of TRL's `add_fused_lm_head`.
    """
    if type(model).__name__ in OWN_LOGITS:
        _add_own(model)
    else:
        add_fused_lm_head(model, **options)


def _add_own(model: PreTrainedModel) -> None:
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
        return _scores(forward(*args, **kwargs).logits[:, :-1].float(), labels[:, 1:])

    model.forward = types.MethodType(scored, model)


def _scores(logits: torch.Tensor, labels: torch.Tensor) -> FusedCausalLMOutput:
    """What TRL wants to know of each next token; zero where the label is ignored."""
    mask = labels != IGNORED
    wanted = labels.clamp(min=0)
    spread = logits.log_softmax(-1)
    log_probs = spread.gather(-1, wanted[..., None])[..., 0].masked_fill(~mask, 0)
    with torch.no_grad():
        entropy = -(spread.exp() * spread).sum(-1)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / mask.sum().clamp(min=1),
        log_probs=log_probs,
        entropy=entropy.masked_fill(~mask, 0),
        mean_logits=logits.detach().mean(-1).masked_fill(~mask, 0),
        is_top1=(logits.argmax(-1) == wanted) & mask,
        label_mask=mask,
    )
