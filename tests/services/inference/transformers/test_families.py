"""Processor families on the transformers engine: the tokens of the library's own `generate`, in any company.

What a family read is written to `out/families/<family>.transformers.json` once all of its assertions held.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer

from omnialign.modeling.adapters.processor import ProcessorAdapter
from omnialign.modeling.inputs import Turn
from omnialign.v1 import generation_pb2
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from services.inference.models.key import ModelKey
from services.inference.models.resolver import ModelFiles
from services.inference.transformers.admission import SequenceRequest, choose_batch
from services.inference.transformers.batch import Batch
from services.inference.transformers.engine import open_transformers_engine
from services.inference.transformers.loading import LoadedModel, load_model
from tests.model_factory.families import FAMILIES
from tests.model_factory.family import Family, add_talker
from tests.reference_inputs import ask, conversations, film, medium, picture, reference_inputs, sound

READERS = [name for name, family in FAMILIES.items() if not family.writes]
VIDEO_READERS = [name for name in READERS if "video" in FAMILIES[name].reads]
TOKENS = 12
OUT = Path("out/families")


@dataclass(frozen=True)
class Loaded:
    """A family's model in the engine's hands and in the library's."""

    family: Family
    folder: Path
    model: LoadedModel
    processor: Any

    @property
    def adapter(self) -> ProcessorAdapter:
        adapter = self.model.adapter
        assert isinstance(adapter, ProcessorAdapter)
        return adapter


_loaded: dict[str, Loaded] = {}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


@pytest.fixture
def loaded(request, folders) -> Loaded:
    name = request.param
    if name not in _loaded:
        family = FAMILIES[name]
        folder = family.build(folders / name)
        model = load_model(
            ModelFiles(f"file://{folder}", folder), ModelKey(f"file://{folder}", torch.float32), torch.device("cpu")
        )
        auto = AutoProcessor if family.reads else AutoTokenizer
        _loaded[name] = Loaded(family, folder, model, auto.from_pretrained(folder, local_files_only=True))
    return _loaded[name]


