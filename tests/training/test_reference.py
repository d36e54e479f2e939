"""The reference is computed once for a dataset and a base, and read from then on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from examples.tinyworld.pretrain import FOLDER
from tests.training.in_process import gradient, kept, make_trainer, move, step
from tests.training.method_samples import encoded, samples_for, world_pairs

SUBTASKS = ("t2t", "ti2ti")


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_reference_that_is_read_gives_the_same_loss_and_gradient(method: str, tmp_path: Path):
    samples = samples_for(method, world_pairs(*SUBTASKS))
    examples = kept(encoded(samples, base=FOLDER, folder=tmp_path), tmp_path)
    found, written = [], set()
    for _ in range(2):
        trainer = make_trainer(method, base=FOLDER, examples=examples, folder=tmp_path)
        written |= {(path, path.stat().st_mtime_ns) for path in tmp_path.glob("*.npy")}
        move(trainer.model)
        found.append((step(trainer, [[0, 1], [2]]), gradient(trainer.model)))
    assert len(written) == 1
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_other_weights_rows_or_precision_have_another_reference_and_a_damaged_one_is_made_again(tmp_path: Path):
    base = shutil.copytree(FOLDER, tmp_path / "base")
    examples = kept(encoded(world_pairs(*SUBTASKS), base=FOLDER, folder=tmp_path), tmp_path)

    def reference(**document: object) -> np.ndarray:
        trainer = make_trainer("dpo", base=base, examples=examples, folder=tmp_path, **document)
        return np.stack(list(trainer.train_dataset.numbers.values()))

    first = reference()
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-4])
    assert np.array_equal(reference(), first)
    reference(distribution={"precision": "bf16"})
    assert len(list(tmp_path.glob("*.npy"))) == 2
    weights = load_file(base / "model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, base / "model.safetensors", {"format": "pt"})
    assert not np.allclose(reference(), first, atol=1e-3)
    examples = examples.select(np.array([1]))
    assert reference().shape == (2, 2)
