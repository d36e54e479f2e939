"""What a person does who has a keyboard and no mouse."""

from playwright.async_api import Page

WORDS = "מצוין 👍 clear"
LATER = "([id, time]) => document.getElementById(id).currentTime > time"
MOST_TABS = 150


async def leap(page: Page, letter: str) -> None:
    """Presses Alt and a letter as a keyboard does: with the letter that it would write, which Playwright leaves out."""
    session = await page.context.new_cdp_session(page)
    key = {"key": letter, "code": f"Key{letter.upper()}", "windowsVirtualKeyCode": ord(letter.upper()), "modifiers": 1}
    await session.send("Input.dispatchKeyEvent", {"type": "keyDown", "unmodifiedText": letter, **key})
    await session.send("Input.dispatchKeyEvent", {"type": "keyUp", **key})
    await session.detach()


async def tab_to(page: Page, selector: str) -> None:
    """Presses Tab until the focus is on something like that."""
    for _ in range(MOST_TABS):
        await page.keyboard.press("Tab")
        if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{MOST_TABS} times Tab, and the focus never was on {selector}")


async def press(page: Page, selector: str) -> None:
    """Goes to something like that, and presses Enter."""
    await tab_to(page, selector)
    await page.keyboard.press("Enter")


async def follow(page: Page, selector: str) -> None:
    """Goes to a link or a button that leads to another page, presses Enter, and waits for that page."""
    await tab_to(page, selector)
    async with page.expect_navigation():
        await page.keyboard.press("Enter")


async def play(page: Page) -> str:
    """Plays the first sound or video of the pair; returns the id of its player once it has sounded for a while."""
    await leap(page, "p")
    await page.wait_for_url("**#pair")
    await tab_to(page, "audio, video")
    await page.keyboard.press("Space")
    player = str(await page.evaluate("document.activeElement.id"))
    await page.wait_for_function(LATER, arg=[player, 0.3])
    return player


async def mark_span(page: Page, player: str) -> None:
    """Marks a stretch of what plays."""
    await leap(page, "r")
    await page.wait_for_url("**#responses")
    await press(page, f"[data-take$='.0.start'][data-player='{player}']")
    start = await page.evaluate("id => document.getElementById(id).currentTime", player)
    await page.wait_for_function(LATER, arg=[player, start + 0.3])
    await press(page, f"[data-take$='.0.end'][data-player='{player}']")


async def mark_region(page: Page) -> None:
    """Marks a region of the first picture: 10 % from the left, 20 % from the top, 30 % wide, 40 % high."""
    await leap(page, "r")
    await page.wait_for_url("**#responses")
    for edge, number in (("left", "10"), ("top", "20"), ("width", "30"), ("height", "40")):
        await tab_to(page, f"[name$='.0.{edge}']")
        await page.keyboard.type(number)


async def fill_in(page: Page) -> None:
    """Goes through the form from its first dimension to its last field, and answers each for the first response."""
    await leap(page, "d")
    await page.wait_for_url("**#dimensions")
    name = ""
    while name != "reason":
        await page.keyboard.press("Tab")
        kind, name = await page.evaluate("[document.activeElement.type, document.activeElement.name]")
        if kind == "radio":
            for key in ["ArrowRight"] * 3 if name.startswith("score.1.") else ["Space"]:
                await page.keyboard.press(key)
        elif kind == "textarea":
            await page.keyboard.type(WORDS)
