"""The benchmarks of eval-anything: understanding, instruction following, selection, synergy, and what they make."""

import io
from typing import Any

import pytest
from PIL import Image

from benchmarks.null_services import malformed
from omnialign.content import content
from omnialign.errors import FailedPrecondition
from omnialign.v1 import content_pb2, evaluation_service_pb2, record_pb2
from tests.evaluation_stack import Benchmark, Evaluation, EvaluationStack, Spec, score_of

Judge = evaluation_service_pb2.BenchmarkJudge
HTML = evaluation_service_pb2.GetEvaluationReportRequest.FORMAT_HTML
CATEGORIES = ("perception", "reasoning", "instruction_following", "safety")


async def picture(stack: EvaluationStack) -> content_pb2.Media:
    """A stored picture."""
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    return await stack.client.upload_media(data.getvalue(), modality=content_pb2.MODALITY_IMAGE)


async def understanding(stack: EvaluationStack, **fields: Any) -> Spec:
    """Two questions about a picture in each category."""
    medium = await picture(stack)
    records = []
    for number, category in enumerate(CATEGORIES * 2):
        prompt = content(medium, f"What is it? {number}")
        record = record_pb2.Record(id=f"q-{number}", subtask="ti2t", split="test", prompt=prompt)
        record.benchmark_item.category = category
        record.benchmark_item.references.add(answer="A square.")
        records.append(record)
    records.append(record_pb2.Record(id="bare", subtask="ti2t", split="test", prompt=content("What?")))
    dataset = await stack.store("questions", records)
    judge = Judge(model=await stack.register_model("judge"))
    benchmark = Benchmark(name="amu", dataset=dataset, judges=[judge], **fields)
    return Spec(models=[await stack.register_model()], benchmarks=[benchmark], chunk_size=3, seed=7)


async def test_understanding_is_the_mean_of_its_four_categories(stack: EvaluationStack) -> None:
    done = await stack.run(await understanding(stack))
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert done.preflight.dropped == {"REFERENCES_MISSING": 1}
    parts = [score_of(done, "understanding", group=category) for category in CATEGORIES]
    assert [part.judged for part in parts] == [2, 2, 2, 2]
    amu = score_of(done, "amu")
    assert amu.value == pytest.approx(sum(part.value for part in parts) / 4)
    assert 1 <= amu.low <= amu.value <= amu.high <= 10
    assert amu.judged == 8


async def test_abstentions_are_counted_and_are_no_part_of_the_mean(stack: EvaluationStack) -> None:
    stack.behaviour.abstains = lambda record_id: record_id.startswith("q-0.")
    done = await stack.run(await understanding(stack))
    whole = score_of(done, "understanding")
    assert (whole.judged, whole.abstained, whole.failed) == (7, 1, 0)
    assert next(s for s in done.stages if s.stage == "score").abstained == 1


async def test_an_empty_answer_is_rated_lowest_without_asking(stack: EvaluationStack) -> None:
    stack.behaviour.faults = lambda rpc, record_id: malformed() if rpc == "Generate" else None
    done = await stack.run(await understanding(stack))
    assert score_of(done, "amu").value == 1
    assert not [rpc for rpc, _ in stack.behaviour.asked if rpc == "ScoreUnderstanding"]


async def test_a_modality_can_be_removed_and_the_judge_still_sees_it(stack: EvaluationStack) -> None:
    done = await stack.run(await understanding(stack, ablation="image"))
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert done.preflight.answers == 16
    assert sorted(score.ablation for score in done.scores if score.measure == "amu") == ["", "image"]
    works = [r for r in await stack.rows(done, "works") if r.id.endswith("-without-image")]
    assert len(works) == 8
    assert all([part.WhichOneof("part") for part in work.prompt.parts] == ["text"] for work in works)
    scored = [r for r in await stack.rows(done, "scores") if "evaluation.ablated" in r.labels]
    assert all([part.WhichOneof("part") for part in record.prompt.parts] == ["media", "text"] for record in scored)
    page = (await stack.evaluation.get_evaluation_report(done.name, HTML)).decode()
    assert page.count('<th scope="row">AMU</th>') == 2
    assert "<polygon" in page  # the radar of the categories


async def test_an_item_whose_medium_is_missing_is_quarantined(stack: EvaluationStack) -> None:
    program = await stack.checkers_spec()
    (gone,) = [r async for r in stack.client.stream_records(program.benchmarks[0].dataset, limit=1)]
    medium = content_pb2.Media(
        modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256="0" * 64, size_bytes=5
    )
    gone.prompt.parts.insert(0, content_pb2.Part(media=medium))
    whole = [r async for r in stack.client.stream_records(program.benchmarks[0].dataset)]
    program.benchmarks[0].dataset = await stack.store("gone", [gone, *whole[1:]])
    done = await stack.run(program)
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    (record,) = await stack.rows(done, "quarantine")
    assert record.quarantine.reason == "MEDIA_NOT_FOUND"
    assert score_of(done, "correct").failed == 1


