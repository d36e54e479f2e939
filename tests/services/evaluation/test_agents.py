"""Models that write no media instruct generators, and the evaluation says so."""

import asyncio
import json
from typing import Any

import pytest

from omnialign.content import content, text_of
from omnialign.errors import InvalidArgument, OmnialignError, Unavailable
from omnialign.v1 import content_pb2, evaluation_service_pb2, record_pb2
from tests.evaluation_stack import Benchmark, Evaluation, EvaluationStack, Spec, score_of
from tests.services.evaluation.test_eval_anything import picture

Generator = evaluation_service_pb2.MediaGenerator
HTML = evaluation_service_pb2.GetEvaluationReportRequest.FORMAT_HTML
WRITER, PAINTER = "projects/default/models/writer/versions/1", "projects/default/models/painter/versions/1"
DRAWN = "[[response]]: Look at this.\n[[image_instruction]]: draw a bird"
SHARES = {"t": 0.25, "ti": 0.75}


def voted(record_id: str, shares: dict[str, float], *, subtask: str = "t2tia") -> record_pb2.Record:
    record = record_pb2.Record(id=record_id, subtask=subtask, split="test", prompt=content(f"Explain {record_id}."))
    record.benchmark_item.selection_shares.update(shares)
    return record


class World:
    """A model that writes text, a generator of pictures, and items of which people voted for a text or a picture."""

    def __init__(self, stack: EvaluationStack) -> None:
        self.stack = stack
        self.words: dict[str, str] = {}
        """What the model says, by the prompt's last word; DRAWN for any other."""
        self.painted: content_pb2.Content | OmnialignError
        self.instructions: list[tuple[str, int]] = []

    async def open(self, count: int = 4, **fields: Any) -> Spec:
        stack = self.stack
        self.medium = await picture(stack)
        self.painted = content("As you wish:", self.medium)
        stack.behaviour.replies = self._reply
        dataset = await stack.store("votes", [voted(f"i-{number}", SHARES) for number in range(count)])
        await stack.register_model("writer")
        await stack.register_model("painter", codecs=["palette_image"])
        return Spec(
            models=[WRITER],
            benchmarks=[Benchmark(name="selection", dataset=dataset)],
            generators=[Generator(modality="image", model=PAINTER)],
            chunk_size=2,
            seed=7,
            **fields,
        )

    def _reply(self, model: str, item: Any) -> content_pb2.Content | None:
        words = text_of(item.prompt)
        if model == PAINTER and isinstance(self.painted, content_pb2.Content) and words.startswith("draw"):
            self.instructions.append((words, item.seed))
            return self.painted
        if model != WRITER:
            return None
        assert list(item.instructed_modalities) == [content_pb2.MODALITY_IMAGE]
        return content(self.words.get(words.rpartition(" ")[2].strip("."), DRAWN))


@pytest.fixture
def world(stack: EvaluationStack) -> World:
    return World(stack)


async def test_instructions_are_carried_out_and_the_answer_is_judged_as_any_other(world: World) -> None:
    stack, spec = world.stack, await world.open()
    done = await stack.run(spec)
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert score_of(done, "selection").value == pytest.approx(0.75)
    assert {words for words, _ in world.instructions} == {"draw a bird"}
    assert len({seed for _, seed in world.instructions}) == 4
    answers = await stack.rows(done, "answers")
    for record in answers:
        (answer,) = record.responses
        assert answer.source == WRITER
        assert answer.content == content("Look at this.", world.medium)
        assert [made.source for made in answer.made_of] == [WRITER, PAINTER]
        assert text_of(answer.made_of[0].content) == DRAWN
    assert next(s for s in done.stages if s.stage == "answer").tokens == 4 * 2 * 7
    sources = {edge.source for edge in (await stack.client.get_lineage(done.stages[1].dataset)).edges}
    assert PAINTER in sources


async def test_the_report_says_which_mode_it_was(world: World) -> None:
    stack, spec = world.stack, await world.open()
    spec.models.append(await stack.register_model("both", codecs=["palette_image"]))
    done = await stack.run(spec)
    assert [(m.model, m.modality, m.generator) for m in done.manifest.modes] == [
        (WRITER, "image", PAINTER),
        (spec.models[1], "image", ""),
    ]
    (generator,) = done.manifest.generators
    assert generator.model.sha256 == (await stack.client.get_model_version(PAINTER)).sha256
    report = json.loads(await stack.evaluation.get_evaluation_report(done.name))
    assert [mode["mode"] for mode in report["modes"]] == ["agents", "itself"]
    page = (await stack.evaluation.get_evaluation_report(done.name, HTML)).decode()
    assert "agents mode" in page
    assert "writes image itself" in page
    assert "[[image_instruction]]: draw a bird" in page
    with pytest.raises(OmnialignError) as caught:
        await stack.evaluation.compare_evaluations(done.name, model=spec.models[1], baseline_model=WRITER)
    assert caught.value.metadata["fields"] == "modes"
    found = await stack.evaluation.compare_evaluations(
        done.name, model=spec.models[1], baseline_model=WRITER, allow_unlike=True
    )
    assert list(found.unlike) == ["modes"]


