"""Multiple choice over real servers: the letter of a choice, or an abstention."""

import numpy as np
import pytest

from omnialign.content import content
from omnialign.errors import InvalidArgument, from_status
from omnialign.media import write_image
from omnialign.v1 import content_pb2
from omnialign.v1 import judge_service_pb2 as pb
from tests.services.inference import model_factory
from tests.services.inference.service_stack import serve_stack
from tests.services.inference.stub_endpoint import chat, says, serve_stub

LOST = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256="0" * 64)
CHOICES = ["a dog", "a cat"]


@pytest.fixture
async def stub():
    async with serve_stub() as stub:
        yield stub


@pytest.fixture
async def plane(tmp_path, stub):
    async with serve_stack(tmp_path / "data", openai_endpoints=(stub.base_url,)) as found:
        yield found


def item(name="a", *shown, seed=0):
    return pb.QuestionItem(
        id=name, shown=content(*(shown or ("meow",))), question="Who is it?", choices=CHOICES, seed=seed
    )


async def answer(plane, model, *items, **fields):
    request = pb.AnswerQuestionsRequest(model=model, items=items, **fields)
    return {result.id: result async for result in plane.client.answer_questions(request)}


async def test_a_model_chooses_by_the_letter_and_is_shown_the_medium(plane, stub):
    stub.default = says(chat("Answer: B"))
    picture = await plane.client.upload_media(
        write_image(np.zeros((8, 8, 3), np.uint8)), modality=content_pb2.MODALITY_IMAGE
    )
    found = await answer(plane, stub.model(), item("a", picture), item("lost", LOST))
    assert (found["a"].choice.number, found["a"].attempts) == (2, 1)
    assert found["a"].choice.generation.template.startswith("choice@1:")
    assert from_status(found["lost"].error).reason == "MEDIA_NOT_FOUND"
    (asked,) = stub.asked
    shown, words = asked["messages"][0]["content"]
    assert shown["type"] == "image_url"
    assert words["text"].endswith("Question: Who is it?\nA. a dog\nB. a cat")


async def test_prose_is_asked_again_and_a_model_under_test_is_not(plane, stub):
    stub.acts += [says(chat("A cat, I think.")), says(chat("C"))]
    stub.default = says(chat("B. a cat"))
    (found,) = (await answer(plane, stub.model(), item())).values()
    assert (found.choice.number, found.attempts) == (2, 3)
    stub.default = says(chat("A cat, I think."))
    (found,) = (await answer(plane, stub.model(), item(), max_retries=0)).values()
    assert (found.abstention.reason, found.abstention.text) == ("ANSWER_UNPARSABLE", "A cat, I think.")
    assert (found.attempts, len(stub.asked)) == (1, 4)


async def test_a_model_of_our_own_engine_chooses_too(plane, tmp_path):
    answers = {"(A)": 0.5, "B": 0.5}
    chain = {"<assistant>": answers, **{letter: {"</s>": 1.0} for letter in answers}}
    model = model_factory.chain_model(tmp_path / "chooser", chain)
    items = [item(str(seed), seed=seed) for seed in range(20)]
    found = await answer(plane, model, *items, sampling={"temperature": 1.0})
    assert {result.choice.number for result in found.values()} == {1, 2}


async def test_a_question_without_a_choice_is_refused(plane, stub):
    single = item()
    del single.choices[1:]
    with pytest.raises(InvalidArgument, match="choices"):
        await answer(plane, stub.model(), single)
