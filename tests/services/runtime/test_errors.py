"""Errors as statuses and back."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import BY_CODE, DataLoss, Internal, InvalidArgument, OmnialignError, from_status, to_status
from services.runtime.errors import as_omnialign_error, rich_status

texts = st.text(max_size=40)
reasons = st.from_regex(r"[A-Z][A-Z_]{0,30}", fullmatch=True)


@given(
    cls=st.sampled_from(sorted(BY_CODE.values(), key=lambda cls: cls.code)),
    message=texts,
    reason=reasons,
    metadata=st.dictionaries(texts, texts, max_size=4),
    violations=st.lists(st.tuples(texts, texts), max_size=4),
)
def test_an_error_survives_the_wire(cls, message, reason, metadata, violations):
    error = cls(message, reason=reason, metadata=metadata, violations=violations)
    back = from_status(to_status(error))
    assert type(back) is cls
    assert (back.message, back.reason, back.metadata, list(back.violations)) == (message, reason, metadata, violations)


@given(st.lists(st.tuples(st.text(), st.text()), max_size=200), st.text())
def test_a_status_always_fits_into_trailers(violations, message):
    error = InvalidArgument(message * 100, reason="R", metadata={"k" * 50: message * 50}, violations=violations)
    status = rich_status(error)
    assert status.ByteSize() <= 4096
    assert from_status(status).reason == "R"


class OwnConstructor(DataLoss):
    def __init__(self) -> None:
        super().__init__("x" * 9000, reason="OWN")


def test_an_oversized_error_with_its_own_constructor_is_trimmed():
    assert from_status(rich_status(OwnConstructor())).reason == "OWN"


def test_full_sqlite_database_is_storage_full(tmp_path):
    connection = sqlite3.connect(tmp_path / "small.db")
    connection.execute("PRAGMA max_page_count = 2")
    connection.execute("CREATE TABLE t (b BLOB)")
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()
    wrapped = RuntimeError("flush failed")
    wrapped.__cause__ = caught.value
    assert as_omnialign_error(wrapped).reason == "STORAGE_FULL"


def test_the_bare_base_class_is_internal_on_the_wire():
    assert isinstance(from_status(rich_status(OmnialignError("?"))), Internal)
