"""A teacher that is the model itself at other weights: those of the start, or a moving average of the student's.

Only what learns is copied, so with a LoRA the teacher costs no more than the LoRA. The copy changes places with the
student's weights while the teacher is asked, once per step.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch


class Teacher:
    """A copy of what learns in a model. Not for ZeRO-3, where a process holds a shard of each weight."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._kept = {name: value.detach().clone() for name, value in self._learning.items()}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it, the model has the teacher's weights."""
        self._change_places()
        try:
            yield
        finally:
            self._change_places()

    @torch.no_grad()
    def _change_places(self) -> None:
        for name, weight in self._learning.items():
            kept = self._kept[name] = self._kept[name].to(weight.device)
            other = weight.detach().clone()
            weight.copy_(kept)
            kept.copy_(other)

    @torch.no_grad()
    def follow(self, *, decay: float) -> None:
        """Moves the average towards the student: decay · teacher + (1 - decay) · student."""
        for name, weight in self._learning.items():
            self._kept[name] = self._kept[name].to(weight.device).lerp_(weight, 1 - decay)

    def state(self) -> dict[str, torch.Tensor]:
        """The weights by the names of the model's parameters."""
        return dict(self._kept)

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes on the weights of `state`."""
        self._kept = {name: state[name].clone() for name in self._learning}
