"""Answers held to a schema by real vLLM: a model that knows nothing gives feedback that can be read all the same."""

from contextlib import aclosing
from pathlib import Path

from omnialign.modeling.prompts import Question, ask_feedback, render_critique
from omnialign.v1 import generation_pb2, record_pb2
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from tests.model_factory.families import FAMILIES
from tests.vllm.conftest import CACHE_BYTES
from tests.vllm.trainer_side import medium

RUBRIC = ("clarity",)
ASKED = 16
"""The texts of a model with random weights end by chance: of this many answers the first is there soon."""


def asked(model: str, question: Question[record_pb2.Feedback]) -> list[EngineRequest]:
    """A critique of a picture, asked for with many seeds."""
    turns = render_critique(("Draw.",), (medium("image"),), RUBRIC, template=question.template).turns
    sampling = generation_pb2.SamplingParams(temperature=1.0, max_new_tokens=3000)
    return [
        EngineRequest(str(seed), model, turns, sampling, seed, json_schema=question.json_schema)
        for seed in range(ASKED)
    ]


async def test_a_processor_model_that_is_held_to_the_schema_gives_feedback(tmp_path: Path) -> None:
    from services.inference.vllm.engine import open_vllm_engine

    model = f"file://{FAMILIES['qwen2_5_vl'].build(tmp_path / 'model')}"
    question = ask_feedback(generation_pb2.ANSWER_FORM_JSON, RUBRIC)
    async with (
        open_vllm_engine(EngineConfig(cache_budget_bytes=CACHE_BYTES)) as engine,
        aclosing(engine.generate(asked(model, question))) as results,
    ):
        first = await anext(results)
    assert first.error is None
    assert first.info.finish_reason == generation_pb2.FINISH_REASON_END
    (text,) = first.pieces
    assert isinstance(text, str)
    (score,) = question.read(text).scores
    assert (score.dimension, score.score in range(4)) == ("clarity", True)
