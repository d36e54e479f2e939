"""One pass over all records, as the published scripts do it: start vLLM, answer everything, write one file.

    .venv-vllm/bin/python -m benchmarks.offline_pass generate|critique|refine INPUT.json OUTPUT.json MODEL

Prompts, seeds, sampling and vLLM's settings are those of the services. A record whose answer cannot be read is left
out of what is written, as the loop quarantines it.
"""

import base64
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from omnialign.errors import OmnialignError
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.answers import AnswerUnparsable, read_feedback
from omnialign.modeling.inputs import MediaBytes, Pieces
from omnialign.modeling.prompts import Rendered, render_critique, render_refinement, render_response
from omnialign.rubrics import rubric
from omnialign.v1 import generation_pb2, record_pb2
from services.inference.engine import EngineRequest
from services.inference.models.key import ModelKey
from services.inference.vllm.process import ENVIRONMENT, engine_arguments
from services.inference.vllm.requests import sampling_of
from services.pipeline.planning import record_seed

Row = dict[str, Any]
SEED_STAGES = {"generate": "sample", "critique": "critique", "refine": "refine"}


def main() -> None:
    """Runs one pass."""
    stage, source, target, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    rows = json.loads(source.read_text())
    answered = list(answer(stage, rows, folder))
    target.write_text(json.dumps(answered))


def answer(stage: str, rows: Sequence[Row], folder: Path) -> Iterator[Row]:
    """The rows with the answers of this stage."""
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    from vllm import LLM

    from benchmarks.streaming_ours import ENGINE

    adapter = load_adapter(folder)
    key = ModelKey(f"file://{folder}", torch.float32)
    llm = LLM(**engine_arguments(folder, key, adapter, ENGINE))
    rendered = [prompt_of(stage, row) for row in rows]
    ids = [adapter.encode(prompt.turns).ids for prompt in rendered]
    settings = [
        sampling_of(request_of(stage, row, prompt), adapter, llm.llm_engine.model_config.max_model_len - len(some))
        for row, prompt, some in zip(rows, rendered, ids, strict=True)
    ]
    outputs = llm.generate([{"prompt_token_ids": some} for some in ids], settings, use_tqdm=False)
    for row, output in zip(rows, outputs, strict=True):
        try:
            pieces = adapter.decode(output.outputs[0].token_ids)
            yield row | {stage: read(stage, row, pieces)}
        except (OmnialignError, AnswerUnparsable):
            continue


def prompt_of(stage: str, row: Row) -> Rendered:
    """What the model is asked."""
    question = loaded(row["prompt"])
    if stage == "generate":
        return render_response(question)
    if stage == "critique":
        return render_critique(question, loaded(row["generate"]), rubric(row["subtask"]))
    feedback = record_pb2.Feedback(critique=row["critique"][0], refinement=row["critique"][1])
    return render_refinement(question, loaded(row["generate"]), feedback)


def request_of(stage: str, row: Row, prompt: Rendered) -> EngineRequest:
    """The settings of one answer: the job's for responses, greedy for critiques."""
    sampling = generation_pb2.SamplingParams(temperature=0.0 if stage == "critique" else 1.0)
    seed = record_seed(0, stage=SEED_STAGES[stage], record_id=row["id"])
    return EngineRequest(row["id"], "", prompt.turns, sampling, seed)


def read(stage: str, row: Row, pieces: Pieces) -> Any:
    """An answer as it is written to the file."""
    if stage != "critique":
        return stored(pieces)
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    feedback = read_feedback(text, rubric(row["subtask"]))
    return [feedback.critique, feedback.refinement]


def stored(pieces: Pieces) -> list[Any]:
    """Texts as they are, media as base64."""
    return [p if isinstance(p, str) else [p.modality, base64.b64encode(p.data).decode()] for p in pieces]


def loaded(found: Sequence[Any]) -> Pieces:
    """What `stored` gave."""
    return tuple(p if isinstance(p, str) else MediaBytes(p[0], base64.b64decode(p[1])) for p in found)


if __name__ == "__main__":
    main()
