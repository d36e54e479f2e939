"""Pages of annotation: campaigns, the task with its form, drafts, and what becomes of a pair."""

import re

from omnialign import names
from omnialign.content import content
from omnialign.v1 import annotation_pb2, content_pb2
from omnialign.v1.annotation_pb2 import DraftAbstention, ModelDraft
from omnialign.v1.annotation_service_pb2 import Campaign
from services.annotation.drafting.drafts import Drafts
from services.console.annotation_form import fields_of
from services.runtime.database import Database
from tests.services.annotation.conftest import filled, pair
from tests.services.console.hostile import SCRIPT
from tests.services.console.test_jobs import assert_harmless
from tests.services.console.test_media import sound
from tests.services.console.test_security import assert_clean

MODEL = "openai+http://127.0.0.1:9/v1#"
LONG = "שלום 👩‍👩‍👧‍👦 <b>עולם</b> " * 800


async def campaign(console, *records, **fields):
    """A campaign over some pairs, by default two of texts; everybody sees them in their own order."""
    made = await console.client.create_dataset("pairs")
    await console.client.append_records(made.name, list(records) or [pair(1), pair(2)])
    version = await console.client.commit_version(made.name)
    return await console.client.create_campaign(
        "people", Campaign(dataset_version=version.name, keep_sides=True, **fields)
    )


async def signed_in(console, token):
    found = await console.browser()
    await found.sign_in(token)
    return found


async def task_of(browser, campaign, query=""):
    """The next task's page, and the path and the revision in its form."""
    page = await browser.get(f"/{campaign.name}/annotate{query}")
    assert page.status_code == 200, page.text
    return page.text, re.search(r'data-task="([^"]+)"', page.text)[1], revision_in(page.text)


def revision_in(html):
    return re.search(r'id="revision" value="(\d+)"', html)[1]


def answered(campaign, **parts):
    return fields_of(filled(campaign.rubrics[0], **parts))


async def test_campaigns_are_listed_with_progress_and_shown_with_their_rubric(console, browser):
    made = await campaign(console, display_name="First", instructions="Look twice.")
    listed = (await browser.get("/projects/demo/campaigns")).text
    assert f'href="/{made.name}"' in listed and "0 of 2" in listed
    page = (await browser.get(f"/{made.name}")).text
    assert "Look twice." in page and "Does the response do what the prompt asks?" in page
    assert '<a href="/projects/demo/campaigns" aria-current="page">Annotation</a>' in page
    assert_clean(page)


async def test_an_annotator_submits_a_pair_and_gets_the_next(console):
    made, ann = await campaign(console), await signed_in(console, "ann-token")
    page, task, revision = await task_of(ann, made)
    assert "question 1" in page and "answer 1" in page and "answer 2" in page
    assert "model-1" not in page  # who wrote what is hidden
    assert page.count("<legend>") == page.count("<fieldset")
    assert_clean(page)
    done = await ann.post(f"/{task}/submit", {**answered(made), "revision": revision})
    assert (done.status_code, done.headers["location"]) == (303, f"/{made.name}/annotate?after=submit")
    page, task, revision = await task_of(ann, made, "?after=submit")
    assert "question 2" in page and "Submitted." in page
    await ann.post(f"/{task}/submit", {**answered(made, preferred=2), "revision": revision})
    assert "nothing left" in (await ann.get(f"/{made.name}/annotate")).text
    found = await console.client.get_campaign(made.name)
    assert found.progress.submitted_count == 2


async def test_a_draft_is_saved_and_shown_again(console):
    made, ann = await campaign(console), await signed_in(console, "ann-token")
    _, task, revision = await task_of(ann, made)
    fields = {"critique.1": LONG, "score.1.clarity": "0", "reason": SCRIPT, "revision": revision}
    saved = await draft(ann, task, fields)
    assert (saved.status_code, revision_in(saved.text)) == (200, "1")
    page, same, revision = await task_of(ann, made)
    assert (same, revision) == (task, "1")
    assert "&lt;b&gt;עולם&lt;/b&gt;" in page and 'name="score.1.clarity" value="0" checked' in page
    assert_harmless(page)
    without_scripts = await ann.post(f"/{task}/draft", {"reason": "why", "revision": "1", "more": "mark.1.prompt.0.1"})
    assert without_scripts.headers["location"] == f"/{made.name}/annotate#mark.1.prompt.0.1"


