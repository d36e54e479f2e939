"""What models say of items is kept once for each model, on both kinds of database."""

import pytest

from omnialign.errors import NotFound
from omnialign.v1.annotation_pb2 import Annotation, ModelDraft
from omnialign.v1.annotation_service_pb2 import Campaign, CreateCampaignRequest
from services.annotation.drafting.drafts import Drafts
from services.annotation.form import Shape
from services.annotation.store import NewItem, Store
from services.annotation.tables import MIGRATIONS
from services.runtime.database import Database

NAME = "projects/p/campaigns/c"


@pytest.fixture
async def database(database_url):
    made = Database(database_url)
    await made.write(MIGRATIONS.upgrade)
    shape = Shape(("t", "t", "t"))
    items = [NewItem(record=f"r{n}", subtask="t2t", shape=shape, rank=0, num_seats=1) for n in (1, 2)]
    request = CreateCampaignRequest(parent="projects/p")
    await Store(made).create(Campaign(name=NAME), request, items, left_out_count=0)
    yield made
    await made.close()


def said(reason, *, model="m"):
    return ModelDraft(model=model, annotation=Annotation(preferred=1, reason=reason))


async def test_a_model_has_one_draft_of_an_item_and_what_it_lacks_is_known(database):
    drafts = Drafts(database)
    assert await drafts.missing(NAME, model="m") == [("r1", "t2t"), ("r2", "t2t")]
    await drafts.put(NAME, {"r2": said("once")})
    await drafts.put(NAME, {"r2": said("again"), "unknown": said("x")})
    await drafts.put(NAME, {"r2": said("other", model="n" * 1024)})
    assert await drafts.missing(NAME, model="m") == [("r1", "t2t")]
    found = await drafts.of(NAME)
    assert {number: {one.annotation.reason for one in some} for number, some in found.items()} == {
        2: {"again", "other"}
    }
    assert [one.annotation.reason for one in (await drafts.of(NAME, numbers=[2], model="m"))[2]] == ["again"]
    opening = drafts.opening(NAME, "m")
    begun = Annotation.FromString(await database.read(lambda c: opening(c, 2)))
    assert (begun.reason, begun.draft_model) == ("again", "m")
    assert await database.read(lambda c: opening(c, 1)) == b""


async def test_a_campaign_that_is_gone_takes_no_drafts_and_leaves_none(database):
    drafts = Drafts(database)
    await drafts.put(NAME, {"r1": said("once")})
    await Store(database).delete(NAME)
    assert await drafts.of(NAME) == {}
    with pytest.raises(NotFound):
        await drafts.put(NAME, {"r1": said("late")})
