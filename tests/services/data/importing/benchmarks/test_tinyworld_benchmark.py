"""The tiny world's benchmark is written in the published columns: every item is imported, and every answer is right."""

from collections import Counter
from pathlib import Path

from examples.tinyworld import oracle
from examples.tinyworld.annotations import annotated_records, append, prompt_records
from examples.tinyworld.benchmark import BenchmarkSizes, write_benchmark
from omnialign.client import AsyncClient
from omnialign.content import media_of
from omnialign.modeling.inputs import pieces
from omnialign.v1 import record_pb2

SIZES = BenchmarkSizes(understanding=4, instructions=3, selection=14)


async def records(client: AsyncClient, folder: Path) -> list[record_pb2.Record]:
    done = [one async for one in client.import_dataset("world", str(folder))][-1]
    assert done.rows_quarantined == 0 and not done.unread_columns
    return [record async for record in client.stream_records("projects/default/datasets/world")]


async def test_every_item_is_imported_with_what_its_answers_are_held_against(
    client: AsyncClient, tmp_path: Path
) -> None:
    write_benchmark(tmp_path / "source", seed=1, sizes=SIZES)
    found = await records(client, tmp_path / "source")
    assert Counter(record.subtask for record in found) == {
        "tia2t": 8, "tav2t": 8, "t2t": 3, "t2i": 3, "t2a": 3, "t2v": 3, "t2tia": 14,
    }  # fmt: skip
    assert {record.split for record in found} == {"test"}
    understanding = [record for record in found if record.benchmark_item.references]
    assert set(Counter(record.benchmark_item.category for record in understanding).values()) == {4}
    for record in understanding:
        media = {one.sha256: await client.get_media(one.sha256) for one in media_of([record.prompt])}
        prompt = pieces(record.prompt, media)
        assert len(record.benchmark_item.references) == 10
        for reference in record.benchmark_item.references:
            assert oracle.rating(prompt, (reference.answer,), record.subtask) == 10
            assert set(reference.key_terms) == {"audio", "image" if record.subtask == "tia2t" else "video"}
    numbers = Counter((record.subtask, len(record.benchmark_item.questions)) for record in found)
    assert numbers["t2a", 4] == numbers["t2v", 3] == 3
    for record in found:
        if record.subtask == "t2tia":
            shares = record.benchmark_item.selection_shares
            wish = oracle.invitation_in((record.prompt.parts[0].text,))
            assert max(shares, key=shares.__getitem__) == wish.combination


def test_the_same_seed_writes_the_same_benchmark_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_benchmark(tmp_path / name, seed=seed, sizes=BenchmarkSizes(1, 1, 1))
    path = "EvalAnything-AMU/config.json"
    assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert (tmp_path / "a" / path).read_bytes() != (tmp_path / "c" / path).read_bytes()


async def test_annotated_records_are_appended_with_their_media(client: AsyncClient) -> None:
    dataset = await client.create_dataset("judged")
    await append(client, dataset.name, annotated_records("t2tia", 3, seed=0))
    await append(client, dataset.name, prompt_records("tav2t", 2, seed=0, split="test"))
    found = [record async for record in client.stream_records(dataset.name)]
    assert Counter((record.subtask, record.split, len(record.responses)) for record in found) == {
        ("t2tia", "train", 2): 3, ("tav2t", "test", 0): 2,
    }  # fmt: skip
    for record in found:
        for one in media_of([record.prompt, *(response.content for response in record.responses)]):
            assert len(await client.get_media(one.sha256)) == one.size_bytes