async def draft(browser, task, fields):
    """Saves as the page does."""
    headers = {"hx-request": "true", "x-csrf-token": await browser.secret("/projects/demo/jobs")}
    return await browser.http.post(f"/{task}/draft", data=fields, headers=headers)


async def test_another_tab_of_one_person_is_told_and_overwrites_nothing(console):
    made, ann = await campaign(console), await signed_in(console, "ann-token")
    _, task, revision = await task_of(ann, made)
    await draft(ann, task, {"reason": "of the first tab", "revision": revision})
    refused = await draft(ann, task, {"reason": "of the second", "revision": revision})
    assert (refused.status_code, "Another tab" in refused.text) == (409, True)
    assert f'href="/{made.name}/annotate"' in refused.text
    lost = await ann.post(f"/{task}/submit", {**answered(made), "revision": revision})
    assert (lost.status_code, "Another tab" in lost.text) == (409, True)
    assert "of the first tab" in (await task_of(ann, made))[0]


async def test_what_is_missing_is_said_and_nothing_typed_is_lost(console):
    made, ann = await campaign(console), await signed_in(console, "ann-token")
    _, task, revision = await task_of(ann, made)
    refused = await ann.post(
        f"/{task}/submit", {"reason": "half", "critique.2": LONG, "preferred": "1", "revision": revision}
    )
    assert refused.status_code == 400
    assert "lacks" in refused.text and "half" in refused.text and "👩‍👩‍👧‍👦" in refused.text
    kept = await draft(ann, task, {"rationale.1.clarity": "unclear", "revision": revision})
    assert kept.status_code == 200
    shown, _, revision = await task_of(ann, made)
    assert ">unclear</textarea>" in shown and 'name="score.1.clarity" value="0" checked' not in shown
    unscored = await ann.post(f"/{task}/submit", {"rationale.1.clarity": "unclear", "revision": revision})
    assert (unscored.status_code, "clarity (it has only a rationale)" in unscored.text) == (400, True)
    for fields in ({"winner.beauty": "1"}, {"critique.1": "👍" * 20_001}, {"reason": "ע" * 20_001}):
        wrong = await draft(ann, task, {**fields, "revision": revision})
        assert (wrong.status_code, "Not saved" in wrong.text) == (400, True)
    assert (await draft(ann, task, {"critique.1": "👍" * 20_000, "revision": revision})).status_code == 200


async def test_a_session_that_ends_leads_back_to_the_task(console):
    made, ann = await campaign(console), await signed_in(console, "ann-token")
    _, task, revision = await task_of(ann, made)
    page = f"{str(ann.http.base_url).rstrip('/')}/{made.name}/annotate"
    await ann.post("/sign-out")
    for headers in ({"hx-request": "true"}, {}):
        answer = await ann.http.post(
            f"/{task}/draft", data={"reason": "x", "revision": revision}, headers={"referer": page, **headers}
        )
        place = answer.headers.get("hx-redirect") or answer.headers["location"]
        assert place.startswith("/sign-in?next=%2Fprojects%2Fdemo%2Fcampaigns%2Fpeople%2Fannotate")
    elsewhere = await ann.http.post(f"/{task}/draft", headers={"referer": "https://evil.example/x"})
    assert elsewhere.headers["location"] == "/sign-in?next=&why="


async def test_a_pair_is_skipped_or_set_aside_with_a_reason(console):
    made, ann = await campaign(console), await signed_in(console, "ann-token")
    _, task, _ = await task_of(ann, made)
    assert (await ann.post(f"/{task}/skip", {"reason": " "})).status_code == 400
    assert (await ann.post(f"/{task}/skip", {"reason": "not my field"})).status_code == 303
    page, task, _ = await task_of(ann, made, "?after=skip")
    assert "Skipped" in page
    assert (await ann.post(f"/{task}/flag", {"reason": "broken"})).status_code == 303
    again = await ann.post(f"/{task}/submit", {**answered(made), "revision": "0"})
    assert (again.status_code, "finished already" in again.text) == (409, True)
    found = await console.client.get_campaign(made.name)
    assert (found.progress.skipped_count, found.progress.flagged_count) == (1, 1)


