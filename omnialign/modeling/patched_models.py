"""Models of `transformers` that write pictures, where the library's own class keeps them from it.

They load the same weights and save them under the same class name; only what they may write is wider.
"""

import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers.models.janus.modeling_janus import JanusCausalLMOutputWithPast


class ChameleonForConditionalGeneration(transformers.ChameleonForConditionalGeneration):
    """Chameleon without the mask that the library lays over the logits of all picture codes."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        mapping = self.model.vocabulary_mapping
        _ = mapping.img2bpe  # made of the list of codes once; then that list serves the mask alone
        mapping.image_tokens = []


class JanusForConditionalGeneration(transformers.JanusForConditionalGeneration):
    """Janus with the codes of written pictures after the text in one vocabulary: id `text vocabulary + code`.

    The library samples them in a loop of its own, with a head and embeddings of their own; both are used here, without
    the classifier-free guidance that the loop adds.
    """

    def forward(  # type: ignore[override]  # without the arguments of a loop that is not run here
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **options: Any,
    ) -> JanusCausalLMOutputWithPast:
        """Logits over text and codes. `pixel_values` are those of the pictures that are read."""
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give either input_ids or inputs_embeds")
            inputs_embeds = self._embed(input_ids, pixel_values)
        outputs = self.model(inputs_embeds=inputs_embeds, **options)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = outputs.last_hidden_state[:, kept]
        logits = torch.cat((self.lm_head(hidden), self.model.generation_head(hidden)), dim=-1)
        loss = None if labels is None else self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        return JanusCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _embed(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """Embeddings of text, of codes, and of the pictures that placeholders stand for."""
        first = self.config.text_config.vocab_size
        codes = self.prepare_embeddings_for_image_generation((input_ids - first).clamp(min=0))
        text = self.get_input_embeddings()(input_ids.clamp(max=first - 1))
        # Both are computed for every token, so that all ranks of a training run take part in the same collectives.
        embeddings = torch.where((input_ids >= first)[..., None], codes.to(text.dtype), text)
        if pixel_values is None:
            return embeddings
        features = self.model.get_image_features(pixel_values, return_dict=True).pooler_output
        places = (input_ids == self.config.image_token_id)[..., None].expand_as(embeddings)
        if places.sum() != features.numel():
            raise ValueError("the placeholders in input_ids do not match the pictures in pixel_values")
        return embeddings.masked_scatter(places, features.to(embeddings.dtype))


WRITERS: dict[str, Any] = {"chameleon": ChameleonForConditionalGeneration, "janus": JanusForConditionalGeneration}
"""Classes that write images, by `model_type`."""

ROPE_MODELS = {"qwen2_vl": "Qwen2VLModel", "qwen2_5_vl": "Qwen2_5_VLModel"}
"""Classes with that rule, by `model_type`."""


def patch_rope(model_type: str) -> None:
    """Has the models of a type place what follows a medium after all of it, in this process."""
    if model_type not in ROPE_MODELS:
        return
    module = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    kind = getattr(module, ROPE_MODELS[model_type])
    if not hasattr(kind.get_rope_index, "__wrapped__"):
        kind.get_rope_index = patched_rope_index(kind.get_rope_index)


def patched_rope_index(rule: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable[..., Any]:
    """A `get_rope_index` that moves each group of `rule` to one after the highest position of the group before it."""

    @functools.wraps(rule)
    def patched(
        self: Any,
        input_ids: torch.Tensor,
        mm_token_type_ids: torch.Tensor,
        *args: Any,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found, _ = rule(self, input_ids, mm_token_type_ids, *args, attention_mask=attention_mask, **kwargs)
        positions = found.clone()
        deltas = []
        for row, types in enumerate(mm_token_type_ids):
            columns = _columns(types, None if attention_mask is None else attention_mask[row])
            positions[:, row, columns] = shift_runs(positions[:, row, columns], types[columns].tolist())
            deltas.append(positions[:, row, columns].max() + 1 - len(columns))
        return positions, torch.stack(deltas)[:, None]

    return patched


def shift_runs(positions: torch.Tensor, types: list[int]) -> torch.Tensor:
    """Positions (axes, tokens) with every run of one type starting after the run before; the first stays."""
    found, first = positions.clone(), 0
    for _, run in itertools.groupby(types):
        last = first + len(list(run))
        if first:
            found[:, first:last] += found[:, :first].max() + 1 - found[0, first]
        first = last
    return found


def _columns(types: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Columns of a row that hold tokens, not padding."""
    return torch.arange(len(types), device=types.device) if mask is None else mask.bool().nonzero()[:, 0]
