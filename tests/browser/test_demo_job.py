"""The small demo, submitted from the form and watched to its end in the browser, on all services in one process."""

import json
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from examples.tinyworld import dataset as world
from examples.tinyworld import recipe
from omnialign.client import AsyncClient
from services.embedded import embedded
from tests.browser.conftest import opened_at
from tests.processes import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

JOB_MILLISECONDS = 900_000
STAGES = ("preflight", "feedback modeling", "sample", "critique", "refine", "verify", "pair", "optimize", "evaluate")


async def fill(page: Page, fields: dict[str, str]) -> None:
    """Fills a form by the labels of its fields."""
    for label, value in fields.items():
        await page.get_by_label(label, exact=False).fill(value)


async def test_a_job_is_submitted_from_the_form_and_watched_live_to_its_report(
    tmp_path: Path, chromium: Browser
) -> None:
    async with embedded(tmp_path / "state", console_port=0) as stack, AsyncClient(stack.address) as client:
        world.write(tmp_path / "data", seed=0, sizes=recipe.SMALL)
        async for progress in client.import_dataset("world", (tmp_path / "data").as_uri()):
            version = progress.dataset_version.name
        folder = REPOSITORY / "examples" / "tinyworld" / "model"
        model = (await client.register_model("base", folder.as_uri())).name
        spec = recipe.spec(0, dataset=version, base_model=model, small=True)
        spec["optimization"].pop("method")
        more = {
            name: value for name, value in spec.items() if name not in ("base_model", "dataset", "checkers", "seed")
        }

        tab = await opened_at(chromium, stack.console_address)
        page = tab.page
        await page.goto("/")
        await page.get_by_role("link", name="New alignment job").click()
        await fill(page, {"Base model": model, "Dataset version": version, "Checkers": "tinyworld", "Id": "demo"})
        await page.get_by_label("Seed").fill("0")
        await page.get_by_text("Everything else, as JSON").click()
        await page.get_by_label("The rest of the spec as JSON").fill(json.dumps(more))
        await page.get_by_role("button", name="Check").click()
        await expect(page.locator("#preflight")).to_contain_text("Tokens to generate", timeout=120_000)
        await tab.screenshot("demo-preflight")
        await page.get_by_role("button", name="Submit").click()
        await page.wait_for_url("**/alignmentJobs/demo")

        # The page follows the job by itself: nothing is loaded again by us.
        live = page.locator("#live")
        await expect(live).to_contain_text("running", timeout=60_000)
        await expect(live.get_by_role("button", name="Pause")).to_be_visible()
        await tab.screenshot("demo-running")
        await expect(live.locator("p").first).to_contain_text("succeeded", timeout=JOB_MILLISECONDS)
        for stage in STAGES:
            await expect(live).to_contain_text(stage)
        await expect(live).to_contain_text("Yield:")
        await tab.screenshot("demo-done")
        await tab.document("job")

        async with page.context.expect_page() as opening:
            await live.get_by_role("link", name="Open the report").click()
        report = await opening.value
        await expect(report.locator("h1")).to_be_visible()
        await report.close()
        await page.get_by_role("link", name="what it came from, and what came from it").click()
        await expect(page.locator("main")).to_contain_text("demo-pairs")
        await tab.screenshot("demo-lineage")
        assert tab.problems == []
