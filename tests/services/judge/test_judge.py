"""Comparisons in both orders and scores, over real servers with a model whose answers are known."""

import json
import math
from collections import Counter

import pytest
from aiohttp import web

from omnialign.content import content
from omnialign.v1 import critique_service_pb2, generation_pb2, record_pb2
from omnialign.v1 import judge_service_pb2 as pb
from services.inference.item_loop import derived_seed
from tests.services.inference import model_factory
from tests.services.inference.service_stack import serve_stack
from tests.services.inference.stub_endpoint import chat, obeying, says, serve_stub

ANSWERS = {
    "##Reason: says 1 ##Preferred: 1": 0.4,
    "##Reason: says 2 ##Preferred: 2": 0.4,
    "##Reason: says equal ##Preferred: equal": 0.1,
    "no idea": 0.1,
}
CHAIN = {"<assistant>": ANSWERS, **{answer: {"</s>": 1.0} for answer in ANSWERS}}
EXPECTED = {
    ("says 2", "says 1"): record_pb2.VERDICT_WIN,
    ("says 1", "says 2"): record_pb2.VERDICT_LOSS,
}


@pytest.fixture
async def plane(tmp_path):
    async with serve_stack(tmp_path / "data") as found:
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_factory.chain_model(tmp_path_factory.mktemp("models") / "judge", CHAIN)


async def compare(plane, model, items, *, with_margins=False, **sampling):
    request = pb.CompareResponsesRequest(
        model=model, sampling=generation_pb2.SamplingParams(**sampling), items=items, with_margins=with_margins
    )
    return {result.id: result.comparison async for result in plane.client.compare_responses(request)}


def pair(name, *, candidate="new", seed=0):
    prompt, baseline = content("draw"), content("old")
    return pb.CompareItem(id=name, prompt=prompt, baseline=baseline, candidate=content(candidate), seed=seed)


async def test_both_orders_make_the_verdict(plane, model):
    found = await compare(plane, model, [pair(str(i), seed=i) for i in range(100)], temperature=1.0)
    for comparison in found.values():
        reasons = (comparison.forward_reason, comparison.backward_reason)
        unread = "no idea" in reasons
        fallback = record_pb2.VERDICT_ABSTAIN if unread else record_pb2.VERDICT_TIE
        assert comparison.verdict == EXPECTED.get(reasons, fallback)
        assert comparison.abstain_reason == ("SECTION_MISSING" if unread else "")
    assert set(Counter(c.verdict for c in found.values())) == {1, 2, 3, 4}
    assert len({(c.forward_reason, c.backward_reason) for c in found.values()}) > 10  # two streams, not one


async def test_each_order_has_its_own_random_stream_and_lineage(plane, model):
    (comparison,) = (await compare(plane, model, [pair("a", seed=7)], temperature=1.0)).values()
    assert comparison.forward_generation.seed == 7
    assert comparison.backward_generation.seed == derived_seed(7, purpose="backward") != 7
    assert comparison.forward_generation.template.startswith("comparison@1:")
    assert comparison.forward_generation.prompt_tokens == comparison.backward_generation.prompt_tokens


async def test_a_greedy_judge_that_likes_a_place_ties(plane, model):
    (comparison,) = (await compare(plane, model, [pair("a")])).values()
    assert comparison.forward_reason == comparison.backward_reason
    assert comparison.verdict == record_pb2.VERDICT_TIE
    said = {comparison.forward_verdict, comparison.backward_verdict}
    assert said == {record_pb2.VERDICT_WIN, record_pb2.VERDICT_LOSS}


async def test_identical_responses_tie_without_asking(plane, model):
    found = await compare(plane, model, [pair("same", candidate="old"), pair("other")])
    assert found["same"].verdict == record_pb2.VERDICT_TIE
    assert found["same"].forward_reason == "The two responses are identical."
    assert not found["same"].HasField("forward_generation")
    asked = plane.server.registry.get_sample_value("omnialign_engine_requests_total", {"outcome": "end"})
    assert asked == 2


async def test_scores_are_read_or_abstained(plane, model, tmp_path):
    answers = {"##Scores: clarity 2 (blurred)": 0.5, "two of three": 0.5}
    chain = {"<assistant>": answers, **{answer: {"</s>": 1.0} for answer in answers}}
    scorer = model_factory.chain_model(tmp_path / "scorer", chain)
    items = [
        critique_service_pb2.CritiqueItem(
            id=str(i), prompt=content("draw"), response=content("done"), rubric=["clarity"], seed=i
        )
        for i in range(20)
    ]
    sampling = generation_pb2.SamplingParams(temperature=1.0)
    request = pb.ScoreResponseRequest(model=scorer, sampling=sampling, items=items)
    found = [result async for result in plane.client.score_responses(request)]
    scored = [result.feedback for result in found if result.HasField("feedback")]
    abstained = [result.abstention for result in found if result.HasField("abstention")]
    assert {(s.dimension, s.score, s.rationale) for f in scored for s in f.scores} == {("clarity", 2, "blurred")}
    assert {(a.reason, a.text) for a in abstained} == {("SECTION_MISSING", "two of three")}
    assert len(scored) + len(abstained) == 20


