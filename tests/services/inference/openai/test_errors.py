"""The OpenAI-compatible engine where its endpoint is overloaded, gone, another thing than it should be, or refuses."""

import gzip
import json
from contextlib import aclosing

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from omnialign.errors import FailedPrecondition, NotFound, PermissionDenied, Unavailable
from services.inference.openai.concurrency import INITIAL_LIMIT
from tests.services.inference.openai.asking import ask, one, opened, request
from tests.services.inference.stub_endpoint import (
    QuickClock,
    chat,
    drop,
    fails,
    flood,
    hang,
    page,
    refuse,
    says,
    serve_stub,
)


@pytest.mark.parametrize("value", ["7", "Fri, 15 Jan 2027 08:00:07 GMT"])  # the second is seven seconds from the start
async def test_after_429_the_endpoint_is_left_alone_as_long_as_it_asks(stub, value):
    clock = QuickClock()
    stub.acts.append(fails(429, Retry_After=value))
    async with opened(stub, clock=clock) as engine:
        (result,) = await ask(engine, request(stub.model(), "x"))
    assert result.pieces == ("x",)
    assert 6.99 < sum(clock.slept) < 7.5


async def test_a_wish_to_wait_beyond_the_budget_ends_the_request_at_once(stub):
    clock = QuickClock()
    stub.default = fails(429, "come tomorrow", Retry_After="86400")
    async with opened(stub, clock=clock) as engine:
        with pytest.raises(Unavailable, match="come tomorrow") as caught:
            await ask(engine, request(stub.model(), "x"))
    assert (caught.value.reason, caught.value.metadata["kind"]) == ("ENDPOINT_UNAVAILABLE", "rate_limit")
    assert (len(stub.asked), clock.slept) == (1, [])


async def test_overload_halves_the_limit_and_shows_in_the_metrics(stub):
    registry = CollectorRegistry()
    stub.acts += [fails(429), fails(503)]
    async with opened(stub, registry=registry) as engine:
        await ask(engine, request(stub.model(), "x"))
    labels = {"endpoint": stub.base_url}
    assert registry.get_sample_value("omnialign_endpoint_concurrency_limit", labels) == INITIAL_LIMIT / 4
    assert registry.get_sample_value("omnialign_endpoint_requests_running", labels) == 0
    for reason in ("rate_limit", "overload"):
        assert registry.get_sample_value("omnialign_endpoint_retries_total", {**labels, "reason": reason}) == 1
    assert registry.get_sample_value("omnialign_endpoint_requests_total", {**labels, "outcome": "end"}) == 1
    assert registry.get_sample_value("omnialign_endpoint_tokens_total", {**labels, "direction": "in"}) == 5


@pytest.mark.parametrize("act", [fails(500), fails(502), page(status=503), fails(408), drop, refuse])
async def test_what_may_pass_is_tried_again(stub, act):
    stub.acts += [act, act]
    assert (await one(stub, "x")).pieces == ("x",)
    assert len(stub.asked) == 3


@pytest.mark.parametrize("act", [drop, refuse])
async def test_a_connection_that_breaks_is_no_overload(stub, act):
    registry = CollectorRegistry()
    stub.acts.append(act)
    async with opened(stub, registry=registry) as engine:
        await ask(engine, request(stub.model(), "x"))
    labels = {"endpoint": stub.base_url}
    assert registry.get_sample_value("omnialign_endpoint_retries_total", {**labels, "reason": "connection"}) == 1
    assert registry.get_sample_value("omnialign_endpoint_concurrency_limit", labels) == INITIAL_LIMIT


async def test_an_endpoint_that_hangs_is_given_up_when_the_budget_ends(stub):
    stub.default = hang
    async with opened(stub, openai_request_seconds=0.05, openai_max_retries=2) as engine:
        with pytest.raises(Unavailable, match="in time") as caught:
            await ask(engine, request(stub.model(), "x"))
    assert caught.value.metadata["retries"] == "2"
    assert len(stub.asked) == 3


async def test_an_endpoint_that_is_gone_is_named_with_the_last_reason():
    async with serve_stub() as gone:
        pass
    clock = QuickClock()
    async with opened(gone, clock=clock) as engine:
        with pytest.raises(Unavailable, match="ConnectionRefusedError") as caught:
            await ask(engine, request(gone.model(), "x"))
    assert caught.value.metadata["endpoint"] == gone.base_url
    assert sum(clock.slept) <= 60


async def test_one_bad_prompt_does_not_end_the_others(stub):
    async def poisoned(request):
        text = json.loads(await request.read())["messages"][0]["content"]
        return await (fails(500, "boom") if text == "poison" else says(chat(text)))(request)

    stub.default = poisoned
    async with opened(stub, openai_max_retries=3) as engine:
        requests = [request(stub.model(), text, name=text) for text in ("poison", "a", "b")]
        bad, first, second = await ask(engine, *requests)
    assert (first.pieces, second.pieces) == (("a",), ("b",))
    assert bad.error.reason == "ENDPOINT_UNAVAILABLE"
    assert "500: boom" in bad.error.message


