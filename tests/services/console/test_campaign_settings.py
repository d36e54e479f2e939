"""Settings of a campaign in the browser: changes, closing, reopening, and a dataset that is gone."""

import re
from html import unescape

import pytest

from omnialign.v1.annotation_service_pb2 import Campaign, LabelMatch, Priority
from services.console.campaign_settings import fields_of, read_settings
from tests.services.console.hostile import SCRIPT
from tests.services.console.test_annotation import LONG, answered, campaign, signed_in, task_of
from tests.services.console.test_jobs import assert_harmless
from tests.services.console.test_security import assert_clean


def typed(page: str) -> dict[str, str]:
    """The fields of the form, as a browser sends them."""
    inputs = dict(re.findall(r'<input(?: type="number")? name="([a-z_]+)" value="([^"]*)"', page))
    inputs |= dict(re.findall(r'<textarea name="([a-z_]+)"[^>]*>([^<]*)</textarea>', page))
    return {name: unescape(value) for name, value in inputs.items()}


def test_settings_survive_their_form():
    priorities = [
        Priority(quality_items=True),
        Priority(label=LabelMatch(key="topic")),
        Priority(label=LabelMatch(key="a")),
    ]
    priorities[2].label.value = "b=c"
    made = Campaign(name="c", display_name="שלום", instructions=LONG, annotators=["ann", "bob k"], overlap=2)
    made.priorities.extend(priorities)
    made.lease_seconds = 90
    assert read_settings("c", fields_of(made)) == made


async def test_a_campaign_is_changed_closed_and_reopened(console, browser):
    made, ann = await campaign(console), await signed_in(console, "ann-token")
    place = f"/{made.name}/settings"
    assert f'href="{place}"' in (await browser.get(f"/{made.name}")).text
    page = (await browser.get(place)).text
    assert_clean(page)
    fields = typed(page)
    assert fields["overlap"] == "1"
    changed = {
        **fields,
        "display_name": SCRIPT,
        "instructions": LONG,
        "overlap": "2",
        "annotators": "ann-token\r\n bob ",
    }
    done = await browser.post(place, changed)
    assert (done.status_code, done.headers["location"]) == (303, f"/{made.name}")
    found = await console.client.get_campaign(made.name)
    assert (found.display_name, found.instructions, found.overlap) == (SCRIPT, LONG.replace("\r\n", "\n"), 2)
    assert (list(found.annotators), found.progress.seat_count) == (["ann-token", "bob"], 4)
    assert_harmless((await browser.get(place)).text)
    _, task, revision = await task_of(ann, made)
    assert (await browser.post(f"/{made.name}/close")).status_code == 303
    assert "This campaign is closed" in (await browser.get(f"/{made.name}")).text
    assert ">closed<" in (await browser.get("/projects/demo/campaigns")).text
    stopped = await ann.get(f"/{made.name}/annotate")
    assert (stopped.status_code, "is closed" in stopped.text) == (409, True)
    late = await ann.post(f"/{task}/submit", {**answered(made, words="in time"), "revision": revision})
    assert (late.status_code, "What you wrote is kept" in late.text) == (409, True)
    assert "Reopen the campaign" in (await browser.get(place)).text
    assert (await browser.post(f"/{made.name}/reopen")).status_code == 303
    assert "in time" in (await task_of(ann, made))[0]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"overlap": "0"}, "overlap"),
        ({"overlap": "1.5"}, "overlap"),
        ({"overlap": "²"}, "overlap"),
        ({"overlap": "nan"}, "overlap"),
        ({"lease_minutes": "inf"}, "lease_minutes"),
        ({"lease_minutes": "99999999999999999999"}, "lease_minutes"),
        ({"overlap": "3", "annotators": "ann"}, "campaign.overlap"),
        ({"display_name": "x" * 201}, "campaign.display_name"),
        ({"priorities": "=b"}, "campaign.priorities"),
    ],
)
async def test_settings_that_cannot_be_are_said_and_nothing_typed_is_lost(console, browser, fields, word):
    made = await campaign(console)
    sent = {**fields_of(made), "instructions": SCRIPT, **fields}
    refused = await browser.post(f"/{made.name}/settings", sent)
    assert (refused.status_code, word in refused.text, "alert(1)" in refused.text) == (400, True, True)
    assert_harmless(refused.text)
    assert (await console.client.get_campaign(made.name)).instructions == ""


async def test_only_submitters_change_campaigns_with_the_secret_of_the_form(console, browser):
    made, ann = await campaign(console), await signed_in(console, "ann-token")
    assert 'id="settings"' not in (await ann.get(f"/{made.name}")).text
    for way in ("settings", "close", "reopen"):
        assert (await ann.post(f"/{made.name}/{way}", {**fields_of(made), "display_name": "x"})).status_code == 403
        refused = await browser.http.post(f"/{made.name}/{way}", data=fields_of(made))
        assert (refused.status_code, "CSRF_MISSING" in refused.text) == (403, True)
    bob = await console.browser()
    await bob.sign_in("bob-token", project="other")
    for way in ("settings", "close", "reopen"):
        assert (await bob.post(f"/{made.name}/{way}", {**fields_of(made), "display_name": "x"})).status_code == 404
    assert (await bob.get(f"/{made.name}/settings")).status_code == 404


async def test_the_pages_of_a_campaign_whose_dataset_was_deleted_say_so(console, browser):
    made, ann = await campaign(console, overlap=2), await signed_in(console, "ann-token")
    _, task, revision = await task_of(ann, made)
    assert (await ann.post(f"/{task}/submit", {**answered(made), "revision": revision})).status_code == 303
    await console.client.delete_dataset("projects/demo/datasets/pairs", force=True)
    page = (await browser.get(f"/{made.name}")).text
    assert "The dataset version was deleted" in page and "1 of 4" in page
    item = await browser.get(f"/{made.name}/items/1")
    assert (item.status_code, "The dataset with this pair was deleted" in item.text) == (200, True)
    assert "ann-token: response 1 is better" in item.text
    decision = {"decision": "annotator.ann-token", "why": "the only one"}
    assert (await browser.post(f"/{made.name}/items/1/adjudicate", decision)).status_code == 303
    committed = await browser.post(f"/{made.name}/commit")
    assert (committed.status_code, "DATASET_VERSION_GONE" in committed.text) == (409, True)
