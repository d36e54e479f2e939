"""Trying models: prompts with files, answers side by side as they come, critique and judgement, and what is refused."""

import asyncio
import html
import re

import pytest

from omnialign.content import content, media_of, subtask_of, text_of
from omnialign.errors import FailedPrecondition
from omnialign.v1 import content_pb2, record_pb2
from tests.services.console.conftest import running
from tests.services.console.hostile import SCRIPT
from tests.services.console.test_jobs import assert_harmless
from tests.services.console.test_media import sound

PATH = "/projects/demo/try"
ONE, OTHER = "projects/demo/models/one/versions/1", "projects/demo/models/other/versions/2"
CRITIC, JUDGE = "projects/demo/models/critic/versions/1", "projects/demo/models/judge/versions/1"
BOTH = {"prompt": "What is this?", "model": ONE, "other": OTHER}
PICTURE = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde\x00\x00\x00"
    b"\x0cIDATx\x9cc\xf8\xcf\xc0\x00\x00\x03\x01\x01\x00\xc9\xfe\x92\xef\x00\x00\x00\x00IEND\xaeB`\x82"
)


async def request(browser, fields, files=()):
    """What a browser sends for the form."""
    secret = await browser.secret("/projects/demo/jobs")
    named = {key: (None, value) for key, value in {"csrf": secret, **fields}.items()}
    parts = [*named.items(), *(("files", (name, data, "application/octet-stream")) for name, data in files)]
    headers = {"origin": str(browser.http.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    return browser.http.build_request("POST", PATH, files=parts, headers=headers)


async def ask(browser, fields, files=()):
    return await browser.http.send(await request(browser, fields, files))


def place(page, name):
    """The outcome in a place of a page."""
    found = re.search(rf'<article class="card done {name}".*?</article>', page, re.DOTALL)
    assert found, name
    return found[0]


def hidden(page):
    """The fields of the form that assesses answers."""
    form = page[page.index("Have these answers assessed") :]
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form)
    return {name: html.unescape(value) for name, value in found if name != "csrf"}


async def test_two_models_answer_a_prompt_with_files_side_by_side(console, browser):
    seen = []

    def reply(model, item):
        seen.append((model, item))
        return content(f"I am {model}.", *media_of([item.prompt]))

    console.models.replies = reply
    page = await ask(browser, {**BOTH, "temperature": "0.5", "seed": "7"}, [("a.png", PICTURE), ("b", sound())])
    assert page.status_code == 200
    assert [part.media.mime_type for part in seen[0][1].prompt.parts[:2]] == ["image/png", "audio/wav"]
    assert (text_of(seen[0][1].prompt), seen[0][1].seed) == ("What is this?", 7)
    for number, model in ((1, ONE), (2, OTHER)):
        answer = place(page.text, f"answer{number}")
        assert f"I am {model}." in answer and f'<a href="/{model}">' in answer
        assert "<img src=" in answer and "<audio controls" in answer
        assert re.search(r'<p class="small">[0-9.e-]+ s · ', answer)
    assert "criticise" not in place(page.text, "answer1")
    kept = re.findall(r'<input type="checkbox" name="media" value="([0-9a-f]{64})" checked>', page.text)
    assert len(kept) == 2  # the next prompt can be about the same files
    assert_harmless(page.text)


async def test_answers_are_criticised_and_compared_in_both_orders_on_demand(console, browser):
    console.models.orders = lambda _id: (record_pb2.VERDICT_WIN, record_pb2.VERDICT_TIE)
    answered = await ask(browser, BOTH)
    assert not {rpc for rpc, _ in console.models.asked} & {"Critique", "CompareResponses"}
    fields = hidden(answered.text)
    console.models.asked.clear()
    page = (await ask(browser, {**fields, "critic": CRITIC, "judge": JUDGE})).text
    assert sorted(rpc for rpc, _ in console.models.asked) == ["CompareResponses", "Critique", "Critique"]
    assert place(page, "answer1").split("</h3>")[1].split("<p")[0] in answered.text  # the answers are the same
    assert "It could be better." in place(page, "critique1") and "so so" in place(page, "critique2")
    judged = place(page, "judgement")
    assert "<b>Answer 2 is better</b>" in judged
    assert "Answer 1 shown first: Answer 2 is better" in judged
    assert "Answer 2 shown first: Neither is better" in judged


async def test_an_outcome_is_sent_as_soon_as_it_is_there(console, browser):
    entered, release = console.models.hold("Critique")
    sent = await request(browser, {"prompt": "Hi", "model": ONE, "critic": CRITIC})
    answer = await browser.http.send(sent, stream=True)
    page = ""
    async for text in answer.aiter_text():
        page += text
        if "done answer1" in page:
            break
    assert "done critique1" not in page and "reads the answer…" in page
    await entered.wait()
    release.set()
    await answer.aclose()


async def test_an_answer_is_shown_while_it_is_written(console, browser):
    console.models.deltas = ["I see ", SCRIPT]
    _, release = console.models.hold("Finish")
    answer = await browser.http.send(await request(browser, {"prompt": "Hi", "model": ONE}), stream=True)
    page = ""
    async for text in answer.aiter_text():
        page += text
        if "draft answer1" in page and not release.is_set():
            assert "I see" in page and "done answer1" not in page
            release.set()
    assert "done answer1" in page.split("draft answer1")[-1]  # what comes later in a place is what is seen
    assert_harmless(page)


class Held(asyncio.Event):
    """Holds a call, and says when it is cancelled."""

    def __init__(self):
        super().__init__()
        self.cancelled = asyncio.Event()

    async def wait(self):
        try:
            return await super().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.mark.parametrize("rpc", ["Generate", "Critique", "CompareResponses"])
async def test_a_browser_that_stops_loading_stops_the_models(console, browser, rpc):
    entered, _ = console.models.hold(rpc)
    held = console.models.holds[rpc] = Held()
    answer = await browser.http.send(await request(browser, {**BOTH, "critic": CRITIC, "judge": JUDGE}), stream=True)
    await entered.wait()
    await answer.aclose()
    await asyncio.wait_for(held.cancelled.wait(), 10)


async def test_each_failure_is_a_sentence_in_its_place(console, browser):
    full = FailedPrecondition(f"The prompt does not fit {SCRIPT}.", reason="PROMPT_TOO_LONG")
    console.models.faults = lambda rpc, _id: full if rpc == "Generate" else None
    page = (await ask(browser, {**BOTH, "other": "absent", "critic": CRITIC, "judge": JUDGE})).text
    assert "PROMPT_TOO_LONG" in place(page, "answer1")
    assert "NOT_FOUND" in place(page, "answer2")  # no such model is registered
    assert "no answer to criticise" in place(page, "critique1")
    assert "no answer to compare" in place(page, "judgement")
    assert "Have these answers assessed" not in page
    assert_harmless(page)
    console.models.faults = lambda rpc, _id: full if rpc != "Generate" else None
    page = (await ask(browser, {**BOTH, "critic": CRITIC, "judge": JUDGE})).text
    assert "PROMPT_TOO_LONG" in place(page, "critique2") and "PROMPT_TOO_LONG" in place(page, "judgement")
    console.models.faults, console.models.abstains = lambda *_: None, lambda _id: True
    abstained = place((await ask(browser, {**BOTH, "critic": CRITIC})).text, "critique1")
    assert "ANSWER_UNPARSABLE" in abstained and "mumble" in abstained


async def test_what_a_model_writes_is_shown_as_text(console, browser):
    console.models.replies = lambda _model, _item: content(SCRIPT)
    page = await ask(browser, {**BOTH, "prompt": SCRIPT, "critic": SCRIPT, "judge": SCRIPT})
    assert "alert(1)" in place(page.text, "answer1")
    assert_harmless(page.text)
    again = await ask(browser, {**hidden(page.text), "critic": CRITIC})
    assert "alert(1)" in place(again.text, "answer2")
    assert_harmless(again.text)


async def test_files_that_are_no_media_are_refused_by_name_and_nothing_else_is_lost(console, browser):
    files = [("good.png", PICTURE), (SCRIPT, b"<svg onload=alert(1)>"), ("empty.wav", b""), ("noise.png", bytes(100))]
    page = await ask(browser, {**BOTH, "prompt": "Keep me"}, files)
    assert page.status_code == 400
    assert "3 files cannot be used" in page.text and "MEDIA_TYPE_UNSUPPORTED" in page.text
    assert "empty.wav" in page.text and "The media is empty." in page.text
    assert "Keep me" in page.text and f'value="{ONE}"' in page.text
    assert page.text.count('<input type="checkbox" name="media"') == 1  # the good one is stored
    assert console.models.asked == []
    assert_harmless(page.text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": " "},
        {"model": ""},
        {"model": "x\ny"},
        {"temperature": "nan"},
        {"temperature": "-1"},
        {"seed": "²"},
        {"seed": "1" * 30},
        {"max_new_tokens": "99999999"},
        {"media": "../../etc/passwd"},
        {"answer.1": "{"},
        {"answer.1": "[" * 100_000},
        {"answer.1": '{"no_such_field": 1}'},
    ],
)
async def test_what_cannot_be_tried_is_said_and_nothing_is_asked(console, browser, wrong):
    page = await ask(browser, {**BOTH, **wrong})
    assert (page.status_code, "TRIAL_INVALID" in page.text) == (400, True)
    assert console.models.asked == []


