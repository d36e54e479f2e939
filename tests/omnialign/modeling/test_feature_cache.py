"""The cache of media features: what is kept comes back, whatever happens to its files and whoever shares them."""

import multiprocessing
import os
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from omnialign.media import MediaError
from omnialign.modeling.feature_cache import (
    NO_CACHE,
    Arrays,
    CacheCounts,
    FeatureCache,
    feature_key,
    split_loss,
    with_loss,
)
from omnialign.modeling.inputs import MediaLoss, MediaPolicy

MADE = {"pixels": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "grid": np.array([1, 2, 3])}
arrays = st.dictionaries(
    st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=8),
    npst.arrays(
        st.sampled_from([np.uint8, np.int32, np.int64, np.float32, np.float16, np.bool_]),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    min_size=1,
    max_size=3,
)


class Maker:
    """Makes the same arrays each time, and counts."""

    def __init__(self, made: Arrays = MADE) -> None:
        self.calls, self._made = 0, made

    def __call__(self) -> Arrays:
        self.calls += 1
        return self._made


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[n], other[n], equal_nan=one[n].dtype.kind == "f")
        and (one[n].dtype, one[n].shape) == (other[n].dtype, other[n].shape)
        for n in one
    )


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


@given(made=arrays)
@settings(max_examples=50)
def test_what_is_kept_comes_back_with_its_types_and_shapes(made: Arrays) -> None:
    with TemporaryDirectory() as folder:
        FeatureCache(Path(folder)).get("key", lambda: made)
        again = Maker()
        assert same(FeatureCache(Path(folder)).get("key", again), made)
        assert again.calls == 0


@given(cut=st.integers(0, 400), flip=st.integers(1, 255), torn=st.booleans())
@settings(max_examples=150)
def test_a_torn_or_damaged_file_is_made_again(cut: int, flip: int, torn: bool) -> None:
    with TemporaryDirectory() as folder:
        FeatureCache(Path(folder)).get("key", Maker())
        (path,) = entries(Path(folder))
        data = bytearray(path.read_bytes())
        place = cut % len(data)
        if torn:
            del data[place:]
        else:
            data[place] ^= flip
        path.write_bytes(data)
        assert same(FeatureCache(Path(folder)).get("key", Maker()), MADE)
        last = Maker()
        assert same(FeatureCache(Path(folder)).get("key", last), MADE)
        assert last.calls == 0


def test_a_file_under_the_name_of_another_key_is_not_taken(tmp_path: Path) -> None:
    cache, other = FeatureCache(tmp_path), Maker({"codes": np.array([7])})
    cache.get("one", Maker())
    (one,) = entries(tmp_path)
    cache.get("other", other)
    (path,) = set(entries(tmp_path)) - {one}
    path.write_bytes(one.read_bytes())
    assert cache.get("other", other)["codes"].tolist() == [7]
    assert other.calls == 2


def test_threads_that_ask_for_one_key_make_it_once(tmp_path: Path) -> None:
    cache, go, results, calls = FeatureCache(tmp_path), threading.Barrier(8), list[Arrays](), list[int]()

    def make() -> Arrays:
        calls.append(1)
        return MADE

    def ask() -> None:
        go.wait()
        results.append(cache.get("key", make))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(results) == 8
    assert all(same(found, MADE) for found in results)
    assert cache.counts.hits + cache.counts.misses == 8


def test_what_cannot_be_made_is_raised_to_all_who_wait_and_not_kept(tmp_path: Path) -> None:
    cache, inside, on = FeatureCache(tmp_path), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def broken() -> Arrays:
        inside.set()
        on.wait()
        raise MediaError("The image does not decode.")

    def ask() -> None:
        try:
            cache.get("key", broken)
        except MediaError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    on.set()
    for thread in threads:
        thread.join()
    assert len(errors) == 2
    assert same(cache.get("key", Maker()), MADE)


def test_what_was_used_last_stays_when_the_bound_is_met(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit_bytes=10_000)
    makers = [Maker({"x": np.full(1000, i, dtype=np.uint8)}) for i in range(10)]
    for number, maker in enumerate(makers[:8]):
        cache.get(str(number), maker)
        (path,) = {*entries(tmp_path)} - {p for p in entries(tmp_path) if p.stat().st_mtime < 1000}
        os.utime(path, (number, number))  # long ago, in this order
    cache.get("0", makers[0])  # a use, now
    for number, maker in enumerate(makers[8:], start=8):
        cache.get(str(number), maker)
        assert sum(path.stat().st_size for path in entries(tmp_path)) <= 10_000
    again = Maker()
    assert cache.get("0", again)["x"][0] == 0
    assert again.calls == 0
    cache.get("1", again)
    assert again.calls == 1


