"""Asking models with plain Python values: strings and files in, dataclasses out. One question per call.

    answer = await client.generate("base", ["What colour is the circle?", Path("circle.png")])
    print(answer.text)

A message is a string, the path of a file, a stored medium, or a list of these in reading order. Files are uploaded; the
service tells their type from their bytes. For many questions at once, or settings that are not here, the full requests
stream: `generate(request)`, `refine`, `critique(request)`, `score_responses`, `compare_responses`,
`score_understanding`, `score_generation`, `answer_questions`, `compute_rewards`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from omnialign.client.generation import GenerationCalls
from omnialign.client.media import MediaCalls
from omnialign.client.models import ModelCalls
from omnialign.content import content, media_of, text_of
from omnialign.errors import DataLoss, InvalidArgument, from_status
from omnialign.v1 import content_pb2, critique_service_pb2, judge_service_pb2, record_pb2, refinement_service_pb2
from omnialign.v1.generation_pb2 import GeneratedTokens, SamplingParams

Part: TypeAlias = str | Path | content_pb2.Media
Prompt: TypeAlias = Part | Sequence[Part]
Verdict: TypeAlias = Literal["win", "tie", "loss", "abstain"]

NO_TOKENS = GeneratedTokens()
ITEM = "0"
"""Id of the only item of a request made here."""


@dataclass(frozen=True)
class Answer:
    """What a model answered."""

    text: str
    """The text of the answer."""
    media: tuple[content_pb2.Media, ...]
    """The media of the answer; `get_media` fetches the bytes."""
    model: str
    """The model that answered, by its full name."""
    prompt_tokens: int
    completion_tokens: int
    content: content_pb2.Content = field(repr=False)
    """The answer as a message, with text and media in their order."""
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    """What the model wrote, if it was asked for; the end token included."""
    log_probs: tuple[float, ...] = field(default=(), repr=False)
    """The log-probability of each of these tokens; see `GeneratedTokens`."""


@dataclass(frozen=True)
class Assessment:
    """What a feedback model or a judge said of a response."""

    scores: Mapping[str, int]
    """0 (worst) to 3 (best) by dimension; empty if the model abstained."""
    rationales: Mapping[str, str]
    """Why, by dimension."""
    critique: str
    """What is good and bad in the response; what the model wrote, if it abstained."""
    advice: str
    """How to improve the response."""
    abstained: str = ""
    """Why there are no scores, such as `ANSWER_UNPARSABLE`; empty otherwise."""


@dataclass(frozen=True)
class Judgement:
    """How a candidate compares with a baseline, asked in both orders."""

    verdict: Verdict
    """`win` if the candidate is better in both orders."""
    reasons: tuple[str, str]
    """The judge's reasons, with the baseline shown first and with the candidate shown first."""
    abstained: str = ""
    """Why the judge abstained; empty otherwise."""


