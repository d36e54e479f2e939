"""Model folders whose first look computes for ever, fills the memory, or reads what is not theirs."""

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from examples.tinyworld import recipe

MODEL = Path(recipe.__file__).parent / "model"
PATTERN_OF_EXPONENTIAL_TIME = "(a+)+$"


def folders() -> Mapping[str, Callable[[Path], object]]:
    """Functions that make a copy of a good model folder hostile, by what is hostile about it."""
    return {
        "codec run of a thousand million": lambda folder: set_codec(folder, run=1_000_000_000),
        "codec of 10**12 cells": lambda folder: set_codec(folder, rows=1_000_000, columns=1_000_000),
        "template with n ** (n ** n)": lambda folder: set_template(folder, "{{ 9 ** (9 ** (9 ** 9)) }}"),
        "template with nested loops": lambda folder: set_template(folder, nested_loops(8)),
        "template that repeats a text": lambda folder: set_template(folder, "{{ 'a' * 10 ** 11 }}"),
        "adapter with a pattern of exponential time": exponential_adapter,
        "weights with 100,000 dimensions": lambda folder: set_header(folder, shape=[1] * 100_000),
        "weights of 2**62 elements": lambda folder: set_header(folder, shape=[2**31, 2**31]),
        "weights with a header of 100 MB": huge_header,
        "index that names another folder": lambda folder: set_index(folder, "../other/model.safetensors"),
        "index that names a file of the system": lambda folder: set_index(folder, "/etc/passwd"),
        "configuration of a million layers": lambda folder: set_config(folder, num_hidden_layers=1_000_000),
        "configuration of a width of 2**30": lambda folder: set_config(folder, hidden_size=2**30),
        "tokenizer nested 100,000 deep": deep_tokenizer,
    }


def copy(target: Path) -> Path:
    """A copy of a good model folder."""
    shutil.copytree(MODEL, target)
    return target


def set_codec(folder: Path, **options: Any) -> None:
    """Changes options of the first codec."""
    path = folder / "codecs.json"
    codecs = json.loads(path.read_text())
    codecs["codecs"][0]["options"] |= options
    path.write_text(json.dumps(codecs))


def set_template(folder: Path, template: str) -> None:
    """Gives a plain language model a chat template."""
    (folder / "codecs.json").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template})
    )


def nested_loops(depth: int) -> str:
    """A template of 1000**depth steps."""
    head = "".join(f"{{% for n{level} in range(1000) %}}" for level in range(depth))
    return head + "a" + "{% endfor %}" * depth


def exponential_adapter(folder: Path) -> None:
    """A LoRA beside the weights whose modules are named by a pattern that backtracks for ever."""
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": 4,
                "lora_alpha": 8,
                "target_modules": PATTERN_OF_EXPONENTIAL_TIME,
                "base_model_name_or_path": "base",
            }
        )
    )
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def set_header(folder: Path, *, shape: list[int]) -> None:
    """Weights of one tensor whose header is a lie."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)


def huge_header(folder: Path) -> None:
    """Weights that are header for the most part."""
    header = json.dumps({"__metadata__": {str(n): "a" * 1000 for n in range(100_000)}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def set_index(folder: Path, name: str) -> None:
    """An index that says the weights are elsewhere."""
    index = {"metadata": {"total_size": 4}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def set_config(folder: Path, **changes: Any) -> None:
    """Changes the configuration, but not the weights."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def deep_tokenizer(folder: Path) -> None:
    """JSON that recursion cannot read."""
    (folder / "tokenizer.json").write_text('{"model": ' + "[" * 100_000 + "]" * 100_000 + "}")
