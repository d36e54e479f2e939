"""What happens in the browser when a session ends, when services or the console go away, and in two tabs at once."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect
from prometheus_client import CollectorRegistry

from omnialign.v1.annotation_service_pb2 import Campaign
from services.console.__main__ import opened as console_opened
from services.console.server import WebServer
from services.gateway.__main__ import GatewayConfig
from services.gateway.__main__ import wire as wire_gateway
from services.runtime.config import ServerConfig
from services.runtime.connections import ClientFactory
from services.runtime.server import Server
from tests.browser.conftest import opened, opened_at
from tests.browser.keyboard import WORDS, fill_in, leap
from tests.browser.pairs import campaign, pair_of
from tests.processes import free_port
from tests.services.console.conftest import Running
from tests.services.console.test_jobs import Event, Job, alignment

pytestmark = pytest.mark.browser

CRITIQUE = "[name='critique.1']"
BACK_MILLISECONDS = 60_000
"""Longest time until a page has found what was away."""
SAVED = "The pair is yours until"


@contextlib.asynccontextmanager
async def gateway(console: Running, port: int) -> AsyncIterator[None]:
    """The gateway before the services of a console, for the block."""
    names = ("data", "refinement", "critique", "judge", "training", "alignment", "evaluation", "annotation")
    server = Server(ServerConfig(port=port), name="gateway")
    async with wire_gateway(server, GatewayConfig(**{f"{name}_address": console.services.address for name in names})):
        await server.start()
        server.set_serving()
        try:
            yield
        finally:
            await server.stop(0)


@contextlib.asynccontextmanager
async def web(console: Running, port: int, *, own_port: int = 0, key: Path | None = None) -> AsyncIterator[WebServer]:
    """A console that reaches the services at a port, for the block."""
    config = replace(console.config, gateway_address=f"127.0.0.1:{port}", session_key_file=key)
    found = console_opened(config, ServerConfig(port=own_port), clients=ClientFactory(), registry=CollectorRegistry())
    async with found as server:
        yield server


async def text_pair(console: Running) -> Campaign:
    """A campaign of one pair of texts."""
    return await campaign(console, [await pair_of(console, "t2t")])


async def drafted(console: Running, made: Campaign) -> str:
    """The critique of the first response in the draft of ann."""
    task = (await console.client.lease_task(made.name, annotator="ann-token")).task
    return str(task.annotation.feedback[0].critique)


async def sign_in_again(page: Page) -> None:
    """At the page to which a session that ended leads."""
    await page.wait_for_url("**/sign-in?**")
    await page.get_by_label("Token").press_sequentially("ann-token")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/annotate")


async def test_a_session_that_ends_while_a_critique_is_written_costs_nothing(
    console: Running, chromium: Browser
) -> None:
    made = await text_pair(console)
    tab = await opened(chromium, console)
    await tab.sign_in("ann-token")
    await tab.page.goto(f"/{made.name}/annotate")
    await tab.page.context.clear_cookies()
    await tab.page.locator(CRITIQUE).press_sequentially(WORDS)
    await sign_in_again(tab.page)
    await expect(tab.page.locator(CRITIQUE)).to_have_value(WORDS)
    await tab.page.get_by_text(SAVED).wait_for()
    assert await drafted(console, made) == WORDS


async def test_a_session_that_ended_before_submit_leads_back_to_the_form_as_it_was(
    console: Running, chromium: Browser
) -> None:
    made = await text_pair(console)
    tab = await opened(chromium, console)
    await tab.sign_in("ann-token")
    await tab.page.goto(f"/{made.name}/annotate")
    await fill_in(tab.page)
    await tab.page.get_by_text(SAVED).wait_for()
    await tab.page.context.clear_cookies()
    await leap(tab.page, "s")
    await sign_in_again(tab.page)
    await expect(tab.page.locator(CRITIQUE)).to_have_value(WORDS)
    await leap(tab.page, "s")
    await tab.page.get_by_text("nothing left for you").wait_for()


async def test_two_tabs_of_one_person_overwrite_nothing(console: Running, chromium: Browser) -> None:
    made = await text_pair(console)
    first = await opened(chromium, console)
    await first.sign_in("ann-token")
    await first.page.goto(f"/{made.name}/annotate")
    second = await first.page.context.new_page()
    await second.goto(f"/{made.name}/annotate")
    await first.page.locator(CRITIQUE).press_sequentially("of the first tab")
    await first.page.get_by_text(SAVED).wait_for()
    await second.locator(CRITIQUE).press_sequentially("of the second")
    await expect(second.locator("#saved")).to_contain_text("Another tab or window has saved this pair since")
    assert await drafted(console, made) == "of the first tab"
    await second.get_by_role("link", name="Load the pair again").press("Enter")
    await expect(second.locator(CRITIQUE)).to_have_value("of the first tab")
    await second.locator(CRITIQUE).press_sequentially("and ")
    await second.get_by_text(SAVED).wait_for()
    assert await drafted(console, made) == "and of the first tab"


async def test_a_draft_is_saved_by_itself_once_the_gateway_is_back(console: Running, chromium: Browser) -> None:
    made, port = await text_pair(console), free_port()
    async with web(console, port) as server:
        tab = await opened_at(chromium, server.address)
        page, notice = tab.page, tab.page.locator("#notice")
        async with gateway(console, port):
            await tab.sign_in("ann-token")
            await page.goto(f"/{made.name}/annotate")
            await page.locator(CRITIQUE).press_sequentially("before")
            await page.get_by_text(SAVED).wait_for()
        await page.locator(CRITIQUE).fill("before and meanwhile")
        await expect(notice).not_to_be_empty()
        await tab.screenshot("away-annotating")
        async with gateway(console, port):
            await expect(notice).to_be_empty(timeout=BACK_MILLISECONDS)
            assert await drafted(console, made) == "before and meanwhile"


async def test_a_submission_to_a_gateway_that_is_away_leads_back_to_the_form_as_it_was(
    console: Running, chromium: Browser
) -> None:
    made, port = await text_pair(console), free_port()
    async with web(console, port) as server:
        tab = await opened_at(chromium, server.address)
        page = tab.page
        async with gateway(console, port):
            await tab.sign_in("ann-token")
            await page.goto(f"/{made.name}/annotate")
            await fill_in(page)
            await page.get_by_text(SAVED).wait_for()
        await leap(page, "s")
        await expect(page.locator("h1")).to_have_text("The services are away")
        async with gateway(console, port):
            await expect(page.locator(CRITIQUE)).to_have_value(WORDS, timeout=BACK_MILLISECONDS)
            await leap(page, "s")
            await page.get_by_text("nothing left for you").wait_for()


async def test_a_page_that_follows_a_job_says_that_the_gateway_is_away_and_goes_on(
    console: Running, chromium: Browser
) -> None:
    port, job = free_port(), alignment()
    console.jobs.add(job, Event(sequence=1, message="Sampling.", alignment_job=job))
    async with web(console, port) as server:
        tab = await opened_at(chromium, server.address)
        live, notice = tab.page.locator("#live"), tab.page.locator("#notice")
        async with gateway(console, port):
            await tab.sign_in()
            await tab.page.goto(f"/{job.name}")
            await expect(live).to_contain_text("Sampling.")
        await expect(notice).not_to_be_empty(timeout=BACK_MILLISECONDS)
        async with gateway(console, port):
            await expect(notice).to_be_empty(timeout=BACK_MILLISECONDS)
            done = alignment(Job.STATE_SUCCEEDED)
            console.jobs.jobs[job.name] = done
            console.jobs.events[job.name].append(Event(sequence=2, message="Done.", alignment_job=done))
            console.jobs.more.set()
            await expect(live).to_contain_text("succeeded", timeout=BACK_MILLISECONDS)


async def test_a_page_that_is_opened_while_the_gateway_is_away_shows_itself_later(
    console: Running, chromium: Browser
) -> None:
    port = free_port()
    async with web(console, port) as server:
        tab = await opened_at(chromium, server.address)
        async with gateway(console, port):
            await tab.sign_in()
        await tab.page.goto("/projects/demo/datasets")
        await expect(tab.page.locator("h1")).to_have_text("The services are away")
        await tab.screenshot("away")
        async with gateway(console, port):
            await expect(tab.page.locator("h1")).to_have_text("Datasets", timeout=BACK_MILLISECONDS)


async def test_a_page_says_that_the_console_itself_is_away_and_goes_on(
    console: Running, chromium: Browser, tmp_path: Path
) -> None:
    made, port, own_port = await text_pair(console), free_port(), free_port()
    key = tmp_path / "key"
    key.write_text("what seals the sessions of this test\n")
    async with gateway(console, port):
        async with web(console, port, own_port=own_port, key=key) as server:
            tab = await opened_at(chromium, server.address)
            await tab.sign_in()
            await tab.page.goto(f"/{made.name}")
        notice = tab.page.locator("#notice")
        await expect(notice).to_contain_text("The console does not answer", timeout=BACK_MILLISECONDS)
        async with web(console, port, own_port=own_port, key=key):
            await expect(notice).to_be_empty(timeout=BACK_MILLISECONDS)
            await console.client.lease_task(made.name, annotator="ann")
            await expect(tab.page.locator("#live dd").first).to_have_text("1", timeout=BACK_MILLISECONDS)
