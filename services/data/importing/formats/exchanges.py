"""Prompts with an answer, or with a better and a worse one, as records: what most formats are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnialign.combinations import combination
from omnialign.content import LETTERS, NAMES, ROLES, content
from omnialign.v1.content_pb2 import Media
from omnialign.v1.record_pb2 import Record, Response
from services.data.importing.benchmarks.values import Given
from services.data.importing.columns import SIDES, Row
from services.data.importing.feedback import text
from services.data.importing.formats.messages import (
    ASSISTANT,
    SYSTEM_ROLE,
    USER,
    Conversation,
    Message,
    answer_to,
    conversation,
    read_answer,
    read_messages,
)
from services.data.importing.formats.parts import Part, Places
from services.data.importing.formats.spelling import WHY, Spelling
from services.data.importing.refusal import described, refusal
from services.data.importing.scales import Scales

MAX_NAMED_COLUMNS = 12
RECORD_ROLES: dict[str, Any] = {name: role for role, name in ROLES.items()}


@dataclass(frozen=True)
class Answer:
    """An answer, as the message of an assistant."""

    message: Message
    column: str


def fill_exchange(record: Record, row: Row, given: Given, spelling: Spelling) -> None:
    """A prompt with up to two answers, of which the first is the better."""
    refuse_unsupported(row, spelling)
    messages, answers = _exchange(row, given, spelling)
    if isinstance(messages.prompt.content, str):
        record.prompt.CopyFrom(content(messages.prompt.content))  # so that a row that is set aside shows it
    fill_messages(record, row, given, spelling, messages, answers)
    if len(answers) == 2:
        if record.responses[0].content == record.responses[1].content:
            raise refusal("ANSWERS_EQUAL", "both answers are the same, and neither is better", column=answers[1].column)
        record.preference.preferred = 1
    if column := one_of(row, spelling.label):
        _add_label(record, row[column], column, given.scales)


def _add_label(record: Record, found: object, column: str, scales: Scales) -> None:
    """Whether the only answer is good. Raises LABEL_INVALID: a number is not guessed to be a label."""
    good = scales.is_good(found)
    if good is None:
        shown = repr(found)[:100] if isinstance(found, str | int | float) else described(found)
        wanted = "{} or {} is taken".format(*scales.answer_labels or ("true", "false"))
        mend = "" if scales.answer_labels else ": `--answer-labels GOOD BAD` declares others"
        raise refusal("LABEL_INVALID", f"the label is {shown}, and {wanted}{mend}", column=column)
    if len(record.responses) != 1:
        message = f"the row has a label and {len(record.responses)} answers, and a label of one answer is taken"
        raise refusal("LABEL_INVALID", message, column=column)
    record.responses[0].good = good


def fill_messages(
    record: Record, row: Row, given: Given, spelling: Spelling, messages: Conversation, answers: Iterable[Answer]
) -> None:
    """The prompt with what came before it and the answers, with their media, and what they are made of."""
    places = Places(row, spelling, given)
    parts = [places.parts(message) for message in messages.all]
    answered = [_answer_parts(answer, row, given, places) for answer in answers]
    _fill_asked(record, messages, parts, places)
    read = combination(["t", *(letter for one in parts for letter in _letters(one))])
    written = combination(letter for one in answered for letter in _letters(one))
    expected = record.subtask if given.written else ""
    record.subtask = f"{read}2{written or given.written or 't'}"
    if expected and record.subtask != expected:
        found, record.subtask = record.subtask, expected
        message = f"the row is of the subtask {found}, and the name of the file or the request says {expected}"
        raise refusal("SUBTASK_DIFFERS", message)
    record.responses.extend(Response(content=content(*one)) for one in answered)


def fill_conversation(record: Record, row: Row, given: Given, spelling: Spelling) -> None:
    """The prompt with what came before it, in a format whose answers are read otherwise."""
    messages = whole(row, spelling, asked(row, given, spelling), one_of(row, spelling.prompt))
    places = Places(row, spelling, given)
    _fill_asked(record, messages, [places.parts(message) for message in messages.all], places)


def _fill_asked(record: Record, messages: Conversation, parts: list[list[Part]], places: Places) -> None:
    """The messages with their parts. Media without a place come first in the first message of the user."""
    first = next(number for number, message in enumerate(messages.all) if message.role == USER)
    parts[first][:0] = places.unplaced()
    if not any(isinstance(part, str) and part.strip() for part in parts[-1]):
        raise refusal(
            "PROMPT_MISSING",
            "the prompt has no text, which is taken with or without media",
            column=messages.prompt.column,
        )
    for earlier, said in zip(messages.history, parts, strict=False):
        record.history.add(role=RECORD_ROLES[earlier.role], content=content(*said))
    record.prompt.CopyFrom(content(*parts[-1]))


def refuse_unsupported(row: Row, spelling: Spelling) -> None:
    """Raises the reason to set a row aside that has a value in a column without a place in a record."""
    for name, reason in spelling.unsupported.items():
        if row.get(name) not in (None, "", [], {}):
            raise refusal(reason, f"the row has a value here, and {WHY[reason].format(column=name)}", column=name)


def answers_on_sides(row: Row, given: Given, asked: Sequence[Message], spelled: str) -> Iterator[Answer]:
    """The answers in the columns of both sides. Raises RESPONSE_MISSING, PROMPTS_DIFFER."""
    for column in (spelled.format(k=side) for side in SIDES):
        if row.get(column) in (None, "", []):
            raise refusal("RESPONSE_MISSING", f"the row has no {column}, and text is taken", column=column)
        yield Answer(answer_to(asked, read_answer(row[column], column, given.ignored), column), column)


def _exchange(row: Row, given: Given, spelling: Spelling) -> tuple[Conversation, list[Answer]]:
    """The prompt with what came before it, and the answers that the row has: the better one first."""
    earlier, answers = asked(row, given, spelling), list[Answer]()
    if spelling.conversation and earlier and earlier[-1].role == ASSISTANT:
        answers.append(Answer(earlier[-1], earlier[-1].column))
        earlier = earlier[:-1]
    for column in _answer_columns(row, spelling, answers):
        said = _answer(row, column, given)
        if said[1:] and not spelling.conversation and (not earlier or (not answers and _ends_with(said[:-1], earlier))):
            earlier = said[:-1]
        answers.append(Answer(answer_to(earlier, said, column), column))
    names = (*spelling.prompt, *spelling.conversation)
    if not earlier and not one_of(row, names):
        mend = f"`--map {names[0]}=COLUMN` says which has it"
        raise refusal("PROMPT_MISSING", f"the row has no prompt in {' or '.join(names)}; {_there(row)}: {mend}")
    return whole(row, spelling, earlier, earlier[-1].column if earlier else ""), answers


def _ends_with(messages: Sequence[Message], earlier: Sequence[Message]) -> bool:
    """Whether the only message of a prompt is the last of a conversation that an answer repeats."""
    return len(earlier) == 1 and earlier[0].says_as(messages[-1])


def _answer_columns(row: Row, spelling: Spelling, answers: list[Answer]) -> list[str]:
    """The columns of the answers, beside one that ended a conversation. Raises RESPONSE_MISSING, COLUMN_TWICE."""
    better, worse = one_of(row, (*spelling.chosen, *spelling.answer)), one_of(row, spelling.rejected)
    if better and answers:
        message = f"the messages in {answers[0].column} end with an answer, and {better} has another; one is taken"
        raise refusal("COLUMN_TWICE", message, column=better)
    if worse and not (better or answers):
        names = spelling.chosen or spelling.conversation
        message = f"the row has an answer in {worse} and none in {' or '.join(names)}, and both are taken"
        raise refusal("RESPONSE_MISSING", message, column=names[0])
    if better in spelling.chosen and not worse:
        message = f"the row has an answer in {better} and none in {' or '.join(spelling.rejected)}, and both are taken"
        raise refusal("RESPONSE_MISSING", message, column=spelling.rejected[0])
    if not (better or answers or spelling.conversation):
        names = (*spelling.chosen, *spelling.rejected, *spelling.answer)
        raise refusal("RESPONSE_MISSING", f"the row has no answer in {', '.join(names)}; {_there(row)}")
    return [name for name in (better, worse) if name]


def asked(row: Row, given: Given, spelling: Spelling) -> list[Message]:
    """The messages of the columns of prompt and conversation; none if the answers are to have them."""
    column = one_of(row, spelling.conversation) or one_of(row, spelling.prompt)
    if not column:
        return []
    if column in spelling.conversation or not isinstance(row[column], str):
        return read_messages(row[column], column, given.ignored)
    added = text(row, one_of(row, spelling.input))
    return [Message(USER, f"{row[column]}\n{added}" if added else row[column], column)]


def whole(row: Row, spelling: Spelling, messages: Sequence[Message], column: str) -> Conversation:
    """The conversation of messages, with what other columns say that came before them. Raises COLUMN_TWICE."""
    system, history = list(_told_to_system(row, spelling)), list(_history(row, spelling))
    twice = system if messages and messages[0].role == SYSTEM_ROLE else history if len(messages) > 1 else []
    if twice:
        message = f"the messages in {column} begin with what is in this column too, and one of them is taken"
        raise refusal("COLUMN_TWICE", message, column=twice[0].column)
    return conversation([*system, *history, *messages] if messages else [], column)


def _told_to_system(row: Row, spelling: Spelling) -> Iterator[Message]:
    """What a column says that a system is told. Raises TEXT_EXPECTED."""
    column = one_of(row, spelling.system)
    if said := text(row, column):
        yield Message(SYSTEM_ROLE, said, column)


def _history(row: Row, spelling: Spelling) -> Iterator[Message]:
    """The pairs of a prompt and its answer that came before. Raises MESSAGES_INVALID."""
    if not (column := one_of(row, spelling.history)):
        return
    pairs = row[column] if isinstance(row[column], list) else [row[column]]
    for number, pair in enumerate(pairs, 1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(said, str) for said in pair)):
            message = (
                f"element {number} is {described(pair)}, and a list of a prompt and its answer, both text, is taken"
            )
            raise refusal("MESSAGES_INVALID", message, column=column)
        for place, (role, said) in enumerate(zip((USER, ASSISTANT), pair, strict=True)):
            yield Message(role, said, column, 2 * number - 1 + place)


def _answer(row: Row, column: str, given: Given) -> list[Message]:
    """The messages of an answer; the value itself where answers are media, which the columns hold."""
    if _is_medium(row, column, given):
        return [Message(ASSISTANT, row[column], column)]
    return read_answer(row[column], column, given.ignored)


def _answer_parts(answer: Answer, row: Row, given: Given, places: Places) -> list[Part]:
    if _is_medium(row, answer.column, given):
        return list(given.media(row, (answer.column,), LETTERS[given.written]))
    parts = places.parts(answer.message)
    if not any(isinstance(part, Media) or part.strip() for part in parts):
        raise refusal("RESPONSE_MISSING", "the answer is empty", column=answer.column)
    return parts


def one_of(row: Row, names: tuple[str, ...]) -> str:
    """The column of these that holds a value; "" if none does. Raises COLUMN_TWICE if several do."""
    there = [name for name in names if row.get(name) not in (None, "", [])]
    if len(there) > 1:
        message = f"both {there[0]} and {there[1]} have a value, and one of them is taken: see `--ignore`"
        raise refusal("COLUMN_TWICE", message, column=there[1])
    return there[0] if there else ""


def _is_medium(row: Row, column: str, given: Given) -> bool:
    """Whether an answer is a medium, or several: the name of the file says so, and the column has no messages."""
    found = row[column]
    is_said = isinstance(found, list) and any(isinstance(one, Mapping) and {"role", "from"} & set(one) for one in found)
    return given.written in LETTERS and given.written != "t" and not is_said


def _letters(parts: Iterable[Part]) -> list[str]:
    return [NAMES[part.modality][0] if isinstance(part, Media) else "t" for part in parts if part]


def _there(row: Row) -> str:
    return f"its columns are {', '.join(str(name)[:40] for name in list(row)[:MAX_NAMED_COLUMNS]) or 'none'}"
