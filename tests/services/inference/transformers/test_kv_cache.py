"""How the cache of a batch grows, joins and drops rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.cache_utils import DynamicCache

from services.inference.transformers.kv_cache import join_rows, keep_rows, new_cache, rows_without

CONFIG = LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, vocab_size=16)


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_rows_that_stay_are_all_there_once_and_few_move(case):
    count, gone = case
    order = rows_without(count, sorted(gone))
    assert sorted(order) == sorted(set(range(count)) - gone)
    assert sum(place != row for place, row in enumerate(order)) <= len(gone)


def states(rows, columns):
    return torch.randn(rows, 2, columns, 4), torch.randn(rows, 2, columns, 4)


@given(st.lists(st.sets(st.integers(0, 7), max_size=3), max_size=6), st.integers(0, 2**16))
@settings(max_examples=25)
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
