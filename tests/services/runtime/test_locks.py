"""Locks by name: one at a time for each, and none left over."""

import asyncio

from services.runtime.locks import NamedLocks


async def test_those_who_take_a_lock_at_once_have_their_turn_one_by_one_whoever_comes_in_between() -> None:
    locks, inside, order = NamedLocks(), list[int](), list[int]()

    async def work(number: int) -> None:
        async with locks["a"]:
            inside.append(number)
            assert inside == [number]
            await asyncio.sleep(0)
            inside.remove(number)
            order.append(number)
        if number == 0:  # the lock was let go, and the next in turn has not taken it yet
            await work(3)

    await asyncio.gather(*(work(number) for number in range(3)))
    assert order == [0, 1, 2, 3]


async def test_a_lock_of_one_name_does_not_hold_up_another() -> None:
    locks = NamedLocks()
    async with locks["a"], locks["b"]:
        assert locks["a"].locked() and not locks["c"].locked()


async def test_locks_that_nobody_holds_are_gone() -> None:
    locks = NamedLocks()
    for number in range(100):
        async with locks[str(number)]:
            assert len(locks) == 1
    assert len(locks) == 0
