"""Signing in with an OpenID Connect issuer, a real one over https: there and back, what is refused, the end."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from starlette.datastructures import MutableHeaders

from services.console import oidc, sessions
from services.console.config import ConsoleConfig
from services.console.sessions import Session, Sessions
from services.runtime.config import ConfigError, load
from tests.services.console.conftest import Browser, Running, running
from tests.services.console.issuer import SECRET, Issuer, serving

JOBS = "/projects/demo/jobs"


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[Issuer]:
    async with serving(tmp_path / "issuer") as found:
        yield found


@pytest.fixture
async def console(tmp_path: Path, issuer: Issuer) -> AsyncIterator[Running]:
    async with running(tmp_path, tokens=True, issuer=issuer) as found:
        yield found


async def to_issuer(browser: Browser, issuer: Issuer, *, wanted: str = JOBS) -> str:
    """Begins to sign in; gives the path by which the issuer sends the browser back."""
    begun = await browser.http.get("/sign-in/issuer", params={"next": wanted})
    assert begun.status_code == 303, begun.text
    assert begun.headers["location"].startswith(f"{issuer.url}/authorize?")
    async with issuer.browser() as there:
        place = urlsplit((await there.get(begun.headers["location"])).headers["location"])
    assert f"{place.scheme}://{place.netloc}" == str(browser.http.base_url).rstrip("/")
    return f"{place.path}?{place.query}"


async def sign_in(browser: Browser, issuer: Issuer, *, wanted: str = JOBS) -> httpx2.Response:
    return await browser.get(await to_issuer(browser, issuer, wanted=wanted))


def session_of(console: Running, browser: Browser) -> Session:
    """What the browser's cookies hold."""
    request = httpx2.Request("GET", console.web.address, cookies=browser.http.cookies)
    scope = {"type": "http", "headers": [(b"cookie", request.headers["cookie"].encode())]}
    found = keys_of(console).open(sessions.HTTPConnection(scope))
    assert found
    return found


def keys_of(console: Running) -> Sessions:
    return Sessions(console.config.session_key_file, hours=1, secure=False)


def put(console: Running, browser: Browser, session: Session) -> None:
    """Gives the browser a session."""
    headers = MutableHeaders()
    keys_of(console).seal(session, headers)
    for cookie in headers.getlist("set-cookie"):
        name, _, value = cookie.partition(";")[0].partition("=")
        browser.http.cookies.set(name, value, domain="127.0.0.1")


@contextlib.asynccontextmanager
async def opened(root: Path, issuer: Issuer, **settings: object) -> AsyncIterator[tuple[Running, Browser]]:
    """A console whose sessions a test can read, and a browser."""
    (root / "session-key").write_text("k" * 40)
    async with running(root, tokens=True, issuer=issuer, session_key_file=root / "session-key", **settings) as found:
        yield found, await found.browser()


async def test_a_person_signs_in_at_the_issuer_and_comes_back_to_where_they_were(console, issuer):
    browser = await console.browser()
    refused = await browser.get(f"{JOBS}?state=failed")
    page = await browser.get(refused.headers["location"])
    assert f"Sign in with {urlsplit(issuer.url).netloc}" in page.text
    link = page.text.split('id="issuer" href="')[1].split('"')[0]
    assert link == "/sign-in/issuer?next=/projects/demo/jobs%3Fstate%3Dfailed"
    accepted = await sign_in(browser, issuer, wanted=f"{JOBS}?state=failed")
    assert (accepted.status_code, accepted.headers["location"]) == (303, f"{JOBS}?state=failed")
    assert (await browser.get(JOBS)).status_code == 200


async def test_what_the_browser_and_the_log_see_holds_no_token(console, issuer, caplog):
    browser = await console.browser()
    accepted = await sign_in(browser, issuer)
    cookie = accepted.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert "eyJ" not in cookie and "eyJ" not in accepted.text and "eyJ" not in caplog.text


async def test_a_confidential_client_shows_its_secret_to_the_issuer_alone(tmp_path, issuer):
    issuer.secret, file = SECRET, tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    async with opened(tmp_path, issuer, oidc_client_secret_file=file) as (_, browser):
        back = await to_issuer(browser, issuer)
        assert SECRET not in back
        assert (await browser.get(back)).status_code == 303
        file.write_text("another")
        refused = await sign_in(browser, issuer)
        assert refused.status_code == 401 and "invalid_client" in refused.text


