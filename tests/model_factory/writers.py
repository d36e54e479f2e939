"""Tiny random models of the families that write pictures, in folders as their users have them.

As in `readers`: the real architecture, processor and VQ classes in small sizes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken
from torch import nn
from transformers.models.janus.modeling_janus import JanusVQVAEDecoder

from omnialign.modeling.codecs.vq_models import DECODER_FOLDER
from tests.model_factory.family import TEXT, save
from tests.model_factory.tokenizers import llama_tokenizer, qwen_tokenizer, special_token_ids, train_bpe, vocab_rows

NUM_CODES = 64
LETTERS = "ABCDEFGHIJ"


def spread_codes(module: nn.Module) -> None:
    """Gives a random VQ model codes that tell pictures apart: as initialised, one code is the nearest to everything."""
    for name, weight in module.named_parameters():
        if "quant" in name and "embedding" in name:
            nn.init.normal_(weight)
        elif weight.ndim > 1:
            nn.init.kaiming_normal_(weight)


def add_codes(tokenizer: Any, names: Sequence[str]) -> None:
    """Adds code tokens as published tokenizers have them: added, but not marked as special."""
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in names])


CHAMELEON_VQ: Mapping[str, Any] = {
    "embed_dim": 16,
    "num_embeddings": NUM_CODES,
    "latent_channels": 16,
    "resolution": 32,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2],
    "num_res_blocks": 1,
}
JANUS_VQ: Mapping[str, Any] = {
    "embed_dim": 8,
    "num_embeddings": NUM_CODES,
    "latent_channels": 16,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1, 2],
    "num_res_blocks": 1,
    "num_patches": 4,
    "projection_dim": 64,
    "image_token_embed_dim": 64,
}
EMU3_VQ: Mapping[str, Any] = {
    "codebook_size": NUM_CODES,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [3],
    "hidden_size": 32,
}


def save_image_decoder(folder: Path, config: Any) -> None:
    """A VQ decoder as it was published with Chameleon: levels are counted from the highest resolution."""
    sizes = {name: CHAMELEON_VQ[name] for name in CHAMELEON_VQ if name != "resolution"}
    decoder = JanusVQVAEDecoder(transformers.JanusVQVAEConfig(**sizes, out_channels=3))
    for level in decoder.up:
        level.attn = nn.ModuleList()
    spread_codes(decoder)
    levels, state = len(config.channel_multiplier), {}
    for name, weight in decoder.state_dict().items():
        first, *rest = name.split(".")
        place = [str(levels - 1 - int(rest[0])), *rest[1:]] if first == "up" else rest
        state[".".join(("decoder", first, *place))] = weight.clone()
    (folder / DECODER_FOLDER).mkdir(exist_ok=True)
    save_file(state, folder / DECODER_FOLDER / "model.safetensors")


def make_chameleon(folder: Path) -> None:
    """Chameleon: pictures of 32 pixels are 64 codes of factor 4."""
    tokenizer = llama_tokenizer()
    tokenizer.add_special_tokens({"sep_token": "<reserved08706>"})
    tokenizer.add_tokens(["<racm3:break>", "<eoss>"], special_tokens=True)
    add_codes(tokenizer, [f"IMGIMG{''.join(LETTERS[int(d)] for d in str(code))}Z" for code in range(NUM_CODES)])
    config = transformers.ChameleonConfig(
        vocab_size=vocab_rows(tokenizer),
        vq_config=dict(CHAMELEON_VQ),
        vocabulary_map=tokenizer.get_vocab(),
        **special_token_ids(tokenizer),
        **TEXT,
    )
    processor = transformers.ChameleonProcessor(
        transformers.ChameleonImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        image_seq_length=64,
    )
    model = transformers.ChameleonForConditionalGeneration(config)
    spread_codes(model.model.vqmodel)
    save(folder, model, processor, tokenizer, ["</s>"])
    save_image_decoder(folder, model.model.vqmodel.config)


EMU3_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ content['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)


def make_emu3(folder: Path) -> None:
    """Emu3: pictures of 256 to 1024 pixels in all, a code for every 8 x 8."""
    vocabulary, merges = train_bpe(())
    named = {
        "image_token": "<image>",
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
    }
    tokenizer = transformers.GPT2Tokenizer(
        vocab=vocabulary, merges=merges, unk_token="<|endoftext|>", extra_special_tokens=named
    )
    tokenizer.add_tokens(["<|extra_200|>"], special_tokens=True)
    tokenizer.add_special_tokens(
        {"bos_token": "<|extra_203|>", "eos_token": "<|extra_204|>", "pad_token": "<|endoftext|>"}
    )
    add_codes(tokenizer, [f"<|visual token {code:06d}|>" for code in range(NUM_CODES)])
    config = transformers.Emu3Config(
        text_config={
            "vocab_size": vocab_rows(tokenizer),
            "attention_dropout": 0.0,
            **special_token_ids(tokenizer),
            **TEXT,
        },
        vq_config=dict(EMU3_VQ),
        vocabulary_map=tokenizer.get_vocab(),
    )
    processor = transformers.Emu3Processor(
        transformers.Emu3ImageProcessor(min_pixels=16 * 16, max_pixels=32 * 32), tokenizer, chat_template=EMU3_TEMPLATE
    )
    model = transformers.Emu3ForConditionalGeneration(config)
    spread_codes(model.model.vqmodel)
    save(folder, model, processor, tokenizer, ["<|extra_204|>"])


JANUS_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>: ' }}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<image_placeholder>\n' }}{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{{ '\n\n' if message['role'] != 'assistant' else eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>: ' }}{% endif %}"
)


def make_janus(folder: Path) -> None:
    """Janus: a picture is read as 16 features and written as 16 codes."""
    named = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = qwen_tokenizer((), **named)
    tokenizer.add_special_tokens({"bos_token": "<|begin_of_sentence|>"})
    config = transformers.JanusConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": vocab_rows(tokenizer),
            **special_token_ids(tokenizer),
            **TEXT,
        },
        vision_config={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "projection_dim": 64,
            "num_image_tokens": 16,
            "initializer_range": 0.2,
        },
        vq_config=dict(JANUS_VQ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    processor = transformers.JanusProcessor(
        transformers.JanusImageProcessor(size={"height": 32, "width": 32}),
        tokenizer,
        chat_template=JANUS_TEMPLATE,
        num_image_tokens=16,
    )
    model = transformers.JanusForConditionalGeneration(config)
    spread_codes(model.model.vqmodel)
    save(folder, model, processor, tokenizer, ["<|im_end|>"])