async def test_forms_of_annotation_need_their_secret(console):
    made, ann = await campaign(console), await signed_in(console, "ann-token")
    _, task, revision = await task_of(ann, made)
    for path in (f"{task}/draft", f"{task}/submit", f"{task}/skip", f"{task}/flag", f"{made.name}/commit"):
        refused = await ann.http.post(f"/{path}", data={"revision": revision, "reason": "x"})
        assert (refused.status_code, "CSRF_MISSING" in refused.text) == (403, True), path
    bob = await console.browser()
    await bob.sign_in("bob-token", project="other")
    assert (await bob.get(f"/{made.name}/annotate")).status_code == 404


async def test_sounds_have_players_whose_time_a_mark_can_take(console):
    medium = await console.client.upload_media(sound(), modality=content_pb2.MODALITY_AUDIO)
    record = pair(1, subtask="ta2t")
    record.prompt.CopyFrom(content(medium, "what is heard?"))
    made, ann = await campaign(console, record), await signed_in(console, "ann-token")
    page, task, revision = await task_of(ann, made)
    assert f'id="player-prompt-0"><source src="/projects/demo/media/{medium.sha256}"' in page
    assert 'data-player="player-prompt-0" data-take="mark.1.prompt.0.0.start"' in page
    hour = {"mark.2.prompt.0.0.start": "3599.999", "mark.2.prompt.0.0.end": "3600"}
    assert (await draft(ann, task, {**hour, "revision": revision})).status_code == 200
    page, _, revision = await task_of(ann, made)
    assert 'name="mark.2.prompt.0.0.start" value="3599.999"' in page
    mark = {"mark.1.prompt.0.0.start": "0.25", "mark.1.prompt.0.0.end": "0.75", "mark.1.prompt.0.0.note": "a click"}
    assert (await ann.post(f"/{task}/submit", {**answered(made), **mark, "revision": revision})).status_code == 303
    (item,) = [item async for item in console.client.list_items(made.name)]
    (found,) = item.answers[0].annotation.feedback[0].marks
    assert (found.in_prompt, found.span.start_seconds, found.span.end_seconds) == (True, 0.25, 0.75)
    assert found.note == "a click"


async def test_agreement_is_live_and_whoever_may_commits(console, browser):
    made, ann = await campaign(console, overlap=2), await signed_in(console, "ann-token")
    for person in (ann, browser):
        _, task, revision = await task_of(person, made)
        await person.post(f"/{task}/submit", {**answered(made), "revision": revision})
    part = (await browser.get(f"/{made.name}/progress")).text
    assert "Two annotators prefer the same response in 100" in part and "prompt following" in part
    assert 'id="commit"' not in (await ann.get(f"/{made.name}")).text
    refused = await ann.post(f"/{made.name}/commit")
    assert refused.status_code == 403
    assert 'id="commit"' in (await browser.get(f"/{made.name}")).text
    done = await browser.post(f"/{made.name}/commit")
    assert "1 pair is in" in done.text
    version = re.search(r'href="/(projects/demo/datasets/people/versions/[^"]+)"', done.text)[1]
    assert version in (await browser.get(f"/{made.name}")).text
    assert names.matches(version, names.DATASET_VERSION)


async def test_without_signing_in_an_annotator_says_who_they_are(open_console):
    browser = await open_console.browser()
    made = await campaign(open_console)
    assert (await browser.get(f"/{made.name}/annotate")).headers["location"] == f"/{made.name}"
    assert 'name="annotator"' in (await browser.get(f"/{made.name}")).text
    page, task, revision = await task_of(browser, made, "?annotator=Ann+%26+co")
    query = "?annotator=Ann+%26+co"
    assert f'action="/{task}/submit{query}"' in page
    done = await browser.post(f"/{task}/submit{query}", {**answered(made), "revision": revision})
    assert done.headers["location"].endswith("/annotate?annotator=Ann+%26+co&after=submit")
    (item, _) = [item async for item in open_console.client.list_items(made.name)]
    assert item.answers[0].annotator == "Ann & co"


