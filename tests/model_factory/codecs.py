"""Tiny codecs in their own folders, and a language model composed with codecs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.janus.modeling_janus import JanusVQVAE

from tests.model_factory.family import TEXT
from tests.model_factory.writers import CHAMELEON_VQ, EMU3_VQ, JANUS_VQ, save_image_decoder, spread_codes


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
    spread_codes(model)
    model.save_pretrained(folder)
    save_image_decoder(folder, model.config)


def janus_vq(folder: Path) -> None:
    """Janus's VQ model: pictures of 32 pixels, 16 codes."""
    model = JanusVQVAE(transformers.JanusVQVAEConfig(**JANUS_VQ))
    spread_codes(model)
    model.save_pretrained(folder)


def emu3_vq(folder: Path) -> None:
    """Emu3's VQ model."""
    model = transformers.Emu3VQVAE(transformers.Emu3VQVAEConfig(**EMU3_VQ))
    spread_codes(model)
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


def bias_towards(folder: Path, tokens: Sequence[int]) -> None:
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