async def test_words_that_are_not_sections_are_the_models_fault(world: World) -> None:
    stack, spec = world.stack, await world.open()
    world.words = {"i-0": "Here is a bird!", "i-1": "", "i-2": "[[response]]: Words.\n[[image_instruction]]: None"}
    done = await stack.run(spec)
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    score = score_of(done, "selection")
    assert (score.judged, score.failed) == (4, 0)
    assert score.value == pytest.approx((0 + 0 + 0.25 + 0.75) / 4)
    rows = await stack.rows(done, "scores")
    labels = {row.labels["evaluation.item"]: row.labels.get("evaluation.unreadable") for row in rows}
    assert labels == {"i-0": "SECTIONS_INVALID", "i-1": "SECTIONS_INVALID", "i-2": None, "i-3": None}
    assert len(world.instructions) == 1


async def test_a_generator_that_makes_something_else_fails_the_item_and_costs_the_model_nothing(world: World) -> None:
    stack, spec = world.stack, await world.open(max_quarantine_fraction=0.5)
    world.words = dict.fromkeys(("i-0", "i-1"), DRAWN.replace("draw", "describe"))
    done = await stack.run(spec)
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    score = score_of(done, "selection")
    assert (score.judged, score.failed, score.value) == (2, 2, pytest.approx(0.75))
    for record in await stack.rows(done, "quarantine"):
        assert record.quarantine.reason == "GENERATOR_MODALITY_MISSING"
        assert text_of(record.responses[0].content).startswith("[[response]]")


@pytest.mark.parametrize("limit", [0.2, 1.0])
async def test_a_generator_that_dies_is_asked_again_and_then_its_items_fail(world: World, limit: float) -> None:
    stack, spec = world.stack, await world.open(max_quarantine_fraction=limit)
    dead = Unavailable("the endpoint gave no answer", reason="ENDPOINT_UNAVAILABLE")
    stack.behaviour.faults = lambda rpc, item: dead if rpc == "Generate" and item == "0/i" else None
    done = await stack.run(spec)
    assert [item for _, item in stack.behaviour.asked].count("0/i") == 2 * 5
    if limit < 1:
        assert done.state == Evaluation.STATE_FAILED
        assert "ENDPOINT_UNAVAILABLE" in done.error.message
        return
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert (score_of(done, "selection").judged, score_of(done, "selection").failed) == (2, 2)
    (first, *_) = await stack.rows(done, "quarantine")
    assert first.quarantine.reason == "ENDPOINT_UNAVAILABLE"
    assert first.quarantine.message.startswith("the generator of image failed")


async def test_a_generator_that_comes_back_is_waited_for(world: World) -> None:
    stack, spec = world.stack, await world.open()
    away = Unavailable("the endpoint gave no answer", reason="ENDPOINT_UNAVAILABLE")
    left = [away, away]
    stack.behaviour.faults = lambda rpc, item: left.pop() if rpc == "Generate" and item == "1/i" and left else None
    done = await stack.run(spec)
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert score_of(done, "selection").judged == 4


async def test_a_second_run_asks_neither_the_model_nor_the_generator(world: World) -> None:
    stack, spec = world.stack, await world.open()
    first = await stack.run(spec)
    num_asked = len(stack.behaviour.asked)
    second = await stack.run(spec, "second")
    assert len(stack.behaviour.asked) == num_asked
    assert next(s for s in second.stages if s.stage == "answer").reused == 4 + 4
    both = [sorted(r.SerializeToString() for r in await stack.rows(done, "scores")) for done in (first, second)]
    assert both[0] == both[1]


def hold_generators(stack: EvaluationStack) -> tuple[asyncio.Event, asyncio.Event]:
    """Holds what generators are asked; two events: one is set when a call arrives, set the other to release it."""
    working, release, enter = asyncio.Event(), asyncio.Event(), stack.behaviour.enter

    async def hold(rpc: str, ids: list[str]) -> None:
        if ids[0].endswith("/i"):
            working.set()
            await release.wait()
        await enter(rpc, ids)

    stack.behaviour.enter = hold  # type: ignore[method-assign]  # of this behaviour alone
    return working, release


