"""The positions of an answer's tokens are those that they have in training, wherever a video stands before them."""

import numpy as np
import torch

from omnialign.media import write_video
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import MediaBytes, Turn
from omnialign.modeling.model_folder import model_class
from omnialign.modeling.position_ids import sequence_positions
from omnialign.v1 import content_pb2
from services.inference.transformers.position_ids import next_positions, step_positions
from tests.model_factory.families import FAMILIES


def test_an_answer_after_a_video_longer_than_the_question_stands_where_it_stands_in_training(tmp_path):
    folder, written = FAMILIES["qwen2_5_vl"].build(tmp_path / "model"), 4
    frames = np.random.default_rng(3).integers(0, 255, (48, 28, 28, 3), dtype=np.uint8)
    video = MediaBytes(content_pb2.MODALITY_VIDEO, write_video(frames, 2))
    adapter = load_adapter(folder)
    inputs = adapter.encode((Turn("user", (video, "?")),))
    module = model_class(folder).from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([inputs.ids])
    whole = torch.tensor([[*inputs.ids, *range(written)]])
    tensors = {name: adapter.tensors([inputs], x) for name, x in (("prompt", ids), ("whole", whole))}
    trained, _ = module.model.get_rope_index(whole, **tensors["whole"])
    following = next_positions(sequence_positions(module, ids, torch.ones_like(ids), tensors["prompt"]))
    for step in range(written):
        served = step_positions(following, step)
        assert served[1:, 0, 0].tolist() == trained[:, 0, ids.shape[1] + step].tolist()
