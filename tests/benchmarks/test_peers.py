"""What `make bench-peers` makes of its measurements, on a few records."""

import pytest

from benchmarks import peers
from benchmarks.results_page import machine_facts


def test_every_contender_reads_all_bytes_and_ours_is_held_against_each() -> None:
    result = peers.measure(30)
    assert set(result["contenders"]) == {
        peers.OURS,
        peers.BY_GRPC,
        *peers.THEIRS,
        *(f"{peer}, decoding" for peer in peers.THEIRS),
    }
    ours, theirs = result["contenders"][peers.OURS], result["contenders"]["webdataset"]
    assert result["ratios"]["webdataset"]["import"] == pytest.approx(ours["import"] / theirs["import"], abs=1e-3)
    text = peers.page({"machine": machine_facts(), "result": result})
    assert all(f"| {contender} |" in text for contender in result["contenders"])


def test_a_contender_that_loses_bytes_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="Of 10 bytes"):
        peers._row([("import", 1.0, 0), ("read", 1.0, 10), ("read", 1.0, 9)], size=10, records=1)
