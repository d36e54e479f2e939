"""The key/value cache of one running batch: it grows in place and drops rows in place.

The stock cache concatenates at every step, which copies the whole cache per token. Here a step writes one column into a
buffer with spare room. Dropping a finished row moves the last live row into its place, so that it costs one row and not
the batch. Models with layers other than plain full attention (sliding windows, recurrent states) keep their stock
layers, which are correct but slower.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

GROWTH_COLUMNS = 64


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, each (rows, heads, columns, head size), as views of larger buffers."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends columns, (rows, heads, new columns, head size); returns the whole cache as views of the buffers."""
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if self._buffers is None or end > self._buffers[0].shape[2]:
            self._grow(key_states, value_states, end)
        assert self._buffers is not None
        rows = key_states.shape[0]  # fewer than the buffers have, once rows were dropped
        keys, values = (buffer[:rows] for buffer in self._buffers)
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps `rows`, in that order; a row that stays in its place is not copied."""
        # Copying in ascending places is safe because `rows_without` only moves rows down, to places of dropped ones.
        for place, row in enumerate(rows):
            if place != row:
                self.keys[place] = self.keys[row]
                self.values[place] = self.values[row]
        self.keys, self.values = self.keys[: len(rows)], self.values[: len(rows)]

    def _grow(self, key_states: torch.Tensor, value_states: torch.Tensor, columns: int) -> None:
        """Moves to buffers with room for `columns` and `GROWTH_COLUMNS` more, so that few steps copy anything."""
        room = columns + GROWTH_COLUMNS
        grown = []
        for old, new in ((self.keys, key_states), (self.values, value_states)):
            buffer = new.new_zeros((*new.shape[:2], room, new.shape[3]))
            if self.is_initialized:
                buffer[:, :, : old.shape[2]] = old
            grown.append(buffer)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._buffers = (grown[0], grown[1])

    @classmethod
    def joined(cls, parts: Sequence["GrowingLayer"], *, columns: int) -> "GrowingLayer":
        """The rows of all parts below each other, each aligned to the right edge of `columns`."""
        whole = cls()
        rows = sum(part.keys.shape[0] for part in parts)
        _, heads, _, size = parts[0].keys.shape
        like = parts[0].keys.new_empty((rows, heads, 0, size))
        whole._grow(like, like, columns)
        start = 0
        for part in parts:
            end = start + part.keys.shape[0]
            for buffer, tensor in zip(whole._buffers or (), (part.keys, part.values), strict=True):
                buffer[start:end, :, columns - tensor.shape[2] : columns] = tensor
            start = end
        whole.keys, whole.values = (buffer[:, :, :columns] for buffer in whole._buffers or ())
        return whole


def is_joinable(config: Any) -> bool:
    """Whether all layers of a model are plain full attention, so that its caches grow and join in place."""
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def new_cache(config: Any) -> Cache:
    """An empty cache for a model of `config`."""
    stock = DynamicCache(config=config)
    return Cache(layers=[GrowingLayer() for _ in stock.layers]) if is_joinable(config) else stock


def join_rows(caches: Sequence[Cache], *, columns: int) -> Cache:
    """One cache of the rows of several, each padded on the left to `columns`. One cache of that width is reused."""
    if len(caches) == 1 and caches[0].get_seq_length() == columns:
        return caches[0]
    layers = zip(*(cache.layers for cache in caches), strict=True)
    return Cache(layers=[GrowingLayer.joined(parts, columns=columns) for parts in layers])


def keep_rows(cache: Cache, rows: Sequence[int]) -> None:
    """Drops every row but `rows`, which end up in that order."""
    if all(isinstance(layer, GrowingLayer) for layer in cache.layers):
        for layer in cache.layers:
            layer.keep(rows)
    else:
        cache.batch_select_indices(torch.tensor(rows, dtype=torch.int64))


def rows_without(count: int, finished: Sequence[int]) -> list[int]:
    """The order of `count` rows once the `finished` are gone: the last rows fill the holes, the others stay."""
    gone = set(finished)
    left = count - len(gone)
    movers = iter([row for row in range(left, count) if row not in gone])
    return [row if row not in gone else next(movers) for row in range(left)]
