"""The store of policies: folders of processes that died, and what a version is to the engine."""

import fcntl

import pytest
from prometheus_client import CollectorRegistry

from omnialign.errors import InvalidArgument, NotFound
from services.inference.metrics import PolicyMetrics
from services.inference.models.resolver import ModelResolver
from services.inference.policies.store import LOCK_FILE, PolicyStore, is_policy, remove_abandoned

POLICY = "projects/p/policies/run"


class Recording:
    """An engine that notes what it is asked to keep in memory."""

    def __init__(self):
        self.calls = []

    async def load(self, model):
        self.calls.append(("load", model))

    async def unload(self, model):
        self.calls.append(("unload", model))


@pytest.fixture
async def store(tmp_path):
    found = PolicyStore(tmp_path / "policies", Recording(), ModelResolver(None), PolicyMetrics(CollectorRegistry()))
    yield found
    await found.aclose()
    assert [path.name for path in (tmp_path / "policies").glob("*") if path.is_dir()] == []


async def test_a_version_leaves_before_the_next_comes_and_a_name_is_never_two_models_to_the_engine(store, model):
    policy, folders = await store.open(POLICY, model), []
    for version in (1, 2):
        with store.new_folder() as folder:
            await store.replace(policy, version, folder=folder, digest=str(version))
        folders.append(folder)
    assert [folder.exists() for folder in folders] == [False, True]
    await store.close_policy(POLICY)
    with store.new_folder() as third, pytest.raises(NotFound):  # it was closed while its weights came in
        await store.replace(policy, 3, folder=third, digest="3")
    assert not third.exists()
    policy = await store.open(POLICY, model)
    with store.new_folder() as fourth:
        await store.replace(policy, 1, folder=fourth, digest="1")
    one, two, four = (folder.as_uri() for folder in (*folders, fourth))
    assert store._engine.calls == [
        *(("unload", model), ("load", one), ("unload", one), ("load", two), ("unload", two)),
        *(("unload", model), ("load", four)),
    ]


async def test_what_dead_processes_left_is_removed_and_what_living_ones_hold_is_not(tmp_path):
    for name in ("dead", "living"):
        (tmp_path / name).mkdir()
        (tmp_path / name / LOCK_FILE).touch()
        (tmp_path / name / "model.safetensors").touch()
    with (tmp_path / "living" / LOCK_FILE).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["living"]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        (POLICY, True),
        (f"{POLICY}/versions/3", True),
        ("projects/p/models/m/versions/1", False),
        ("file:///models/policies/run", False),
        ("openai+http://h/v1#projects/p/policies/run", False),
    ],
)
def test_a_policy_is_told_from_other_models_by_its_name(name, is_one):
    assert is_policy(name) is is_one


async def test_what_is_no_name_of_a_policy_is_refused(store):
    for name in ("projects/p/models/m", "projects/p/policies/..", f"{POLICY}/versions/1", "run"):
        with pytest.raises(InvalidArgument) as refused:
            store.get(name)
        assert refused.value.reason == "RESOURCE_NAME_INVALID"