def families(names: Sequence[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("loaded", names, indirect=True, ids=str)


def sequence(loaded: Loaded, turns: Sequence[Turn], tokens: int = TOKENS) -> SequenceRequest:
    return SequenceRequest(
        loaded=loaded.model,
        inputs=loaded.adapter.encode(turns),
        max_new_tokens=tokens,
        temperature=0,
        top_p=0,
        seed=0,
        stops=(),
        deliver=lambda t, outcome: None,
    )


def written(sequences: Sequence[SequenceRequest], *, prefill_tokens: int = 1 << 20) -> list[list[int]]:
    """The ids that each of one batch of sequences writes."""
    batch = Batch(sequences, prefill_tokens=prefill_tokens, deterministic=False)
    found: dict[SequenceRequest, list[int]] = {}
    while not batch.done:
        found |= {ended: outcome.ids for ended, outcome in batch.advance()}
    return [found[t] for t in sequences]


def generated(loaded: Loaded, turns: Sequence[Turn], tokens: int = TOKENS) -> list[int]:
    """The ids that the library writes for a conversation, up to and with the end."""
    inputs = reference_inputs(loaded.adapter, loaded.processor, [turns])
    module = loaded.model.module
    unwritable = list(loaded.adapter.unwritable_ids) or None
    with torch.inference_mode():
        found = module.generate(**inputs, max_new_tokens=tokens, do_sample=False, suppress_tokens=unwritable)
    ids = found[0, inputs["input_ids"].shape[1] :]
    return [int(number) for number in ids]


@families(["llava", "qwen2_audio", "qwen2_5_omni"])
def test_what_stands_for_media_is_never_written_however_likely(loaded):
    unwritable = list(loaded.adapter.unwritable_ids)

    def insist(module: torch.nn.Module, given: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., unwritable] += 1000
        return logits

    asked = [ask(medium(kind), "?") for kind in loaded.family.reads]
    hook = loaded.model.module.get_output_embeddings().register_forward_hook(insist)
    try:
        assert all(int(last_logits(loaded, turns).argmax()) in unwritable for turns in asked)
        found = written([sequence(loaded, turns) for turns in asked])
    finally:
        hook.remove()
    assert all(ids and not set(ids) & set(unwritable) for ids in found)


def last_logits(loaded: Loaded, turns: Sequence[Turn]) -> torch.Tensor:
    """What follows a conversation, fed as the adapter says."""
    inputs = loaded.adapter.encode(turns)
    ids = torch.tensor([inputs.ids])
    with torch.inference_mode():
        logits = loaded.model.module(input_ids=ids, **loaded.adapter.tensors([inputs], ids)).logits
    return torch.as_tensor(logits[0, -1])


@families(READERS)
def test_tokens_are_those_of_the_library_alone_and_in_company(loaded):
    asked = conversations(loaded.family.reads)
    wanted = [generated(loaded, turns) for turns in asked]
    assert [written([sequence(loaded, turns)])[0] for turns in asked] == wanted
    assert written([sequence(loaded, turns) for turns in asked]) == wanted
    assert written([sequence(loaded, turns) for turns in reversed(asked)], prefill_tokens=200) == wanted[::-1]
    assert len({tuple(ids) for ids in wanted}) > len(wanted) // 2
    for name in loaded.family.reads:  # what is in the media matters
        one, other = (last_logits(loaded, ask(medium(name, seed), "?")) for seed in (1, 2))
        assert (one - other).abs().max() > 1e-4
    record(loaded.family)


def record(family: Family) -> None:
    """Writes what a family reads on this engine, for the table of families."""
    OUT.mkdir(parents=True, exist_ok=True)
    reads, writes = (["text", *modalities] for modalities in (family.reads, family.writes))
    found = {"family": family.name, "engine": "transformers", "reads": reads, "writes": writes, "passed": True}
    (OUT / f"{family.name}.transformers.json").write_text(json.dumps(found) + "\n")


@families(["qwen2_5_vl"])
def test_batches_that_take_turns_do_not_mix_their_positions(loaded):
    asked = [ask(picture(1, width=112), "What?"), ask(PLAINEST), ask(film(2), "And this?"), ask(picture(3), "x" * 40)]
    wanted = [written([sequence(loaded, turns)])[0] for turns in asked]
    batches = [Batch([t], prefill_tokens=1 << 20, deterministic=False) for t in (sequence(loaded, a) for a in asked)]
    found: dict[int, list[int]] = {}
    while not all(batch.done for batch in batches):
        for place, batch in enumerate(batches):
            for _, outcome in () if batch.done else batch.advance():
                found[place] = outcome.ids
    assert [found[place] for place in range(len(asked))] == wanted


PLAINEST = "Just words."


@families(["qwen3_vl", "llava_next"])
def test_rows_that_end_early_leave_the_others_alone(loaded):
    asked = conversations(loaded.family.reads)
    lengths = [1 + 3 * place % 10 for place in range(len(asked))]
    alone = [written([sequence(loaded, turns, n)])[0] for turns, n in zip(asked, lengths, strict=True)]
    assert written([sequence(loaded, turns, n) for turns, n in zip(asked, lengths, strict=True)]) == alone


@families(VIDEO_READERS)
def test_videos_of_unlike_length_are_never_filled_up(loaded):
    asked = [ask(film(1, frames=2), "a"), ask(film(2, frames=6), "b"), ask("c"), ask(film(3, frames=2), "d")]
    sequences = [sequence(loaded, turns) for turns in asked]
    alone = [generated(loaded, turns) for turns in asked]
    found: dict[SequenceRequest, list[int]] = {}
    while waiting := [t for t in sequences if t not in found]:
        batch = choose_batch(waiting, max_rows=8, max_bytes=1 << 40)
        found |= dict(zip(batch, written(batch), strict=True))
    assert [found[t] for t in sequences] == alone


@families(["qwen2_audio"])
def test_every_end_id_ends_an_answer(loaded):
    row = sequence(loaded, ask(sound(), "?"), 40)
    ids = written([row])[0]
    for end in (ids[0], ids[5]):
        loaded.adapter.end_ids, kept = (*loaded.adapter.end_ids, end), loaded.adapter.end_ids
        try:
            assert written([sequence(loaded, ask(sound(), "?"), 40)])[0] == ids[: ids.index(end) + 1]
        finally:
            loaded.adapter.end_ids = kept


@families(["qwen2_5_omni"])
def test_features_are_freed_once_the_model_has_read_them(loaded):
    row = sequence(loaded, ask(picture(), film(), sound(), "?"))
    assert len(row.inputs.features) == 3
    written([row])
    assert row.inputs.features == ()
    assert row.features_freed


@families(["qwen2_5_omni"])
def test_of_an_omni_folder_the_thinker_is_loaded(loaded, tmp_path):
    whole = add_talker(shutil.copytree(loaded.folder, tmp_path / "omni"))
    model = load_model(
        ModelFiles(f"file://{whole}", whole), ModelKey(f"file://{whole}", torch.float32), torch.device("cpu")
    )
    turns = ask(picture(), sound(), film(), "?")
    other = Loaded(loaded.family, whole, model, loaded.processor)
    assert written([sequence(other, turns)]) == written([sequence(loaded, turns)])


@families([name for name in READERS if FAMILIES[name].reads])
async def test_the_engine_answers_with_media(loaded):
    asked = conversations(loaded.family.reads)
    sampling = generation_pb2.SamplingParams(max_new_tokens=TOKENS)
    requests = [EngineRequest(str(i), f"file://{loaded.folder}", turns, sampling) for i, turns in enumerate(asked)]
    async with open_transformers_engine(EngineConfig(threads=1, lanes=2)) as engine:
        found = {result.id: result async for result in engine.generate(requests)}
    for place, turns in enumerate(asked):
        result = found[str(place)]
        assert result.error is None
        assert result.pieces == loaded.adapter.decode(generated(loaded, turns))
        assert result.info.prompt_tokens == len(loaded.adapter.encode(turns).ids)


@families(["qwen2_5_vl"])
async def test_a_device_that_runs_full_while_answers_are_written_ends_those_whose_media_were_read(loaded):
    def refuse(module, arguments, keywords):
        if keywords["input_ids"].shape[0] > 1 and keywords["input_ids"].shape[1] == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    sampling = generation_pb2.SamplingParams(max_new_tokens=4)
    asked = {"seen": ask(picture(), "?"), "one": ask("What is it? " * 2), "other": ask("What is it? " * 3)}
    requests = [EngineRequest(name, f"file://{loaded.folder}", turns, sampling) for name, turns in asked.items()]
    async with open_transformers_engine(EngineConfig(threads=1, lanes=1, linger_seconds=1)) as engine:
        async with engine.residency.use(engine._key(f"file://{loaded.folder}", deterministic=False)) as model:
            model.module.register_forward_pre_hook(refuse, with_kwargs=True)
        found = {result.id: result async for result in engine.generate(requests)}
    assert found["seen"].error.reason == "DEVICE_OUT_OF_MEMORY"
    assert (found["one"].error, found["other"].error) == (None, None)


@families(["qwen2_5_vl"])
async def test_media_that_a_model_does_not_take_fail_their_request_alone(loaded):
    thin, heard = picture(1, width=20000, height=1), sound()
    sampling = generation_pb2.SamplingParams(max_new_tokens=3)
    asked = {"fine": ask(picture(), "?"), "thin": ask(thin, "?"), "heard": ask(heard, "?")}
    requests = [EngineRequest(name, f"file://{loaded.folder}", turns, sampling) for name, turns in asked.items()]
    async with open_transformers_engine(EngineConfig(threads=1)) as engine:
        found = {result.id: result async for result in engine.generate(requests)}
    assert found["fine"].error is None
    assert {name: found[name].error.reason for name in ("thin", "heard")} == {
        "thin": "MEDIA_REFUSED",
        "heard": "MODALITY_UNSUPPORTED",
    }