async def test_margins_are_the_log_odds_of_the_verdicts_after_the_reason(plane, tmp_path):
    """The verdict is a token of its own, which the judge writes after its reason."""
    chain = {
        "<assistant>": {"##Reason: it is ##Preferred:": 1.0},
        "##Reason: it is ##Preferred:": {" 1": 0.7, " 2": 0.2, " equal": 0.1},
        **{verdict: {"</s>": 1.0} for verdict in (" 1", " 2", " equal")},
    }
    judge = model_factory.chain_model(tmp_path / "margins", chain)
    items = [pair("a"), pair("same", candidate="old")]
    for deterministic in (False, True):
        found = await compare(plane, judge, items, with_margins=True, deterministic=deterministic)
        odds = math.log(0.7 / 0.2)  # it likes what is shown first: the baseline, then the candidate
        assert found["a"].forward_margin == pytest.approx(-odds, abs=1e-4)
        assert found["a"].backward_margin == pytest.approx(odds, abs=1e-4)
        assert found["a"].verdict == record_pb2.VERDICT_TIE
        assert found["a"].forward_reason == "it is"
        assert not found["same"].HasField("forward_margin")  # nobody was asked


async def test_an_answer_that_cannot_be_read_has_no_margins(plane, model):
    items = [pair(str(i), seed=i) for i in range(40)]
    found = (await compare(plane, model, items, with_margins=True, temperature=1.0)).values()
    assert {c.HasField("forward_margin") for c in found if c.verdict == record_pb2.VERDICT_ABSTAIN} == {False}
    assert {c.HasField("backward_margin") for c in found if c.verdict != record_pb2.VERDICT_ABSTAIN} == {True}
    assert len(found) == 40


async def test_margins_are_computed_only_when_asked_for(plane, model):
    (comparison,) = (await compare(plane, model, [pair("a")])).values()
    assert not comparison.HasField("forward_margin")
    asked = plane.server.registry.get_sample_value("omnialign_engine_requests_total", {"outcome": "end"})
    assert asked == 2


@pytest.fixture
async def stub():
    async with serve_stub() as stub:
        yield stub


@pytest.fixture
async def chatting(tmp_path, stub):
    """The services, which may ask the endpoint."""
    async with serve_stack(tmp_path / "data", openai_endpoints=(stub.base_url,)) as found:
        yield found


async def prefer_new(request):
    """A general model that prefers what is new, and says where it stood."""
    asked = json.loads(await request.read())
    assert asked["response_format"]["json_schema"]["schema"]["properties"]["preferred"]["enum"][0] == "first"
    preferred = "first" if "##First response: new" in asked["messages"][0]["content"] else "second"
    return web.json_response(chat(json.dumps({"reason": f"the {preferred} is new", "preferred": preferred})))


async def test_a_general_model_behind_a_chat_decides_though_nothing_says_in_which_form(chatting, stub):
    stub.default = prefer_new
    (comparison,) = (await compare(chatting, stub.model(), [pair("a", seed=3)])).values()
    assert comparison.verdict == record_pb2.VERDICT_WIN
    assert (comparison.forward_reason, comparison.backward_reason) == ("the second is new", "the first is new")
    assert comparison.forward_generation.template.startswith("comparison_json@1:")
    assert comparison.backward_generation.template == comparison.forward_generation.template


async def test_behind_an_endpoint_the_words_decide_without_margins(chatting, stub):
    stub.default = prefer_new
    (comparison,) = (await compare(chatting, stub.model(), [pair("a", seed=3)], with_margins=True)).values()
    assert comparison.verdict == record_pb2.VERDICT_WIN
    assert not comparison.HasField("forward_margin")
    assert not comparison.HasField("backward_margin")


async def test_a_general_model_that_does_not_write_the_form_abstains_with_its_words(chatting, stub):
    stub.acts += [says(chat("The second.")), says(chat('{"reason": "a", "preferred": "2"}'))]
    (comparison,) = (await compare(chatting, stub.model(), [pair("a")])).values()
    assert comparison.verdict == record_pb2.VERDICT_ABSTAIN
    assert comparison.abstain_reason in ("ANSWER_NOT_JSON", "VERDICT_INVALID")
    assert "The second." in (comparison.forward_reason, comparison.backward_reason)


async def test_a_general_model_behind_a_chat_scores(chatting, stub):
    stub.default = obeying("blurred")
    item = critique_service_pb2.CritiqueItem(
        id="a", prompt=content("draw"), response=content("done"), rubric=["clarity"]
    )
    request = pb.ScoreResponseRequest(model=stub.model(), items=[item])
    (found,) = [result async for result in chatting.client.score_responses(request)]
    assert [(s.dimension, s.score, s.rationale) for s in found.feedback.scores] == [("clarity", 3, "blurred")]
    assert found.feedback.generation.template.startswith("score_json@1:")
