"""`omnialign ask`: one question to a model, with files, and its answers. `omnialign reward`: how good answers are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnialign.cli.session import Session, command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omnialign.client import AsyncClient
    from omnialign.v1 import content_pb2

MAX_SAMPLES = 512


@command
async def ask(
    session: Session,
    model: Annotated[str, typer.Argument(help="Model, such as `base` or `base/2`, or the address of an endpoint's.")],
    question: Annotated[str, typer.Argument(help="Text of the question.")],
    file: Annotated[
        list[Path] | None, typer.Option("--file", help="Image, sound or video that follows the text; repeatable.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=MAX_SAMPLES, help="Number of answers, with a seed each.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=10, help="Default: 0 for one answer, 1 for several.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=0, help="Longest answer in tokens; 0 for the default.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first answer.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the media of the answers.")] = None,
) -> None:
    """Ask a model a question, and print its answers as they finish."""
    from omnialign.cli.records import content_text
    from omnialign.content import media_of
    from omnialign.errors import from_status
    from omnialign.v1 import generation_pb2, refinement_service_pb2

    warmth = temperature if temperature is not None else float(samples > 1)
    async with session.client() as client:
        prompt = await client.to_content([question, *(file or ())])
        request = refinement_service_pb2.GenerateRequest(
            model=await client.find_model(model),
            sampling=generation_pb2.SamplingParams(temperature=warmth, max_new_tokens=max_new_tokens),
            items=[
                refinement_service_pb2.GenerateItem(id=str(number), prompt=prompt, seed=seed + number)
                for number in range(samples)
            ],
        )
        async for result in client.generate_items(request):
            if result.HasField("error"):
                raise from_status(result.error)
            session.out.record(result)
            session.out.say(content_text(result.response.content))
            if out is not None:
                await _save(client, media_of([result.response.content]), folder=out)


@command
async def reward(
    session: Session,
    model: Annotated[str, typer.Argument(help="Reward model, such as `reward` or `reward/2`.")],
    question: Annotated[str, typer.Argument(help="Text of the question.")],
    answers: Annotated[list[str], typer.Argument(help="Answers to it: each a text, or `@` and the path of a file.")],
    file: Annotated[
        list[Path] | None, typer.Option("--file", help="Image, sound or video that follows the question; repeatable.")
    ] = None,
) -> None:
    """Have a reward model compare answers to a question; the best comes first."""
    from omnialign.errors import from_status
    from omnialign.v1 import judge_service_pb2

    async with session.client() as client:
        prompt = await client.to_content([question, *(file or ())])
        given = [Path(answer[1:]) if answer.startswith("@") else answer for answer in answers]
        request = judge_service_pb2.ComputeRewardsRequest(
            model=await client.find_model(model),
            items=[
                judge_service_pb2.RewardItem(id=str(number), prompt=prompt, response=await client.to_content(answer))
                for number, answer in enumerate(given)
            ],
        )
        found = [result async for result in client.compute_rewards(request)]
    for result in found:
        if result.HasField("error"):
            raise from_status(result.error)
        session.out.record(result)
    ranked = sorted(found, key=lambda result: -result.reward)
    rows = [(f"{result.reward:.4f}", answers[int(result.id)]) for result in ranked]
    session.out.table(("REWARD", "ANSWER"), rows, empty="")


async def _save(client: AsyncClient, media: Iterable[content_pb2.Media], *, folder: Path) -> None:
    from omnialign.cli.state import replace_file
    from omnialign.content import media_file_name

    for medium in media:
        replace_file(folder / media_file_name(medium), await client.get_media(medium.sha256))