async def test_the_answer_of_another_sign_in_is_refused(console, issuer):
    victim, attacker = await console.browser(), await console.browser()
    theirs = await to_issuer(attacker, issuer)
    for path in (theirs, "/sign-in/callback?code=x&state=", "/sign-in/callback", "/sign-in/callback?error=x&state=ü"):
        await to_issuer(victim, issuer)
        refused = await victim.get(path)
        assert (refused.status_code, "not begun in this browser" in refused.text) == (400, True)
    assert issuer.asked == []  # no code went to the issuer
    assert (await victim.get(JOBS)).status_code == 303
    assert (await (await console.browser()).get(theirs)).status_code == 400


async def test_a_sign_in_that_takes_too_long_is_begun_anew(console, issuer, monkeypatch):
    browser = await console.browser()
    back = await to_issuer(browser, issuer)
    monkeypatch.setattr("services.console.sign_in.FLOW_SECONDS", -1.0)
    assert (await browser.get(back)).status_code == 400


async def test_a_code_works_once(tmp_path, issuer):
    async with opened(tmp_path, issuer) as (console, browser):
        back = await to_issuer(browser, issuer)
        before = session_of(console, browser)
        assert (await browser.get(back)).status_code == 303
        assert (await browser.get(back)).status_code == 400  # the browser's own part is used up
        put(console, browser, before)
        again = await browser.get(back)
        assert (again.status_code, "invalid_grant" in again.text) == (401, True)
        assert "<script>alert" not in again.text


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another"},
        {"aud": ["console", "another"], "azp": "another"},
        {"iss": "https://another.example"},
        {"exp": time.time() - 3600},
        {"sub": None},
    ],
)
async def test_an_id_token_that_is_not_for_this_sign_in_is_refused(console, issuer, claims):
    issuer.identity = claims
    browser = await console.browser()
    refused = await sign_in(browser, issuer)
    assert (refused.status_code, "does not sign you in" in refused.text) == (401, True)
    assert (await browser.get(JOBS)).status_code == 303


async def test_an_answer_in_another_issuers_name_is_refused(console, issuer):
    browser = await console.browser()
    back = await to_issuer(browser, issuer)
    place = urlsplit(back)
    asked = {name: values[0] for name, values in parse_qs(place.query).items()}
    refused = await browser.get(f"{place.path}?{urlencode({**asked, 'iss': 'https://another.example'})}")
    assert refused.status_code == 401


async def test_a_token_that_the_services_do_not_take_is_said_to_be_one(console, issuer):
    browser = await console.browser()
    for claims, why in (({"aud": "another"}, "their audience"), ({"exp": time.time() - 3600}, "compare the clocks")):
        issuer.access = claims
        refused = await sign_in(browser, issuer)
        assert (refused.status_code, why in refused.text) == (401, True)
        assert (await browser.get(JOBS)).status_code == 303


async def test_a_token_for_another_project_opens_that_one_alone(console, issuer):
    issuer.roles = {"other": "reader"}
    browser = await console.browser()
    assert (await sign_in(browser, issuer)).headers["location"] == JOBS
    assert (await browser.get(JOBS)).status_code == 404
    assert (await browser.get("/projects/other/jobs")).status_code == 200


async def test_the_id_token_goes_to_the_services_where_the_settings_say_so(tmp_path, issuer):
    issuer.identity = {"aud": ["omnialign", "console"], "azp": "console", "omnialign_roles": {"demo": "reader"}}
    issuer.access = {"aud": "nobody"}
    async with opened(tmp_path, issuer, oidc_token="id") as (console, browser):
        assert (await sign_in(browser, issuer)).status_code == 303
        assert (await browser.get(JOBS)).status_code == 200
        session = session_of(console, browser)
        put(console, browser, replace(session, renew_at=1.0))
        assert (await browser.get(JOBS)).status_code == 200
        assert session_of(console, browser).token != session.token


