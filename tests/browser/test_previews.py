"""Media that Chromium cannot play: it takes the preview by itself, and plays that from the middle."""

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser

from omnialign.content import content
from omnialign.v1 import record_pb2
from tests.browser.conftest import opened
from tests.services.console.conftest import Running
from tests.services.console.test_previews import AUDIO, IMAGE, VIDEO, film, heard_as, picture

pytestmark = pytest.mark.browser

READY = """one => new Promise((ready, failed) => {
  one.onloadeddata = ready;
  one.querySelector("source:last-child").onerror = () => failed("no source plays");
  one.preload = "auto";
  one.load();
})"""
SEEK = "(one, to) => new Promise(done => { one.onseeked = () => done(one.currentTime); one.currentTime = to; })"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_media_that_the_browser_cannot_play_play_as_previews(
    console: Running, chromium: Browser, dark: bool
) -> None:
    files = (
        (film("mp4", "mpeg4", seconds=4), VIDEO),
        (film("matroska", "ffv1", seconds=4, tone="flac"), VIDEO),
        (heard_as("aiff", "pcm_s16be", seconds=4), AUDIO),
        (picture("TIFF", size=(120, 90)), IMAGE),
        (picture("PNG", size=(1, 20_000)), IMAGE),
    )
    media = [await console.client.upload_media(data, modality=modality) for data, modality in files]
    await console.client.create_dataset("media")
    record = record_pb2.Record(id="unplayable", prompt=content("Look and listen.", *media))
    await console.client.append_records("projects/demo/datasets/media", [record])
    tab = await opened(chromium, console, dark=dark, width=400, axe=True)
    await tab.sign_in()
    await tab.page.goto("/projects/demo/datasets/media/records", wait_until="load")
    players = [*(await tab.page.locator("video").all()), *(await tab.page.locator("audio").all())]
    assert len(players) == 3
    for player in players:
        await player.evaluate(READY)
        assert (await player.evaluate("one => one.currentSrc")).endswith("/preview")
        assert await player.evaluate(SEEK, 3) == pytest.approx(3, abs=0.2)
    assert await tab.page.locator("img").first.evaluate("one => one.decode().then(() => one.naturalWidth)") == 120
    await tab.screenshot(f"previews-{'dark' if dark else 'light'}-400")
    found = await Axe().run(tab.page)
    assert found.violations_count == 0, found.generate_report()
