"""Records as rows in the columns of other tools: TRL, OpenAI messages, ms-swift, ShareGPT, LLaMA-Factory.

An import reads a row back to the same prompt and answers, the better one first. What a format has no place for is not
written, and counted; a record whose prompt or answers would come back otherwise is left out, with the reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnialign.cli.align_anything import Unwritable
from omnialign.content import NAMES, media_file_name, media_of
from omnialign.placeholders import with_markers
from omnialign.v1.content_pb2 import Content, Media
from omnialign.v1.record_pb2 import VERDICT_LOSS, VERDICT_WIN, Record, Response

Row = dict[str, Any]
MEDIA_COLUMNS = {"image": "images", "audio": "audios", "video": "videos"}


@dataclass(frozen=True)
class Exchange:
    """A prompt with no answer, with one, or with a better and a worse one."""

    prompt: Content
    answers: Sequence[Content]

    @property
    def messages(self) -> Sequence[Content]:
        """The prompt and the answers, in the order in which their media are listed."""
        return (self.prompt, *self.answers)


Write = Callable[[Exchange], Row]


def row_of(record: Record, write: Write) -> Row:
    """The columns of a record, its media by their paths. Raises Unwritable."""
    found = exchange_of(record)
    row: Row = {"id": record.id, "split": record.split} | write(found)
    if record.labels:
        row["labels"] = dict(record.labels)
    return {name: value for name, value in row.items() if value not in ("", None)}


def exchange_of(record: Record) -> Exchange:
    """The prompt and the answers, the better one first: as people said, or else as the judge did. Raises Unwritable."""
    answers = [response.content for response in record.responses]
    if len(answers) > 2:
        raise Unwritable(f"a row has up to two answers, and the record {len(answers)}")
    if len(answers) == 2:
        better = record.preference.preferred or {VERDICT_LOSS: 1, VERDICT_WIN: 2}.get(record.comparison.verdict, 0)
        if not better:
            raise Unwritable("nobody said which of its two responses is better")
        answers = answers if better == 1 else answers[::-1]
    return Exchange(record.prompt, answers)


def lost(record: Record) -> Iterator[str]:
    """What of a record no row of these has a place for."""
    if any(_has_feedback(response) for response in record.responses):
        yield "feedback"
    if record.preference.reason or record.preference.dimensions:
        yield "reasons and dimensions of preferences"
    if any(response.source for response in record.responses):
        yield "sources of responses"
    if record.HasField("comparison"):
        yield "comparisons"
    if record.HasField("benchmark_item"):
        yield "items of benchmarks"


def trl_row(found: Exchange) -> Row:
    """TRL: texts, or with media messages whose parts are places for the media in `images`, `audios`, `videos`."""
    if not found.answers:
        raise Unwritable("it has no answer, and a row of trl has one")
    names = ("completion",) if len(found.answers) == 1 else ("chosen", "rejected")
    media = _media(found)
    if not media and all(_is_text(message) for message in found.messages):
        return {"prompt": _text(found.prompt), **dict(zip(names, map(_text, found.answers), strict=True))}
    row: Row = {"prompt": [_message("user", found.prompt, _place)]}
    for name, answer in zip(names, found.answers, strict=True):
        row[name] = [_message("assistant", answer, _place)]
    return row | media


def messages_row(found: Exchange) -> Row:
    """OpenAI: messages, whose parts name their media."""
    if len(found.answers) > 1:
        raise Unwritable("a row of messages has one answer, and the record two")
    return {"messages": [_message("user", found.prompt, _named), *(_assistant(one) for one in found.answers)]}


def ms_swift_row(found: Exchange) -> Row:
    """ms-swift: messages with markers for the media in `images`, `audios`, `videos`."""
    asked, *answers = map(_marked, found.messages)
    messages = [{"role": "user", "content": asked}]
    messages += [{"role": "assistant", "content": answers[0]}] if answers else []
    return {"messages": messages, **({"rejected_response": answers[1]} if answers[1:] else {}), **_media(found)}


def sharegpt_row(found: Exchange) -> Row:
    """LLaVA and ShareGPT: `conversations` with markers for the media in `image`, `audio`, `video`."""
    if len(found.answers) > 1:
        raise Unwritable("a row of sharegpt has one answer, and the record two")
    asked, *answers = map(_marked, found.messages)
    turns = [{"from": "human", "value": asked}, *({"from": "gpt", "value": answer} for answer in answers)]
    media = {name.removesuffix("s"): paths for name, paths in _media(found).items()}
    return {"conversations": turns} | {name: paths[0] if len(paths) == 1 else paths for name, paths in media.items()}


def llama_factory_row(found: Exchange) -> Row:
    """LLaMA-Factory: `conversations`, and with two answers `chosen` and `rejected` beside them."""
    asked, *answers = map(_marked, found.messages)
    row: Row = {"conversations": [{"from": "human", "value": asked}]}
    said = [{"from": "gpt", "value": answer} for answer in answers]
    if len(said) == 2:
        return row | {"chosen": said[0], "rejected": said[1]} | _media(found)
    return {"conversations": row["conversations"] + said} | _media(found)


FORMATS: Mapping[str, Write] = {
    "trl": trl_row,
    "messages": messages_row,
    "ms-swift": ms_swift_row,
    "sharegpt": sharegpt_row,
    "llama-factory": llama_factory_row,
}


def path_of(medium: Media) -> str:
    """Where a medium lies beside the rows."""
    return f"media/{media_file_name(medium)}"


def _media(found: Exchange) -> Row:
    """The columns of media, by kind and in order."""
    paths: dict[str, list[str]] = {}
    for medium in media_of(found.messages):
        paths.setdefault(MEDIA_COLUMNS[NAMES[medium.modality]], []).append(path_of(medium))
    return dict(paths)


def _parts(message: Content) -> list[str | Media]:
    return [part.text if part.WhichOneof("part") == "text" else part.media for part in message.parts]


def _is_text(message: Content) -> bool:
    return len(message.parts) == 1 and message.parts[0].WhichOneof("part") == "text"


def _text(message: Content) -> str:
    return message.parts[0].text


def _assistant(answer: Content) -> Row:
    return _message("assistant", answer, _named)


def _message(role: str, message: Content, medium: Callable[[Media], Row]) -> Row:
    if _is_text(message):
        return {
            "role": role,
            "content": [{"type": "text", "text": _text(message)}] if medium is _place else _text(message),
        }
    content = [{"type": "text", "text": one} if isinstance(one, str) else medium(one) for one in _parts(message)]
    return {"role": role, "content": content}


def _place(medium: Media) -> Row:
    return {"type": NAMES[medium.modality]}


def _named(medium: Media) -> Row:
    kind = NAMES[medium.modality]
    return {"type": f"{kind}_url", f"{kind}_url": {"url": path_of(medium)}}


def _marked(message: Content) -> str:
    try:
        return with_markers(_parts(message), lambda medium: NAMES[medium.modality])
    except ValueError as error:
        raise Unwritable(str(error)) from error


def _has_feedback(response: Response) -> bool:
    return bool(response.feedback.ByteSize())
