"""What a person tries: a prompt with files, one or two models, and who is to assess the answers; as a form says it.

Nothing of it is kept here. Files are stored by the data service as soon as they arrive and then named by their digest,
and answers go back and forth with the page, so that they can be assessed without being written again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.json_format import MessageToJson, Parse, ParseError
from starlette.datastructures import FormData, UploadFile

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2
from omnialign.v1.generation_pb2 import SamplingParams
from omnialign.v1.record_pb2 import Response

MAX_FILES = 16
MAX_NAME_CHARACTERS = 1024
SIDES = (1, 2)
MODEL_FIELDS = ("model", "other")
DEFAULTS = {"prompt": "", "model": "", "other": "", "critic": "", "judge": "", "temperature": "0", "seed": "0"}
DEFAULTS |= {"max_new_tokens": ""}
"""The fields of the form, but for its files and answers, and what they hold at first."""
_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Trial:
    """A prompt and who answers and assesses it; `answers` are those that are there already, by side."""

    prompt: content_pb2.Content
    models: Mapping[int, str]
    sampling: SamplingParams
    seed: int
    critic: str
    judge: str
    answers: Mapping[int, Response]


def read_trial(fields: Mapping[str, str], media: Sequence[content_pb2.Media]) -> Trial:
    """The trial that a form describes, with the media of its prompt. Raises InvalidArgument TRIAL_INVALID."""
    prompt = fields["prompt"].replace("\r\n", "\n")
    if not prompt.strip() and not media:
        raise _invalid("prompt", "Write a prompt, or add a file")
    named = {side: _name(fields, field) for side, field in zip(SIDES, MODEL_FIELDS, strict=True)}
    models = {side: name for side, name in named.items() if name}
    if 1 not in models:
        raise _invalid("model", "Name a model that answers")
    limit = fields["max_new_tokens"]
    return Trial(
        content(*media, *([prompt] if prompt.strip() else [])),
        models,
        SamplingParams(
            temperature=_number(fields["temperature"], "temperature", 10.0),
            max_new_tokens=_whole(limit, "max_new_tokens", 65_536) if limit else 0,
        ),
        _whole(fields["seed"], "seed", (1 << 64) - 1),
        _name(fields, "critic"),
        _name(fields, "judge"),
        {side: _answer(text) for side in models if (text := fields.get(f"answer.{side}", ""))},
    )


def written_answer(answer: Response) -> str:
    """An answer as a hidden field of a form; the inverse of what `read_trial` reads."""
    return MessageToJson(answer, indent=None)


async def collect_media(client: AsyncClient, form: FormData, media: list[content_pb2.Media]) -> None:
    """Adds the media of a form: those that an earlier page stored, and the files that come with it, stored now.

    All that can be used are added, and then it raises InvalidArgument FILES_TOO_MANY, or for files that are no media
    the reason of the first one, with a violation for each.
    """
    digests = [value for value in form.getlist("media") if isinstance(value, str)]
    files = [file for file in form.getlist("files") if isinstance(file, UploadFile) and (file.filename or file.size)]
    if not all(len(digest) == 64 and _DIGITS.issuperset(digest) for digest in digests):
        raise _invalid("media", "A file is named by its SHA-256")
    media += await asyncio.gather(*map(client.find_media, digests[:MAX_FILES]))
    if len(digests) + len(files) > MAX_FILES:
        raise InvalidArgument(f"A prompt takes at most {MAX_FILES} files; leave some out.", reason="FILES_TOO_MANY")
    refused = list[tuple[str, InvalidArgument]]()
    for file in files:  # one after another, so that one at a time is in memory
        try:
            media.append(await client.upload_media(await file.read(), modality=content_pb2.MODALITY_UNSPECIFIED))
        except InvalidArgument as error:
            refused.append(((file.filename or "a file")[:200], error))
    if refused:
        number = "A file" if len(refused) == 1 else f"{len(refused)} files"
        raise InvalidArgument(
            f"{number} cannot be used; mend what is wrong, or ask without.",
            reason=refused[0][1].reason,
            violations=[(name, error.message) for name, error in refused],
        )


def _name(fields: Mapping[str, str], field: str) -> str:
    name = fields[field].strip()
    if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise _invalid(field, f"A model's name has at most {MAX_NAME_CHARACTERS} printable characters")
    return name


def _answer(text: str) -> Response:
    try:
        return Parse(text, Response())
    except (ParseError, RecursionError):
        raise _invalid("answer", "An answer of an earlier page cannot be read; ask again") from None


def _number(text: str, field: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise _invalid(field, f"It is a number from 0 to {most:g}")
    return number


def _whole(text: str, field: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= most):
        raise _invalid(field, f"It is a whole number from 0 to {most}")
    return int(text)


def _invalid(field: str, problem: str) -> InvalidArgument:
    message = "The prompt cannot be tried as it is."
    return InvalidArgument(message, reason="TRIAL_INVALID", violations=[(field, f"{problem}.")])
