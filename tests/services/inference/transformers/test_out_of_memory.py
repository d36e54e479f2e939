"""A device that has less memory than was reckoned: smaller batches, typed errors, and nobody else harmed."""

from contextlib import asynccontextmanager

import pytest
import torch

from omnialign.errors import ResourceExhausted
from tests.services.inference import model_factory


@asynccontextmanager
async def room_for(engine, model, rows):
    """While this lasts, the device runs at most so many rows at once. Gives the sizes of what it ran out of."""
    refused = []

    def refuse(module, arguments, keywords):
        if len(keywords["input_ids"]) > rows:
            refused.append(len(keywords["input_ids"]))
            raise torch.OutOfMemoryError("CUDA out of memory.")

    async with engine.residency.use(engine._key(model, deterministic=False)) as loaded:
        hook = loaded.module.register_forward_pre_hook(refuse, with_kwargs=True)
        try:
            yield refused
        finally:
            hook.remove()


async def answers(engine, requests, **options):
    return {result.id: result async for result in engine.generate(requests, **options)}


def requests(model, count=12):
    return model_factory.requests(
        model, [f"prompt {index}" for index in range(count)], temperature=1.0, max_new_tokens=8
    )


async def test_a_batch_too_large_for_the_device_is_run_in_smaller_ones_with_the_same_answers(engine, model):
    expected = await answers(engine, requests(model))
    async with room_for(engine, model, 3) as refused:
        found = await answers(engine, requests(model))
        assert {name: result.pieces for name, result in found.items()} == {
            name: result.pieces for name, result in expected.items()
        }
        assert refused
        refused.clear()
        await answers(engine, requests(model))
        assert refused == []  # it has learnt


async def test_a_request_that_is_too_large_alone_fails_with_the_reason_and_harms_no_other_model(
    engine, model, other_model
):
    async with room_for(engine, model, 0):
        found = await answers(engine, requests(model, 3))
        assert {result.error.reason for result in found.values()} == {"DEVICE_OUT_OF_MEMORY"}
        assert all(isinstance(result.error, ResourceExhausted) for result in found.values())
        others = await answers(engine, requests(other_model, 3))
        assert all(result.info.completion_tokens for result in others.values())
    again = await answers(engine, requests(model, 3))
    assert all(result.info.completion_tokens for result in again.values())


async def test_a_deterministic_batch_is_never_split(engine, model):
    async with room_for(engine, model, 3):
        found = await answers(engine, requests(model, 6), deterministic=True)
        assert {result.error.reason for result in found.values()} == {"DEVICE_OUT_OF_MEMORY"}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
async def test_a_processor_without_memory_counts_too(engine, model, error):
    def fail(module, arguments):
        raise error

    async with engine.residency.use(engine._key(model, deterministic=False)) as loaded:
        hook = loaded.module.register_forward_pre_hook(fail)
        found = await answers(engine, requests(model, 2))
        hook.remove()
    assert {result.error.reason for result in found.values()} == {"DEVICE_OUT_OF_MEMORY"}
