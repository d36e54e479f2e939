"""Signing in with an issuer in a real browser: there and back, what was written meanwhile, and out again."""

from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser

from tests.browser.conftest import Tab
from tests.browser.pairs import campaign, pair_of
from tests.services.console.conftest import running
from tests.services.console.issuer import serving

pytestmark = pytest.mark.browser

WORDS = "מצוין 👍 clear"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_a_session_that_ends_while_one_writes_leads_to_the_issuer_and_back(
    chromium: Browser, tmp_path: Path, dark: bool
) -> None:
    async with serving(tmp_path / "issuer") as issuer, running(tmp_path, tokens=True, issuer=issuer) as console:
        made = await campaign(console, [await pair_of(console, "ti2t")])
        context = await chromium.new_context(
            base_url=console.web.address,
            ignore_https_errors=True,
            color_scheme="dark" if dark else "light",
            viewport={"width": 400, "height": 800},
        )
        context.set_default_timeout(30_000)
        tab = Tab(await context.new_page())
        page, place = tab.page, f"/{made.name}/annotate"
        await page.goto(place)
        await page.wait_for_url("**/sign-in?**")
        await tab.screenshot(f"sign-in-issuer-{'dark' if dark else 'light'}-400")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 400
        await page.locator("#issuer").press("Enter")
        await page.wait_for_url(f"**{place}")
        await context.clear_cookies()
        await page.locator("[name='critique.1']").press_sequentially(WORDS)
        await page.wait_for_url("**/sign-in?**")
        await page.locator("#issuer").press("Enter")
        await page.wait_for_url(f"**{place}")
        assert await page.locator("[name='critique.1']").input_value() == WORDS
        await page.get_by_text("The pair is yours until").wait_for()
        await page.get_by_role("button", name="Sign out").press("Enter")
        await page.wait_for_url("**/sign-in")  # by way of the issuer
        assert [asked["client_id"] for asked in issuer.ended] == ["console"]
        assert [text for text in tab.problems if "401" not in text] == []


async def test_the_page_of_signing_in_has_nothing_that_axe_complains_about(chromium: Browser, tmp_path: Path) -> None:
    async with serving(tmp_path / "issuer") as issuer, running(tmp_path, tokens=True, issuer=issuer) as console:
        context = await chromium.new_context(base_url=console.web.address, bypass_csp=True)
        page = await context.new_page()
        await page.goto("/sign-in/callback?state=x")
        result = await Axe().run(page)
        assert result.response["passes"] and not result.violations_count, result.generate_report()
