"""How counts and sizes read."""

import pytest

from omnialign.wording import counted, size_text


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12_345, "12,345 rows")])
def test_one_thing_is_singular(count, text):
    assert counted(count, "row") == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1536, "1.5 KiB"),
        (2**20, "1.0 MiB"),
        (2**30 * 5 // 2, "2.5 GiB"),
        (2**40 * 5000, "5,000.0 TiB"),
    ],
)
def test_a_size_has_the_unit_that_reads_best(size_bytes, text):
    assert size_text(size_bytes) == text