async def test_what_the_issuer_answers_is_shown_as_text(console, issuer):
    issuer.refusal = {"error": "access_denied", "error_description": "<script>alert(1)</script>"}
    browser = await console.browser()
    refused = await sign_in(browser, issuer)
    assert (refused.status_code, "access_denied" in refused.text) == (403, True)
    assert "&lt;script&gt;" in refused.text and "<script>alert" not in refused.text
    issuer.refusal = {"error": "<b>", "error_description": "x" * 5000}
    refused = await sign_in(browser, issuer)
    assert "<b>" not in refused.text.split("<main")[1] and "x" * 301 not in refused.text


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example", "/\\evil.example", "/\t/evil.example", "/" + "x" * 3000]
)
async def test_nobody_is_sent_elsewhere_after_signing_in(console, issuer, wanted):
    assert (await sign_in(await console.browser(), issuer, wanted=wanted)).headers["location"] == "/"


async def test_while_the_issuer_is_away_the_page_says_so_and_goes_on_by_itself(console, issuer):
    browser = await console.browser()
    issuer.is_away = True
    away = await browser.get("/sign-in/issuer")
    assert (away.status_code, away.headers["refresh"]) == (503, "3")
    assert "does not answer" in away.text
    issuer.is_away = False
    back = await to_issuer(browser, issuer)
    issuer.is_away = True
    away = await browser.get(back)
    assert (away.status_code, away.headers["refresh"]) == (503, "3")
    issuer.is_away = False
    assert (await browser.get(back)).headers["location"] == JOBS  # the same sign-in


async def test_a_token_is_renewed_before_it_runs_out_and_once_for_requests_at_a_time(tmp_path, issuer):
    issuer.lasting = 61  # of which a minute is the time to renew
    async with opened(tmp_path, issuer) as (console, browser):
        await sign_in(browser, issuer)
        first = session_of(console, browser)
        put(console, browser, replace(first, renew_at=time.time() - 1))
        answers = await asyncio.gather(*(browser.get(JOBS) for _ in range(3)))
        assert [answer.status_code for answer in answers] == [200] * 3
        renewed = session_of(console, browser)
        assert (renewed.token != first.token, renewed.refresh != first.refresh) == (True, True)
        assert (renewed.csrf, renewed.begun) == (first.csrf, first.begun)  # forms that are open stay good
        assert [asked["grant_type"] for asked in issuer.asked] == ["authorization_code", "refresh_token"]


async def test_files_that_caches_share_carry_no_session(tmp_path, issuer):
    async with opened(tmp_path, issuer) as (console, browser):
        await sign_in(browser, issuer)
        path = (await browser.get(JOBS)).text.split('rel="stylesheet" href="')[1].split('"')[0]
        put(console, browser, replace(session_of(console, browser), renew_at=1.0))
        file = await browser.get(path)
        assert file.status_code == 200 and "set-cookie" not in file.headers


async def test_a_token_stays_in_use_while_the_issuer_renews_none(tmp_path, issuer, monkeypatch):
    async with opened(tmp_path, issuer) as (console, browser):
        await sign_in(browser, issuer)
        session = replace(session_of(console, browser), renew_at=1.0)
        put(console, browser, session)
        issuer.is_away = True
        assert (await browser.get(JOBS)).status_code == 200
        issuer.is_away = False
        monkeypatch.setattr(oidc, "RENEWAL_KEPT_SECONDS", 0.0)
        put(console, browser, replace(session, refresh="revoked"))
        assert (await browser.get(JOBS)).status_code == 200


async def test_when_a_token_has_run_out_the_page_leads_to_signing_in_and_back(tmp_path, issuer):
    issuer.gives_refresh = False
    async with opened(tmp_path, issuer) as (console, browser):
        await sign_in(browser, issuer)
        session = session_of(console, browser)
        assert session.renew_at == 0.0
        put(console, browser, replace(session, token=issuer.access_token(exp=time.time() - 3600)))
        page = await browser.get(f"{JOBS}?state=failed")
        assert page.headers["location"].endswith("next=%2Fprojects%2Fdemo%2Fjobs%3Fstate%3Dfailed&why=TOKEN_EXPIRED")
        assert "expired; sign in again" in (await browser.get(page.headers["location"])).text
        part = await browser.get(JOBS, hx_request="true")
        assert (part.status_code, part.headers["hx-redirect"].startswith("/sign-in?")) == (401, True)


async def test_a_session_ends_after_its_hours_however_often_it_was_renewed(tmp_path, issuer):
    async with opened(tmp_path, issuer, session_hours=1.0) as (console, browser):
        await sign_in(browser, issuer)
        put(console, browser, replace(session_of(console, browser), begun=time.time() - 3601))
        assert (await browser.get(JOBS)).status_code == 303


