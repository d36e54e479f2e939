"""Positions of what follows media: after all of it."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from omnialign.media import write_video
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import MediaBytes, Turn
from omnialign.modeling.model_folder import model_class
from omnialign.modeling.patched_models import patch_rope, shift_runs
from omnialign.v1 import content_pb2
from tests.model_factory.families import FAMILIES

GRIDS = st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4))


def published(parts: list[int | tuple[int, int, int]], pace: int) -> list[list[int]]:
    """Positions by the paper's rule: of a text so many tokens, of a medium (t, h, w) with a pace of time."""
    found: list[list[int]] = []
    for part in parts:
        start = 1 + max((max(token) for token in found), default=-1)
        if isinstance(part, int):
            found += [[start + i] * 3 for i in range(part)]
        else:
            found += [[start + t * pace, start + h, start + w] for t, h, w in np.ndindex(part)]
    return found


def cramped(parts: list[int | tuple[int, int, int]], pace: int) -> list[list[int]]:
    """The same by the rule that forgets time: what follows starts after height and width."""
    found: list[list[int]] = []
    start = 0
    for part in parts:
        if isinstance(part, int):
            found += [[start + i] * 3 for i in range(part)]
            start += part
        else:
            found += [[start + t * pace, start + h, start + w] for t, h, w in np.ndindex(part)]
            start += max(part[1:])
    return found


@given(st.integers(0, 3), st.lists(st.tuples(GRIDS, st.integers(1, 4)), max_size=4), st.integers(1, 5))
def test_every_run_starts_after_the_highest_position_of_the_run_before(start, media, pace):
    parts = [start, *(part for pair in media for part in pair)]
    types = [kind for part in parts for kind in ([0] * part if isinstance(part, int) else [2] * int(np.prod(part)))]
    if types:
        found = shift_runs(torch.tensor(cramped(parts, pace)).T, types)
        assert found.T.tolist() == published(parts, pace)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = FAMILIES["qwen2_5_vl"].build(tmp_path_factory.mktemp("model"))
    frames = np.random.default_rng(3).integers(0, 255, (24, 28, 28, 3), dtype=np.uint8)
    video = MediaBytes(content_pb2.MODALITY_VIDEO, write_video(frames, 2))
    adapter = load_adapter(folder)
    inputs = adapter.encode((Turn("user", (video, "What?")),))
    ids = torch.tensor([inputs.ids])
    module = model_class(folder).from_pretrained(folder, dtype=torch.float32).eval()
    return module, ids, adapter.tensors([inputs], ids)


def test_padded_rows_have_the_positions_that_they_have_alone(long_video):
    module, ids, tensors = long_video
    rule = functools.partial(module.model.get_rope_index, video_grid_thw=tensors["video_grid_thw"],
                             second_per_grid_ts=tensors["second_per_grid_ts"])  # fmt: skip
    types = tensors["mm_token_type_ids"]
    alone, delta = rule(ids, types)
    padded, same = rule(*(torch.nn.functional.pad(a, (5, 0)) for a in (ids, types)),
                        attention_mask=torch.nn.functional.pad(torch.ones_like(ids), (5, 0)))  # fmt: skip
    assert padded[:, :, 5:].equal(alone)
    assert same.equal(delta)


def test_the_rule_is_mended_once():
    patch_rope("qwen2_5_vl")
    rule = Qwen2_5_VLModel.get_rope_index
    patch_rope("qwen2_5_vl")
    patch_rope("qwen3_vl")
    assert Qwen2_5_VLModel.get_rope_index is rule
    assert not hasattr(transformers.Qwen3VLModel.get_rope_index, "__wrapped__")
