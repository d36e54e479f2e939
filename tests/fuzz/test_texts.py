"""Mutated page tokens and answers of judges: a typed refusal or an abstention, never a number that happens to parse."""

import contextlib
import random

import grpc
import pytest

from omnialign import rubrics
from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument
from omnialign.modeling import answers
from omnialign.v1 import data_service_pb2 as pb
from omnialign.v1 import data_service_pb2_grpc, record_pb2
from tests.fuzz.campaign import SECONDS, Campaign
from tests.fuzz.mutations import mutated_bytes

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(SECONDS * 4 + 120)]


async def test_page_tokens(client: AsyncClient, address: str) -> None:
    """A token that was tampered with is refused, or leads to the same list."""
    for number in range(4):
        await client.create_dataset(f"world-{number}")
    parent = client.parent
    async with grpc.aio.insecure_channel(address) as channel:
        data = data_service_pb2_grpc.DataServiceStub(channel)
        token = (await data.ListDatasets(pb.ListDatasetsRequest(parent=parent, page_size=2))).next_page_token
        assert token

        def make(draw: random.Random) -> str:
            return mutated_bytes(token.encode(), [b"AAAA", b"=", b"bnVsbA=="], draw).decode("ascii", "replace")

        async def run(changed: str) -> None:
            try:
                await data.ListDatasets(pb.ListDatasetsRequest(parent=parent, page_size=2, page_token=changed))
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
                raise InvalidArgument(error.details() or "", reason="PAGE_TOKEN_INVALID") from error

        campaign = await Campaign("page-tokens").run(make, run)
        assert campaign.outcomes["PAGE_TOKEN_INVALID"], "no token was refused: the campaign tries nothing"


async def test_answers_of_judges() -> None:
    """Whatever is accepted must be what a writer would have written for it."""
    rubric = rubrics.rubric("t2t")
    scores = [record_pb2.DimensionScore(dimension=name, score=2, rationale="clear enough") for name in rubric]
    feedback = answers.write_feedback(
        record_pb2.Feedback(critique="Too long.", refinement="Cut it.", scores=scores), rubric
    )
    judgement, rating = answers.write_judgement("The second is right.", 2), answers.write_rating("It is true.", 10)

    def make(draw: random.Random) -> str:
        text = draw.choice((feedback, judgement, rating))
        changed = mutated_bytes(text.encode(), [feedback.encode(), judgement.encode(), b" 3 "], draw)
        return changed.decode("utf-8", "replace")

    async def run(text: str) -> None:
        ending = "".join(text.split())
        with contextlib.suppress(InvalidArgument):
            assert ending.endswith(f"##Preferred:{answers.read_judgement(text).preferred or answers.EQUAL}")
        with contextlib.suppress(InvalidArgument):
            assert ending.endswith(f"##Rating:{answers.read_rating(text).score}")
        read = answers.read_feedback(text, rubric)
        assert all(f"{score.dimension} {score.score}" in text for score in read.scores)
        assert all(rubrics.MIN_SCORE <= score.score <= rubrics.MAX_SCORE for score in read.scores)

    await Campaign("answers").run(make, run)
