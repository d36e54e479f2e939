"""Importing torchvision beside a PyTorch without CUDA."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")

GUARDED = """
import {first}
import sys
from omnialign import torchvision
assert isinstance(sys.meta_path[0], torchvision._Finder)
assert not {{"torch", "torchvision"}} & set(sys.modules)
"""

RESIZE = """
import omnialign
import torch
from torchvision.transforms.v2 import functional
from transformers import Qwen2VLVideoProcessor
frames = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
assert functional.resize(frames, [4, 4], antialias=True).shape == (2, 3, 4, 4)
Qwen2VLVideoProcessor()
"""


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("first", ["omnialign", "training", "services", "omnialign.media"])
def test_any_package_of_ours_guards_the_import_of_torchvision(first):
    run(GUARDED.format(first=first))


def test_torchvision_and_the_video_processors_of_transformers_work():
    run(RESIZE)


def test_nothing_heavy_is_imported_before_somebody_asks():
    run("import sys, omnialign; assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules)")
