"""Trainer and engine see the same: ids, features, positions and probabilities of one content are one for both.

The trainer's side goes by way of the file of examples, the run's folder of media and the collator; the engine's is what
its model is called with. `out/families/<family>.trainer.json` says what held.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaPolicy, Pieces, Turn
from omnialign.v1 import generation_pb2
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from services.inference.transformers.batch import Batch
from services.inference.transformers.engine import open_transformers_engine
from tests.model_factory.family import Family
from tests.training.multimodal import TRAINED, batch, medium
from training.batches import BESIDE_INPUTS
from training.fused_lm_head import add_head
from training.samples import Sample
from training.trainers.step_means import answer_log_probs
from training.tuning import load_model

OUT = Path(__file__).parents[2] / "out" / "families"
TOLERANCE = 2e-4
"""Most that a log-probability of the engine and one of the trainer may differ in float32."""
BOUNDED = MediaPolicy(
    frames_per_second=1.0, max_frames=2, max_pixels=56 * 56, sample_rate_hz=8000, max_audio_seconds=0.5
)
LITERALS = "Is <image> or <video> more than <|image_pad|>, <|video_pad|>, <|AUDIO|>, <|im_end|> or </s>?"


@dataclass
class Seen:
    """One call of the engine's model."""

    ids: torch.Tensor
    mask: torch.Tensor
    features: dict[str, torch.Tensor]
    log_probabilities: torch.Tensor


@pytest.fixture(params=list(TRAINED), scope="module")
def family(request: pytest.FixtureRequest) -> Family:
    return TRAINED[request.param]


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family.build(tmp_path_factory.mktemp(family.name) / "model")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """What the engine's model is called with while it reads prompts, and what it says of the next token."""
    seen: list[Seen] = []
    forward = Batch._forward

    def watched(self, cache, ids, mask, positions, features=None):
        logits = forward(self, cache, ids, mask, positions, features or {})
        if ids.shape[1] > 1:
            seen.append(Seen(ids, mask, dict(features or {}), logits.float().log_softmax(-1)))
        return logits

    monkeypatch.setattr(Batch, "_forward", watched)
    return seen


def contents(family: Family) -> Iterator[Sequence[tuple[Turn, ...]]]:
    """Conversations that are read as one batch each."""
    one = [medium(name, seed=2) for name in family.reads]
    yield [_asked("What is it?", *one), _asked("No media, and a longer question than the others have.")]
    yield [_asked(LITERALS, piece, "and", "this?") for piece in one or [""]]
    several = [medium(name, seed=seed) for name in family.reads if name != "video" for seed in (0, 1)]
    earlier = (Turn("user", ("Look:", *several)), Turn("assistant", ("I see.",)), Turn("user", (LITERALS, *one)))
    yield [earlier]
    yield [(Turn("system", ("Be brief. " + LITERALS,)), *earlier)]


def is_readable(adapter: Adapter, conversation: Sequence[Turn]) -> bool:
    """Whether a family has a place for the message of a system, if there is one."""
    try:
        adapter.encode(conversation)
    except InvalidArgument as error:
        assert conversation[0].role == "system"
        assert error.reason in ("ROLE_UNSUPPORTED", "CHAT_TEMPLATE_REFUSED")
        return False
    return True


def _asked(*pieces: str | MediaBytes) -> tuple[Turn, ...]:
    return (Turn("user", tuple(pieces)),)


def answer(family: Family) -> Pieces:
    """What is learnt: words, and a medium of each modality that the family writes."""
    return ("It is <image> so.", *(medium(name, seed=2) for name in family.writes))


async def engine_calls(folder: Path, turns: Sequence[tuple[Turn, ...]], policy: MediaPolicy, cache: Path) -> None:
    sampling = generation_pb2.SamplingParams(max_new_tokens=1)
    asked = [EngineRequest(str(i), f"file://{folder}", t, sampling, policy=policy) for i, t in enumerate(turns)]
    async with open_transformers_engine(EngineConfig(threads=1, feature_cache=cache)) as engine:
        found = [result async for result in engine.generate(asked, deterministic=True)]
    # An answer of one token may well be half a medium, but no prompt may be refused.
    assert {result.error.reason for result in found if result.error} <= {"ANSWER_MALFORMED"}


@pytest.mark.parametrize("policy", [NO_BOUNDS, BOUNDED], ids=["unbounded", "bounded"])
async def test_the_trainer_sees_what_the_engine_sees(
    family: Family, folder: Path, calls: list[Seen], tmp_path: Path, policy: MediaPolicy
):
    adapter = load_adapter(folder)
    model = load_model(folder).float().eval()
    add_head(model)
    for number, turns in enumerate(contents(family)):
        if not all(is_readable(adapter, conversation) for conversation in turns):
            continue
        calls.clear()
        await engine_calls(folder, turns, policy, tmp_path / "features")
        (seen,) = calls
        samples = [Sample(turn, (answer(family),)) for turn in turns]
        inputs = batch(adapter, samples, folder=tmp_path / str(number), policy=policy)
        with torch.no_grad():
            scored = answer_log_probs(model, inputs)
        assert inputs.keys() - {"input_ids", "attention_mask"} - BESIDE_INPUTS == seen.features.keys()
        for row in range(len(turns)):
            _assert_row(seen, inputs, scored, row)
        for name in seen.features.keys() - {"mm_token_type_ids"}:
            assert torch.equal(seen.features[name], inputs[name]), name
    if policy == BOUNDED:
        _record(family)


def _assert_row(seen: Seen, inputs: dict[str, torch.Tensor], scored: torch.Tensor, row: int) -> None:
    """The engine pads on the left, the trainer on the right, where the answer comes first."""
    prompt = seen.ids[row][seen.mask[row].bool()]
    learnt = inputs["completion_mask"][row].bool()
    assert torch.equal(inputs["input_ids"][row, : len(prompt)], prompt)
    assert int(learnt.nonzero()[0]) == len(prompt)
    if "mm_token_type_ids" in seen.features:
        kinds = seen.features["mm_token_type_ids"][row][seen.mask[row].bool()]
        assert torch.equal(inputs["mm_token_type_ids"][row, : len(prompt)], kinds)
        assert not inputs["mm_token_type_ids"][row, len(prompt) :].any()
    first = inputs["input_ids"][row, len(prompt)]
    expected = float(seen.log_probabilities[row, first])
    assert float(scored[row, len(prompt) - 1]) == pytest.approx(expected, abs=TOLERANCE)


def _record(family: Family) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    facts = {"family": family.name, "engine": "trainer", "reads": list(family.reads), "writes": list(family.writes)}
    (OUT / f"{family.name}.trainer.json").write_text(json.dumps({**facts, "passed": True}, indent=1) + "\n")