async def test_an_evaluation_goes_on_after_its_service_died_between_model_and_generator(world: World) -> None:
    stack, spec = world.stack, await world.open(2)
    working, release = hold_generators(stack)
    submitted = await stack.evaluation.create_evaluation("first", spec)
    await asyncio.wait_for(working.wait(), 60)
    await stack.stop("evaluation")
    release.set()
    await stack.start("evaluation")
    done = await stack.end_of_evaluation(submitted.name)
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert sorted(r.id for r in await stack.rows(done, "scores")) == ["i-0.selection.1", "i-1.selection.1"]
    assert len(set(world.instructions)) == 2


async def test_an_evaluation_is_cancelled_while_a_generator_works(world: World) -> None:
    stack, spec = world.stack, await world.open(2)
    working, release = hold_generators(stack)
    submitted = await stack.evaluation.create_evaluation("first", spec)
    await asyncio.wait_for(working.wait(), 60)
    await stack.evaluation.cancel_evaluation(submitted.name)
    done = await stack.end_of_evaluation(submitted.name)
    release.set()
    assert done.state == Evaluation.STATE_CANCELLED
    assert not await stack.rows(done, "answers")


async def refusal(stack: EvaluationStack, spec: Spec) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        await stack.evaluation.create_evaluation("", spec, validate_only=True)
    return caught.value


async def test_what_cannot_work_is_refused_with_its_field_and_a_mend(world: World) -> None:
    stack, spec = world.stack, await world.open()
    unfit = Spec()
    unfit.CopyFrom(spec)
    unfit.generators[0].model = WRITER
    assert (await refusal(stack, unfit)).reason == "GENERATOR_UNFIT"
    unfit.generators[0].model = "openai+http://127.0.0.1:9/v1#chat"
    assert (await refusal(stack, unfit)).reason == "GENERATOR_UNFIT"
    unfit.generators[0].model = "projects/other/models/painter"
    assert (await refusal(stack, unfit)).reason == "PROJECT_MISMATCH"
    twice = Spec()
    twice.CopyFrom(spec)
    twice.generators.append(spec.generators[0])
    assert (await refusal(stack, twice)).reason == "GENERATOR_TWICE"
    del spec.generators[:]
    refused = await refusal(stack, spec)
    assert refused.reason == "GENERATOR_MISSING"
    assert refused.violations[0][0] == "evaluation.spec.generators"
    assert "--generator image=MODEL" in str(refused)


async def test_a_model_writes_what_it_can_and_instructs_for_the_rest(world: World) -> None:
    stack, spec = world.stack, await world.open()
    both = await stack.register_model("talker", codecs=["tone_audio"])
    records = [voted("mixed", {"tia": 1.0})]
    spec.benchmarks[0].dataset = await stack.store("mixed", records)
    spec.models[:] = [both]
    sound = content_pb2.Media(modality=content_pb2.MODALITY_AUDIO, mime_type="audio/wav", sha256="a" * 64, size_bytes=1)
    reply = content("[[response]]: Listen.", sound, "[[image_instruction]]: draw a bird")
    stack.behaviour.replies = lambda model, item: reply if model == both else world.painted
    done = await stack.run(spec)
    assert [(m.modality, m.generator) for m in done.manifest.modes] == [("image", PAINTER), ("audio", "")]
    (record,) = await stack.rows(done, "answers")
    assert record.responses[0].content == content("Listen.", sound, world.medium)
    assert score_of(done, "selection").value == pytest.approx(1 / 3)


async def test_instruction_following_is_judged_on_what_the_generator_made(world: World) -> None:
    stack, spec = world.stack, await world.open()
    judge = evaluation_service_pb2.BenchmarkJudge(model=await stack.register_model("judge"))
    items = [record_pb2.Record(id=f"f-{i}", subtask="t2i", split="test", prompt=content("Draw.")) for i in range(2)]
    items.append(record_pb2.Record(id="words", subtask="t2t", split="test", prompt=content("Write.")))
    dataset = await stack.store("follow", items)
    spec.benchmarks[0].CopyFrom(Benchmark(name="instruction_following", dataset=dataset, judges=[judge]))
    replies = stack.behaviour.replies
    stack.behaviour.replies = lambda model, item: None if "Write" in text_of(item.prompt) else replies(model, item)
    done = await stack.run(spec)
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert score_of(done, "following", group="i").value > 1  # 1 is what an answer without a picture gets
    texts = {r.labels["evaluation.item"]: len(r.responses[0].made_of) for r in await stack.rows(done, "answers")}
    assert texts == {"f-0": 2, "f-1": 2, "words": 0}
