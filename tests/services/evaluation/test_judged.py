"""Benchmarks that judges score: pairs of models, and annotated pairs."""

import math
from typing import Any

import pytest

from benchmarks.null_services import malformed
from omnialign.content import content
from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.modeling.reward_folder import HEAD
from omnialign.v1 import evaluation_service_pb2, record_pb2
from tests.evaluation_stack import Benchmark, Evaluation, EvaluationStack, Spec, score_of

Judge = evaluation_service_pb2.BenchmarkJudge
WIN, TIE, LOSS, ABSTAIN = (
    record_pb2.VERDICT_WIN,
    record_pb2.VERDICT_TIE,
    record_pb2.VERDICT_LOSS,
    record_pb2.VERDICT_ABSTAIN,
)


async def pairwise(stack: EvaluationStack, *models: str, **fields: Any) -> Spec:
    """Models compared by a judge on six items."""
    names = [await stack.register_model(name) for name in models]
    judge = Judge(model=await stack.register_model("judge"))
    benchmark = Benchmark(name="pairwise", dataset=await stack.checkable(), judges=[judge], **fields)
    return Spec(models=names, benchmarks=[benchmark], chunk_size=4, seed=7)


async def annotated(stack: EvaluationStack, judge: str) -> Spec:
    """Four annotated pairs; people prefer the second answer of the even ones."""
    records = []
    for number in range(4):
        record = record_pb2.Record(id=f"pair-{number}", subtask="t2t", split="test", prompt=content("Say something"))
        record.responses.add(content=content("short"))
        record.responses.add(content=content("a longer answer"))
        record.preference.preferred = 2 - number % 2
        records.append(record)
    records.append(record_pb2.Record(id="alone", subtask="t2t", split="test", prompt=content("Say something")))
    dataset = await stack.store("pairs", records)
    return Spec(benchmarks=[Benchmark(name="preference", dataset=dataset, judges=[Judge(model=judge)])], chunk_size=4)


def verdicts(*found: Any) -> Any:
    """A judge that gives these verdicts, or margins, to the items in turn."""
    return lambda record_id: found[int(record_id.split(".")[0].rpartition("-")[2]) % len(found)]


async def test_a_win_rate_counts_ties_half_and_leaves_abstentions_out(stack: EvaluationStack) -> None:
    stack.behaviour.verdict = verdicts(WIN, WIN, TIE, LOSS, ABSTAIN, WIN)
    done = await stack.run(await pairwise(stack, "base", "tuned"))
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    rate = score_of(done, "win_rate")
    assert (rate.value, rate.judged, rate.abstained, rate.failed) == (pytest.approx(3.5 / 5), 5, 1, 0)
    assert rate.model.split("/")[3] == "tuned"
    assert rate.baseline.split("/")[3] == "base"
    assert score_of(done, "tie").value == pytest.approx(1 / 5)


async def test_three_models_are_compared_each_with_each_or_with_a_baseline(stack: EvaluationStack) -> None:
    spec = await pairwise(stack, "one", "two", "three")
    whole = await stack.run(spec)
    assert len([s for s in whole.scores if s.measure == "win_rate" and not s.group]) == 3
    spec.benchmarks[0].baseline = spec.models[1]
    against = await stack.run(spec, "second")
    pairs = {(s.model, s.baseline) for s in against.scores if s.measure == "win_rate"}
    assert pairs == {(spec.models[0], spec.models[1]), (spec.models[2], spec.models[1])}


async def test_an_empty_answer_loses_and_the_judge_is_not_asked(stack: EvaluationStack) -> None:
    stack.behaviour.faults = lambda rpc, record_id: malformed() if record_id.endswith(".pairwise.2") else None
    done = await stack.run(await pairwise(stack, "base", "tuned"))
    assert score_of(done, "loss").value == 1
    assert not [record_id for rpc, record_id in stack.behaviour.asked if rpc == "CompareResponses"]


async def test_a_judge_that_abstains_on_everything_ends_the_evaluation(stack: EvaluationStack) -> None:
    stack.behaviour.verdict = verdicts(ABSTAIN)
    done = await stack.run(await pairwise(stack, "base", "tuned"))
    assert done.state == Evaluation.STATE_FAILED
    assert "scored no item of pairwise" in done.error.message
    assert "6 abstained" in done.error.message