async def test_signing_out_ends_the_session_at_the_issuer_too(console, issuer):
    browser = await console.browser()
    await sign_in(browser, issuer)
    ended = await browser.post("/sign-out", page=JOBS)
    place = ended.headers["refresh"].removeprefix("0; url=")
    assert place.startswith(f"{issuer.url}/end?")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(place).query).items()}
    assert asked["post_logout_redirect_uri"] == f"{console.web.address}/sign-in"
    assert asked["client_id"] == "console" and asked["id_token_hint"].startswith("eyJ")
    assert (await browser.get(JOBS)).status_code == 303
    async with issuer.browser() as there:
        assert (await there.get(place)).headers["location"] == f"{console.web.address}/sign-in"


async def test_signing_out_while_the_issuer_is_away_says_what_is_left_to_do(console, issuer):
    browser = await console.browser()
    await sign_in(browser, issuer)
    secret = await browser.secret(JOBS)
    issuer.is_away = True
    ended = await browser.http.post("/sign-out", data={"csrf": secret})
    assert ended.status_code == 200  # what the issuer said of itself is known
    assert (await browser.get(JOBS)).status_code == 303


async def test_long_tokens_travel_in_several_cookies_and_longer_ones_are_refused(tmp_path, issuer):
    async with opened(tmp_path, issuer) as (console, browser):
        issuer.access = {"groups": ["g" * 60] * 60}
        accepted = await sign_in(browser, issuer)
        assert accepted.headers["location"] == JOBS
        assert len(accepted.headers.get_list("set-cookie")) == 3
        assert (await browser.get(JOBS)).status_code == 200
        assert len(session_of(console, browser).token) > 4096
        assert "omnialign-1" in browser.http.cookies
        ended = await browser.post("/sign-out", page=JOBS)
        assert "omnialign-1=; Max-Age=0" in ended.headers["set-cookie"]
        assert "omnialign-1" not in browser.http.cookies
        issuer.access = {"groups": ["g" * 60] * 200}
        refused = await sign_in(browser, issuer)
        assert (refused.status_code, "too long for a browser" in refused.text) == (400, True)


async def test_a_token_that_is_given_by_hand_is_taken_beside_the_issuer(console):
    browser = await console.browser()
    assert (await browser.sign_in()).status_code == 303
    assert (await browser.post("/sign-out", page=JOBS)).headers["location"] == "/sign-in"


def test_settings_of_an_issuer_that_cannot_be_are_all_listed(tmp_path):
    environment = {
        "OMNIALIGN_CONSOLE_GATEWAY_ADDRESS": "localhost:1",
        "OMNIALIGN_CONSOLE_OIDC_ISSUER": "http://issuer.example",
        "OMNIALIGN_CONSOLE_OIDC_SCOPES": "profile",
        "OMNIALIGN_CONSOLE_OIDC_PARAMETERS": "state=x,audience",
        "OMNIALIGN_CONSOLE_OIDC_TOKEN": "other",
        "OMNIALIGN_CONSOLE_OIDC_CLIENT_SECRET_FILE": str(tmp_path / "none"),
        "OMNIALIGN_CONSOLE_OIDC_CA_FILE": str(tmp_path / "none"),
    }
    with pytest.raises(ConfigError) as caught:
        load(ConsoleConfig, environment)
    assert {name.removeprefix("OMNIALIGN_CONSOLE_") for name, _ in caught.value.problems} == {
        "OIDC_ISSUER",
        "OIDC_CLIENT_ID",
        "OIDC_SCOPES",
        "OIDC_PARAMETERS",
        "OIDC_TOKEN",
        "OIDC_CLIENT_SECRET_FILE",
        "OIDC_CA_FILE",
        "SIGN_IN",
    }
    alone = {**environment, "OMNIALIGN_CONSOLE_OIDC_ISSUER": "", "OMNIALIGN_CONSOLE_OIDC_CLIENT_ID": "console"}
    with pytest.raises(ConfigError) as caught:
        load(ConsoleConfig, alone)
    assert "OMNIALIGN_CONSOLE_OIDC_CLIENT_ID" in {name for name, _ in caught.value.problems}
