"""Records as a table stores them. They go out in a stream without being parsed: what is stored is what is sent."""

from collections.abc import Sequence
from dataclasses import dataclass

from omnialign.media_window import media_named_by
from omnialign.v1 import content_pb2, data_service_pb2, record_pb2
from services.data.binary_form import head

DIGEST_CHARACTERS = 64
DIGEST_HEAD = head(content_pb2.Media.SHA256_FIELD_NUMBER, DIGEST_CHARACTERS)
"""What precedes each digest in a record: the number of the field, and its length. To look for it takes a fraction of
the time that it takes to look into all parts; one that has it need not name a medium, but no other does."""
RECORDS = data_service_pb2.StreamRecordsResponse.RECORDS_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class StoredRecords:
    """Some records of a table, in its order."""

    messages: Sequence[bytes]
    """The records in protobuf's binary form."""
    digests: Sequence[bytes | None]
    """The digests of the media that each record names, one after the other; None if the table does not know them."""
    last_id: str
    """The id of the last record."""

    def __len__(self) -> int:
        return len(self.messages)

    def records(self) -> list[record_pb2.Record]:
        """The records, parsed."""
        return [record_pb2.Record.FromString(message) for message in self.messages]

    def media(self) -> list[list[str]]:
        """The digests of the media that each record names, as `media_named_by` gives them."""
        return [
            media_named_by(record_pb2.Record.FromString(message)) if digests is None else _split(digests.hex())
            for message, digests in zip(self.messages, self.digests, strict=True)
        ]


def digests_of(record: record_pb2.Record) -> bytes | None:
    """What a table keeps as `StoredRecords.digests` of a record; None if one of them is no digest."""
    if not (named := media_named_by(record)):
        return b""
    try:
        found = bytes.fromhex("".join(named))
    except ValueError:
        return None
    is_whole = len(found) * 2 == DIGEST_CHARACTERS * len(named)
    return found if is_whole and named == _split(found.hex()) else None


def as_response(messages: Sequence[bytes]) -> bytes:
    """A StreamRecordsResponse with these records, in protobuf's binary form. More fields may be appended to it."""
    return b"".join([part for message in messages for part in (head(RECORDS, len(message)), message)])


def _split(digests: str) -> list[str]:
    return [digests[at : at + DIGEST_CHARACTERS] for at in range(0, len(digests), DIGEST_CHARACTERS)]
