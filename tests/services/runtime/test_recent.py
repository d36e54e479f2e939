"""Values that are kept while they are used, within a number of bytes."""

from services.runtime.recent import RecentValues


def test_what_was_used_longest_ago_goes_first() -> None:
    kept = RecentValues[str, bytes](10, size=len)
    for name in "abc":
        kept.put(name, name.encode() * 3)
    assert kept.get("a") == b"aaa"
    assert kept.find(lambda name, value: value == b"bbb") == b"bbb"
    kept.put("d", b"ddd")
    assert [kept.get(name) for name in "abcd"] == [b"aaa", b"bbb", None, b"ddd"]
    assert kept.num_bytes == 9


def test_a_value_that_is_too_large_takes_no_other_value_s_place() -> None:
    kept = RecentValues[str, bytes](10, size=len)
    kept.put("a", bytes(10))
    kept.put("b", bytes(11))
    assert (kept.get("a"), kept.get("b"), kept.num_bytes) == (bytes(10), None, 10)


def test_the_first_value_of_a_key_stays_and_counts_once() -> None:
    kept = RecentValues[str, bytes](10, size=len)
    kept.put("a", b"one")
    kept.put("a", b"other")
    assert (kept.get("a"), kept.num_bytes) == (b"one", 3)
    assert kept.find(lambda name, _: name == "b") is None


def test_values_that_are_dropped_count_no_more() -> None:
    kept = RecentValues[str, bytes](10, size=len)
    for name in "abc":
        kept.put(name, name.encode() * 3)
    kept.drop(lambda name: name in "ac")
    assert [kept.get(name) for name in "abc"] == [None, b"bbb", None]
    assert kept.num_bytes == 3
