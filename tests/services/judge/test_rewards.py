"""Rewards over real servers: those of the model, item by item, and no number where there is none."""

import shutil
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry
from safetensors.torch import save_file

from omnialign.content import content
from omnialign.errors import InvalidArgument, from_status
from omnialign.modeling import reward
from omnialign.modeling.adapters import encode_response, load_adapter
from omnialign.modeling.inputs import ModelInputs, Turn
from omnialign.modeling.model_folder import model_class
from omnialign.modeling.reward_folder import HEAD, WEIGHT, head_size
from omnialign.v1 import content_pb2, refinement_service_pb2
from omnialign.v1 import judge_service_pb2 as pb
from omnialign.v1.generation_pb2 import SamplingParams
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from services.inference.models.resolver import ModelResolver
from services.inference.transformers import rewards as module
from services.inference.vllm.engine import VllmEngine
from tests.services.inference import model_factory
from tests.services.inference.service_stack import serve_stack
from tests.services.inference.stub_endpoint import serve_stub

LOST = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256="0" * 64)
RESPONSES = ("red", "what is red and what is not", "go on", "")


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return model_factory.random_model(tmp_path_factory.mktemp("models") / "language")


@pytest.fixture(scope="module")
def folder(language_model, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("models") / "reward"
    shutil.copytree(language_model.removeprefix("file://"), made)
    hidden = reward.hidden_size(model_class(made).from_pretrained(made))
    reward.save_head(reward.new_head(hidden, seed=3).weight, made)
    return made


@pytest.fixture
async def client(tmp_path):
    async with serve_stack(tmp_path / "data") as stack:
        yield stack.client


def asked(model, *responses, prompt="what is red"):
    items = [
        pb.RewardItem(id=str(i), prompt=content(prompt), response=content(response))
        for i, response in enumerate(responses)
    ]
    return pb.ComputeRewardsRequest(model=model, items=items)


async def rewards(client, request):
    return {result.id: result async for result in client.compute_rewards(request)}


def by_hand(folder: Path, prompt: str, response: str) -> float:
    """w · h at the end token of one row without padding."""
    model = model_class(folder).from_pretrained(folder).float().eval()
    row = encode_response(load_adapter(folder), (Turn("user", (prompt,)),), (response,))
    with torch.no_grad():
        output = model(input_ids=torch.tensor([row.ids]), output_hidden_states=True)
    head = reward.load_head(folder, hidden_size=reward.hidden_size(model)).weight.detach()
    return float(output.hidden_states[-1][0, -1] @ head[0])


async def test_rewards_are_those_of_the_end_token_whatever_else_is_in_the_batch(client, folder):
    """Scores of position -1 were those of padding for all rows but the longest."""
    found = await rewards(client, asked(folder.as_uri(), *RESPONSES))
    for number, response in enumerate(RESPONSES):
        wanted = by_hand(folder, "what is red", response)
        assert found[str(number)].reward == pytest.approx(wanted, abs=1e-5)
        assert await client.reward(folder.as_uri(), "what is red", response) == pytest.approx(wanted, abs=1e-5)
    assert len({round(result.reward, 4) for result in found.values()}) == len(RESPONSES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_a_reward_that_is_no_number_is_an_error_of_its_item(client, folder, tmp_path, value):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weight = torch.zeros(1, head_size(broken))
    weight[0, 0] = value
    reward.save_head(weight, broken)
    (found,) = (await rewards(client, asked(broken.as_uri(), "red"))).values()
    assert from_status(found.error).reason == "REWARD_NOT_FINITE"
    assert from_status(found.error).metadata["reward"].removeprefix("-") == str(value)


async def test_an_item_that_cannot_be_read_or_is_too_long_harms_no_other(client, folder):
    request = asked(folder.as_uri(), "red", "red " * 600)
    request.items.add(id="lost", prompt=content("draw", LOST), response=content("red"))
    found = await rewards(client, request)
    assert found["0"].HasField("reward")
    assert from_status(found["1"].error).reason == "PROMPT_TOO_LONG"
    assert from_status(found["lost"].error).reason == "MEDIA_NOT_FOUND"


async def test_a_model_of_the_other_kind_is_refused_with_what_to_do(client, folder, language_model):
    with pytest.raises(InvalidArgument, match="name one that a training job") as refused:
        await rewards(client, asked(language_model, "red"))
    assert refused.value.reason == "MODEL_NOT_A_REWARD_MODEL"
    item = refinement_service_pb2.GenerateItem(id="a", prompt=content("draw"))
    request = refinement_service_pb2.GenerateRequest(model=folder.as_uri(), items=[item])
    with pytest.raises(InvalidArgument, match="name the model that it was trained from") as refused:
        [result async for result in client.generate(request)]
    assert refused.value.reason == "MODEL_IS_A_REWARD_MODEL"


async def test_an_endpoint_gives_no_rewards(tmp_path):
    async with serve_stub() as stub, serve_stack(tmp_path, openai_endpoints=(stub.base_url,)) as stack:
        with pytest.raises(InvalidArgument) as refused:
            await rewards(stack.client, asked(stub.model(), "red"))
    assert refused.value.reason == "REWARD_UNSUPPORTED"


async def test_vllm_refuses_reward_models_and_rewards_before_it_starts(folder):
    config = EngineConfig()
    engine = VllmEngine(config, ModelResolver.of(config, None), CollectorRegistry())
    request = EngineRequest("0", folder.as_uri(), (Turn("user", ("a",)),), SamplingParams(), answer=("b",))
    with pytest.raises(InvalidArgument) as refused:
        [result async for result in engine.generate([request])]
    assert refused.value.reason == "REWARD_UNSUPPORTED"
    with pytest.raises(InvalidArgument) as refused:
        await engine.load(folder.as_uri())
    assert refused.value.reason == "MODEL_IS_A_REWARD_MODEL"
    await engine.close()


async def test_a_head_of_another_model_is_refused(client, folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    reward.save_head(torch.zeros(1, 7), other)
    with pytest.raises(Exception, match="hidden states of 7 numbers") as refused:
        await rewards(client, asked(other.as_uri(), "red"))
    assert refused.value.reason == "REWARD_HEAD_INVALID"
    version = await client.register_model("reward", folder.as_uri())
    assert version.reward_model
    save_file({WEIGHT: torch.zeros(2, 7)}, other / HEAD)
    with pytest.raises(InvalidArgument) as refused:
        await client.register_model("other", other.as_uri())
    assert refused.value.reason == "REWARD_HEAD_INVALID"


@pytest.fixture
def sizes(monkeypatch) -> list[int]:
    """The rows of each batch, of which none has memory for more than two."""
    forward, found = module.rewards_of, []

    def small_batches_only(loaded, rows):
        found.append(len(rows))
        if len(rows) > 2:
            raise MemoryError
        return forward(loaded, rows)

    monkeypatch.setattr(module, "rewards_of", small_batches_only)
    return found


async def test_a_batch_that_runs_out_of_memory_starts_over_in_halves(client, folder, sizes):
    found = await rewards(client, asked(folder.as_uri(), *(f"go {i}" for i in range(5))))
    assert sizes == [5, 2, 3, 1, 2]
    assert all(result.HasField("reward") for result in found.values())


async def test_a_deterministic_batch_that_runs_out_of_memory_is_not_computed_in_another_way(client, folder, sizes):
    request = asked(folder.as_uri(), *(f"go {i}" for i in range(5)))
    request.deterministic = True
    found = await rewards(client, request)
    assert sizes == [5]
    assert {from_status(result.error).reason for result in found.values()} == {"DEVICE_OUT_OF_MEMORY"}


def test_batches_hold_similar_lengths_within_their_tokens():
    rows = [ModelInputs([0] * length) for length in (9, 2, 40, 3, 10, 100)]
    assert list(module.batches_of(rows, max_tokens=30)) == [[1, 3, 0], [4], [2], [5]]