async def test_the_check_names_items_with_media_that_are_missing_or_cannot_be_decoded(stack: EvaluationStack) -> None:
    spec = await understanding(stack)
    records = [r async for r in stack.client.stream_records(spec.benchmarks[0].dataset)]
    medium = records[1].prompt.parts[0].media
    records[2].prompt.parts[0].media.modality = content_pb2.MODALITY_AUDIO  # a picture has no sound
    medium.sha256 = "0" * 64
    spec.benchmarks[0].dataset = await stack.store("worn", records)
    checked = await stack.evaluation.create_evaluation("first", spec, validate_only=True)
    assert checked.preflight.dropped == {"REFERENCES_MISSING": 1, "MEDIA_NOT_FOUND": 1, "MEDIA_UNDECODABLE": 1}
    said = checked.preflight.warnings[-1]
    assert f"MEDIA_NOT_FOUND 1 ({records[1].id})" in said
    assert f"MEDIA_UNDECODABLE 1 ({records[2].id})" in said
    spec.benchmarks[0].dataset = await stack.store("gone", [records[1]])
    with pytest.raises(FailedPrecondition) as caught:
        await stack.evaluation.create_evaluation("first", spec, validate_only=True)
    assert (caught.value.reason, caught.value.metadata["MEDIA_NOT_FOUND"]) == ("NO_ITEMS", "1")


async def test_following_is_rated_or_asked_about_by_modality(stack: EvaluationStack) -> None:
    records = [
        record_pb2.Record(id=f"text-{i}", subtask="t2t", split="test", prompt=content(f"Write {i}.")) for i in range(3)
    ]
    sound = record_pb2.Record(id="sound", subtask="t2a", split="test", prompt=content("Make a sound."))
    for number in range(2):
        sound.benchmark_item.questions.add(id=f"k{number}", question="Loud?", choices=["yes", "no"], correct=1)
    unclear = record_pb2.Record(id="unclear", subtask="t2ti", split="test", prompt=content("Draw and tell."))
    unasked = record_pb2.Record(id="unasked", subtask="t2v", split="test", prompt=content("Film."))
    dataset = await stack.store("instructions", [*records, sound, unclear, unasked])
    judge = Judge(model=await stack.register_model("judge"))
    benchmark = Benchmark(name="instruction_following", dataset=dataset, judges=[judge])
    model = await stack.register_model(codecs=["tone_audio"])
    done = await stack.run(Spec(models=[model], benchmarks=[benchmark]))
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert done.preflight.dropped == {"MODALITY_UNCLEAR": 1, "QUESTIONS_MISSING": 1}
    assert score_of(done, "following", group="t").judged == 3
    wrong = score_of(done, "following", group="a")  # null models write text alone: both questions are wrong
    assert (wrong.value, wrong.judged) == (0, 2)
    assert not [score for score in done.scores if score.measure == "amg"]


async def test_selection_is_the_share_of_votes_for_what_was_chosen(stack: EvaluationStack) -> None:
    records = []
    for number, share in enumerate((0.25, 0.75)):
        record = record_pb2.Record(id=f"i-{number}", subtask="t2tia", split="test", prompt=content("Explain."))
        record.benchmark_item.selection_shares.update({"t": share, "ti": 1 - share})
        records.append(record)
    unfit = record_pb2.Record(id="unfit", subtask="t2tia", split="test", prompt=content("Explain."))
    unfit.benchmark_item.selection_shares.update({"t": 0.5, "ti": 0.4})
    dataset = await stack.store("votes", [*records, unfit])
    model = await stack.register_model(codecs=["palette_image"])
    spec = Spec(models=[model], benchmarks=[Benchmark(name="selection", dataset=dataset)])
    done = await stack.run(spec)
    assert done.preflight.dropped == {"SHARES_INVALID": 1}
    assert score_of(done, "selection").value == pytest.approx(0.5)


async def test_models_answer_questions_and_prose_is_wrong(stack: EvaluationStack) -> None:
    records = []
    for number in range(4):
        record = record_pb2.Record(id=f"m-{number}", subtask="t2t", split="test", prompt=content("Which?"))
        record.benchmark_item.category = "sound"
        record.benchmark_item.questions.add(id="1", question="Which?", choices=["a", "b"], correct=1 + number % 2)
        records.append(record)
    dataset = await stack.store("choices", records)
    stack.behaviour.abstains = lambda record_id: record_id == "0/0"
    models = [await stack.register_model()]
    done = await stack.run(Spec(models=models, benchmarks=[Benchmark(name="multiple_choice", dataset=dataset)]))
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert score_of(done, "accuracy", group="sound").value == pytest.approx(1 / 4)  # null judges choose the first
    assert score_of(done, "readable").value == pytest.approx(3 / 4)
