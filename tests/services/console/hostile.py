"""Text that would run if any page forgot to escape it, in every field that people or models can write."""

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

SCRIPT = "</pre><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def fill(message: Message, *, keep: frozenset[str] = frozenset(), depth: int = 3) -> None:
    """Puts SCRIPT into all texts of a message, in maps and lists too, but for the fields to `keep`."""
    for field in message.DESCRIPTOR.fields:
        if field.name in keep or depth == 0:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(getattr(message, field.name), field.message_type)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                getattr(message, field.name).append(SCRIPT)
            else:
                setattr(message, field.name, SCRIPT)
        elif field.message_type is not None and not field.message_type.full_name.startswith("google.protobuf"):
            inner = getattr(message, field.name)
            fill(inner.add() if field.is_repeated else inner, keep=keep, depth=depth - 1)


def _fill_map(found, entry) -> None:
    value = entry.fields_by_name["value"]
    if entry.fields_by_name["key"].type != FieldDescriptor.TYPE_STRING:
        return
    if value.type == FieldDescriptor.TYPE_STRING:
        found[SCRIPT] = SCRIPT
    elif value.message_type is not None:
        fill(found[SCRIPT], depth=1)
    else:
        found[SCRIPT] = 1
