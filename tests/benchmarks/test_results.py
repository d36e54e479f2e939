"""What the benchmarks write down: ratios of what was measured, on a page, without the machine's name."""

import argparse
import json
import platform

from benchmarks import rpc
from benchmarks.results_page import machine_facts, page


def test_facts_tell_the_hardware_but_not_which_machine() -> None:
    facts = machine_facts()
    assert facts["cpu"] and facts["cores"]
    assert platform.node() not in json.dumps(facts)


def test_page_shows_every_number_under_its_path() -> None:
    entry = {
        "machine": machine_facts(),
        "result": {"title": "Speed", "read": {"MB/s": 12.3456, "ratio": {"least": 0.5}}},
    }
    text = page({"data": entry})
    assert "## Speed" in text
    assert "| read / MB/s | 12.35 |" in text
    assert "| read / ratio / least | 0.5 |" in text


def test_ratio_is_taken_within_each_repeat() -> None:
    turns = [
        {
            "bare": dict.fromkeys(("latency (µs)", "calls per second"), bare),
            "full": {"latency (µs)": full, "calls per second": full},
        }
        for bare, full in ((1.0, 2.0), (10.0, 20.0), (100.0, 300.0))
    ]
    latency = rpc.summary(turns)["latency (µs)"]
    assert latency["ratio"] == {"median": 2.0, "least": 2.0, "greatest": 3.0}
    assert latency["added per call"] == 10.0


def test_rpc_benchmark_measures_both_servers() -> None:
    result = rpc.run(argparse.Namespace(calls=4, repeats=1))
    for method in rpc.REQUESTS:
        assert result[method]["latency (µs)"]["bare"] > 0
        assert result[method]["calls per second"]["full stack"] > 0
