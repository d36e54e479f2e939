"""Records as prompts with answers: TRL, RLAIF-V, OpenAI messages, ms-swift, ShareGPT, LLaMA-Factory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from omnialign.content import NAMES, ROLES, Role
from omnialign.exporting.rows import (
    Row,
    Unwritable,
    check_history,
    is_text,
    media_columns,
    parts_of,
    path_of,
    text_in,
    turn,
    with_place,
)
from omnialign.placeholders import KIND_MARKER, with_markers
from omnialign.v1.content_pb2 import ROLE_USER, Content, EarlierMessage, Media
from omnialign.v1.record_pb2 import VERDICT_LOSS, VERDICT_WIN, Record

SHAREGPT_ROLES: Mapping[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class Exchange:
    """A conversation with no answer, with one, or with a better and a worse one."""

    asked: Sequence[EarlierMessage]
    """What came before the prompt, and the prompt."""
    answers: Sequence[Content]
    good: bool | None = None
    """Whether people called the only answer good; None if they did not say."""

    @property
    def messages(self) -> Sequence[Content]:
        """What was asked and the answers, in the order in which their media are listed."""
        return (*(message.content for message in self.asked), *self.answers)


Write = Callable[[Exchange], Row]


def exchange_row(record: Record, write: Write) -> Row:
    """The columns of a record, its media by their paths. Raises Unwritable."""
    found = exchange_of(record)
    label = {} if found.good is None else {"label": found.good}
    return with_place(record, write(found) | label)


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
    check_history(record)
    asked = [*record.history, EarlierMessage(role=ROLE_USER, content=record.prompt)]
    labelled = [response.good for response in record.responses if response.HasField("good")]
    return Exchange(asked, answers, labelled[0] if labelled and len(answers) == 1 else None)


def lost_of_exchange(record: Record) -> Iterator[str]:
    """What of a record no row of these has a place for."""
    if any(response.feedback.ByteSize() for response in record.responses):
        yield "feedback"
    if record.preference.reason or record.preference.dimensions:
        yield "reasons and dimensions of preferences"
    if any(response.source for response in record.responses):
        yield "sources of responses"
    if len(record.responses) > 1:
        yield from lost_labels(record)
    yield from lost_of_models(record)


def lost_labels(record: Record) -> Iterator[str]:
    """Labels of answers, where a row has none."""
    if any(response.HasField("good") for response in record.responses):
        yield "labels of answers"


def lost_of_models(record: Record) -> Iterator[str]:
    """What models and benchmarks said, which no row but that of a whole record has a place for."""
    if record.HasField("comparison"):
        yield "comparisons"
    if record.HasField("benchmark_item"):
        yield "items of benchmarks"


def trl_row(found: Exchange) -> Row:
    """TRL: texts, or with media messages whose parts are places for the media in `images`, `audios`, `videos`."""
    if not found.answers:
        raise Unwritable("it has no answer, and a row of trl has one")
    names = ("completion",) if len(found.answers) == 1 else ("chosen", "rejected")
    media = media_columns(found.messages)
    if not media and len(found.asked) == 1 and all(map(is_text, found.messages)):
        return dict(zip(("prompt", *names), map(_text, found.messages), strict=True))
    row: Row = {"prompt": [turn(ROLES[one.role], one.content, _place) for one in found.asked]}
    for name, answer in zip(names, found.answers, strict=True):
        row[name] = [turn("assistant", answer, _place)]
    return row | media


def rlaif_v_row(found: Exchange) -> Row:
    """RLAIF-V: a question about media, and two answers in text."""
    if len(found.answers) != 2:
        raise Unwritable(f"a row of rlaif-v has two answers, and the record {len(found.answers)}")
    if len(found.asked) > 1:
        raise Unwritable("a row of rlaif-v has one question, and messages came before the prompt")
    chosen, rejected = (text_in(answer, "an answer") for answer in found.answers)
    return asked_columns(found.asked[0].content, "question", chosen, rejected) | {
        "chosen": chosen,
        "rejected": rejected,
    }


def asked_columns(prompt: Content, column: str, *answers: str) -> Row:
    """A prompt as one text, and its media in columns: before the text, or where markers in it stand for them.

    Raises Unwritable, also where a marker in an answer would take a medium of the prompt.
    """
    media, parts = media_columns([prompt]), parts_of(prompt)
    texts = [one for one in parts if isinstance(one, str)]
    if not media:
        return {column: text_in(prompt, "the prompt")}
    if any(KIND_MARKER.search(answer) for answer in answers):
        raise Unwritable("an answer has what looks like the place of a medium")
    if parts[-1:] == texts and not KIND_MARKER.search(texts[0]) and _in_order(parts):
        return {column: texts[0], **media}
    return {column: marked(prompt), **media}


def messages_row(found: Exchange) -> Row:
    """OpenAI: messages, whose parts name their media."""
    if len(found.answers) > 1:
        raise Unwritable("a row of messages has one answer, and the record two")
    asked = [_named(ROLES[one.role], one.content) for one in found.asked]
    return {"messages": [*asked, *(_named("assistant", one) for one in found.answers)]}


def ms_swift_row(found: Exchange) -> Row:
    """ms-swift: messages with markers for the media in `images`, `audios`, `videos`."""
    messages = [{"role": ROLES[one.role], "content": marked(one.content)} for one in found.asked]
    answers = [marked(answer) for answer in found.answers]
    messages += [{"role": "assistant", "content": answer} for answer in answers[:1]]
    rejected = {"rejected_response": answers[1]} if answers[1:] else {}
    return {"messages": messages, **rejected, **media_columns(found.messages)}


def sharegpt_row(found: Exchange) -> Row:
    """LLaVA and ShareGPT: `conversations` with markers for the media in `image`, `audio`, `video`."""
    if len(found.answers) > 1:
        raise Unwritable("a row of sharegpt has one answer, and the record two")
    turns = [*_asked(found), *(_said("assistant", answer) for answer in found.answers)]
    media = {name.removesuffix("s"): paths for name, paths in media_columns(found.messages).items()}
    return {"conversations": turns} | {name: paths[0] if len(paths) == 1 else paths for name, paths in media.items()}


def llama_factory_row(found: Exchange) -> Row:
    """LLaMA-Factory: `conversations`, and with two answers `chosen` and `rejected` beside them."""
    asked, said = _asked(found), [_said("assistant", answer) for answer in found.answers]
    media = media_columns(found.messages)
    if len(said) == 2:
        return {"conversations": asked, "chosen": said[0], "rejected": said[1]} | media
    return {"conversations": asked + said} | media


def marked(message: Content) -> str:
    """A message as a text with markers for its media. Raises Unwritable."""
    try:
        return with_markers(parts_of(message), lambda medium: NAMES[medium.modality])
    except ValueError as error:
        raise Unwritable(str(error)) from error


def _in_order(parts: Sequence[str | Media]) -> bool:
    """Whether media are sorted by their kinds, as those without a place are read."""
    kinds = [medium.modality for medium in parts if isinstance(medium, Media)]
    return kinds == sorted(kinds)


def _text(message: Content) -> str:
    return message.parts[0].text


def _asked(found: Exchange) -> list[Row]:
    return [_said(ROLES[one.role], one.content) for one in found.asked]


def _said(role: Role, message: Content) -> Row:
    return {"from": SHAREGPT_ROLES[role], "value": marked(message)}


def _named(role: str, message: Content) -> Row:
    return {"role": role, "content": _text(message)} if is_text(message) else turn(role, message, _link)


def _place(medium: Media) -> Row:
    return {"type": NAMES[medium.modality]}


def _link(medium: Media) -> Row:
    kind = NAMES[medium.modality]
    return {"type": f"{kind}_url", f"{kind}_url": {"url": path_of(medium)}}
