"""Policies on several replicas: each has a change before the call returns, and one that has not is named."""

from contextlib import AsyncExitStack

import pytest

from omnialign.errors import NotFound, Unavailable
from tests.processes import free_ports
from tests.services.inference import model_factory
from tests.services.inference.service_stack import serve_stack
from tests.services.refinement.test_policies import POLICY, answers, folder_of


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return model_factory.random_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return model_factory.random_model(tmp_path_factory.mktemp("models") / "trained", seed=1)


@pytest.fixture
def ports():
    return free_ports(2)


async def replica(stack, tmp_path, ports, number):
    """One of two replicas, which both know the addresses of both."""
    settings = {"policy_replicas": tuple(f"localhost:{port}" for port in ports)}
    opened = serve_stack(tmp_path / f"{number}", port=ports[number], refinement=settings)
    return await stack.enter_async_context(opened)


async def test_every_replica_has_a_change_when_the_call_returns(base, trained, tmp_path, ports):
    async with AsyncExitStack() as stack:
        one, other = [await replica(stack, tmp_path, ports, number) for number in range(2)]
        assert (await one.client.open_policy("run", base)).replicas == 2
        assert (await other.client.get_policy("run")).version == 0
        updated = await one.client.update_policy("run", folder_of(trained), version=1)
        assert (updated.version, updated.replicas) == (1, 2)
        wanted = (f"{POLICY}/versions/1", (await answers(one.client, trained))[1])
        assert await answers(one.client, POLICY) == await answers(other.client, POLICY) == wanted
        lora = model_factory.random_lora(tmp_path / "lora", base)
        assert (await other.client.update_policy("run", lora, version=2)).replicas == 2  # by address
        assert (await other.client.update_policy("run", folder_of(lora), version=2)).replicas == 2  # the same as files
        assert await answers(one.client, POLICY) == await answers(other.client, POLICY) != wanted
        await other.client.close_policy("run")
        with pytest.raises(NotFound):
            await one.client.get_policy("run")


async def test_a_replica_that_is_down_is_named_and_one_that_restarted_is_brought_up(base, trained, tmp_path, ports):
    async with AsyncExitStack() as stack:
        one = await replica(stack, tmp_path, ports, 0)
        with pytest.raises(Unavailable) as alone:
            await one.client.open_policy("run", base)
        assert alone.value.reason == "POLICY_NOT_ACKNOWLEDGED"
        assert alone.value.metadata["replicas"] == f"127.0.0.1:{ports[1]}"
        async with AsyncExitStack() as short:
            await replica(short, tmp_path, ports, 1)
            await one.client.open_policy("run", base)
        with pytest.raises(Unavailable) as gone:
            await one.client.update_policy("run", folder_of(trained), version=1)
        assert (gone.value.reason, gone.value.metadata["replicas"]) == (
            "POLICY_NOT_ACKNOWLEDGED",
            f"127.0.0.1:{ports[1]}",
        )
        other = await replica(stack, tmp_path, ports, 1)  # it knows nothing of the policy
        with pytest.raises(NotFound) as restarted:
            await answers(other.client, POLICY)
        assert restarted.value.reason == "POLICY_NOT_FOUND"
        assert (await one.client.update_policy("run", folder_of(trained), version=1)).replicas == 2
        assert await answers(other.client, POLICY) == await answers(one.client, POLICY)
