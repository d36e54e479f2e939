"""The statistics of a version: a page of its own, linked from the records, in which no text of theirs is markup."""

from tests.services.annotation.conftest import pair
from tests.services.console.hostile import SCRIPT
from tests.services.console.test_annotation import campaign


async def test_a_version_leads_to_its_statistics(console, browser):
    hostile = pair(1)
    hostile.split = SCRIPT[:32]
    made = await campaign(console, hostile, pair(2))
    link = f"/{made.dataset_version}/statistics"
    dataset = made.dataset_version.partition("/versions/")[0]
    for page in (made.dataset_version, dataset):
        assert f'href="{link}"' in (await browser.get(f"/{page}")).text
    answer = await browser.get(link)
    assert answer.status_code == 200
    assert "Subtasks and splits" in answer.text
    assert SCRIPT[:32] not in answer.text
    assert "sandbox; default-src 'none'" in answer.headers["content-security-policy"]
    assert (await browser.get(f"/{dataset}/versions/99/statistics")).status_code == 404
