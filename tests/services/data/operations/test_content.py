"""Which records say the same."""

from omnialign.content import content
from omnialign.v1 import content_pb2, record_pb2
from services.data.operations.content import content_key

USER, SYSTEM = content_pb2.ROLE_USER, content_pb2.ROLE_SYSTEM


def key(*history: tuple[int, str], prompt_only: bool = True) -> bytes:
    record = record_pb2.Record(prompt=content("Whose?"))
    for role, words in history:
        record.history.add(role=role, content=content(words))
    return content_key(record, prompt_only=prompt_only)


def test_prompts_that_continue_other_conversations_are_not_the_same() -> None:
    keys = [key(), key((USER, "Hi")), key((SYSTEM, "Hi")), key((USER, "Hello")), key((USER, "Hi"), (USER, "Whose?"))]
    assert len(set(keys)) == len(keys)
    assert key((USER, " hi ")) == key((USER, "Hi"))
