"""Feedback read from what a model wrote, abstentions with a reason where it cannot be read."""

import json
from collections import defaultdict

import pytest

from omnialign.content import content
from omnialign.errors import InvalidArgument, from_status
from omnialign.rubrics import rubric
from omnialign.v1 import critique_service_pb2 as pb
from omnialign.v1 import generation_pb2
from tests.services.inference import model_factory
from tests.services.inference.service_stack import serve_stack
from tests.services.inference.stub_endpoint import chat, obeying, says, serve_stub

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
    async with serve_stack(tmp_path / "data") as plane:
        yield plane.client


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_factory.chain_model(tmp_path_factory.mktemp("models") / "critic", CHAIN)


def item(name, *, dimensions=("clarity", "safety"), subtask="", seed=0):
    return pb.CritiqueItem(
        id=name, prompt=content("draw"), response=content("done"), rubric=dimensions, subtask=subtask, seed=seed
    )


async def criticise(client, model, items, *, form="UNSPECIFIED", **sampling):
    request = pb.CritiqueRequest(
        model=model,
        sampling=generation_pb2.SamplingParams(**sampling),
        items=items,
        answer_form=f"ANSWER_FORM_{form}",
    )
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
    assert found.abstention.reason == "ANSWER_UNPARSABLE"  # it scores other dimensions than the rubric's
    assert "aesthetics" in rubric("t2i")
    (unknown,) = await criticise(client, model, [item("a", dimensions=(), subtask="t2x")])
    assert from_status(unknown.error).reason == "SUBTASK_UNKNOWN"


@pytest.fixture
async def stub():
    async with serve_stub() as stub:
        yield stub


@pytest.fixture
async def chatting(tmp_path, stub):
    """A client of services that may ask the endpoint."""
    async with serve_stack(tmp_path / "data", openai_endpoints=(stub.base_url,)) as plane:
        yield plane.client


async def test_a_general_model_behind_a_chat_gives_feedback_though_nothing_says_in_which_form(chatting, stub):
    stub.default = obeying("too dark", "brighten it", "sharp", "a knife")
    (found,) = await criticise(chatting, stub.model(), [item("a")])
    assert (found.feedback.critique, found.feedback.refinement) == ("too dark", "brighten it")
    assert [(s.dimension, s.score, s.rationale) for s in found.feedback.scores] == [
        ("clarity", 3, "sharp"),
        ("safety", 3, "a knife"),
    ]
    assert found.feedback.generation.template.startswith("critique_json@1:")
    (message,) = stub.asked[0]["messages"]
    assert "clarity, safety" in message["content"]
    assert '"refinement"' in message["content"]


async def test_what_a_general_model_writes_out_of_form_abstains_with_its_reason(chatting, stub):
    unknown = {"critique": "a", "refinement": "b", "scores": {"clarity": {"rationale": "", "score": 9}}}
    stub.acts += [says(chat("##Critique: too dark")), says(chat(json.dumps(unknown)))]
    found = [(await criticise(chatting, stub.model(), [item("a", dimensions=["clarity"])]))[0] for _ in range(2)]
    assert [result.abstention.reason for result in found] == ["ANSWER_NOT_JSON", "SCORE_OUT_OF_RANGE"]
    assert found[0].abstention.text == "##Critique: too dark"


async def test_a_model_behind_a_chat_may_have_learnt_sections(chatting, stub):
    stub.default = says(chat(f"{ADVICE} ##Scores: clarity 3, safety 1"))
    (found,) = await criticise(chatting, stub.model(), [item("a")], form="SECTIONS")
    assert found.feedback.critique == "too dark"
    assert found.feedback.generation.template.startswith("critique@1:")
    assert "response_format" not in stub.asked[0]


async def test_a_model_of_our_own_engine_may_be_asked_for_json(client, tmp_path):
    answer = '{"critique":"dark","refinement":"brighten","scores":{"clarity":{"rationale":"","score":2}}}'
    chain = {"<assistant>": {answer: 1.0}, answer: {"</s>": 1.0}}
    general = model_factory.chain_model(tmp_path / "general", chain)
    (found,) = await criticise(client, general, [item("a", dimensions=["clarity"])], form="JSON")
    assert [(s.dimension, s.score) for s in found.feedback.scores] == [("clarity", 2)]


async def test_a_form_that_is_not_known_is_refused(client, model):
    with pytest.raises(InvalidArgument):
        await client.critique(pb.CritiqueRequest(model=model, items=[item("a")], answer_form=7)).__anext__()