async def drafted(root, made, **parts):
    """Keeps a draft of a model for the first pair of a campaign that starts from it."""
    database = Database(f"sqlite:///{root / 'annotation' / 'annotation.db'}")
    annotation = filled(made.rubrics[0], **parts)
    del annotation.winners["clarity"]
    abstention = DraftAbstention(part="winner.clarity", reason="ORDERS_DISAGREE")
    draft = ModelDraft(model=made.start_from, annotation=annotation, abstentions=[abstention])
    await Drafts(database).put(made.name, {"pair-001": draft})
    await database.close()


async def test_a_form_begins_with_a_models_draft_whose_parts_are_accepted_edited_or_rejected(console, tmp_path):
    made, ann = await campaign(console, pair(1), start_from=f"{MODEL}{SCRIPT}"), await signed_in(console, "ann-token")
    await drafted(tmp_path, made, words=f"drafted {SCRIPT}")
    page, task, revision = await task_of(ann, made)
    assert_harmless(page)
    assert_clean(page)
    assert "This form begins with a draft of" in page and "abstains on 1 part." in page
    assert 'name="origin.critique.2" value="rejected"' in page and 'name="origin.dimension.clarity"' in page
    fields = {name: value for name, value in answered(made, words=f"drafted {SCRIPT}").items() if value}
    fields |= {"winner.clarity": "2", "critique.1": "edited", "critique.2": "another", "origin.critique.2": "rejected"}
    refused = await ann.post(f"/{task}/submit", {**fields, "revision": revision})
    assert (refused.status_code, "accept it, change it or reject it" in refused.text) == (400, True)
    kept = await ann.post(f"/{task}/draft", {**fields, "revision": revision, "accept": "rest"})
    assert kept.status_code == 303
    page, _, revision = await task_of(ann, made)
    assert re.search(r'name="origin.overall" value="accepted" checked', page)
    assert re.search(r'name="origin.critique.2" value="rejected" checked', page)
    every = dict.fromkeys(re.findall(r'name="(origin\.[^"]+)"', page), "accepted")
    done = await ann.post(f"/{task}/submit", {**every, **fields, "origin.critique.2": "rejected", "revision": revision})
    assert done.status_code == 303, done.text
    (item,) = [item async for item in console.client.list_items(made.name)]
    origins = item.answers[0].annotation.origins
    names = {part: annotation_pb2.Origin.Name(origin).removeprefix("ORIGIN_") for part, origin in origins.items()}
    assert (names["winner.clarity"], names["critique.1"], names["critique.2"]) == ("OWN", "EDITED", "REJECTED")
    assert names["reason"] == names["score.1.safety"] == "ACCEPTED"
    shown = (await ann.get(f"/{made.name}")).text
    assert "People who started from its draft: 1 annotation<" in shown
    assert_harmless(shown)
    wrong = await ann.post(f"/{task}/submit", {**fields, "origin.reason": "perhaps", "revision": revision})
    assert wrong.status_code == 400


async def test_a_model_is_had_to_draft_from_the_campaigns_page(open_console):
    made, browser = await campaign(open_console, pair(1)), await open_console.browser()
    assert "Have a model draft" in (await browser.get(f"/{made.name}")).text
    fields = {"model": f"{MODEL}judge", "tokens": "1000", "start": "yes"}
    done = await browser.post(f"/{made.name}/drafts", fields)
    assert done.status_code == 303, done.text
    job = await open_console.client.get_draft_job(done.headers["location"].removeprefix("/"))
    assert (job.spec.model, job.token_budget) == (f"{MODEL}judge", 1000)
    assert (await open_console.client.get_campaign(made.name)).start_from == f"{MODEL}judge"
    for wrong, status in (({"tokens": "-1"}, 400), ({"model": ""}, 400), ({"model": "nobody@2"}, 404)):
        assert (await browser.post(f"/{made.name}/drafts", fields | wrong)).status_code == status


