"""Answers are found by all that made them, and by nothing less; they are kept for a while, and for one project."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from omnialign.content import content, text_of
from omnialign.errors import Internal, to_status
from omnialign.modeling import prompts
from omnialign.v1 import content_pb2, critique_service_pb2, generation_pb2, judge_service_pb2, record_pb2
from omnialign.v1.refinement_service_pb2 import GenerateItem, GenerateRequest, GenerateResponse
from services.evaluation.job import MIGRATIONS
from services.evaluation.job import Job as Evaluation
from services.pipeline.answer_keys import answer_keys
from services.pipeline.kept_answers import MAX_ANSWER_BYTES, Keeping, KeptAnswers, kept_answers
from services.runtime.database import Database

DAY = 86400.0


def sampling(**fields: Any) -> generation_pb2.SamplingParams:
    return generation_pb2.SamplingParams(**fields)


def key_of(item: GenerateItem, *others: GenerateItem, project: str = "p", model: str = "sha", **request: Any) -> bytes:
    """The key of the first of the items."""
    keys = answer_keys(GenerateRequest(**request), [item, *others], project=project, model=model)
    return keys[item.id]


def item(words: str = "Draw a cat", *, name: str = "a", seed: int = 1, **fields: Any) -> GenerateItem:
    return GenerateItem(id=name, prompt=content(words), seed=seed, **fields)


def after(role: "content_pb2.Role.ValueType", words: str) -> GenerateItem:
    """An item with a message before its prompt."""
    return item(history=[content_pb2.EarlierMessage(role=role, content=content(words))])


def picture(digest: str) -> GenerateItem:
    media = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256=digest * 64)
    return GenerateItem(id="a", prompt=content_pb2.Content(parts=[content_pb2.Part(media=media)]))


def test_everything_that_makes_an_answer_is_in_its_key() -> None:
    policy = generation_pb2.MediaPolicy
    variants = [
        key_of(item()),
        key_of(item("Draw a dog")),
        key_of(item(seed=2)),
        key_of(item(), project="q"),
        key_of(item(), model="other"),
        key_of(item(), model="s", project="psha"),
        key_of(item(), model="openai+http://host/v1#m"),
        key_of(item(), sampling=sampling(temperature=0.7)),
        key_of(item(), sampling=sampling(max_new_tokens=7)),
        key_of(item(), media_policy=policy(max_pixels=64)),
        key_of(after(content_pb2.ROLE_USER, "Hi")),
        key_of(after(content_pb2.ROLE_SYSTEM, "Hi")),
        key_of(after(content_pb2.ROLE_USER, "Hello")),
        key_of(picture("a")),
        key_of(picture("b")),
    ]
    assert len(set(variants)) == len(variants)
    comparison = judge_service_pb2.CompareItem(id="a", prompt=content("x"), baseline=content("y"))
    forms = {
        answer_keys(judge_service_pb2.CompareResponsesRequest(answer_form=form), [comparison], project="p", model="m")[
            "a"
        ]
        for form in (generation_pb2.ANSWER_FORM_SECTIONS, generation_pb2.ANSWER_FORM_JSON)
    }
    assert len(forms) == 2


def test_the_id_of_an_item_and_its_company_are_not() -> None:
    assert key_of(item()) == key_of(item(name="b"), item("Something else", name="c"))


def test_texts_that_run_into_each_other_have_keys_of_their_own() -> None:
    """What ends one text and begins the next is not lost in the bytes, whatever the texts are."""
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("a\x12\x01b", "c"), ("a", "\x0a\x01bc")]
    keys = set()
    for prompt, response in pairs:
        asked = judge_service_pb2.GenerationItem(id="a", prompt=content(prompt), response=content(response))
        request = judge_service_pb2.ScoreGenerationRequest()
        keys.add(answer_keys(request, [asked], project="p", model="m")["a"])
    assert len(keys) == len(pairs)
    assert key_of(item(), project="p", model="m1") != key_of(item(), project="pm", model="1")


def test_in_a_deterministic_batch_the_other_items_are_part_of_the_key() -> None:
    whole = sampling(deterministic=True)
    first, second = item(), item("Draw a dog", name="b")
    assert key_of(first, second, sampling=whole) == key_of(first, second, sampling=whole)
    assert key_of(first, second, sampling=whole) != key_of(first, sampling=whole)
    assert key_of(first, item("Draw a fox", name="b"), sampling=whole) != key_of(first, second, sampling=whole)
    twins = answer_keys(GenerateRequest(sampling=whole), [item(), item(name="b")], project="p", model="m")
    assert twins["a"] != twins["b"]


# ---- the store ----


def said(words: str, name: str = "") -> GenerateResponse:
    return GenerateResponse(id=name, response=record_pb2.Response(content=content(words)))


def context(project: str = "p", *, fresh: bool = False, after_seconds: float = 0.0) -> Any:
    job = Evaluation()
    job.create_time.FromMilliseconds(time.time_ns() // 1_000_000 + int(1000 * after_seconds))
    return SimpleNamespace(name=f"projects/{project}/evaluations/e", job=job, plan=SimpleNamespace(fresh=fresh))


@pytest.fixture
async def kept(database_url: str) -> Any:
    """Opens the store with a number of seconds and a number of answers."""
    database = Database(database_url)
    await database.write(MIGRATIONS.upgrade)

    def open_store(*, seconds: float = DAY, count: int = 1000, identity: str = "sha") -> KeptAnswers:
        keeping = Keeping(
            seconds=seconds, count=count, identity=lambda job, model: identity, is_fresh=lambda plan: plan.fresh
        )
        return KeptAnswers(database, "evaluation", keeping)

    yield open_store
    await database.close()


async def age(store: KeptAnswers, *, seconds: float, project: str) -> None:
    """Makes the answers of a project older."""
    table = kept_answers("evaluation")
    older = sa.update(table).where(table.c.project == project).values(kept_ms=table.c.kept_ms - int(1000 * seconds))
    await store._database.write(lambda connection: connection.execute(older))


async def count(store: KeptAnswers) -> int:
    return int(await store._database.scalar(sa.select(sa.func.count()).select_from(kept_answers("evaluation"))))


async def test_an_answer_is_found_again_under_the_id_of_whoever_asks(kept: Any) -> None:
    store, here = kept(), context()
    keys = store.keys(here, GenerateRequest(), [item(name="a"), item("Draw a dog", name="b")])
    await store.keep(here, keys, {"a": said("a cat", "a")})
    assert await store.find(here, keys, GenerateResponse) == {"a": said("a cat", "a")}
    again = store.keys(here, GenerateRequest(), [item(name="z")])
    assert await store.find(here, again, GenerateResponse) == {"z": said("a cat", "z")}


async def test_no_project_sees_what_another_kept(kept: Any) -> None:
    store = kept()
    await store.keep(context("p"), store.keys(context("p"), GenerateRequest(), [item()]), {"a": said("a cat")})
    other = store.keys(context("q"), GenerateRequest(), [item()])
    assert await store.find(context("q"), other, GenerateResponse) == {}


async def test_a_model_that_nothing_vouches_for_has_no_keys(kept: Any) -> None:
    assert kept(identity="").keys(context(), GenerateRequest(), [item()]) == {}


async def test_errors_abstentions_and_what_is_too_long_are_not_kept(kept: Any) -> None:
    store, here = kept(), context()
    keys = store.keys(here, GenerateRequest(), [item(name=name, seed=ord(name)) for name in "abcdef"])
    abstention = critique_service_pb2.Abstention(reason="ANSWER_UNPARSABLE", text="hm")
    undecided = record_pb2.Comparison(verdict=record_pb2.VERDICT_ABSTAIN)
    answers = {
        "a": GenerateResponse(error=to_status(Internal("broken"))),
        "b": judge_service_pb2.ScoreGenerationResponse(abstention=abstention),
        "c": judge_service_pb2.CompareResponsesResponse(comparison=undecided),
        "d": GenerateResponse(),
        "e": said("x" * (MAX_ANSWER_BYTES + 1)),
        "f": said("fine"),
    }
    await store.keep(here, keys, answers)
    assert set(await store.find(here, keys, GenerateResponse)) == {"f"}


async def test_what_a_service_of_another_release_says_is_not_kept(kept: Any) -> None:
    """Its templates are not those in the key."""
    store, here = kept(), context()
    ours, theirs = said("fine", "a"), said("fine", "b")
    ours.response.generation.template = "+".join(prompts.identities()[:2])
    theirs.response.generation.template = "response@9:0123456789ab"
    keys = store.keys(here, GenerateRequest(), [item(name="a"), item("Draw a dog", name="b")])
    await store.keep(here, keys, {"a": ours, "b": theirs})
    assert set(await store.find(here, keys, GenerateResponse)) == {"a"}


async def test_a_fresh_job_finds_nothing_and_replaces_what_was_there(kept: Any) -> None:
    store, fresh = kept(), context(fresh=True)
    keys = store.keys(context(), GenerateRequest(), [item()])
    await store.keep(context(), keys, {"a": said("old", "a")})
    await age(store, seconds=60, project="p")
    assert await store.find(fresh, keys, GenerateResponse) == {}
    assert await store.keep(fresh, keys, {"a": said("new", "a")}) == {"a": said("new", "a")}
    assert await store.find(fresh, keys, GenerateResponse) == {"a": said("new", "a")}
    assert await store.find(context(), keys, GenerateResponse) == {"a": said("new", "a")}


async def test_two_that_asked_for_the_same_at_once_both_use_what_was_kept_first(kept: Any) -> None:
    store, here = kept(), context()
    keys = store.keys(here, GenerateRequest(), [item(name="a"), item(name="twin"), item("Draw a dog", name="b")])
    first = await store.keep(here, keys, {"a": said("one", "a")})
    later = await store.keep(here, keys, {"twin": said("another", "twin"), "b": said("a dog", "b")})
    assert first == {"a": said("one", "a")}
    assert later == {"twin": said("one", "twin"), "b": said("a dog", "b")}
    same = store.keys(here, GenerateRequest(), [item("Draw us", name="x"), item("Draw us", name="y")])
    both = await store.keep(here, same, {"x": said("this", "x"), "y": said("that", "y")})
    assert text_of(both["x"].response.content) == text_of(both["y"].response.content)
    assert await store.find(here, same, GenerateResponse) == both


async def test_an_answer_that_is_too_old_is_not_used_and_goes(kept: Any) -> None:
    store, here = kept(), context()
    keys = store.keys(here, GenerateRequest(), [item()])
    await store.keep(here, keys, {"a": said("old")})
    await age(store, seconds=2 * DAY, project="p")
    assert await store.find(here, keys, GenerateResponse) == {}
    await store.prune()
    assert await count(store) == 0


async def test_of_too_many_answers_the_oldest_go(kept: Any) -> None:
    store = kept(count=5)
    for project in ("old", "new"):
        here = context(project)
        keys = store.keys(here, GenerateRequest(), [item(name=str(i), seed=i) for i in range(4)])
        await store.keep(here, keys, {str(i): said("fine") for i in range(4)})
    await age(store, seconds=60, project="old")
    await store.prune()
    assert set(await store.find(here, keys, GenerateResponse)) == set("0123")
    assert await count(store) == 4  # the old ones are as old as the sixth
    await store.prune()
    assert await count(store) == 4


async def test_pruning_leaves_what_is_to_be_kept(kept: Any) -> None:
    store, here = kept(count=4), context()
    keys = store.keys(here, GenerateRequest(), [item(name=str(i), seed=i) for i in range(4)])
    await store.keep(here, keys, {str(i): said("fine") for i in range(4)})
    await store.prune()
    assert len(await store.find(here, keys, GenerateResponse)) == 4
