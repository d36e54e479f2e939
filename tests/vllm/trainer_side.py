"""The conversations of the family tests, and what the trainer's environment makes of them, the model's folder included.

python -m tests.vllm.trainer_side FAMILY FOLDER
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from omnialign.media import write_audio, write_image, write_video
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import MediaBytes, Turn
from omnialign.modeling.model_folder import model_class
from omnialign.v1 import content_pb2
from tests.model_factory.families import FAMILIES
from tests.model_factory.family import Family

ANSWER = ("A red circle on the left.",)


def medium(name: str) -> MediaBytes:
    """A medium of a modality; always the same."""
    frames = np.random.default_rng(3).integers(0, 255, (6, 56, 84, 3), dtype=np.uint8)
    if name == "image":
        return MediaBytes(content_pb2.MODALITY_IMAGE, write_image(frames[0]))
    if name == "video":
        return MediaBytes(content_pb2.MODALITY_VIDEO, write_video(frames, 2))
    samples = np.sin(np.arange(16000) * 0.1).astype(np.float32) * 0.5
    return MediaBytes(content_pb2.MODALITY_AUDIO, write_audio(samples, 16000))


def conversations(family: Family) -> Iterator[tuple[Turn, ...]]:
    """Text that looks like a placeholder, each modality alone, and all of them in an earlier turn."""
    found = [medium(name) for name in family.reads]
    yield (Turn("user", ("What is <image> here?",)),)
    for piece in found:
        yield (Turn("user", (piece, "What is this?")),)
    yield (Turn("user", (*found, "Compare.")), Turn("assistant", ("They differ.",)), Turn("user", ("How?",)))


def main() -> None:
    """Builds the model; prints, as JSON, the ids of each conversation and the log-probabilities of the answer."""
    family, folder = FAMILIES[sys.argv[1]], Path(sys.argv[2])
    with contextlib.redirect_stdout(sys.stderr):
        family.build(folder)
    adapter = load_adapter(folder)
    model = model_class(folder).from_pretrained(folder, dtype=torch.float32).eval()
    answer = adapter.encode_answer(ANSWER)
    found = []
    for turns in conversations(family):
        inputs = adapter.encode(turns)
        ids = torch.tensor([[*inputs.ids, *answer]])
        tensors = adapter.tensors([replace(inputs, ids=ids[0].tolist())], ids)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **tensors).logits[0].log_softmax(-1)
        places = enumerate(answer, start=len(inputs.ids) - 1)
        found.append({"ids": inputs.ids, "log_probabilities": [float(logits[at, token]) for at, token in places]})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
