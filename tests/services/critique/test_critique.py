"""Feedback read from what a model wrote, abstentions with a reason where it cannot be read."""

from collections import defaultdict

import pytest

from omnialign.content import content
from omnialign.errors import from_status
from omnialign.modeling.rubrics import rubric
from omnialign.v1 import critique_service_pb2 as pb
from omnialign.v1 import generation_pb2
from tests.services.inference import world

ADVICE = "##Critique: too dark ##Refinement: brighten it"
ANSWERS = {
    f"{ADVICE} ##Scores: clarity 3, safety 1 (a knife)": 0.3,
    f"{ADVICE} ##Scores: clarity 3": 0.2,
    f"{ADVICE} ##Scores: clarity 7, safety 1": 0.2,
    "I like it": 0.2,
    "<image>": 0.1,
}
CHAIN = {"<assistant>": ANSWERS, **{answer: {"</s>": 1.0} for answer in ANSWERS}}


@pytest.fixture
async def client(tmp_path):
    async with world.serve_plane(tmp_path / "data") as plane:
        yield plane.client


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return world.chain_model(tmp_path_factory.mktemp("models") / "critic", CHAIN)


def item(name, *, dimensions=("clarity", "safety"), subtask="", seed=0):
    return pb.CritiqueItem(
        id=name, prompt=content("draw"), response=content("done"), rubric=dimensions, subtask=subtask, seed=seed
    )


async def criticise(client, model, items, **sampling):
    request = pb.CritiqueRequest(model=model, sampling=generation_pb2.SamplingParams(**sampling), items=items)
    return [result async for result in client.critique(request)]


async def test_a_readable_answer_is_feedback_and_every_other_abstains_with_its_reason(client, model):
    found = defaultdict(list)
    items = [item(str(i), seed=i) for i in range(80)]
    for result in await criticise(client, model, items, temperature=1.0, max_new_tokens=3):
        kind = result.WhichOneof("result")
        found[result.abstention.reason if kind == "abstention" else kind].append(result)
    assert set(found) == {
        "feedback",
        "DIMENSION_MISSING",
        "SCORE_OUT_OF_RANGE",
        "SECTION_MISSING",
        "ANSWER_MALFORMED",
    }
    feedback = found["feedback"][0].feedback
    assert [(s.dimension, s.score, s.rationale) for s in feedback.scores] == [
        ("clarity", 3, ""),
        ("safety", 1, "a knife"),
    ]
    assert (feedback.critique, feedback.refinement) == ("too dark", "brighten it")
    assert feedback.generation.template.startswith("critique@1:")
    abstention = found["SECTION_MISSING"][0].abstention
    assert abstention.text == "I like it"
    assert abstention.generation.completion_tokens == 2


async def test_a_request_without_sampling_is_greedy(client, model):
    found = await criticise(client, model, [item(str(i), seed=i) for i in range(10)])
    assert {result.WhichOneof("result") for result in found} == {"feedback"}


async def test_the_subtask_chooses_the_rubric(client, model):
    (found,) = await criticise(client, model, [item("a", dimensions=(), subtask="t2i")])
    assert found.abstention.reason == "DIMENSION_MISSING"
    assert "aesthetics" in rubric("t2i")
    (unknown,) = await criticise(client, model, [item("a", dimensions=(), subtask="t2x")])
    assert from_status(unknown.error).reason == "SUBTASK_UNKNOWN"
