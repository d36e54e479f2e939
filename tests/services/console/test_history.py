"""Pages show what came before a prompt, above it and with its roles."""

from omnialign.content import content
from omnialign.v1 import content_pb2
from tests.services.annotation.conftest import pair
from tests.services.console.hostile import SCRIPT
from tests.services.console.test_annotation import campaign, signed_in, task_of
from tests.services.console.test_security import assert_clean


def continued(number: int):
    """A pair whose prompt continues a conversation."""
    record = pair(number)
    for role, words in (
        (content_pb2.ROLE_SYSTEM, "Be brief."),
        (content_pb2.ROLE_USER, f"Earlier {SCRIPT}"),
        (content_pb2.ROLE_ASSISTANT, "Said before"),
    ):
        record.history.add(role=role, content=content(words))
    return record


def assert_in_order(page: str) -> None:
    places = [page.index(words) for words in ("Be brief.", "Earlier &lt;", "Said before", "question 1")]
    assert places == sorted(places)
    labels = [page.index(f'<p class="label">{role}</p>') for role in ("system", "user", "assistant")]
    assert labels == sorted(labels) and labels[0] < places[0]
    assert SCRIPT not in page
    assert_clean(page)


async def test_a_record_and_the_form_of_an_annotation_show_the_conversation(console, browser):
    made = await campaign(console, continued(1), pair(2))
    assert_in_order((await browser.get(f"/{made.dataset_version}?id={pair(1).id}")).text)
    ann = await signed_in(console, "ann-token")
    page, *_ = await task_of(ann, made)
    if "question 1" not in page:  # tasks come in an order of chance
        page, *_ = await task_of(ann, made, "?skip=1")
    assert_in_order(page)
