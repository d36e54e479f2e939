"""The estimate of a run's memory: against the measured peak, and what it says of larger models."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnialign.errors import ResourceExhausted
from tests.model_factory.families import FAMILIES
from tests.training.test_spec import GOOD
from training import launch, source
from training.example_file import write_examples
from training.examples import Example
from training.memory import check_fits, estimate
from training.model_shape import ModelShape, shape_of_config, shape_of_folder
from training.spec import Distribution, Lora, Spec
from training.spec_file import parse_spec

MEASURE = """
import os, sys
import psutil
from training import __main__ as program
program._prepare_environment()
from training import tuning
from tests.training.fixed_rollouts import fixed_rollouts
load, before = tuning.load_for_training, []
def noted(spec):
    before.append(psutil.Process().memory_info().rss)  # a reference is loaded later
    return load(spec)
tuning.load_for_training = noted
with fixed_rollouts():
    code = program.main(sys.argv[1:])
print("before", before[0])
# Of this program alone: the peak that the system counts for a process includes what it was before `exec`.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("peak", int(status["VmHWM"].split()[0]) * 1024)
sys.stdout.flush()
os._exit(code)
"""
QWEN_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
GB = 10**9
SAMPLES = {"grpo": {"group_size": 2}, "ppo": {"num_samples": 2}}


def sized(folder: Path, **sizes: int) -> Path:
    """Gives a folder with a tokenizer a Llama of these sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(num_attention_heads=4, tie_word_embeddings=False, pad_token_id=0, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def measured(folder: Path, document: dict[str, Any], spec: Spec) -> int:
    """Bytes that a run takes at its peak, beyond what its process has before it loads the model."""
    answers = [[*[token] * 47, 2] for token in (7, 8)]
    path = source.cache_path(spec, max_length=spec.hyperparameters.max_length)
    critiqued, drawn = {"teacher_prompt": [9] * 16}, spec.method in ("grpo", "ppo")
    examples = [Example([6] * 16, answers if drawn else answers[:1], **critiqued) for _ in range(8)]
    write_examples(path, examples)
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    environment = launch.environment(os.environ, num_processes=1, num_cpus=1) | {"PYTHONPATH": str(Path.cwd())}
    # Freed memory goes back to the system at once, so that what is measured is what is needed.
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    command = [sys.executable, "-c", MEASURE, spec.method, "--spec", str(folder / "job.yaml")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = dict(line.split() for line in said.splitlines() if line.startswith(("before ", "peak ")))
    return int(found["peak"]) - int(found["before"])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("method", "vocabulary", "hidden", "layers", "lora"),
    [
        ("sft", 128, 256, 8, None),
        ("sft", 32000, 256, 2, None),
        ("sft", 128, 512, 8, {}),
        ("grpo", 128, 256, 8, None),
        ("ppo", 32000, 256, 2, None),
        ("ppo", 128, 512, 8, {}),
        ("sdpo", 128, 256, 8, None),
        ("sdpo", 4096, 256, 2, None),
        ("sdpo", 32000, 256, 2, {}),
    ],
)
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(
    tmp_path: Path, model_dir: Path, method: str, vocabulary: int, hidden: int, layers: int, lora: dict[str, int] | None
):
    sizes = {"vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": layers}
    sized(model_dir, intermediate_size=4 * hidden, **sizes)
    folders = {"base_model_dir": str(model_dir), "output_dir": str(tmp_path / "out"), "cache_dir": str(tmp_path / "c")}
    steps = {"max_steps": 2, "batch_size": 8, "micro_batch_size": 4, "max_length": 64}
    document = {**GOOD, **folders, "hyperparameters": steps, **({} if lora is None else {"lora": lora})}
    if method in ("grpo", "ppo"):  # four prompts, each with two answers
        rollout = {"rewards": [{"well_formed": True}], "max_new_tokens": 48}
        document |= {"refinement_address": "127.0.0.1:1", method: {"rollout": rollout, **SAMPLES[method]}}
        document["hyperparameters"] = {**steps, "batch_size": 4, "max_length": 16, "beta": 0.05}
    spec = parse_spec(document, method=method)
    shape = shape_of_folder(model_dir)
    assert shape is not None
    expected = estimate(spec, shape, device="cpu")
    assert expected.total - expected.libraries == pytest.approx(measured(tmp_path, document, spec), rel=0.2)


@pytest.mark.parametrize("name", ["qwen2", "llava", "qwen2_5_omni"])
def test_the_headers_of_the_weights_and_the_settings_alone_tell_nearly_the_same_shape(tmp_path: Path, name: str):
    folder = FAMILIES[name].build(tmp_path / "model")
    found = shape_of_folder(folder)
    assert found is not None
    config = json.loads((folder / "config.json").read_text())
    guessed = shape_of_config(config, parameters=found.parameters)
    assert guessed is not None
    for field in ("layers", "hidden", "intermediate", "key_value", "vocabulary", "linear_parameters", "linear_sides"):
        assert getattr(guessed, field) == getattr(found, field), field
    assert (found.tower_parameters > 0) == (name != "qwen2")


def seven_billion() -> ModelShape:
    found = shape_of_config(QWEN_7B, parameters=7_615_000_000, size_bytes=15_230_000_000)
    assert found is not None
    return found


def test_a_lora_of_seven_billion_parameters_fits_where_full_weights_do_not():
    spec = parse_spec({**GOOD, "hyperparameters": {"micro_batch_size": 1, "batch_size": 8}}, method="dpo")
    spec = replace(spec, distribution=Distribution(precision="bf16", gradient_checkpointing=True))
    full = estimate(spec, seven_billion(), device="gpu")
    assert 120 * GB < full.weights + full.gradients + full.optimizer < 130 * GB
    small = estimate(replace(spec, lora=Lora()), seven_billion(), device="gpu")
    assert 15 * GB < small.total < 24 * GB
    quantized = estimate(replace(spec, lora=Lora(quantize="nf4")), seven_billion(), device="gpu")
    assert quantized.weights < 0.5 * small.weights


def test_shards_and_what_is_offloaded_leave_the_device():
    spec = parse_spec({**GOOD, "hyperparameters": {"batch_size": 8, "micro_batch_size": 1}}, method="sft")
    placed = [
        replace(spec, distribution=Distribution(num_processes=8, zero_stage=stage, offload=offload))
        for stage, offload in ((0, ""), (1, ""), (2, ""), (3, ""), (3, "optimizer"), (3, "optimizer_and_weights"))
    ]
    totals = [estimate(one, seven_billion(), device="gpu").total for one in placed]
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == len(totals)
    on_cpu = [estimate(one, seven_billion(), device="cpu").total for one in placed[3:]]
    assert max(on_cpu) - min(on_cpu) < 0.01 * max(on_cpu)  # there it is the same memory


def test_a_run_that_cannot_fit_is_refused_with_its_figures_and_what_would_help():
    spec = parse_spec(GOOD, method="sft")
    with pytest.raises(ResourceExhausted) as caught:
        check_fits(spec, seven_billion(), device="gpu", device_bytes=24 * GB)
    assert caught.value.reason == "MEMORY_TOO_SMALL"
    assert int(caught.value.metadata["needed_bytes"]) > 100 * GB
    assert caught.value.metadata["device_bytes"] == str(24 * GB)
    for words in ("weights 30.5 GB", "optimizer 60.9 GB", "which has 24.0 GB; with lora 32.", "with offload of the"):
        assert words in caught.value.message
    with pytest.raises(ResourceExhausted, match=r"with lora\.quantize"):
        check_fits(replace(spec, lora=Lora()), seven_billion(), device="gpu", device_bytes=24 * GB)
    assert check_fits(spec, seven_billion(), device="gpu", device_bytes=0).total > 100 * GB  # not known: not refused
