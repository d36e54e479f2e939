"""The item loop: what fails an item and what fails the call."""

import pytest

from omnialign.content import content
from omnialign.errors import Internal, NotFound, OmnialignError, Unavailable
from omnialign.modeling.inputs import pieces
from omnialign.modeling.prompts import render_response
from omnialign.v1 import content_pb2, generation_pb2
from omnialign.v1.refinement_service_pb2 import GenerateItem, GenerateRequest
from services.inference.engine import EngineResult
from services.inference.item_loop import ItemLoop, Prompt, Task, derived_seed, with_defaults
from services.inference.media import MediaClient

PICTURE = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256="0" * 64)


class Echo:
    """An engine that answers with the prompt, or with an error where the prompt says so."""

    async def generate(self, requests, *, deterministic=False):
        for request in reversed(requests):
            (turn,) = request.turns
            if "queue is full" in turn.pieces[0]:
                raise Unavailable("No room.", reason="QUEUE_FULL")
            error = Internal("Broken.", reason="GENERATION_FAILED") if "break" in turn.pieces[0] else None
            yield EngineResult(request.id, pieces=turn.pieces, error=error)


class Lost:
    """A media store that fails."""

    def __init__(self, error):
        self.error = error

    async def fetch_media(self, digests):
        raise self.error


class Repeat(Task):
    """A task whose result is (id, text or reason)."""

    def contents(self, item):
        return (item.prompt,)

    def prompts(self, item, media):
        count = 0 if item.prompt == content("nothing to ask") else 2
        return [Prompt(render_response(pieces(item.prompt, media)), item.seed)] * count

    async def result(self, item, answers):
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        return item.id, [answer.pieces[0].strip() for answer in answers]

    def failure(self, item, error):
        return item.id, error.reason


async def run(*prompts, error=None):
    loop = ItemLoop(Echo(), MediaClient(Lost(error)), max_new_tokens=8)
    items = [GenerateItem(id=str(i), prompt=prompt) for i, prompt in enumerate(prompts)]
    return dict([found async for found in loop.run(GenerateRequest(model="m", items=items), Repeat(tuple))])


async def test_answers_come_to_their_items_in_the_order_of_the_prompts():
    found = await run(content("one"), content("nothing to ask"), content("two"))
    assert [len(found[name]) for name in "012"] == [2, 0, 2]
    assert "one" in found["0"][0]
    assert "two" in found["2"][1]


async def test_the_engines_error_on_one_answer_fails_its_item():
    found = await run(content("one"), content("break"))
    assert found["1"] == "GENERATION_FAILED"
    assert len(found["0"]) == 2


async def test_a_medium_that_is_not_there_fails_its_item():
    found = await run(content("one"), content(PICTURE), error=NotFound("Gone.", reason="MEDIA_NOT_FOUND"))
    assert found["1"] == "MEDIA_NOT_FOUND"
    assert len(found["0"]) == 2


@pytest.mark.parametrize("prompt", [content(PICTURE), content("the queue is full")])
async def test_what_would_fail_any_item_fails_the_call(prompt):
    with pytest.raises(OmnialignError) as caught:
        await run(content("one"), prompt, error=Unavailable("The data service is away."))
    assert isinstance(caught.value, Unavailable)


def test_defaults_fill_only_what_is_not_said():
    said = generation_pb2.SamplingParams(temperature=0.5, top_p=0.9)
    filled = with_defaults(said, max_new_tokens=7, temperature=1.0)
    assert (filled.temperature, filled.top_p, filled.max_new_tokens) == (0.5, 0.9, 7)
    assert with_defaults(filled, max_new_tokens=9) == filled


def test_derived_seeds_are_spread_over_64_bits():
    seeds = {derived_seed(seed, purpose="backward") for seed in (*range(100), 2**64 - 1)}
    assert len(seeds) == 101
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert max(seeds) > 2**63