class AskCalls(GenerationCalls, MediaCalls, ModelCalls):
    """One question to one model.

    A model is `base` (its newest version), `base/2`, or a full name, `file://` folder or endpoint as in the requests.
    """

    @overload
    def generate(
        self, model: refinement_service_pb2.GenerateRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[refinement_service_pb2.GenerateResponse]: ...

    @overload
    def generate(
        self,
        model: str,
        prompt: Prompt,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 0,
        seed: int = 0,
        return_tokens: bool = False,
        deadline_seconds: float | None = None,
    ) -> Awaitable[Answer]: ...

    @overload
    def generate(
        self,
        model: str,
        prompt: Prompt,
        *,
        num_samples: int,
        temperature: float = 0.0,
        max_new_tokens: int = 0,
        seed: int = 0,
        return_tokens: bool = False,
        deadline_seconds: float | None = None,
    ) -> Awaitable[list[Answer]]: ...

    def generate(
        self,
        model: str | refinement_service_pb2.GenerateRequest,
        prompt: Prompt = (),
        *,
        num_samples: int | None = None,
        deadline_seconds: float | None = None,
        **options: Any,
    ) -> Any:
        """The answer to a prompt; with a request instead of a model's name, the results of all its items as a stream.

        With `num_samples`, a list of so many answers. `max_new_tokens` 0 means the service's default; `return_tokens`
        adds the tokens and their log-probabilities. Raises what became of the item, such as PROMPT_TOO_LONG.
        """
        if isinstance(model, refinement_service_pb2.GenerateRequest):
            return self.generate_items(model, deadline_seconds=deadline_seconds)
        options["deadline_seconds"] = deadline_seconds
        if num_samples is None:
            return self.generate_answer(model, prompt, **options)
        return self.generate_answers(model, prompt, num_samples=num_samples, **options)

    @overload
    def critique(
        self, model: critique_service_pb2.CritiqueRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[critique_service_pb2.CritiqueResponse]: ...

    @overload
    def critique(
        self,
        model: str,
        prompt: Prompt,
        response: Prompt,
        *,
        rubric: Sequence[str] = (),
        subtask: str = "",
        deadline_seconds: float | None = None,
    ) -> Awaitable[Assessment]: ...

    def critique(
        self,
        model: str | critique_service_pb2.CritiqueRequest,
        prompt: Prompt = (),
        response: Prompt = (),
        *,
        rubric: Sequence[str] = (),
        subtask: str = "",
        deadline_seconds: float | None = None,
    ) -> Any:
        """Language feedback on a response; with a request instead of a model's name, that on all its items.

        `rubric` names the dimensions to score; without it, `subtask`, such as `ti2t`, chooses them.
        """
        if isinstance(model, critique_service_pb2.CritiqueRequest):
            return self.critique_items(model, deadline_seconds=deadline_seconds)
        return self.critique_response(
            model, prompt, response, rubric=rubric, subtask=subtask, deadline_seconds=deadline_seconds
        )

    async def score(
        self,
        model: str,
        prompt: Prompt,
        response: Prompt,
        *,
        rubric: Sequence[str] = (),
        subtask: str = "",
        deadline_seconds: float | None = None,
    ) -> Assessment:
        """A judge's scores of a response, 0 to 3 in each dimension."""
        item = await self._item(prompt, response, rubric=rubric, subtask=subtask)
        request = judge_service_pb2.ScoreResponseRequest(model=await self.find_model(model), items=[item])
        return _assessment(await only_result(self.score_responses(request, deadline_seconds=deadline_seconds)))

    async def compare(
        self,
        model: str,
        prompt: Prompt,
        baseline: Prompt,
        candidate: Prompt,
        *,
        subtask: str = "",
        deadline_seconds: float | None = None,
    ) -> Judgement:
        """A judge's comparison of a candidate with a baseline, made in both orders."""
        asked, one, other = await self._contents(prompt, baseline, candidate)
        item = judge_service_pb2.CompareItem(id=ITEM, prompt=asked, baseline=one, candidate=other, subtask=subtask)
        request = judge_service_pb2.CompareResponsesRequest(model=await self.find_model(model), items=[item])
        result = await only_result(self.compare_responses(request, deadline_seconds=deadline_seconds))
        found = result.comparison
        verdict: Any = record_pb2.Verdict.Name(found.verdict).removeprefix("VERDICT_").lower()
        return Judgement(verdict, (found.forward_reason, found.backward_reason), found.abstain_reason)

    async def reward(
        self, model: str, prompt: Prompt, response: Prompt, *, deadline_seconds: float | None = None
    ) -> float:
        """The reward that a reward model gives to a response; compare it with those of other responses to the prompt.

        Raises MODEL_NOT_A_REWARD_MODEL, and what became of the item, such as REWARD_NOT_FINITE.
        """
        asked, answered = await self._contents(prompt, response)
        item = judge_service_pb2.RewardItem(id=ITEM, prompt=asked, response=answered)
        request = judge_service_pb2.ComputeRewardsRequest(model=await self.find_model(model), items=[item])
        result = await only_result(self.compute_rewards(request, deadline_seconds=deadline_seconds))
        return float(result.reward)

    async def to_content(self, message: Prompt) -> content_pb2.Content:
        """A message of plain values as the requests take it; files are uploaded. Raises FILE_MISSING and MEDIA_*."""
        parts = [message] if isinstance(message, str | Path | content_pb2.Media) else list(message)
        return content(*await asyncio.gather(*(self._stored(part) for part in parts)))

    async def find_model(self, model: str) -> str:
        """The full name of a model's version: of the newest for `base`, of the second for `base/2`.

        Any other name, of a folder or behind an endpoint, is returned as it is. Raises MODEL_VERSION_NOT_FOUND.
        """
        if "://" in model:
            return model
        if not model.startswith("projects/"):
            identity, _, version = model.partition("/")
            model = f"{self.parent}/models/{identity}/versions/{version or '-'}"
        return (await self.get_model_version(model)).name if model.endswith("/-") else model

    async def generate_answer(
        self,
        model: str,
        prompt: Prompt,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 0,
        seed: int = 0,
        return_tokens: bool = False,
        deadline_seconds: float | None = None,
    ) -> Answer:
        """The answer to a prompt, as from `generate`."""
        (answer,) = await self.generate_answers(
            model,
            prompt,
            num_samples=1,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
            return_tokens=return_tokens,
            deadline_seconds=deadline_seconds,
        )
        return answer

    async def generate_answers(
        self,
        model: str,
        prompt: Prompt,
        *,
        num_samples: int,
        temperature: float = 0.0,
        max_new_tokens: int = 0,
        seed: int = 0,
        return_tokens: bool = False,
        deadline_seconds: float | None = None,
    ) -> list[Answer]:
        """Several answers to a prompt, as from `generate`; the first is the one that `seed` gives alone."""
        sampling = SamplingParams(temperature=temperature, max_new_tokens=max_new_tokens)
        item = refinement_service_pb2.GenerateItem(id=ITEM, prompt=await self.to_content(prompt), seed=seed)
        request = refinement_service_pb2.GenerateRequest(
            model=await self.find_model(model),
            sampling=sampling,
            items=[item],
            num_samples=num_samples,
            return_tokens=return_tokens,
        )
        found = await _all(self.generate_items(request, deadline_seconds=deadline_seconds), num_samples)
        found.sort(key=lambda result: result.sample)
        return [answer_of(result.response, result.tokens) for result in found]

    async def critique_response(
        self,
        model: str,
        prompt: Prompt,
        response: Prompt,
        *,
        rubric: Sequence[str] = (),
        subtask: str = "",
        deadline_seconds: float | None = None,
    ) -> Assessment:
        """Language feedback on a response, as from `critique`."""
        item = await self._item(prompt, response, rubric=rubric, subtask=subtask)
        request = critique_service_pb2.CritiqueRequest(model=await self.find_model(model), items=[item])
        return _assessment(await only_result(self.critique_items(request, deadline_seconds=deadline_seconds)))

    async def _item(
        self, prompt: Prompt, response: Prompt, *, rubric: Sequence[str], subtask: str
    ) -> critique_service_pb2.CritiqueItem:
        asked, answered = await self._contents(prompt, response)
        return critique_service_pb2.CritiqueItem(
            id=ITEM, prompt=asked, response=answered, rubric=rubric, subtask=subtask
        )

    async def _contents(self, *messages: Prompt) -> list[content_pb2.Content]:
        return list(await asyncio.gather(*map(self.to_content, messages)))

    async def _stored(self, part: Part) -> str | content_pb2.Media:
        if not isinstance(part, Path):
            return part
        try:
            data = await asyncio.to_thread(part.read_bytes)
        except OSError as error:
            message = f"The file {part} cannot be read: {error.strerror or error}."
            raise InvalidArgument(message, reason="FILE_MISSING", metadata={"path": str(part)}) from error
        return await self.upload_media(data, modality=content_pb2.MODALITY_UNSPECIFIED)


def answer_of(response: record_pb2.Response, tokens: GeneratedTokens = NO_TOKENS) -> Answer:
    """A response as plain values."""
    made = response.generation
    return Answer(
        text=text_of(response.content),
        media=tuple(media_of([response.content])),
        model=made.model,
        prompt_tokens=made.prompt_tokens,
        completion_tokens=made.completion_tokens,
        content=response.content,
        token_ids=tuple(tokens.ids),
        log_probs=tuple(tokens.log_probs),
    )


def _assessment(
    result: critique_service_pb2.CritiqueResponse | judge_service_pb2.ScoreResponseResponse,
) -> Assessment:
    if result.HasField("abstention"):
        return Assessment({}, {}, result.abstention.text, "", abstained=result.abstention.reason)
    feedback = result.feedback
    return Assessment(
        {score.dimension: score.score for score in feedback.scores},
        {score.dimension: score.rationale for score in feedback.scores},
        feedback.critique,
        feedback.refinement,
    )


async def only_result(results: AsyncIterator[Any]) -> Any:
    """The result of a request's only item. Raises the item's error, and DataLoss (`ANSWER_MISSING`) if none comes."""
    (result,) = await _all(results, 1)
    return result


async def _all(results: AsyncIterator[Any], count: int) -> list[Any]:
    """The `count` results of a request, in the order that they come. Raises as `only_result`."""
    found = []
    async for result in results:
        if result.HasField("error"):
            raise from_status(result.error)
        found.append(result)
        if len(found) == count:
            return found
    raise DataLoss("The service ended the call without a result; ask again.", reason="ANSWER_MISSING")