async def test_a_judge_is_as_accurate_as_it_agrees_with_people(stack: EvaluationStack) -> None:
    stack.behaviour.verdict = verdicts(WIN, WIN, TIE, ABSTAIN)  # right, wrong, undecided, none
    done = await stack.run(await annotated(stack, await stack.register_model("judge")))
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    accuracy = score_of(done, "accuracy")
    assert (accuracy.value, accuracy.judged, accuracy.abstained) == (pytest.approx(0.5), 3, 1)
    assert score_of(done, "undecided").value == pytest.approx(1 / 3)
    assert done.preflight.dropped == {"RESPONSES_MISSING": 1}
    assert next(s for s in done.stages if s.stage == "answer").completed == 0


async def test_a_judge_whose_margins_disagree_flips_with_the_order(stack: EvaluationStack) -> None:
    stack.behaviour.margins = verdicts((2.0, 2.0), (2.0, -2.0), None, (-1.0, -3.0))
    done = await stack.run(await annotated(stack, await stack.register_model("judge")))
    flips, confidence = score_of(done, "order_flip"), score_of(done, "confidence")
    assert (flips.value, flips.judged) == (pytest.approx(1 / 4), 4)  # of the one without margins, by its words
    sure = 1 / (1 + math.exp(-2.0))  # two nats for what people preferred, twice; nothing once
    assert confidence.value == pytest.approx((2 * sure + 0.5) / 3)


async def test_a_judge_without_log_probabilities_flips_by_its_words(stack: EvaluationStack) -> None:
    stack.behaviour.verdict = verdicts(TIE, TIE, WIN, ABSTAIN)
    stack.behaviour.orders = verdicts((WIN, LOSS), (TIE, WIN), (WIN, WIN), (WIN, ABSTAIN))
    done = await stack.run(await annotated(stack, await stack.register_model("judge")))
    flips = score_of(done, "order_flip")
    assert (flips.value, flips.judged, flips.abstained) == (pytest.approx(1 / 3), 3, 1)
    assert not [score for score in done.scores if score.measure in ("confidence", "calibration_error")]


async def test_a_reward_model_is_right_where_it_rewards_the_preferred_answer_more(stack: EvaluationStack) -> None:
    folder = stack.root / "reward"
    folder.mkdir()
    (folder / HEAD).touch()  # what tells a reward model from others
    done = await stack.run(await annotated(stack, folder.as_uri()))
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert done.manifest.benchmarks[0].judges[0].reward_model
    assert score_of(done, "accuracy").value == pytest.approx(0.5)  # null rewards are lengths, and people liked both
    margin = len("a longer answer") - len("short")
    likely = 1 / (1 + math.exp(-margin))
    assert score_of(done, "confidence").value == pytest.approx(0.5)
    assert score_of(done, "calibration_error").value == pytest.approx(likely - 0.5)
    assert score_of(done, "calibration_error", group="t2t").value == pytest.approx(likely - 0.5)


async def test_a_spec_of_pairs_needs_two_models_and_a_judge_and_a_known_baseline(stack: EvaluationStack) -> None:
    spec = await pairwise(stack, "base")
    with pytest.raises(InvalidArgument) as caught:
        await stack.evaluation.create_evaluation("", spec)
    assert caught.value.reason == "MODELS_MISSING"
    spec.models.append(await stack.register_model("tuned"))
    spec.benchmarks[0].baseline = spec.benchmarks[0].judges[0].model
    with pytest.raises(InvalidArgument) as caught:
        await stack.evaluation.create_evaluation("", spec)
    assert caught.value.reason == "BASELINE_UNKNOWN"


async def test_two_models_are_compared_item_by_item_and_unlike_evaluations_are_not(stack: EvaluationStack) -> None:
    spec = await stack.checkers_spec(await stack.register_model("one"), await stack.register_model("two"))
    first = await stack.run(spec)
    within = await stack.evaluation.compare_evaluations(first.name, baseline_model=spec.models[0])
    found = {(c.measure, c.group): c for c in within.comparisons}
    assert found["correct", ""].items == 6
    assert (found["correct", ""].low, found["correct", ""].p_value) == (0, 1)
    spec.seed = 8
    second = await stack.run(spec, "second")
    chosen = {"model": spec.models[0], "baseline_model": spec.models[0]}
    with pytest.raises(FailedPrecondition) as caught:
        await stack.evaluation.compare_evaluations(second.name, baseline=first.name, **chosen)
    assert (caught.value.reason, caught.value.metadata["fields"]) == ("MANIFESTS_UNLIKE", "seed")
    allowed = await stack.evaluation.compare_evaluations(second.name, baseline=first.name, allow_unlike=True, **chosen)
    assert list(allowed.unlike) == ["seed"]
    with pytest.raises(InvalidArgument) as unclear:
        await stack.evaluation.compare_evaluations(second.name)
    assert unclear.value.reason == "MODEL_UNCLEAR"
