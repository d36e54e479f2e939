"""Records as text on a terminal."""

from omnialign.cli.records import record_text
from omnialign.content import content
from omnialign.v1 import content_pb2, record_pb2

PICTURE = content_pb2.Media(
    modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256="ab" * 32, size_bytes=1234
)


def test_what_came_before_a_prompt_is_shown_above_it_with_its_roles() -> None:
    record = record_pb2.Record(id="a", subtask="ti2t", split="train", prompt=content("Whose?"))
    record.history.add(role=content_pb2.ROLE_SYSTEM, content=content("Be brief.\nAnd kind."))
    record.history.add(role=content_pb2.ROLE_USER, content=content("Look:", PICTURE))
    record.history.add(role=content_pb2.ROLE_ASSISTANT, content=content("A lake."))
    assert record_text(record).splitlines()[1:] == [
        "  system      Be brief.",
        "              And kind.",
        "  user        Look: [image sha256:abababababab, 1,234 bytes]",
        "  assistant   A lake.",
        "  prompt      Whose?",
    ]
