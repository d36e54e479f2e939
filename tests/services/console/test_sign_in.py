"""Signing in and out, and whose rights a page has."""

import pytest

from services.console.config import ConsoleConfig
from services.console.security import own_path
from services.console.sessions import parse_keys
from services.runtime.config import ConfigError, load


async def test_a_page_leads_one_who_is_not_signed_in_to_the_sign_in_page_and_back(console):
    browser = await console.browser()
    refused = await browser.get("/projects/demo/jobs?state=failed")
    assert refused.status_code == 303
    assert refused.headers["location"] == "/sign-in?next=%2Fprojects%2Fdemo%2Fjobs%3Fstate%3Dfailed&why="
    accepted = await browser.post(
        "/sign-in", {"token": "alice-token", "project": "demo", "next": "/projects/demo/jobs?state=failed"}
    )
    assert (accepted.status_code, accepted.headers["location"]) == (303, "/projects/demo/jobs?state=failed")
    assert (await browser.get("/projects/demo/jobs")).status_code == 200


async def test_a_token_that_the_services_do_not_know_is_refused_in_their_words(console):
    refused = await (await console.browser()).sign_in("made-up")
    assert refused.status_code == 401
    assert "The token is unknown" in refused.text
    assert "made-up" not in refused.text


@pytest.mark.parametrize("token", ["", "two words", "zweiunddreißig", "a\nb"])
async def test_what_cannot_be_a_token_is_not_even_sent(console, token):
    assert (await (await console.browser()).sign_in(token)).status_code == 400


async def test_a_token_that_no_cookie_can_hold_is_refused_in_a_sentence(console):
    refused = await (await console.browser()).sign_in("t" * 12_000)
    assert (refused.status_code, "too long for a browser" in refused.text) == (400, True)


async def test_the_cookie_is_sealed_and_kept_from_scripts_and_other_sites(console):
    accepted = await (await console.browser()).sign_in()
    cookie = accepted.headers["set-cookie"]
    assert cookie.startswith("omnialign=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "alice-token" not in cookie


async def test_behind_tls_the_cookie_travels_over_tls_alone(tmp_path):
    from tests.services.console.conftest import running

    async with running(tmp_path, tokens=True, https=True) as console:
        page = await (await console.browser()).get("/sign-in")
        assert page.headers["set-cookie"].startswith("__Host-omnialign=")
        assert "; Secure" in page.headers["set-cookie"]
        assert page.headers["strict-transport-security"]


async def test_signing_in_gives_forms_a_new_secret(console):
    browser = await console.browser()
    before = await browser.secret("/sign-in")
    await browser.sign_in()
    assert await browser.secret("/projects/demo/jobs") != before


async def test_one_who_signed_out_sees_nothing_any_more(browser):
    assert (await browser.post("/sign-out", page="/projects/demo/jobs")).status_code == 303
    assert (await browser.get("/projects/demo/jobs")).status_code == 303


async def test_what_is_in_another_project_is_not_there(console, browser):
    await console.client.create_dataset("seen")
    assert (await browser.get("/projects/demo/jobs")).status_code == 200
    assert (await browser.get("/projects/other/jobs")).status_code == 404
    assert (await browser.get("/projects/Not-One/jobs")).status_code == 404


async def test_a_session_of_another_key_is_no_session(console, browser):
    browser.http.cookies.set("omnialign", "gAAAAABforged", domain="127.0.0.1")
    assert (await browser.get("/projects/demo/jobs")).status_code == 303


async def test_without_tokens_nobody_signs_in(open_console):
    browser = await open_console.browser()
    assert (await browser.get("/projects/demo/jobs")).status_code == 200
    assert (await browser.get("/sign-in")).headers["location"] == "/"


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "evil",
        "",
    ],
)
def test_nobody_is_sent_to_another_server(wanted):
    assert own_path(wanted) == "/"


async def test_an_open_redirect_is_refused_at_sign_in(console):
    answer = await (await console.browser()).post(
        "/sign-in", {"token": "alice-token", "project": "demo", "next": "//evil.example/"}
    )
    assert answer.headers["location"] == "/projects/demo/jobs"


def test_an_own_path_stays():
    assert own_path("/projects/demo/jobs?state=failed#x") == "/projects/demo/jobs?state=failed#x"


def test_a_session_is_opened_by_an_older_key_too():
    old, new = "o" * 32, "n" * 32
    sealed = parse_keys(old).encrypt(b"session")
    assert parse_keys(f"{new}\n{old}\n").decrypt(sealed) == b"session"
    with pytest.raises(ValueError, match="32 characters"):
        parse_keys("short")


def test_settings_that_cannot_be_are_all_listed(tmp_path):
    environment = {
        "OMNIALIGN_CONSOLE_GATEWAY_ADDRESS": "localhost:1",
        "OMNIALIGN_CONSOLE_PROJECT": "Big",
        "OMNIALIGN_CONSOLE_HOSTS": "console.example:443",
        "OMNIALIGN_CONSOLE_SESSION_KEY_FILE": str(tmp_path / "none"),
        "OMNIALIGN_CONSOLE_SESSION_HOURS": "0",
    }
    with pytest.raises(ConfigError) as caught:
        load(ConsoleConfig, environment)
    assert {name.removeprefix("OMNIALIGN_CONSOLE_") for name, _ in caught.value.problems} == {
        "PROJECT",
        "HOSTS",
        "SESSION_KEY_FILE",
        "SESSION_HOURS",
    }
