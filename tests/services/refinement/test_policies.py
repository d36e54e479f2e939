"""Policies over real servers: new weights by stream, by folder and as a LoRA, while requests run; what is refused."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from omnialign.content import content
from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from omnialign.folders import file_entry
from omnialign.v1 import generation_pb2
from omnialign.v1 import policy_service_pb2 as pb
from omnialign.v1 import refinement_service_pb2 as refinement
from tests.services.inference import model_factory
from tests.services.inference.service_stack import serve_stack

POLICY = "projects/default/policies/run"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return model_factory.random_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The base's shapes with other weights."""
    return model_factory.random_model(tmp_path_factory.mktemp("models") / "trained", seed=1)


@pytest.fixture
async def stack(tmp_path):
    async with serve_stack(tmp_path / "data") as found:
        yield found


def folder_of(model):
    return Path(model.removeprefix("file://"))


def versions_on_disk(stack_root):
    return [path for path in (stack_root / "data" / "policies").glob("*/*") if path.is_dir()]


async def answers(client, model, **sampling):
    items = [refinement.GenerateItem(id=str(i), prompt=content(f"prompt {i}"), seed=i) for i in range(3)]
    sampling = generation_pb2.SamplingParams(**{"max_new_tokens": 12, **sampling})
    request = refinement.GenerateRequest(model=model, items=items, sampling=sampling, return_tokens=True)
    found = {r.id: r async for r in client.generate(request)}
    (name,) = {r.response.generation.model for r in found.values()}
    return name, [list(found[str(i)].tokens.ids) for i in range(3)]


def mapped_files():
    """What /proc says of the memory of this process: where it is mapped from a file, and which."""
    return Path("/proc/self/maps").read_text()


def resident(stack):
    return [key.model for key in stack.engine.policies._engine.residency.keys]


async def test_a_policy_answers_as_its_base_and_after_an_update_as_the_same_weights_loaded_as_a_model(
    stack, base, trained, tmp_path
):
    opened = await stack.client.open_policy("run", base)
    assert (opened.name, opened.base_model, opened.version, opened.replicas) == (POLICY, base, 0, 1)
    assert await answers(stack.client, POLICY) == (f"{POLICY}/versions/0", (await answers(stack.client, base))[1])
    updated = await stack.client.update_policy("run", folder_of(trained), version=3)
    assert (updated.version, updated.replicas) == (3, 1)
    assert updated.update_time.ToNanoseconds() > opened.update_time.ToNanoseconds()
    name, found = await answers(stack.client, POLICY)
    assert name == f"{POLICY}/versions/3"
    assert found == (await answers(stack.client, trained))[1] != (await answers(stack.client, base))[1]
    assert (await stack.client.get_policy("run")).version == 3


