"""Which requests run together."""

from types import SimpleNamespace

from omnialign.modeling.inputs import ModelInputs
from services.inference.transformers.admission import SequenceRequest, cache_bytes, choose_batch

MODEL = SimpleNamespace(cache_bytes_per_token=10)


def sequence(length, *, max_new_tokens=10, group=None):
    return SequenceRequest(
        loaded=MODEL,
        inputs=ModelInputs([1] * length),
        max_new_tokens=max_new_tokens,
        temperature=0,
        top_p=0,
        seed=0,
        stops=(),
        deliver=lambda t, outcome: None,
        group=group,
    )


def test_the_oldest_leads_and_the_nearest_in_length_join():
    waiting = [sequence(length) for length in (100, 130, 90, 105, 20)]
    chosen = choose_batch(waiting, max_rows=3, max_bytes=10**9)
    assert [len(t.ids) for t in chosen] == [100, 105, 90]


def test_a_prompt_of_another_size_waits_for_its_own_batch():
    assert [len(t.ids) for t in choose_batch([sequence(10), sequence(1000)], max_rows=8, max_bytes=10**9)] == [10]


def test_a_batch_fits_into_the_cache_memory():
    waiting = [sequence(90) for _ in range(10)]
    assert len(choose_batch(waiting, max_rows=8, max_bytes=3 * 100 * 10)) == 3
    assert choose_batch(waiting, max_rows=8, max_bytes=999) == []


def test_a_deterministic_request_is_exactly_one_batch_in_its_order():
    group = object()
    mine = [sequence(length, group=group) for length in (5, 500, 50)]
    waiting = [mine[0], sequence(5), *mine[1:], sequence(50)]
    assert choose_batch(waiting, max_rows=1, max_bytes=10**9) == mine
    assert choose_batch(waiting, max_rows=1, max_bytes=cache_bytes(mine) - 1) == []
    assert mine[1] not in choose_batch(waiting[1:2] + waiting, max_rows=8, max_bytes=10**9)