def test_features_larger_than_the_bound_are_made_and_not_kept(tmp_path: Path) -> None:
    cache, maker = FeatureCache(tmp_path, limit_bytes=100), Maker()
    assert same(cache.get("key", maker), MADE)
    assert same(cache.get("key", maker), MADE)
    assert (maker.calls, entries(tmp_path)) == (2, [])


def test_drafts_of_dead_writers_are_removed(tmp_path: Path) -> None:
    draft = tmp_path / "ab" / ".abc.1.2.draft"
    fresh = draft.with_name(".abd.1.2.draft")
    draft.parent.mkdir()
    for path in (draft, fresh):
        path.write_bytes(b"half")
    os.utime(draft, (1, 1))
    FeatureCache(tmp_path).get("key", Maker())
    assert not draft.exists()
    assert fresh.exists()


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache, maker = FeatureCache(tmp_path / "file" / "below"), Maker()
    for number in range(3):
        assert same(cache.get(str(number), maker), MADE)
    assert maker.calls == 3
    assert sum("Cannot write" in record.message for record in caplog.records) == 1


def test_hits_misses_and_bytes_are_counted_and_told(tmp_path: Path) -> None:
    cache, told = FeatureCache(tmp_path), CacheCounts()

    def watch(**changes: int) -> None:
        nonlocal told
        told = CacheCounts(**{name: value + changes.get(name, 0) for name, value in vars(told).items()})

    cache.watch(watch)
    for _ in range(3):
        cache.get("key", Maker())
    (path,) = entries(tmp_path)
    size = path.stat().st_size
    assert cache.counts == told == CacheCounts(2, 1, read_bytes=2 * size, written_bytes=size, size_bytes=size)


def _work(folder: str, worker: int, start: "multiprocessing.synchronize.Barrier", limit: int) -> None:
    cache = FeatureCache(Path(folder), limit_bytes=limit)
    start.wait()
    for step in range(60):
        number = (step * (worker + 1)) % 20
        wanted = {"x": np.full(500, number, dtype=np.int32)}
        if not same(cache.get(str(number), lambda made=wanted: made), wanted):  # type: ignore[misc]
            os._exit(1)


@pytest.mark.parametrize("limit", [1 << 20, 12_000])
def test_processes_that_write_and_remove_side_by_side_see_whole_entries(tmp_path: Path, limit: int) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["omnialign.modeling.feature_cache"])
    start = context.Barrier(4)
    workers = [context.Process(target=_work, args=(str(tmp_path), n, start, limit)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert all(path.suffix == ".safetensors" for path in entries(tmp_path))


def test_keys_differ_by_medium_adapter_and_policy() -> None:
    policies = [MediaPolicy(), MediaPolicy(max_frames=4), MediaPolicy(max_pixels=4)]
    keys = [feature_key(digest, revision, p) for digest in "ab" for revision in "cd" for p in policies]
    assert len(set(keys)) == 12


def test_a_loss_is_kept_with_the_features(tmp_path: Path) -> None:
    cache, loss = FeatureCache(tmp_path), MediaLoss("ab", "MEDIA_CUT", "30 of 60 seconds are kept")
    for _ in range(2):
        found, kept = split_loss(cache.get("key", lambda: with_loss(MADE, loss)))
        assert same(found, MADE)
        assert kept == loss
    assert split_loss(with_loss(MADE, None)) == (MADE, None)


def test_no_cache_makes_it_every_time() -> None:
    maker = Maker()
    for _ in range(2):
        NO_CACHE.get("key", maker)
    assert maker.calls == 2


def test_an_entry_is_a_safetensors_file_that_others_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    FeatureCache(tmp_path).get("key", Maker())
    (path,) = entries(tmp_path)
    assert same(load_file(path), MADE)


def test_who_changes_an_array_changes_his_own_copy(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.get("key", Maker())
    cache.get("key", Maker())["pixels"][:] = 0
    assert same(cache.get("key", Maker()), MADE)
    assert same(FeatureCache(tmp_path).get("key", Maker()), MADE)


def test_features_of_a_type_that_files_do_not_know_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="complex"):
        FeatureCache(tmp_path).get("key", Maker({"x": np.zeros(2, dtype=np.complex64)}))
