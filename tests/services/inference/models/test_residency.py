"""Models in memory: a budget, least recently used first out, one load at a time, none that is in use."""

import asyncio
import gc
import weakref
from collections import Counter

import pytest
import torch

from omnialign.errors import FailedPrecondition, NotFound, ResourceExhausted
from services.inference.errors import OutOfMemory
from services.inference.models.key import ModelKey
from services.inference.models.residency import Residency
from tests.services.inference.model_factory import until


def key(name):
    return ModelKey(name, torch.float32)


class Model:
    def __init__(self, name):
        self.name = name


class Disk:
    """Models that take 10 bytes each, a gate that holds loads up, and a device with room for some models."""

    def __init__(self):
        self.loads, self.loading, self.most_loading = [], 0, 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.room, self.models = 100, []

    async def measure(self, wanted):
        if wanted.model == "missing":
            raise NotFound("There is none.", reason="MODEL_NOT_FOUND")
        return 1000 if wanted.model == "huge" else 10

    async def load(self, wanted):
        self.loads.append(wanted.model)
        self.loading += 1
        self.most_loading = max(self.most_loading, self.loading)
        await self.gate.wait()
        self.loading -= 1
        gc.collect()
        if sum(model() is not None for model in self.models) >= self.room:
            raise OutOfMemory("There is no room.")
        model = Model(wanted.model)
        self.models.append(weakref.ref(model))
        return model


@pytest.fixture
def disk():
    return Disk()


def resident(disk, budget_bytes=20, min_residency_seconds=0.0):
    return Residency(
        budget_bytes=budget_bytes,
        measure=disk.measure,
        load=disk.load,
        min_residency_seconds=min_residency_seconds,
    )


async def touch(residency, name):
    async with residency.use(key(name)) as loaded:
        return loaded.name


def names(residency):
    return [found.model for found in residency.keys]


async def turns():
    """Lets every other task run as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_least_recently_used_model_leaves(disk):
    residency = resident(disk)
    for name in ("a", "b", "a", "c"):
        assert await touch(residency, name) == name
    assert names(residency) == ["a", "c"]
    assert residency.size_bytes == 20
    assert disk.loads == ["a", "b", "c"]


async def test_a_model_is_loaded_once_for_all_who_want_it_and_one_at_a_time(disk):
    residency = resident(disk)
    disk.gate.clear()
    users = [asyncio.create_task(touch(residency, name)) for name in "aabba"]
    await until(lambda: disk.loads)
    disk.gate.set()
    assert await asyncio.gather(*users) == list("aabba")
    assert sorted(disk.loads) == ["a", "b"]
    assert disk.most_loading == 1


async def test_a_model_in_use_stays_and_who_needs_its_room_waits(disk):
    residency = resident(disk, budget_bytes=10)
    async with residency.use(key("a")):
        waiter = asyncio.create_task(touch(residency, "b"))
        await turns()
        latecomer = asyncio.create_task(touch(residency, "a"))
        await turns()
        assert names(residency) == ["a"]
        assert not waiter.done()
        assert not latecomer.done()  # or a busy model would keep its memory for ever
        with pytest.raises(FailedPrecondition) as caught:
            await residency.unload("a")
        assert caught.value.reason == "MODEL_IN_USE"
    assert await waiter == "b"
    assert await latecomer == "a"


async def test_two_jobs_with_two_models_do_not_swap_them_at_every_call(disk):
    residency = resident(disk, budget_bytes=10, min_residency_seconds=3600)

    async def job(name):
        for _ in range(50):
            assert await touch(residency, name) == name
            await asyncio.sleep(0)  # between its calls the model has no work

    await asyncio.gather(*(job(name) for name in "abab"))
    assert disk.loads == ["a", "b"]


async def test_a_busy_model_lets_go_when_its_tenure_is_over(disk):
    residency = resident(disk, budget_bytes=10, min_residency_seconds=0.05)
    served, stop = Counter(), asyncio.Event()

    async def keep_busy():
        while not stop.is_set():
            served["a"] += await touch(residency, "a") == "a"
            await asyncio.sleep(0)

    users = [asyncio.create_task(keep_busy()) for _ in range(3)]
    await until(lambda: served["a"])
    async with asyncio.timeout(10):
        assert await touch(residency, "b") == "b"
    before = served["a"]
    await until(lambda: served["a"] > before)  # and comes back
    stop.set()
    await asyncio.gather(*users)


async def test_a_model_without_work_leaves_long_before_its_tenure_is_over(disk):
    residency = resident(disk, budget_bytes=10, min_residency_seconds=3600)
    await touch(residency, "a")
    async with asyncio.timeout(10):
        assert await touch(residency, "b") == "b"


async def test_a_load_that_meets_less_memory_than_was_reckoned_is_tried_without_the_idle_models(disk):
    residency = resident(disk)
    await touch(residency, "a")
    disk.room = 1
    assert await touch(residency, "b") == "b"
    assert names(residency) == ["b"]


async def test_a_load_that_runs_out_of_memory_harms_no_model_in_use(disk):
    residency = resident(disk)
    async with residency.use(key("a")):
        disk.room = 1
        with pytest.raises(OutOfMemory) as caught:
            await touch(residency, "b")
        assert caught.value.reason == "DEVICE_OUT_OF_MEMORY"
        assert names(residency) == ["a"]


async def test_a_model_that_can_never_fit_is_refused_with_the_sum_and_harms_no_other(disk):
    residency = resident(disk)
    await touch(residency, "a")
    with pytest.raises(ResourceExhausted) as caught:
        await touch(residency, "huge")
    assert caught.value.reason == "MODEL_TOO_LARGE"
    assert "1000 bytes (250 parameters of 4 bytes)" in caught.value.message
    assert caught.value.metadata["budget_bytes"] == "20"
    assert names(residency) == ["a"]


async def test_a_failed_load_fails_its_askers_and_can_be_tried_again(disk):
    residency = resident(disk)
    for _ in range(2):
        with pytest.raises(NotFound):
            await touch(residency, "missing")
    assert await touch(residency, "a") == "a"


async def test_a_load_goes_on_for_the_others_when_one_goes_away(disk):
    residency = resident(disk)
    disk.gate.clear()
    leaver, stayer = (asyncio.create_task(touch(residency, "a")) for _ in range(2))
    await until(lambda: disk.loads)
    leaver.cancel()
    disk.gate.set()
    assert await stayer == "a"
    assert disk.loads == ["a"]


async def test_unloading_frees_the_memory(disk):
    residency = resident(disk)
    await touch(residency, "a")
    await residency.unload("a")
    await residency.unload("never loaded")
    assert residency.size_bytes == 0


async def test_a_model_that_retires_leaves_when_its_last_user_does_and_is_loaded_anew(disk):
    residency = resident(disk)
    async with residency.use(key("a")) as first:
        async with residency.use(key("a")):
            retiring = asyncio.create_task(residency.retire(key("a"), first))
            await turns()
            assert names(residency) == ["a"]
        await turns()
        assert not retiring.done()
    await retiring
    assert names(residency) == []
    async with residency.use(key("a")) as second:
        assert second is not first
        await residency.retire(key("a"), first)  # has left already
        assert names(residency) == ["a"]
