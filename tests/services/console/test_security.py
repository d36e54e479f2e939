"""What the console refuses, and what its answers carry."""

import re

import pytest

from services.console.security import PAGE_POLICY
from tests.pages import Page

POSTS = ("/sign-in", "/sign-out")


async def test_every_answer_carries_the_headers_of_security(console, browser):
    for path in ("/sign-in", "/projects/demo/jobs", "/nowhere", "/healthz/live", "/"):
        headers = (await browser.get(path)).headers
        assert headers["content-security-policy"] == PAGE_POLICY, path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
    assert "script-src 'self';" in PAGE_POLICY and "frame-ancestors 'none'" in PAGE_POLICY
    assert "unsafe" not in PAGE_POLICY


@pytest.mark.parametrize("path", POSTS)
async def test_a_form_without_its_secret_is_refused(console, browser, path):
    missing = await browser.http.post(path, data={})
    assert (missing.status_code, "CSRF_MISSING" in missing.text) == (403, True)
    wrong = await browser.http.post(path, data={"csrf": "x" * 32})
    assert (wrong.status_code, "CSRF_WRONG" in wrong.text) == (403, True)


async def test_the_secret_of_one_session_is_worth_nothing_in_another(console, browser):
    other = await console.browser()
    secret = await other.secret("/sign-in")
    answer = await browser.http.post("/sign-out", data={"csrf": secret})
    assert (answer.status_code, "CSRF_WRONG" in answer.text) == (403, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_a_form_of_another_site_is_refused_even_with_the_secret(console, browser, headers):
    secret = await browser.secret("/projects/demo/jobs")
    answer = await browser.http.post("/sign-out", data={"csrf": secret}, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (403, "CROSS_ORIGIN")


async def test_a_name_that_somebody_pointed_here_is_refused(console, browser):
    refused = await browser.get("/projects/demo/jobs", host="evil.example")
    assert (refused.status_code, refused.json()["reason"]) == (400, "HOST_UNKNOWN")
    assert (await browser.get("/healthz/live", host="10.0.0.7:8080")).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost/@evil.example",
        "localhost?x=evil.example",
        "localhost#evil.example",
        "localhost\\@evil.example",
        "localhost:80:80",
        "localhost:80@evil.example",
        "[::1]evil.example",
        "localhost, evil.example",
        "localhost.",
    ],
)
async def test_a_name_that_only_looks_like_ours_is_refused(console, browser, host):
    refused = await browser.get("/sign-in", host=host)
    assert (refused.status_code, refused.json()["reason"]) == (400, "HOST_UNKNOWN")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:65535", "[::1]:8080"])
async def test_the_machine_itself_is_reached_by_its_names(console, browser, host):
    assert (await browser.get("/sign-in", host=host)).status_code == 200


@pytest.mark.parametrize(
    "first", ["9.x", ".", "4.", "²." + "x" * 50, "-1.x", "1." + "=" * 3000, "\xff\xfe", "99999999999.x"]
)
async def test_a_cookie_that_somebody_made_up_is_nobodys(console, first):
    browser = await console.browser()
    cookie = f"omnialign={first}; omnialign-1=y; omnialign-2=; omnialign-3=z; omnialign=1.again"
    answer = await browser.http.get("/projects/demo/jobs", headers={"cookie": cookie.encode("latin-1")})
    assert answer.status_code == 303


async def test_a_form_of_megabytes_is_not_read(console, browser):
    answer = await browser.http.post("/sign-in", data={"token": "t" * 2_000_000})
    assert answer.status_code == 413


async def test_pages_hold_no_script_and_no_style_of_their_own(console, browser):
    for path in ("/sign-in", "/projects/demo/jobs", "/nowhere"):
        text = (await browser.get(path)).text
        assert_clean(text)


def assert_clean(html: str) -> None:
    """No inline script, style or handler, and nothing that is loaded from elsewhere."""
    page = Page(html)
    assert page.handlers == []
    assert "style" not in page.tags
    assert not re.search(r"<[^>]*\sstyle=", html)
    assert all(re.search(r'src="/', tag) for tag in re.findall(r"<script[^>]*>", html))
    assert not re.search(r"<script[^>]*>[^<]", html)
    assert all(load.startswith(("/", "#", "?")) for load in page.loads), page.loads


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'><svg/onload=x>"])
async def test_what_an_address_says_is_shown_as_text_at_most(console, browser, text):
    for path, name in (
        ("/sign-in", "next"),
        ("/sign-in", "why"),
        ("/projects/demo/jobs", "state"),
        ("/projects/demo/jobs", "shown"),
    ):
        page = await browser.http.get(path, params={name: text})
        assert text not in page.text
        assert_clean(page.text)
    answer = await browser.post("/sign-in", {"token": text, "project": text})
    assert text not in answer.text
    assert_clean(answer.text)


async def test_files_are_cached_for_good_and_packed(console, browser):
    page = await browser.get("/projects/demo/jobs")
    for load in Page(page.text).loads:
        if load.startswith("/static/"):
            file = await browser.get(load)
            assert file.status_code == 200
            assert "immutable" in file.headers["cache-control"]
            assert file.headers["content-encoding"] == "gzip"
    assert (await browser.get("/static/0000000000000000/console.css")).status_code == 404
    assert (await browser.get("/static/../../app.py")).status_code == 404


async def test_the_first_page_is_small(console, browser):
    page = await browser.get("/projects/demo/jobs")
    files = [await browser.get(load) for load in Page(page.text).loads if load.startswith("/static/")]
    assert len(page.content) + sum(file.num_bytes_downloaded for file in files) < 150_000
