"""Importing torchvision beside a PyTorch without CUDA."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")

RESIZE = """
{first}
import torch
from torchvision.transforms.v2 import functional
frames = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
assert functional.resize(frames, [4, 4], antialias=True).shape == (2, 3, 4, 4)
{then}
"""


def run(first="import omnialign", then=""):
    return subprocess.run([sys.executable, "-c", RESIZE.format(first=first, then=then)], capture_output=True, text=True)


@pytest.mark.parametrize("first", ["import omnialign", "import training", "import services", "import omnialign.media"])
def test_torchvision_works_once_any_package_of_ours_is_imported(first):
    assert run(first).returncode == 0, run(first).stderr


def test_video_processors_of_transformers_work():
    made = run(then="from transformers import Qwen2VLVideoProcessor; Qwen2VLVideoProcessor()")
    assert made.returncode == 0, made.stderr


def test_nothing_heavy_is_imported_before_somebody_asks():
    code = "import sys, omnialign; assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
