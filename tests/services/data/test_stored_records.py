"""Records go out as they are stored, and the table knows which media they name."""

from pathlib import Path

import lance
import pytest

from omnialign.content import content
from omnialign.media_window import media_named_by
from omnialign.v1 import content_pb2, data_service_pb2, record_pb2
from services.data.record_rows import SCHEMA, row_of, to_arrow
from services.data.record_table import RecordTable
from services.data.selection import Selection
from services.data.stored_records import DIGEST_HEAD, StoredRecords, as_response, digests_of
from services.data.usage import named_media
from tests.services.data.test_record_table import record, table

Medium = content_pb2.Media


def medium(number: int) -> content_pb2.Media:
    return Medium(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256=f"{number:064x}", size_bytes=9)


def naming(number: int, *media: content_pb2.Media) -> record_pb2.Record:
    """A record that names the media in its prompt, the first one again in a response, and another one before it."""
    found = record_pb2.Record(id=f"r{number:05d}", subtask="ti2t", prompt=content("What?", *media))
    found.responses.add(content=content("This.", *media[:1]))
    found.history.add(role=content_pb2.ROLE_USER, content=content("Look.", medium(99)))
    return found


RECORDS = [record(0), naming(1, medium(1)), naming(2, medium(3), medium(2), medium(99)), naming(3)]


def stored(table: RecordTable) -> StoredRecords:
    (batch,) = table.snapshot().batches(Selection())
    return batch


def test_a_table_knows_which_media_its_records_name(tmp_path: Path) -> None:
    records = table(tmp_path)
    records.merge(RECORDS)
    found = stored(records)
    assert found.records() == RECORDS
    assert None not in found.digests
    assert found.media() == [media_named_by(one) for one in RECORDS]
    assert found.media()[2] == [f"{number:064x}" for number in (99, 3, 2)]


def test_a_table_made_before_it_knew_goes_on_and_reads_the_records(tmp_path: Path) -> None:
    before = SCHEMA.remove(SCHEMA.get_field_index("media"))
    lance.write_dataset(before.empty_table(), str(tmp_path / "t.lance"), mode="create")
    records = table(tmp_path, compact_fragments=1)
    for one in (*RECORDS, RECORDS[1]):
        records.merge([one])
    assert records.merge(RECORDS) == (0, 4)
    while records.improve():
        pass
    found = stored(records)
    assert (found.records(), set(found.digests)) == (RECORDS, {None})
    assert found.media() == [media_named_by(one) for one in RECORDS]
    assert records.snapshot()._dataset.schema.names == before.names


@pytest.mark.parametrize("name", ["x", "ab", "0" * 63, "A" * 64, "0" * 128])
def test_what_is_no_digest_is_left_to_the_record(name: str, tmp_path: Path) -> None:
    odd = naming(0, medium(1), Medium(sha256=name))
    assert digests_of(odd) is None
    records = table(tmp_path)
    records.merge([odd, naming(1)])
    assert stored(records).media() == [media_named_by(odd), media_named_by(naming(1))]


@pytest.mark.parametrize("length", [0, 1, 100, 127, 128, 16_383, 16_384, 2_200_000])
def test_records_of_any_length_make_a_response(length: int) -> None:
    records = [record(0), record_pb2.Record(id="x" * length), record(1)]
    others = data_service_pb2.StreamRecordsResponse(named_counts=[1, 2])
    sent = as_response([one.SerializeToString() for one in records]) + others.SerializeToString()
    found = data_service_pb2.StreamRecordsResponse.FromString(sent)
    assert found == data_service_pb2.StreamRecordsResponse(records=records, named_counts=[1, 2])


def test_records_chosen_by_id_are_selected_by_everything_else_too(tmp_path: Path) -> None:
    records = table(tmp_path)
    records.merge([record(number, subtask="a" if number % 2 else "b", split="x") for number in range(200)])
    ids = [f"r{number:05d}" for number in range(150)] * 2 + ["r1"]
    selection = Selection(ids=ids, subtasks=("a",), splits=("x", "y"), after="r00010", limit=66)
    batches = list(records.snapshot().batches(selection))
    assert [one.id for batch in batches for one in batch.records()] == [f"r{n:05d}" for n in range(11, 142, 2)]
    assert [batch.last_id for batch in batches] == [batch.records()[-1].id for batch in batches]


def test_a_record_without_the_head_of_a_digest_names_no_medium() -> None:
    one = medium(1)
    asked = record_pb2.Record(prompt=content("What?", one))
    earlier, answered, composed = record_pb2.Record(), record_pb2.Record(), record_pb2.Record()
    earlier.history.add(role=content_pb2.ROLE_USER, content=content(one))
    answered.responses.add(content=content("This.", one))
    composed.responses.add().made_of.add(content=content(one))
    naming_one = [asked, earlier, answered, composed]
    assert all(DIGEST_HEAD in record.SerializeToString() for record in naming_one)
    assert [named_media([record]) for record in naming_one] == [{one.sha256: 9}] * 4
    assert named_media([record(0), record_pb2.Record(id=DIGEST_HEAD.decode())]) == {}
    assert to_arrow(map(row_of, [*naming_one[:1], record(0)]))["media"].to_pylist() == [bytes.fromhex(one.sha256), b""]
