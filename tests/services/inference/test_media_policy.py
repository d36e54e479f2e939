"""The media policy on its way from a request to the model, and what was lost on its way back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from omnialign.content import content
from omnialign.media import write_image
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaPolicy, Turn
from omnialign.v1 import content_pb2, critique_service_pb2, judge_service_pb2, record_pb2, refinement_service_pb2
from services.critique.servicer import Critic
from services.inference.config import EngineConfig
from services.inference.engine import Deliver, Engine, EngineRequest, EngineResult
from services.inference.item_loop import ItemLoop
from services.inference.media import MediaClient
from services.inference.models.key import open_feature_cache, shared_feature_cache
from services.inference.transformers.engine import open_transformers_engine
from services.judge.choices import Choices
from services.judge.judge import Judge
from services.judge.metrics import JudgeMetrics
from services.judge.ratings import Ratings
from services.judge.retries import Retries
from services.refinement.writer import Writer
from tests.services.inference.model_factory import requests

POLICY = MediaPolicy(frames_per_second=2.0, max_frames=8, max_pixels=1000, sample_rate_hz=16000, use_damaged=True)
PICTURE = write_image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
FEEDBACK = record_pb2.Feedback(critique="Good.", refinement="Better.")


class Listener(Engine):
    """An engine that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[EngineRequest] = []

    async def run(self, model: str, requests: Any, deliver: Deliver, *, deterministic: bool) -> None:
        self.asked += requests
        for request in requests:
            deliver(EngineResult(request.id, pieces=("fine",)))

    async def load(self, model: str) -> None:
        """Nothing to do."""

    async def unload(self, model: str) -> None:
        """Nothing to do."""


@pytest.mark.parametrize("policy", [NO_BOUNDS, POLICY])
@pytest.mark.parametrize(
    "rpc", ["generate", "refine", "critique", "score", "compare", "score_understanding", "score_generation", "choose"]
)
async def test_the_policy_of_a_request_reaches_the_engine(rpc: str, policy: MediaPolicy) -> None:
    listener = Listener()
    loop = ItemLoop(listener, MediaClient(None), max_new_tokens=8)  # type: ignore[arg-type]
    common = {"model": "m", "media_policy": policy.message()}
    words = {"id": "0", "prompt": content("x"), "response": content("y")}
    judged = critique_service_pb2.CritiqueItem(**words, subtask="t2t")
    writer, critic, judge = Writer(loop, temperature=1.0), Critic(loop), Judge(loop)
    asked = judge_service_pb2.UnderstandingItem(**words, references=[record_pb2.ReferenceAnswer(answer="z")])
    made = judge_service_pb2.GenerationItem(**words, modality=content_pb2.MODALITY_TEXT)
    retries = Retries(loop, JudgeMetrics(CollectorRegistry()))
    prompt = refinement_service_pb2.GenerateItem(id="0", prompt=content("x"))
    pair = judge_service_pb2.CompareItem(id="0", prompt=content("x"), baseline=content("y"), candidate=content("z"))
    choice = judge_service_pb2.QuestionItem(id="0", shown=content("x"), question="y?", choices=["a", "b"])
    answers = {
        "generate": lambda: writer.generate(refinement_service_pb2.GenerateRequest(items=[prompt], **common)),
        "refine": lambda: writer.refine(
            refinement_service_pb2.RefineRequest(
                items=[refinement_service_pb2.RefineItem(**words, feedback=FEEDBACK)], **common
            )
        ),
        "critique": lambda: critic.critique(critique_service_pb2.CritiqueRequest(items=[judged], **common)),
        "score": lambda: judge.score(judge_service_pb2.ScoreResponseRequest(items=[judged], **common)),
        "compare": lambda: judge.compare(judge_service_pb2.CompareResponsesRequest(items=[pair], **common)),
        "score_understanding": lambda: Ratings(retries).understanding(
            judge_service_pb2.ScoreUnderstandingRequest(items=[asked], **common)
        ),
        "score_generation": lambda: Ratings(retries).generation(
            judge_service_pb2.ScoreGenerationRequest(items=[made], **common)
        ),
        "choose": lambda: Choices(retries).answer(judge_service_pb2.AnswerQuestionsRequest(items=[choice], **common)),
    }[rpc]()
    assert [answer.id async for answer in answers] == ["0"]
    assert {request.policy for request in listener.asked} == {policy}


def seen(request: EngineRequest, data: bytes, policy: MediaPolicy) -> EngineRequest:
    turn = Turn("user", (f"look {request.id}", MediaBytes(content_pb2.MODALITY_IMAGE, data)))
    return replace(request, turns=(turn,), policy=policy)


async def test_damaged_media_fail_their_request_alone_or_are_used_in_part(model: str) -> None:
    plain = requests(model, ["a", "b", "c", "d"], max_new_tokens=2)
    half = PICTURE[: len(PICTURE) // 2]
    asked = [
        seen(plain[0], PICTURE, POLICY),
        seen(plain[1], half, POLICY),
        seen(plain[2], half, replace(POLICY, use_damaged=False)),
        seen(plain[3], b"no picture", POLICY),
    ]
    async with open_transformers_engine(EngineConfig(threads=1)) as engine:
        found = {result.id: result async for result in engine.generate(asked)}
    assert [found[name].error.reason if found[name].error else "" for name in "0123"] == [
        "", "", "MEDIA_DAMAGED", "MEDIA_UNDECODABLE",
    ]  # fmt: skip
    assert list(found["0"].info.media_losses) == []
    (loss,) = found["1"].info.media_losses
    assert (loss.sha256, loss.reason) == (asked[1].turns[0].pieces[1].sha256, "MEDIA_DAMAGED")
    assert loss.detail


async def test_media_are_decoded_once_for_all_requests_and_engines(tmp_path: Path, model: str) -> None:
    config = EngineConfig(threads=1, feature_cache=tmp_path / "features")
    plain = requests(model, ["a", "b", "c"], max_new_tokens=2)
    half = PICTURE[: len(PICTURE) // 2]
    losses = []
    for _ in range(2):
        async with open_transformers_engine(config) as engine:
            async for result in engine.generate([seen(request, half, POLICY) for request in plain]):
                losses += [loss.reason for loss in result.info.media_losses]
    counts = shared_feature_cache(tmp_path / "features", limit_bytes=config.feature_cache_bytes).counts
    assert (counts.misses, counts.hits) == (1, 5)
    assert losses == ["MEDIA_DAMAGED"] * 6  # what is kept says what it lacks
    (kept,) = (tmp_path / "features").glob("*/*")
    assert kept.stat().st_size < 1000


def test_what_the_cache_does_is_measured(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    config = EngineConfig(feature_cache=tmp_path)
    cache = open_feature_cache(config, registry)
    assert open_feature_cache(config, registry) is cache  # and nothing is counted twice
    for _ in range(3):
        cache.get("key", lambda: {"codes": np.arange(10)})
    value = registry.get_sample_value
    assert value("omnialign_feature_cache_lookups_total", {"outcome": "hit"}) == 2
    assert value("omnialign_feature_cache_lookups_total", {"outcome": "miss"}) == 1
    (kept,) = tmp_path.glob("*/*")
    assert value("omnialign_feature_cache_bytes") == kept.stat().st_size
    assert value("omnialign_feature_cache_io_bytes_total", {"direction": "written"}) == kept.stat().st_size
