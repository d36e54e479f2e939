"""A real browser, headless, before a real console: `make test-browser`."""

import io
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from PIL import Image
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.processes import REPOSITORY
from tests.services.console.conftest import Running, running

SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""How far a page can be scrolled sideways, in pixels, as a browser says it."""
SCREENSHOTS = Path("out/browser")
DOCS = REPOSITORY / "docs" / "images"
DOCS_VARIABLE = "OMNIALIGN_DOCS_PICTURES"
"""If it is set, the pictures in the docs are made anew."""
NAMES = ("chromium", "chromium-browser", "google-chrome")
HELP = "No browser is on the path: install Chromium (Debian: `apt install chromium`)."

CARET: Final = "initial"
"""Playwright hides the caret with a style of its own, which our policy may refuse and report."""


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Running]:
    """A console where people sign in."""
    async with running(tmp_path, tokens=True) as found:
        yield found


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    """Chromium of this machine. The test fails, and says what to install, if there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, HELP
    async with async_playwright() as playwright:
        # Without its own sandbox it also runs as root, as in a container; it loads nothing but our console.
        browser = await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        await browser.close()


class Tab:
    """One person's tab, and everything that went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on(
            "console",
            lambda message: (
                self.problems.append(f"{message.text} {message.location}") if message.type == "error" else None
            ),
        )
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    async def sign_in(self, token: str = "alice-token") -> None:
        """Signs in with the keyboard alone."""
        await self.page.goto("/sign-in")
        await self.page.get_by_label("Token").focus()
        await self.page.keyboard.type(token)
        await self.page.keyboard.press("Enter")
        await self.page.wait_for_url("**/jobs")

    async def screenshot(self, name: str) -> None:
        """Keeps a picture of the whole page in out/browser."""
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True, caret=CARET)

    async def document(self, name: str) -> None:
        """Makes a picture in the docs of the top of the page, if that is asked for."""
        if os.environ.get(DOCS_VARIABLE):
            DOCS.mkdir(exist_ok=True)
            await self.page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
            shown = Image.open(io.BytesIO(await self.page.screenshot(caret=CARET)))
            shown.save(DOCS / f"{name}.webp", quality=80, method=6)


async def opened(chromium: Browser, console: Running, **options: Any) -> Tab:
    """A new tab of a console; `options` as of `opened_at`."""
    return await opened_at(chromium, console.web.address, **options)


async def opened_at(
    chromium: Browser, address: str, *, dark: bool = False, width: int = 1280, axe: bool = False
) -> Tab:
    """A new tab. With `axe` our policy does not apply, which would keep the checker's script out."""
    context: BrowserContext = await chromium.new_context(
        base_url=address,
        color_scheme="dark" if dark else "light",
        viewport={"width": width, "height": 900},
        bypass_csp=axe,
    )
    context.set_default_timeout(30_000)
    return Tab(await context.new_page())