async def test_an_endpoint_that_dies_ends_the_call_though_it_has_answered_others(stub):
    stub.acts += [says(chat("a"))] * 3
    stub.default = fails(502)
    found = []
    async with opened(stub, openai_concurrency=1) as engine:
        requests = [request(stub.model(), "x", name=str(i)) for i in range(5)]
        with pytest.raises(Unavailable):
            async with aclosing(engine.generate(requests)) as results:
                async for result in results:
                    found.append(result.pieces)
    assert found == [("a",)] * 3


@pytest.mark.parametrize(
    "act",
    [
        page(),
        page(status=404),
        says(["a", "list"]),
        says({"choices": []}),
        says({"choices": [{"message": {"content": ["Welcome"]}}]}),
        says({}, status=307, Location="http://127.0.0.1:9/v1/chat/completions"),
    ],
)
async def test_what_is_no_answer_of_such_an_endpoint_is_quoted(stub, act):
    stub.default = act
    with pytest.raises(FailedPrecondition, match="OpenAI-compatible") as caught:
        await one(stub, "x")
    assert caught.value.reason == "ENDPOINT_INVALID"
    assert len(stub.asked) == 1


async def test_html_is_quoted_by_its_first_characters(stub):
    stub.default = page("<html>Welcome " + "x" * 1000)
    with pytest.raises(FailedPrecondition) as caught:
        await one(stub, "x")
    assert caught.value.metadata["begins"].startswith("<html>Welcome xxx")
    assert len(caught.value.metadata["begins"]) == 200


async def test_an_answer_without_end_is_broken_off(stub, monkeypatch):
    monkeypatch.setattr("services.inference.openai.endpoint.MAX_ANSWER_BYTES", 1 << 17)
    stub.default = flood
    with pytest.raises(FailedPrecondition, match="bytes"):
        await one(stub, "x")


async def test_a_packed_answer_is_not_unpacked(stub):
    async def bomb(request):
        packed = gzip.compress(b" " * (1 << 20))
        return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    stub.default = bomb
    with pytest.raises(FailedPrecondition, match="compressed"):
        await one(stub, "x")
    assert stub.headers[0]["Accept-Encoding"] == "identity"


async def test_json_too_deep_to_read_is_no_answer(stub):
    stub.default = page("[" * 100_000)
    with pytest.raises(FailedPrecondition) as caught:
        await one(stub, "x")
    assert caught.value.reason == "ENDPOINT_INVALID"


@pytest.mark.parametrize(("status", "code"), [(401, None), (403, None), (429, "insufficient_quota")])
async def test_a_refused_key_ends_the_call_and_is_not_in_the_message(stub, tmp_path, status, code):
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\n{stub.base_url} secret-key\n")
    stub.default = fails(status, "wrong key secret-key", code=code)
    async with opened(stub, openai_keys_file=keys) as engine:
        with pytest.raises(PermissionDenied) as caught:
            await ask(engine, request(stub.model(), "x"))
    assert caught.value.reason == "ENDPOINT_REFUSED"
    assert "secret-key" not in f"{caught.value.message} {caught.value.metadata}"
    assert stub.headers[0]["Authorization"] == "Bearer secret-key"


async def test_a_key_that_the_endpoint_repeats_is_hidden(stub, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{stub.base_url} secret-key")
    stub.default = fails(422, "secret-key is odd")
    async with opened(stub, openai_keys_file=keys) as engine:
        (result,) = await ask(engine, request(stub.model(), "x"))
    assert result.error.reason == "ENDPOINT_REJECTED"
    assert "*** is odd" in result.error.message


async def test_no_key_of_another_endpoint_or_of_the_environment_is_sent(stub, tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "from-the-environment")
    keys = tmp_path / "keys"
    keys.write_text("https://api.example.com/v1 others-key")
    async with opened(stub, openai_keys_file=keys) as engine:
        await ask(engine, request(stub.model(), "x"))
    assert "Authorization" not in stub.headers[0]
    assert not {"from-the-environment", "others-key"} & set(stub.headers[0].values())


async def test_an_unknown_model_ends_the_call(stub):
    stub.default = fails(404, "The model `stub` does not exist.")
    with pytest.raises(NotFound, match="does not exist") as caught:
        await one(stub, "x")
    assert caught.value.reason == "MODEL_NOT_FOUND"


async def test_an_endpoint_that_is_not_listed_is_never_asked(stub):
    async with opened(stub, openai_endpoints=()) as engine:
        with pytest.raises(PermissionDenied) as caught:
            await ask(engine, request(stub.model(), "x"))
    assert caught.value.reason == "ENDPOINT_NOT_ALLOWED"
    assert stub.asked == []