async def test_annotators_have_no_model_draft_and_an_address_takes_an_operator(console, browser):
    made, ann = await campaign(console, pair(1)), await signed_in(console, "ann-token")
    assert "Have a model draft" not in (await ann.get(f"/{made.name}")).text
    fields = {"model": f"{MODEL}judge"}
    assert (await ann.post(f"/{made.name}/drafts", fields)).status_code == 403
    refused = await browser.post(f"/{made.name}/drafts", fields)
    assert (refused.status_code, "LOCATION_FORBIDDEN" in refused.text) == (403, True)
    bob = await console.browser()
    await bob.sign_in("bob-token", project="other")
    assert (await bob.post(f"/{made.name}/drafts", {"model": "judge"})).status_code == 404


async def test_nothing_in_a_campaign_runs_on_its_pages(console, browser):
    record = pair(1)
    for message in (record.prompt, *(response.content for response in record.responses)):
        message.CopyFrom(content(SCRIPT))
    made = await campaign(console, record, display_name=SCRIPT, instructions=SCRIPT)
    for path in (
        "/projects/demo/campaigns",
        f"/{made.name}",
        f"/{made.name}/annotate",
        f"/{made.name}/annotate?after=<b>",
    ):
        page = await browser.get(path)
        assert page.status_code == 200
        assert "alert(1)" in page.text
        assert_harmless(page.text)


async def disagreed(console, *people):
    """A campaign of one pair about which two people disagree."""
    made = await campaign(console, pair(1), overlap=len(people))
    for side, person in enumerate(people, start=1):
        _, task, revision = await task_of(person, made)
        fields = answered(made, preferred=side, words=f"of {side} {SCRIPT}")
        assert (await person.post(f"/{task}/submit", {**fields, "revision": revision})).status_code == 303
    return made


async def test_disagreements_are_listed_shown_with_all_answers_and_decided(console, browser):
    ann = await signed_in(console, "ann-token")
    made = await disagreed(console, ann, browser)
    listed = (await browser.get(f"/{made.name}/items")).text
    item = f"{made.name}/items/1"
    assert f'href="/{item}"' in listed and "ann-token" in listed and "alice-token" in listed
    page = (await browser.get(f"/{item}")).text
    assert "ann-token: response 1 is better" in page and "alice-token: response 2 is better" in page
    assert_harmless(page)
    assert (await browser.post(f"/{item}/adjudicate", {"why": "x"})).status_code == 400
    decision = {"decision": "annotator.ann-token", "why": "the first is shorter"}
    assert (await browser.post(f"/{item}/adjudicate", decision)).headers["location"] == f"/{made.name}/items"
    assert "No pair is like that" in (await browser.get(f"/{made.name}/items")).text
    assert "decided by alice-token" in (await browser.get(f"/{made.name}/items?only=adjudicated")).text
    assert "the answer of ann-token" in (await browser.get(f"/{item}")).text
    own = {**answered(made, preferred=2, words="my own"), "decision": "own", "why": "both were wrong"}
    assert (await browser.post(f"/{item}/adjudicate", own)).status_code == 303
    (found,) = [found async for found in console.client.list_items(made.name)]
    assert (found.adjudication.annotation.preferred, found.adjudication.reason) == (2, "both were wrong")
    assert (await browser.post(f"/{item}/adjudicate", {"decision": "left_out", "why": "bad"})).status_code == 303


async def test_annotators_neither_see_the_answers_of_others_nor_decide(console, browser):
    ann = await signed_in(console, "ann-token")
    made = await disagreed(console, ann, browser)
    for path in (f"/{made.name}/items", f"/{made.name}/items/1"):
        refused = await ann.get(path)
        assert (refused.status_code, "alice-token" in refused.text) == (403, False)
    assert (await ann.post(f"/{made.name}/items/1/adjudicate", {"decision": "left_out", "why": "x"})).status_code == 403
    assert (await browser.get(f"/{made.name}/items/7")).status_code == 404
