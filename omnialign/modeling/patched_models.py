"""Changes to model classes of `transformers`: image writing for Chameleon and Janus, position ids for Qwen-VL.

1. The library's own classes keep Chameleon and Janus from writing images. The subclasses here load the same weights and
   save them under the same class name; they only widen what the model may write.

2. Qwen2-VL and Qwen2.5-VL place media in time, height and width. They were trained with whatever follows a medium
   placed one after its highest position, time included (Qwen2-VL paper, section 2.1), and vLLM serves them so. From 5.3
   on, `transformers` counts only height and width, which puts the words after a long video inside it.
   `patch_rope` restores the rule of the training.
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
    """Chameleon without the mask that the library puts on the logits of all image codes."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        mapping = self.model.vocabulary_mapping
        # `img2bpe` is computed from `image_tokens` and cached; after that the list is used for the mask only.
        _ = mapping.img2bpe
        mapping.image_tokens = []


class JanusForConditionalGeneration(transformers.JanusForConditionalGeneration):
    """Janus with one vocabulary for text and image codes: code k is the id `text vocabulary + k`.

    The library samples codes in a separate loop, with a head and an embedding table of their own. Both are used here,
    without the classifier-free guidance of that loop.
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
        """Logits (B, T, text vocabulary + codes). `pixel_values` (images, 3, height, width) are the images to read."""
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give either input_ids or inputs_embeds")
            inputs_embeds = self.embed_with_codes(input_ids, pixel_values)
        outputs = self.model(inputs_embeds=inputs_embeds, **options)
        # As in transformers, 0 keeps all positions: slice(-0, None) is slice(0, None).
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = outputs.last_hidden_state[:, kept]  # (B, T kept, D)
        logits = torch.cat((self.lm_head(hidden), self.model.generation_head(hidden)), dim=-1)
        loss = None if labels is None else self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        return JanusCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def embed_with_codes(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """Embeddings (B, T, D) of text, of image codes, and of the images that placeholders stand for."""
        first = self.config.text_config.vocab_size  # the id of code 0
        # Both tables are looked up for every token, (B, T, D) each, and the right one is chosen: under sharded training
        # every rank must run the same modules, or the collectives of the others would wait forever.
        codes = self.prepare_embeddings_for_image_generation((input_ids - first).clamp(min=0))
        text = self.get_input_embeddings()(input_ids.clamp(max=first - 1))
        embeddings = torch.where((input_ids >= first)[..., None], codes.to(text.dtype), text)
        if pixel_values is None:
            return embeddings
        features = self.model.get_image_features(pixel_values, return_dict=True).pooler_output
        is_image = (input_ids == self.config.image_token_id)[..., None].expand_as(embeddings)  # (B, T, D)
        if is_image.sum() != features.numel():
            raise ValueError("the placeholders in input_ids do not match the images in pixel_values")
        return embeddings.masked_scatter(is_image, features.to(embeddings.dtype))


WRITERS: dict[str, Any] = {"chameleon": ChameleonForConditionalGeneration, "janus": JanusForConditionalGeneration}
"""Classes that write images, by `model_type`."""

ROPE_MODELS = {"qwen2_vl": "Qwen2VLModel", "qwen2_5_vl": "Qwen2_5_VLModel"}
"""Classes whose position ids need the patch, by `model_type`."""


def patch_rope(model_type: str) -> None:
    """Makes models of a type place text after the whole of the medium before it, in this process. Idempotent."""
    if model_type not in ROPE_MODELS:
        return
    module = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    cls = getattr(module, ROPE_MODELS[model_type])
    if not hasattr(cls.get_rope_index, "__wrapped__"):  # set by functools.wraps: patched already
        cls.get_rope_index = patched_rope_index(cls.get_rope_index)


def patched_rope_index(original: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable[..., Any]:
    """A `get_rope_index` that shifts each run of text or media of `original` to start right after the run before it."""

    @functools.wraps(original)
    def patched(
        self: Any,
        input_ids: torch.Tensor,
        mm_token_type_ids: torch.Tensor,
        *args: Any,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions, _ = original(self, input_ids, mm_token_type_ids, *args, attention_mask=attention_mask, **kwargs)
        positions = positions.clone()  # (3, B, T): time, height, width
        deltas = []
        for row, types in enumerate(mm_token_type_ids):
            columns = _columns(types, None if attention_mask is None else attention_mask[row])  # (tokens,)
            positions[:, row, columns] = shift_runs(positions[:, row, columns], types[columns].tolist())
            # Generation goes on from here: the next position is the number of tokens so far plus this delta.
            deltas.append(positions[:, row, columns].max() + 1 - len(columns))
        return positions, torch.stack(deltas)[:, None]  # (3, B, T), (B, 1)

    return patched


def shift_runs(positions: torch.Tensor, types: list[int]) -> torch.Tensor:
    """Shifts positions (3, tokens) so that every run of one token type starts right after the run before it."""
    shifted, start = positions.clone(), 0
    for _, run in itertools.groupby(types):
        end = start + len(list(run))
        if start:  # the first run stays; all axes of a run move together, which keeps its inner layout
            shifted[:, start:end] += shifted[:, :start].max() + 1 - shifted[0, start]
        start = end
    return shifted


def _columns(types: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The columns of a row that hold tokens rather than padding."""
    return torch.arange(len(types), device=types.device) if mask is None else mask.bool().nonzero()[:, 0]
