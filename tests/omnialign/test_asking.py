# ruff: noqa: N802  the names of RPCs
"""Questions with plain Python values and files, from both clients and from the command line, to scripted models."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from omnialign import media
from omnialign.cli.main import app
from omnialign.client import AsyncClient, Client
from omnialign.content import content, media_of, text_of
from omnialign.errors import DataLoss, InvalidArgument, NotFound, to_status
from omnialign.v1 import (
    critique_service_pb2,
    critique_service_pb2_grpc,
    judge_service_pb2,
    judge_service_pb2_grpc,
    record_pb2,
    refinement_service_pb2,
    refinement_service_pb2_grpc,
)
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server

MODEL = "openai+http://127.0.0.1/v1#talker"


class Models(
    refinement_service_pb2_grpc.RefinementServiceServicer,
    critique_service_pb2_grpc.CritiqueServiceServicer,
    judge_service_pb2_grpc.JudgeServiceServicer,
):
    """Answers with what was asked; a prompt that is `long`, `mumble` or `vanish` has the result of that name."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        for item in request.items:
            result = refinement_service_pb2.GenerateResponse(id=item.id)
            if text_of(item.prompt) == "long":
                error = InvalidArgument("The prompt is too long.", reason="PROMPT_TOO_LONG")
                result.error.CopyFrom(to_status(error))
            else:
                shown = media_of([item.prompt])
                result.response.content.CopyFrom(content(f"{text_of(item.prompt)}! {item.seed}", *shown))
                result.response.generation.model = request.model
                result.response.generation.completion_tokens = 3
            if text_of(item.prompt) != "vanish":
                yield result

    async def Critique(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        yield critique_service_pb2.CritiqueResponse(id=request.items[0].id, **assessed(request.items[0]))

    async def ScoreResponse(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        yield judge_service_pb2.ScoreResponseResponse(id=request.items[0].id, **assessed(request.items[0]))

    async def CompareResponses(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        found = record_pb2.Comparison(verdict=record_pb2.VERDICT_WIN, forward_reason="kinder", backward_reason="true")
        if text_of(request.items[0].prompt) == "mumble":
            found = record_pb2.Comparison(verdict=record_pb2.VERDICT_ABSTAIN, abstain_reason="ANSWER_UNPARSABLE")
        yield judge_service_pb2.CompareResponsesResponse(id=request.items[0].id, comparison=found)

    async def ComputeRewards(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        for item in request.items:
            yield judge_service_pb2.ComputeRewardsResponse(id=item.id, reward=len(text_of(item.response)) - 4.5)


def assessed(item: Any) -> dict[str, Any]:
    if text_of(item.prompt) == "mumble":
        return {"abstention": critique_service_pb2.Abstention(reason="ANSWER_UNPARSABLE", text="hm")}
    scores = [record_pb2.DimensionScore(dimension=name, score=2, rationale="so so") for name in item.rubric]
    return {"feedback": record_pb2.Feedback(scores=scores, critique="short", refinement="say more")}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[str, Models]]:
    """The address of a real data service with the scripted models beside it."""
    server, models = Server(ServerConfig(), name="asked"), Models()
    for stubs, name in (
        (refinement_service_pb2_grpc, "RefinementService"),
        (critique_service_pb2_grpc, "CritiqueService"),
        (judge_service_pb2_grpc, "JudgeService"),
    ):
        server.add(getattr(stubs, f"add_{name}Servicer_to_server"), models, f"omnialign.v1.{name}")
    async with wire(server, DataConfig(root=tmp_path / "state")):
        await server.start()
        server.set_serving()
        yield server.address, models
        await server.stop(0)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(media.write_image(np.full((8, 8, 3), 200, np.uint8)))
    return path


async def test_a_question_with_a_file_is_answered_in_plain_values(served, picture):
    async with AsyncClient(served[0]) as client:
        answer = await client.generate(MODEL, ["What is it?", picture], seed=7, temperature=0.5, max_new_tokens=9)
        assert (answer.text, answer.model, answer.completion_tokens) == ("What is it?! 7", MODEL, 3)
        assert await client.get_media(answer.media[0].sha256) == picture.read_bytes()
        request = served[1].requests[-1]
        assert (request.sampling.temperature, request.sampling.max_new_tokens) == (0.5, 9)
        parts = [part.WhichOneof("part") for part in request.items[0].prompt.parts]
        assert (parts, request.items[0].prompt.parts[1].media.mime_type) == (["text", "media"], "image/png")
        # An answer, or a part of it, can be asked about again.
        again = await client.generate(MODEL, ["And", *answer.media])
        assert again.media == answer.media


async def test_what_became_of_the_item_is_raised(served, tmp_path):
    async with AsyncClient(served[0]) as client:
        for prompt, error, reason in (
            ("long", InvalidArgument, "PROMPT_TOO_LONG"),
            ("vanish", DataLoss, "ANSWER_MISSING"),
            (tmp_path / "none.png", InvalidArgument, "FILE_MISSING"),
        ):
            with pytest.raises(error) as caught:
                await client.generate(MODEL, prompt)
            assert caught.value.reason == reason
        with pytest.raises(NotFound) as missing:
            await client.generate("base", "hello")
        assert missing.value.metadata["name"] == "projects/default/models/base/versions/-"
        with pytest.raises(NotFound):
            await client.find_model("base/-")
        assert await client.find_model("base/2") == "projects/default/models/base/versions/2"


async def test_feedback_scores_and_comparisons_are_plain_values_and_an_abstention_is_no_number(served):
    async with AsyncClient(served[0]) as client:
        for ask in (client.critique, client.score):
            found = await ask(MODEL, "question", "answer", rubric=["clarity", "truth"])
            assert (found.scores, found.rationales["truth"]) == ({"clarity": 2, "truth": 2}, "so so")
            assert (found.critique, found.advice, found.abstained) == ("short", "say more", "")
            unread = await ask(MODEL, "mumble", "answer", rubric=["clarity"])
            assert (unread.scores, unread.abstained, unread.critique) == ({}, "ANSWER_UNPARSABLE", "hm")
        judged = await client.compare(MODEL, "question", "answer", "better answer", subtask="t2t")
        assert (judged.verdict, judged.reasons, judged.abstained) == ("win", ("kinder", "true"), "")
        assert (await client.compare(MODEL, "mumble", "a", "b")).abstained == "ANSWER_UNPARSABLE"


async def test_the_full_requests_still_stream_and_the_synchronous_client_answers_alike(served, picture):
    def ask() -> None:
        with Client(served[0]) as client:
            assert client.generate(MODEL, ["a", picture]).text == "a! 0"
            assert client.critique(MODEL, "q", "a", rubric=["clarity"]).scores == {"clarity": 2}
            assert client.score(MODEL, "q", "a", rubric=["clarity"]).advice == "say more"
            assert client.compare(MODEL, "q", "a", "b").verdict == "win"
            assert client.reward(MODEL, "q", "answer") == 1.5
            items = [refinement_service_pb2.GenerateItem(id=one, prompt=content(one)) for one in "ab"]
            request = refinement_service_pb2.GenerateRequest(model=MODEL, items=items)
            assert [result.id for result in client.generate(request)] == ["a", "b"]

    await asyncio.to_thread(ask)


async def test_the_command_asks_with_files_prints_each_answer_and_saves_its_media(served, picture, tmp_path):
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["ask", MODEL, *map(str, arguments), "--address", served[0]])

    folder = tmp_path / "answers"
    told = await asyncio.to_thread(run, "What is it?", "--file", picture, "--out", folder)
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("What is it?! 0 [image sha256:")
    assert [path.read_bytes() for path in folder.iterdir()] == [picture.read_bytes()]
    several = await asyncio.to_thread(run, "again", "--samples", "3", "--seed", "5", "--json")
    lines = [json.loads(line) for line in several.stdout.splitlines()]
    assert [line["response"]["content"]["parts"][0]["text"] for line in lines] == [f"again! {n}" for n in (5, 6, 7)]
    refused = await asyncio.to_thread(run, "long")
    assert (refused.exit_code, "[PROMPT_TOO_LONG]" in refused.stderr) == (1, True)


async def test_the_command_ranks_answers_by_their_reward(served, picture):
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["reward", MODEL, *map(str, arguments), "--address", served[0]])

    told = await asyncio.to_thread(run, "What is it?", "dot", "a dot", f"@{picture}", "--file", picture)
    assert told.exit_code == 0, told.output
    rows = [line.split("\t") for line in told.stdout.splitlines()]
    assert rows == [["REWARD", "ANSWER"], ["0.5000", "a dot"], ["-1.5000", "dot"], ["-4.5000", f"@{picture}"]]
    shown = served[1].requests[-1].items[2].response.parts[0].media
    assert shown.mime_type == "image/png"
