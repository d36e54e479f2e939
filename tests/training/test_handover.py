"""When the engine gets the weights of a run, and that it gets them again after it lost them."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import NotFound
from tests.services.inference.service_stack import serve_stack
from tests.training.test_resume import tiny_model  # noqa: F401
from training.methods.rollout import RolloutSettings
from training.rollout.handover import HandOver
from training.spec import Spec
from training.trainer_inputs import NEVER
from training.trainers.online import steps_between_hand_overs, whole_borders


@pytest.fixture
async def handed(tmp_path: Path, tiny_model: Path) -> AsyncIterator[tuple[HandOver, AsyncClient]]:  # noqa: F811
    """A run whose weights after three steps the engine has."""
    async with serve_stack(tmp_path / "services") as stack:
        spec = Spec(
            job="projects/default/trainingJobs/run",
            dataset="projects/default/datasets/d",
            base_model_dir=tiny_model,
            output_dir=tmp_path / "run",
            cache_dir=tmp_path / "cache",
            refinement_address=stack.server.address,
        )
        handover = HandOver(spec)
        shutil.copytree(tiny_model, handover.folder(3))
        await handover.bring(3)
        yield handover, stack.client


async def version(client: AsyncClient, handover: HandOver) -> int:
    return (await client.get_policy(handover.name)).version


async def test_an_engine_that_lost_the_policy_gets_the_same_version_again(handed: tuple[HandOver, AsyncClient]):
    handover, client = handed
    assert await version(client, handover) == handover.version == 4
    await client.close_policy(handover.name)
    await handover.restore(client)
    assert await version(client, handover) == 4
    await handover.restore(client)  # as another request does whose engine had it all along
    assert await version(client, handover) == 4


async def test_an_engine_that_holds_a_later_version_goes_back(handed: tuple[HandOver, AsyncClient]):
    handover, client = handed
    await client.update_policy(handover.name, handover.folder(3), version=9)
    await handover.restore(client)
    assert await version(client, handover) == 4


async def test_weights_that_are_gone_are_not_taken_for_a_lost_policy(handed: tuple[HandOver, AsyncClient]):
    handover, client = handed
    shutil.rmtree(handover.folder(3))
    with pytest.raises(NotFound) as caught:
        await handover.restore(client)
    assert caught.value.reason == "POLICY_URI_NOT_FOUND"


@pytest.mark.parametrize("num_iterations", [1, 2, 3, 5])
@pytest.mark.parametrize("max_staleness", [0, 1, 2, 3, 7])
def test_checkpoints_fall_where_new_weights_are_handed_over(num_iterations: int, max_staleness: int):
    settings = RolloutSettings(num_iterations=num_iterations, max_staleness=max_staleness)
    handed_over = [0]
    for step in range(num_iterations, 100, num_iterations):
        if step - handed_over[-1] > max_staleness:
            handed_over.append(step)
    assert handed_over == list(range(0, 100, steps_between_hand_overs(settings)))


def test_checkpoints_are_written_by_time_wherever_they_may_fall():
    assert [whole_borders(steps, 3) for steps in (1, 3, 4, NEVER)] == [3, 3, 6, NEVER]