async def test_too_much_is_refused_before_it_is_read(console, browser):
    many = await ask(browser, BOTH, [(f"{number}.png", PICTURE) for number in range(17)])
    assert (many.status_code, "FILES_TOO_MANY" in many.text) == (400, True)
    long = await ask(browser, {**BOTH, "prompt": "x" * 3_000_000})
    assert (long.status_code, "FORM_INVALID" in long.text) == (400, True)
    assert console.models.asked == []


async def test_a_prompt_with_its_files_is_bounded_by_the_settings(tmp_path):
    async with running(tmp_path, tokens=False, max_try_bytes=2000) as console:
        page = await ask(await console.browser(), BOTH, [("long.wav", sound(9))])
        assert (page.status_code, "FILES_TOO_LARGE" in page.text) == (400, True)
        assert console.models.asked == []


async def test_the_form_needs_the_secret_and_a_person_of_the_project(console, browser):
    forged = await browser.http.post(PATH, data=BOTH)
    assert (forged.status_code, "CSRF_MISSING" in forged.text) == (403, True)
    stranger = await console.browser()
    assert (await stranger.get(PATH)).status_code == 303
    await stranger.sign_in("bob-token", project="other")
    assert (await stranger.get(PATH)).status_code == 404
    medium = await console.client.upload_media(sound(), modality=content_pb2.MODALITY_AUDIO)
    theirs = await ask(browser, {**BOTH, "media": medium.sha256.replace("a", "b")})
    assert theirs.status_code == 404
    assert console.models.asked == []


async def test_the_form_takes_up_a_model_from_its_address(console, browser):
    page = (await browser.http.get(PATH, params={"model": ONE, "other": SCRIPT})).text
    assert f'name="model" value="{ONE}"' in page
    assert_harmless(page)


def test_the_subtask_of_a_prompt_and_an_answer_is_made_of_their_modalities():
    picture = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE)
    heard = content_pb2.Media(modality=content_pb2.MODALITY_AUDIO)
    assert subtask_of(content(heard, picture, "Why?"), content("So.", picture)) == "tia2ti"
    assert subtask_of(content(picture), content()) == "i2t"
