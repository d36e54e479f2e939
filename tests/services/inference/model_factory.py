"""Small real models in the format that the engines load, and requests for them.

`random_model` is a Llama with random weights. `chain_model` is a Llama whose weights are set so that each token depends
on the one before alone, with the probabilities asked for: so a test knows the distribution of the answers.
"""

import asyncio
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from omnialign.modeling.inputs import Turn
from omnialign.v1 import generation_pb2
from services.inference.engine import EngineRequest

CONTROL = ("<pad>", "<s>", "</s>", "<user>", "<assistant>", "<image>", "</image>")
COLOURS = ("#000000", "#ff0000", "#00ff00", "#0000ff")
CODES = [f"code{index}" for index in range(len(COLOURS))]


def make_tokenizer(folder: Path, phrases: Sequence[str] = ()) -> dict[str, int]:
    """Writes `tokenizer.json` and `codecs.json`; gives the ids by token. Each phrase is one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate((*CONTROL, *alphabet))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL))
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab()
    codec = {
        "type": "palette_image",
        "options": {"palette": COLOURS, "rows": 2, "columns": 2, "run": 1, "cell_pixels": 8},
        "begin": "<image>",
        "end": "</image>",
        "first_id": len(vocabulary),
    }
    (folder / "codecs.json").write_text(json.dumps({"codecs": [codec]}))
    return vocabulary | {code: len(vocabulary) + index for index, code in enumerate(CODES)}


def random_model(folder: Path, *, seed: int = 0, context: int = 512, **settings: int) -> str:
    """A Llama with random weights; its name."""
    folder.mkdir(parents=True)
    vocabulary = make_tokenizer(folder, [f"word{index:04d}" for index in range(1000)])  # so that few answers end early
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4} | settings
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=context,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return f"file://{folder}"


def chain_model(folder: Path, chain: Mapping[str, Mapping[str, float]], *, context: int = 4096) -> str:
    """A Llama that writes a Markov chain over tokens, given as token -> next token -> probability; its name."""
    folder.mkdir(parents=True)
    tokens = {*chain, *(token for following in chain.values() for token in following)}
    vocabulary = make_tokenizer(folder, sorted(tokens - set(CONTROL) - set(CODES)))
    size = -(-len(vocabulary) // 4) * 4
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        rms_norm_eps=1e-12,
    )
    model = LlamaForCausalLM(config)
    logits = torch.full((size, size), -100.0)  # of the next token (row), given the last (column)
    for token, following in chain.items():
        for successor, probability in following.items():
            logits[vocabulary[successor], vocabulary[token]] = math.log(probability)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(logits / math.sqrt(size))  # the final norm makes a unit vector this long
    model.save_pretrained(folder)
    return f"file://{folder}"


LORA_TARGETS = ("q_proj", "v_proj", "gate_proj", "down_proj")


def random_lora(folder: Path, base: str, *, seed: int = 0, rank: int = 4, layers: int = 2, **settings: object) -> str:
    """A LoRA of a `random_model` in PEFT's files, large enough to change answers; its name."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank}
    config |= {"lora_alpha": 2 * rank, "target_modules": LORA_TARGETS, "bias": "none", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    random, tensors = torch.Generator().manual_seed(seed), {}
    for name, weight in weights_of(base).items():
        module = name.removesuffix(".weight")
        if module.endswith(LORA_TARGETS):
            for side, shape in (("A", (rank, weight.shape[1])), ("B", (weight.shape[0], rank))):
                tensors[f"base_model.model.{module}.lora_{side}.weight"] = 0.3 * torch.randn(shape, generator=random)
    for name in [name for name in tensors if ".layers.1." in name]:
        for layer in range(2, layers):  # of a deeper base
            tensors[name.replace(".layers.1.", f".layers.{layer}.")] = tensors[name].clone()
    save_file(tensors, folder / "adapter_model.safetensors")
    return f"file://{folder}"


def merged_model(folder: Path, base: str, lora: str) -> str:
    """The base with a `random_lora` in its weights, by hand; its name."""
    shutil.copytree(base.removeprefix("file://"), folder)
    weights, updates = weights_of(base), load_file(f"{lora.removeprefix('file://')}/adapter_model.safetensors")
    for name, a in updates.items():
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            weights[f"{module}.weight"] += 2 * updates[name.replace("lora_A", "lora_B")] @ a  # 2 = alpha / rank
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return f"file://{folder}"


def weights_of(model: str) -> dict[str, torch.Tensor]:
    """The weights of a `random_model`."""
    return load_file(f"{model.removeprefix('file://')}/model.safetensors")


async def until(condition: Callable[[], object]) -> None:
    """Waits until a condition of another task or thread holds, for at most a minute."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  nothing outside announces it
            await asyncio.sleep(0.001)


def requests(
    model: str, prompts: Sequence[str], *, seeds: Sequence[int] = (), **sampling: object
) -> list[EngineRequest]:
    """Requests for an engine; ids and seeds count from 0 unless given."""
    params = generation_pb2.SamplingParams(**sampling)  # type: ignore[arg-type]
    return [
        EngineRequest(str(i), model, (Turn("user", (prompt,)),), params, seed=seeds[i] if seeds else i)
        for i, prompt in enumerate(prompts)
    ]
