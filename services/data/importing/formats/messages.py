"""Messages with roles, as OpenAI (`role`, `content`) and ShareGPT (`from`, `value`) write them."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from services.data.importing.formats.spelling import TOOLS, WHY
from services.data.importing.refusal import described, refusal

MAX_HISTORY = 256
"""Most messages before a prompt that a record holds."""
MAX_MESSAGES = MAX_HISTORY + 2
USER, ASSISTANT, SYSTEM_ROLE, TOOL = "user", "assistant", "system", "tool"
ROLES = {
    "user": USER, "human": USER,
    "assistant": ASSISTANT, "gpt": ASSISTANT, "model": ASSISTANT, "chatgpt": ASSISTANT, "bot": ASSISTANT,
    "system": SYSTEM_ROLE, "developer": SYSTEM_ROLE,
    "tool": TOOL, "function": TOOL, "function_call": TOOL, "tool_call": TOOL, "tool_response": TOOL,
    "observation": TOOL, "ipython": TOOL,
}  # fmt: skip
TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id")
READ_KEYS = frozenset({"role", "from", "content", "value", *TOOL_KEYS})


@dataclass(frozen=True)
class Message:
    """One message of a row, not yet looked into."""

    role: str
    content: Any
    """Text, or a list of parts."""
    column: str
    number: int = 1
    """Its place in its column, from 1."""

    @property
    def is_empty(self) -> bool:
        """Whether it has no text and no other part."""
        return self.content == [] or (isinstance(self.content, str) and not self.content.strip())

    def says_as(self, other: "Message") -> bool:
        """Whether both have the same role and content, but for blanks around a text."""
        return self.role == other.role and _stripped(self.content) == _stripped(other.content)


def read_messages(found: Any, column: str, ignored: Set[str]) -> list[Message]:
    """The messages in a column.

    Raises MESSAGES_INVALID, ROLE_UNKNOWN, TOOLS_UNSUPPORTED, MESSAGE_FIELD_UNREAD (for a field that is not read, unless
    `column.field` is to be ignored).
    """
    if not isinstance(found, list):
        message = f"the column holds {described(found)}, and a list of messages is taken"
        raise refusal("MESSAGES_INVALID", message, column=column)
    if not 0 < len(found) <= MAX_MESSAGES:
        message = f"the column has {len(found)} messages, and 1 to {MAX_MESSAGES} are taken"
        raise refusal("MESSAGES_INVALID", message, column=column)
    return [_message(one, column, number, ignored) for number, one in enumerate(found, 1)]


def read_answer(found: Any, column: str, ignored: Set[str]) -> list[Message]:
    """The messages of an answer: those of the conversation, if they are repeated, and the answer itself last.

    Raises what `read_messages` raises, and RESPONSE_MISSING.
    """
    if isinstance(found, str):
        messages = [Message(ASSISTANT, found, column)]
    elif isinstance(found, Mapping):
        messages = read_messages([found], column, ignored)
    elif isinstance(found, list) and found and all(isinstance(one, str) for one in found):
        if len(found) > 1:
            message = f"the column holds {len(found)} answers, and one is taken"
            raise refusal("MESSAGES_INVALID", message, column=column)
        messages = [Message(ASSISTANT, found[0], column)]
    else:
        messages = read_messages(found, column, ignored)
    if messages[-1].role != ASSISTANT:
        message = f"the last message is of the role {messages[-1].role}, and an answer of the assistant is taken"
        raise refusal("RESPONSE_MISSING", message, column=column)
    return messages


@dataclass(frozen=True)
class Conversation:
    """A prompt, and what came before it."""

    history: Sequence[Message]
    prompt: Message

    @property
    def all(self) -> Sequence[Message]:
        """All messages, in order."""
        return (*self.history, self.prompt)


def conversation(messages: Sequence[Message], column: str) -> Conversation:
    """The messages with the prompt as the last. Raises PROMPT_MISSING, MESSAGES_INVALID."""
    if not messages or messages[-1].role != USER:
        found = f"its last message is of the role {messages[-1].role}" if messages else "there is no message before it"
        message = f"the answer follows no prompt: {found}, and one of the role user is taken"
        raise refusal("PROMPT_MISSING", message, column=column)
    # What a system is not told says nothing: tools write an empty text for it.
    *earlier, prompt = [one for one in messages if not (one.role == SYSTEM_ROLE and one.is_empty)]
    if len(earlier) > MAX_HISTORY:
        message = f"there are {len(earlier)} messages before the prompt, and up to {MAX_HISTORY} are taken"
        raise refusal("MESSAGES_INVALID", message, column=column)
    for one in earlier:
        if one.is_empty:
            message = f"message {one.number}, of the role {one.role}, is empty, and text or media are taken"
            raise refusal("MESSAGES_INVALID", message, column=one.column)
    return Conversation(earlier, prompt)


def answer_to(asked: Sequence[Message], messages: Sequence[Message], column: str) -> Message:
    """The answer in the messages of a column, which may repeat what was asked. Raises PROMPTS_DIFFER."""
    *before, answer = messages
    if not before:
        return answer
    if len(before) != len(asked):
        message = f"the answer follows {len(before)} messages and the prompt has {len(asked)}, and the same are taken"
        raise refusal("PROMPTS_DIFFER", message, column=column)
    for number, (one, other) in enumerate(zip(before, asked, strict=True), 1):
        if not one.says_as(other):
            message = (
                f"message {number} of {len(before)} before the answer is another than in {other.column}, and an answer "
                "to the same conversation is taken"
            )
            raise refusal("PROMPTS_DIFFER", message, column=column)
    return answer


def _message(found: Any, column: str, number: int, ignored: Set[str]) -> Message:
    if not isinstance(found, Mapping):
        message = f"message {number} is {described(found)}, and an object with role and content is taken"
        raise refusal("MESSAGES_INVALID", message, column=column)
    said = found.get("role") if found.get("role") is not None else found.get("from")
    if not isinstance(said, str):
        there = "no role" if said is None else f"{described(said)} as its role"
        raise refusal(
            "MESSAGES_INVALID", f"message {number} has {there}, and text in `role` or `from` is taken", column=column
        )
    role = ROLES.get(said.strip().lower())
    if role is None:
        message = f"message {number} is of the role {said[:40]!r}, and system, user or assistant is taken"
        raise refusal("ROLE_UNKNOWN", message, column=column)
    if role == TOOL or any(found.get(key) for key in TOOL_KEYS):
        raise refusal(TOOLS, f"message {number} calls a tool or is its answer: {WHY[TOOLS]}", column=column)
    for key, one in found.items():
        is_read = key in READ_KEYS or f"{column}.{key}" in ignored
        if not is_read and one is not None and one != "" and one != []:
            name = f"{column}.{key}"[:200]
            message = f"message {number} has the field {str(key)[:80]!r}, which is not read: `--ignore {name}` drops it"
            raise refusal("MESSAGE_FIELD_UNREAD", message, column=column)
    content = found.get("content") if found.get("content") is not None else found.get("value")
    if not isinstance(content, str | list):
        there = "no content" if content is None else f"{described(content)} as its content"
        message = f"message {number} has {there}, and text or a list of parts is taken"
        raise refusal("MESSAGES_INVALID", message, column=column)
    return Message(role, content, column, number)


def _stripped(found: Any) -> Any:
    return found.strip() if isinstance(found, str) else found
