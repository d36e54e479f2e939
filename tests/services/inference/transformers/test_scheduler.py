"""Which requests run together, and how rows leave a batch."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.cache_utils import DynamicCache

from omnialign.modeling.inputs import ModelInputs
from services.inference.transformers.admission import Ticket, cache_bytes, choose
from services.inference.transformers.kv_cache import join_rows, keep_rows, new_cache, rows_without

CONFIG = LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, vocab_size=16)
MODEL = SimpleNamespace(cache_bytes_per_token=10)


def ticket(length, *, max_new_tokens=10, group=None):
    return Ticket(
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
    waiting = [ticket(length) for length in (100, 130, 90, 105, 20)]
    chosen = choose(waiting, max_rows=3, max_bytes=10**9)
    assert [len(t.ids) for t in chosen] == [100, 105, 90]


def test_a_prompt_of_another_size_waits_for_its_own_batch():
    assert [len(t.ids) for t in choose([ticket(10), ticket(1000)], max_rows=8, max_bytes=10**9)] == [10]


def test_a_batch_fits_into_the_cache_memory():
    waiting = [ticket(90) for _ in range(10)]
    assert len(choose(waiting, max_rows=8, max_bytes=3 * 100 * 10)) == 3
    assert choose(waiting, max_rows=8, max_bytes=999) == []


def test_a_deterministic_request_is_exactly_one_batch_in_its_order():
    group = object()
    mine = [ticket(length, group=group) for length in (5, 500, 50)]
    waiting = [mine[0], ticket(5), *mine[1:], ticket(50)]
    assert choose(waiting, max_rows=1, max_bytes=10**9) == mine
    assert choose(waiting, max_rows=1, max_bytes=cache_bytes(mine) - 1) == []
    assert mine[1] not in choose(waiting[1:2] + waiting, max_rows=8, max_bytes=10**9)


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_rows_that_stay_are_all_there_once_and_few_move(case):
    count, gone = case
    order = rows_without(count, sorted(gone))
    assert sorted(order) == sorted(set(range(count)) - gone)
    assert sum(place != row for place, row in enumerate(order)) <= len(gone)


def states(rows, columns):
    return torch.randn(rows, 2, columns, 4), torch.randn(rows, 2, columns, 4)


@given(st.lists(st.sets(st.integers(0, 7), max_size=3), max_size=6), st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_the_growing_cache_holds_what_the_stock_cache_holds(drops, seed):
    torch.manual_seed(seed)
    ours, stock, rows = new_cache(CONFIG), DynamicCache(config=CONFIG), 8
    for step, drop in enumerate([set(), *drops]):
        order = rows_without(rows, sorted(d for d in drop if d < rows))
        if not order:
            break
        if len(order) < rows:
            keep_rows(ours, order)
            stock.batch_select_indices(torch.tensor(order))
            rows = len(order)
        for layer in range(2):
            new = states(rows, 5 if step == 0 else 40)
            for got, expected in zip(ours.update(*new, layer), stock.update(*new, layer), strict=True):
                assert torch.equal(got, expected)
        assert ours.get_seq_length() == stock.get_seq_length()


def test_joined_caches_are_aligned_to_the_right():
    parts = []
    for rows, columns in ((2, 3), (1, 5)):
        cache = new_cache(CONFIG)
        for layer in range(2):
            cache.update(*states(rows, columns), layer)
        parts.append(cache)
    whole = join_rows(parts, columns=5)
    assert whole.get_seq_length() == 5
    assert torch.equal(whole.layers[1].keys[:2, :, 2:], parts[0].layers[1].keys)
    assert torch.equal(whole.layers[1].values[2:], parts[1].layers[1].values)
    assert not whole.layers[0].keys[:2, :, :2].any()


@pytest.mark.parametrize("window", [None, 4])
def test_models_with_sliding_windows_keep_their_stock_cache(window):
    config = LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2)
    config.sliding_window = window
    kinds = {type(layer).__name__ for layer in new_cache(config).layers}
    assert kinds == ({"GrowingLayer"} if window is None else {"DynamicSlidingWindowLayer"})