async def test_a_folder_on_a_shared_disk_is_read_where_it_is(stack, base, trained, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    shutil.copy(folder_of(trained) / "model.safetensors", weights)
    await stack.client.open_policy("run", base)
    await stack.client.update_policy("run", weights.as_uri(), version=1)
    (held,) = versions_on_disk(tmp_path)
    assert (held / "model.safetensors").samefile(weights / "model.safetensors")  # no second copy on disk
    assert str(held / "model.safetensors") in mapped_files()  # nor in memory
    assert (await answers(stack.client, POLICY))[1] == (await answers(stack.client, trained))[1]


async def test_a_lora_answers_as_its_merged_weights_and_may_follow_a_full_model(stack, base, trained, tmp_path):
    lora = model_factory.random_lora(tmp_path / "lora", base, base_model_name_or_path="where/the/trainer/found/it")
    merged = model_factory.merged_model(tmp_path / "merged", base, lora)
    await stack.client.open_policy("run", base)
    await stack.client.update_policy("run", folder_of(trained), version=1)
    await stack.client.update_policy("run", folder_of(lora), version=2)
    name, found = await answers(stack.client, POLICY)
    assert (name, found) == (f"{POLICY}/versions/2", (await answers(stack.client, merged))[1])


async def test_a_version_that_is_not_held_is_stale(stack, base, trained):
    await stack.client.open_policy("run", base)
    await stack.client.update_policy("run", folder_of(trained), version=7)
    assert (await answers(stack.client, f"{POLICY}/versions/7"))[0] == f"{POLICY}/versions/7"
    for version in (0, 6, 8):
        with pytest.raises(FailedPrecondition) as stale:
            await answers(stack.client, f"{POLICY}/versions/{version}")
        assert (stale.value.reason, stale.value.metadata["held_version"]) == ("POLICY_STALE", "7")
    with pytest.raises(InvalidArgument) as unnumbered:
        await answers(stack.client, f"{POLICY}/versions/latest")
    assert unnumbered.value.reason == "MODEL_NAME_INVALID"


async def test_versions_only_grow_and_the_same_update_again_is_success(stack, base, trained):
    await stack.client.open_policy("run", base)
    first = await stack.client.update_policy("run", folder_of(trained), version=2)
    again = await stack.client.update_policy("run", folder_of(trained), version=2)
    assert again.update_time == first.update_time
    for version, weights in ((2, base), (1, trained)):
        with pytest.raises(FailedPrecondition) as refused:
            await stack.client.update_policy("run", folder_of(weights), version=version)
        assert (refused.value.reason, refused.value.metadata["held_version"]) == ("POLICY_VERSION_NOT_NEWER", "2")


async def test_a_policy_is_opened_once_on_one_model(stack, base, trained, tmp_path):
    await stack.client.open_policy("run", base)
    await stack.client.update_policy("run", folder_of(trained), version=1)
    assert (await stack.client.open_policy("run", base)).version == 1
    with pytest.raises(AlreadyExists) as other:
        await stack.client.open_policy("run", trained)
    assert other.value.reason == "POLICY_EXISTS"
    with pytest.raises(InvalidArgument) as lora:
        await stack.client.open_policy("second", model_factory.random_lora(tmp_path / "lora", base))
    assert lora.value.reason == "POLICY_BASE_IS_LORA"
    with pytest.raises(NotFound) as missing:
        await stack.client.open_policy("third", "file:///no/such/model")
    assert missing.value.reason == "MODEL_NOT_FOUND"


async def test_a_closed_policy_is_gone_with_its_files_and_may_be_opened_anew(stack, base, trained, tmp_path):
    await stack.client.open_policy("run", base)
    await stack.client.update_policy("run", folder_of(trained), version=1)
    await stack.client.close_policy("run")
    await stack.client.close_policy("run")
    assert versions_on_disk(tmp_path) == []
    for call in (answers(stack.client, POLICY), stack.client.get_policy("run")):
        with pytest.raises(NotFound) as gone:
            await call
        assert gone.value.reason == "POLICY_NOT_FOUND"
    await stack.client.open_policy("run", base)
    await stack.client.update_policy("run", folder_of(base), version=1)  # the same name for other weights
    assert (await answers(stack.client, POLICY))[1] == (await answers(stack.client, base))[1]


async def test_what_nobody_uses_is_closed(stack, base):
    await stack.client.open_policy("run", base)
    assert await stack.engine.policies.close_idle(idle_seconds=3600) == []
    assert await stack.engine.policies.close_idle(idle_seconds=-1) == [POLICY]
    assert stack.server.registry.get_sample_value("omnialign_policies_open") == 0


async def test_requests_in_flight_finish_on_the_version_they_began_with(stack, base, trained, tmp_path, monkeypatch):
    await stack.client.open_policy("run", base)
    first = await stack.client.update_policy("run", folder_of(trained), version=1)
    held = stack.engine.policies.get(first.name).held
    gate, run = asyncio.Event(), stack.engine.policies._engine.run

    async def wait_and_run(model, *args, **options):
        if model == held.model:
            await gate.wait()
        await run(model, *args, **options)

    monkeypatch.setattr(stack.engine.policies._engine, "run", wait_and_run)
    early = asyncio.create_task(answers(stack.client, POLICY))
    await model_factory.until(lambda: held.num_users)
    await stack.client.update_policy("run", folder_of(base), version=2)
    assert len(versions_on_disk(tmp_path)) == 2  # the old one will still be read
    assert await answers(stack.client, POLICY) == (f"{POLICY}/versions/2", (await answers(stack.client, base))[1])
    gate.set()
    assert await early == (f"{POLICY}/versions/1", (await answers(stack.client, trained))[1])
    await model_factory.until(lambda: len(versions_on_disk(tmp_path)) == 1)
    assert held.model not in resident(stack)


async def test_a_version_without_requests_leaves_memory_before_the_next_is_loaded(stack, base, trained):
    await stack.client.open_policy("run", base)
    await answers(stack.client, POLICY)
    seen = []
    residency = stack.engine.policies._engine.residency
    load = residency._load

    async def noting(key):
        seen.append(len(residency.keys))
        return await load(key)

    residency._load = noting
    await stack.client.update_policy("run", folder_of(trained), version=1)
    await stack.client.update_policy("run", folder_of(base), version=2)
    assert seen == [0, 0]


def header(version=1, **more):
    return pb.UpdatePolicyRequest(header=pb.UpdatePolicyHeader(name=POLICY, version=version, **more))


def file(path, data, *, size=None, sha256=None):
    entry = file_entry(data, folder=data.parent)
    found = pb.PolicyFile(path=path, size_bytes=entry.size_bytes if size is None else size)
    found.sha256 = sha256 or entry.sha256
    return [pb.UpdatePolicyRequest(file=found), pb.UpdatePolicyRequest(chunk=data.read_bytes())]


async def send(stack, *messages):
    """An update of these messages, as they are."""

    async def all_of_them():
        for message in messages:
            yield message

    return await stack.client._transport.upload(stack.client._policies.UpdatePolicy, all_of_them)


async def test_an_update_that_is_cut_off_leaves_the_old_version_in_place(stack, base, trained, tmp_path):
    await stack.client.open_policy("run", base)
    weights = folder_of(trained) / "model.safetensors"
    description, chunk = file("model.safetensors", weights)
    chunk.chunk = chunk.chunk[:1000]
    call = stack.client._policies.UpdatePolicy()
    for message in (header(), description, chunk):
        await call.write(message)
    await model_factory.until(lambda: versions_on_disk(tmp_path))
    call.cancel()
    await model_factory.until(lambda: not versions_on_disk(tmp_path))
    with pytest.raises(InvalidArgument) as short:  # or it ends too early
        await send(stack, header(), description, chunk)
    assert short.value.reason == "POLICY_FILES_INVALID"
    name, found = await answers(stack.client, POLICY)
    assert (name, found) == (f"{POLICY}/versions/0", (await answers(stack.client, base))[1])
    assert (await stack.client.update_policy("run", folder_of(trained), version=1)).version == 1


@pytest.mark.parametrize(
    "path",
    [
        "../x.safetensors",
        "/x.safetensors",
        "a/x.safetensors",
        "..",
        "a\\x.safetensors",
        ".x",
        "x\n.safetensors",
        "x.pkl",
    ],
)
async def test_names_of_files_are_plain_and_none_is_a_pickle(stack, base, trained, tmp_path, path):
    await stack.client.open_policy("run", base)
    with pytest.raises(InvalidArgument) as refused:
        await send(stack, header(), *file(path, folder_of(trained) / "model.safetensors"))
    assert refused.value.reason == "POLICY_FILES_INVALID"
    assert versions_on_disk(tmp_path) == []
    assert list(tmp_path.rglob("x.safetensors")) == []


async def test_a_stream_is_held_to_what_it_announces(stack, base, trained):
    await stack.client.open_policy("run", base)
    weights = folder_of(trained) / "model.safetensors"
    good = file("model.safetensors", weights)
    size = weights.stat().st_size
    for reason, messages in {
        "POLICY_UPDATE_MALFORMED": [header(), good[1]],
        "POLICY_FILES_INVALID": [header(), *file("model.safetensors", weights, size=size - 1)],
    }.items():
        with pytest.raises(InvalidArgument) as refused:
            await send(stack, *messages)
        assert refused.value.reason == reason
    for messages in (
        [header()],
        [header(), header()],
        [header(), *file("config.json", folder_of(base) / "config.json")],
    ):
        with pytest.raises(InvalidArgument) as refused:
            await send(stack, *messages)
        assert refused.value.reason == "POLICY_UPDATE_MALFORMED"
    for messages in ([*good, *good], file("model.safetensors", weights, sha256="0" * 64)):
        with pytest.raises(InvalidArgument) as refused:
            await send(stack, header(), *messages)
        assert refused.value.reason == "POLICY_FILES_INVALID"
    with pytest.raises(ResourceExhausted) as large:
        await send(stack, header(), file("model.safetensors", weights, size=1 << 50)[0])
    assert large.value.reason == "POLICY_TOO_LARGE"


async def test_the_base_models_settings_stay_whatever_comes_with_the_weights(stack, base, trained, tmp_path):
    settings = tmp_path / "config.json"
    settings.write_text("{}")
    await stack.client.open_policy("run", base)
    weights = file("model.safetensors", folder_of(trained) / "model.safetensors")
    await send(stack, header(), *file("config.json", settings), *weights)
    assert (await answers(stack.client, POLICY))[1] == (await answers(stack.client, trained))[1]


async def test_weights_that_do_not_fit_are_refused_and_the_first_of_them_is_named(stack, base, tmp_path):
    await stack.client.open_policy("run", base)
    good = model_factory.weights_of(base)
    first, shape = min(good), list(good[min(good)].shape)
    cases = {
        "is missing": {name: weight for name, weight in good.items() if name != first},
        f"has the shape [7, 7] instead of {shape}": good | {first: torch.zeros(7, 7)},
        "is none of its weights": good | {"a.stray.weight": torch.zeros(2)},
    }
    for number, (why, weights) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(weights, folder / "model.safetensors")
        with pytest.raises(InvalidArgument) as refused:
            await stack.client.update_policy("run", folder, version=1)
        assert refused.value.reason == "POLICY_WEIGHTS_MISMATCH"
        assert refused.value.metadata["weight"] == ("a.stray.weight" if "none of" in why else first)
        assert why in refused.value.message
    (tmp_path / "0" / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(InvalidArgument) as broken:
        await stack.client.update_policy("run", tmp_path / "0", version=1)
    assert broken.value.reason == "MODEL_WEIGHTS_INVALID"
    assert (await stack.client.get_policy("run")).version == 0


async def test_a_lora_that_does_not_fit_is_refused_before_it_takes_the_place_of_anything(stack, base, tmp_path):
    await stack.client.open_policy("run", base)
    deeper = model_factory.random_lora(tmp_path / "deeper", base, layers=3)
    wider = model_factory.random_model(tmp_path / "model", hidden_size=64)
    wider = model_factory.random_lora(tmp_path / "wider", wider)
    for lora, why in ((deeper, "a module that the base does not have"), (wider, "do not fit the base's")):
        with pytest.raises(InvalidArgument) as refused:
            await stack.client.update_policy("run", folder_of(lora), version=1)
        assert refused.value.reason == "LORA_UNSUPPORTED"
        assert why in refused.value.message
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    with pytest.raises(InvalidArgument) as alone_refused:
        await stack.client.update_policy("run", alone, version=1)
    assert alone_refused.value.reason == "POLICY_UPDATE_MALFORMED"
    assert (await stack.client.get_policy("run")).version == 0


async def test_a_folder_is_read_from_allowed_places_only(base, trained, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "link").symlink_to(folder_of(trained))
    (shared / "weights").mkdir()
    (shared / "weights" / "model.safetensors").symlink_to(folder_of(trained) / "model.safetensors")
    async with serve_stack(tmp_path / "data", refinement={"policy_roots": (shared,)}) as stack:
        await stack.client.open_policy("run", base)
        for place in (
            trained,
            f"{shared.as_uri()}/../trained",
            (shared / "link").as_uri(),
            (shared / "weights").as_uri(),
        ):
            with pytest.raises(Exception) as refused:
                await stack.client.update_policy("run", place, version=1)
            assert refused.value.reason == "POLICY_URI_NOT_ALLOWED"
        with pytest.raises(NotFound) as missing:
            await stack.client.update_policy("run", (shared / "nothing").as_uri(), version=1)
        assert missing.value.reason == "POLICY_URI_NOT_FOUND"
        (shared / "weights" / "model.safetensors").unlink()
        shutil.copy(folder_of(trained) / "model.safetensors", shared / "weights")
        assert (await stack.client.update_policy("run", (shared / "weights").as_uri(), version=1)).version == 1


async def test_an_update_is_counted_and_timed(stack, base, trained):
    await stack.client.open_policy("run", base)
    await stack.client.update_policy("run", folder_of(trained), version=1)
    with pytest.raises(NotFound):
        await stack.client.update_policy("other", folder_of(trained), version=1)
    value = stack.server.registry.get_sample_value
    assert value("omnialign_policies_open") == 1
    assert value("omnialign_policy_updates_total", {"outcome": "ok"}) == 1
    assert value("omnialign_policy_updates_total", {"outcome": "error"}) == 1
    assert value("omnialign_policy_update_seconds_count") == 2
