"""Reading ahead: the next item is under way while this one is used, and one that nobody wants ends."""

from collections.abc import AsyncGenerator

from omnialign.read_ahead import read_ahead


async def test_the_next_item_is_begun_before_this_one_is_used() -> None:
    begun = list[int]()

    async def items() -> AsyncGenerator[int, None]:
        for item in range(3):
            begun.append(item)
            yield item

    # Whoever uses an item waits for nothing meanwhile, as a loop over its records does.
    assert [(item, list(begun)) async for item in read_ahead(items())] == [(0, [0, 1]), (1, [0, 1, 2]), (2, [0, 1, 2])]
