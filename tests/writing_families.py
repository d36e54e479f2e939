"""Tiny random models of the families that write pictures, and of codecs that other models are put together with.

As in `tests.model_families`: the real architecture, processor and VQ classes in small sizes, saved as users have them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from torch import nn
from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEDecoder

from omnialign.modeling.codecs.vq import DECODER_FOLDER
from tests.family_texts import llama_tokenizer, padded, qwen_tokenizer, special_ids, trained
from tests.model_families import TEXT, save

NUM_CODES = 64
LETTERS = "ABCDEFGHIJ"


def spread(module: nn.Module) -> None:
    """Gives a random VQ model codes that tell pictures apart: as it is initialised, one code is the nearest to all."""
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
    spread(decoder)
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
        vocab_size=padded(tokenizer),
        vq_config=dict(CHAMELEON_VQ),
        vocabulary_map=tokenizer.get_vocab(),
        **special_ids(tokenizer),
        **TEXT,
    )
    processor = transformers.ChameleonProcessor(
        transformers.ChameleonImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        image_seq_length=64,
    )
    model = transformers.ChameleonForConditionalGeneration(config)
    spread(model.model.vqmodel)
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
    vocabulary, merges = trained(())
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
        text_config={"vocab_size": padded(tokenizer), "attention_dropout": 0.0, **special_ids(tokenizer), **TEXT},
        vq_config=dict(EMU3_VQ),
        vocabulary_map=tokenizer.get_vocab(),
    )
    processor = transformers.Emu3Processor(
        transformers.Emu3ImageProcessor(min_pixels=16 * 16, max_pixels=32 * 32), tokenizer, chat_template=EMU3_TEMPLATE
    )
    model = transformers.Emu3ForConditionalGeneration(config)
    spread(model.model.vqmodel)
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
        text_config={"model_type": "llama", "vocab_size": padded(tokenizer), **special_ids(tokenizer), **TEXT},
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
    spread(model.model.vqmodel)
    save(folder, model, processor, tokenizer, ["<|im_end|>"])


# Codecs in folders of their own


def encodec(folder: Path) -> None:
    """EnCodec at 8 kHz: 40 samples a frame, up to 4 books of 16 codes."""
    config = transformers.EncodecConfig(
        sampling_rate=8000,
        target_bandwidths=[0.8, 1.6, 3.2],
        num_filters=4,
        upsampling_ratios=[5, 4, 2],
        hidden_size=16,
        codebook_size=16,
        num_lstm_layers=1,
    )
    model = transformers.EncodecModel(config)
    for name, buffer in model.named_buffers():
        if name.endswith(".embed"):
            buffer.normal_()
    model.save_pretrained(folder)


def dac(folder: Path) -> None:
    """DAC at 8 kHz: 32 samples a frame, 3 books of 16 codes."""
    config = transformers.DacConfig(
        sampling_rate=8000,
        encoder_hidden_size=8,
        decoder_hidden_size=32,
        downsampling_ratios=[2, 4, 4],
        n_codebooks=3,
        codebook_size=16,
        codebook_dim=4,
    )
    transformers.DacModel(config).save_pretrained(folder)


def mimi(folder: Path) -> None:
    """Mimi at 8 kHz: 640 samples a frame, 4 books of 16 codes, the first semantic."""
    config = transformers.MimiConfig(
        sampling_rate=8000,
        hidden_size=32,
        num_filters=4,
        upsampling_ratios=[8, 5, 4, 2],
        codebook_size=16,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=4,
        upsample_groups=32,
        num_hidden_layers=1,
        intermediate_size=64,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    transformers.MimiModel(config).save_pretrained(folder)


def chameleon_vq(folder: Path) -> None:
    """Chameleon's VQ model with its decoder."""
    model = transformers.ChameleonVQVAE(transformers.ChameleonVQVAEConfig(**CHAMELEON_VQ))
    spread(model)
    model.save_pretrained(folder)
    save_image_decoder(folder, model.config)


def janus_vq(folder: Path) -> None:
    """Janus's VQ model: pictures of 32 pixels, 16 codes."""
    model = JanusVQVAE(transformers.JanusVQVAEConfig(**JANUS_VQ))
    spread(model)
    model.save_pretrained(folder)


def emu3_vq(folder: Path) -> None:
    """Emu3's VQ model."""
    model = transformers.Emu3VQVAE(transformers.Emu3VQVAEConfig(**EMU3_VQ))
    spread(model)
    model.save_pretrained(folder)


def composite(folder: Path, codecs: Sequence[Mapping[str, Any]], *, context: int = 2048, seed: int = 0) -> Path:
    """A Llama with codecs of learned weights: `codecs` are entries of codecs.json without span tokens and ids.

    Each has a maker of its weights by the name of its folder: `{"type": "mimi", "make": mimi, "options": {...}}`.
    """
    from omnialign.modeling.codecs import build
    from tests.services.inference.model_factory import make_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    kinds = [str(codec["type"]) for codec in codecs]
    vocabulary = make_tokenizer(folder)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"<{end}{kind}>" for kind in kinds for end in ("", "/")], special_tokens=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    first, entries = len(tokenizer), []
    for codec in codecs:
        if not (folder / codec["options"]["folder"]).is_dir():
            codec["make"](folder / codec["options"]["folder"])
        kind, options = str(codec["type"]), codec["options"]
        size = build(kind, options, folder).num_codes
        entry = {"type": kind, "options": options, "begin": f"<{kind}>", "end": f"</{kind}>"}
        entries.append({**entry, "first_id": first, "num_ids": size})
        first += size
    (folder / "codecs.json").write_text(json.dumps({"codecs": entries}))
    sizes = {**TEXT, "max_position_embeddings": context}
    ids = {"eos_token_id": vocabulary["</s>"], "pad_token_id": vocabulary["<pad>"], "bos_token_id": vocabulary["<s>"]}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=first, **ids, **sizes)).save_pretrained(folder)
    return folder


def tilt(folder: Path, tokens: Sequence[int]) -> None:
    """Changes a random model so that it writes one of some tokens, each as likely, wherever it may.

    A constant in every embedding makes a constant of the last hidden state, which the head reads for these tokens.
    """
    path = folder / "model.safetensors"
    state = load_file(path)
    (embeddings,) = (weight for name, weight in state.items() if name.endswith("embed_tokens.weight"))
    (head,) = (weight for name, weight in state.items() if name.endswith("lm_head.weight"))
    embeddings[:, 0], head[:, 0], head[list(tokens)] = 100, 0, 0
    head[list(tokens), 0] = 5
    save_file(state, path, metadata={"format": "pt"})
