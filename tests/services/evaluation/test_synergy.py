"""How well the modalities of an answer go together, and how far the judge of that can be trusted."""

import json
from typing import Any

import pytest

from omnialign.content import content
from omnialign.errors import InvalidArgument, NotFound
from omnialign.modeling.reward_folder import HEAD
from omnialign.v1 import content_pb2, evaluation_service_pb2, record_pb2
from services.evaluation.benchmarks.synergy import pairs_of
from tests.evaluation_stack import Benchmark, Evaluation, EvaluationStack, Spec

Judge = evaluation_service_pb2.BenchmarkJudge


async def synergy(stack: EvaluationStack, *, pairs: str = "", judge: str = "", **fields: Any) -> Spec:
    """Open prompts, and four annotated pairs. Null rewards are lengths, and people liked the longer answer thrice."""
    if not judge:
        folder = stack.root / "reward"
        folder.mkdir(exist_ok=True)
        (folder / HEAD).touch()  # what tells a reward model from others
        judge = folder.as_uri()
    if not pairs:
        records = []
        for number in range(4):
            record = record_pb2.Record(id=f"pair-{number}", subtask="t2tia", split="held", prompt=content("Show it"))
            record.responses.add(content=content("short"))
            record.responses.add(content=content("a longer answer"))
            record.preference.preferred = 1 if number == 0 else 2
            records.append(record)
        pairs = await stack.store("pairs", records)
    benchmark = Benchmark(
        name="synergy", dataset=await stack.checkable(), judges=[Judge(model=judge)], annotated_pairs=pairs, **fields
    )
    return Spec(models=[await stack.register_model()], benchmarks=[benchmark], seed=7)


async def test_a_report_says_how_often_the_judge_chooses_as_people_did(stack: EvaluationStack) -> None:
    done = await stack.run(await synergy(stack, annotated_split="held"))
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    (told,) = [score for score in done.scores if (score.benchmark, score.measure) == ("synergy", "agreement")]
    assert (told.value, told.judged, told.abstained, told.failed) == (pytest.approx(3 / 4), 4, 0, 0)
    assert told.low <= told.value <= told.high
    assert told.judge == done.manifest.benchmarks[0].benchmark.judges[0].model
    report = json.loads(await stack.evaluation.get_evaluation_report(done.name))
    (number,) = [s for s in report["scores"] if (s["benchmark"], s["measure"]) == ("synergy", "agreement")]
    assert (number["value"], number["judged"]) == (pytest.approx(3 / 4), 4)
    format_html = evaluation_service_pb2.GetEvaluationReportRequest.FORMAT_HTML
    page = (await stack.evaluation.get_evaluation_report(done.name, format_html)).decode()
    assert "chooses as people did in 0.750 of 4 annotated pairs" in page


async def test_the_pairs_are_part_of_the_manifest_and_judged_once(stack: EvaluationStack) -> None:
    spec = await synergy(stack, annotated_split="held")
    spec.benchmarks.append(spec.benchmarks[0])
    found = await stack.evaluation.create_evaluation("", spec, validate_only=True)
    assert [identity.benchmark.name for identity in found.manifest.benchmarks] == ["synergy", "synergy", "preference"]
    assert found.manifest.benchmarks[2].items == 4
    assert list(found.spec.benchmarks) == list(spec.benchmarks)


async def test_a_judge_of_synergy_without_annotated_pairs_is_refused(stack: EvaluationStack) -> None:
    spec = await synergy(stack)
    spec.benchmarks[0].annotated_pairs = ""
    with pytest.raises(InvalidArgument, match="synergy needs annotated_pairs") as caught:
        await stack.evaluation.create_evaluation("", spec)
    assert caught.value.reason == "BENCHMARK_FIELD_MISSING"
    spec.benchmarks[0].annotated_pairs = "projects/default/datasets/gone"
    with pytest.raises(NotFound, match="gone"):
        await stack.evaluation.create_evaluation("", spec)


async def test_synergy_needs_a_reward_model(stack: EvaluationStack) -> None:
    spec = await synergy(stack, judge=await stack.register_model("judge"))
    with pytest.raises(InvalidArgument) as caught:
        await stack.evaluation.create_evaluation("", spec)
    assert caught.value.reason == "JUDGE_UNFIT"


def test_each_two_modalities_of_an_answer_are_judged_together() -> None:
    def medium(modality: int) -> content_pb2.Part:
        return content_pb2.Part(media=content_pb2.Media(modality=modality, sha256="0" * 64))

    message = content_pb2.Content(
        parts=[
            content_pb2.Part(text="Look:"),
            medium(content_pb2.MODALITY_IMAGE),
            medium(content_pb2.MODALITY_AUDIO),
        ]
    )
    found = {pair: len(shown.parts) for pair, shown in pairs_of(message)}
    assert found == {"ti": 2, "ta": 2, "ia": 2}
    assert list(pairs_of(content("Words alone."))) == []
