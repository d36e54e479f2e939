"""Models of `transformers` that write pictures, where the library's own class keeps them from it.

They load the same weights and save them under the same class name; only what they may write is wider.
"""

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
