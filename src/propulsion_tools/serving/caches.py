"""Caches of keys and values whose rows join and leave, over the cache classes of transformers.

All rows of a cache end together: one that is shorter than another is padded on the left, where the attention mask is 0.
Layers with a sliding window keep all positions, as rows that join have others behind them than those that are there;
the model's own mask leaves out what is beyond the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def can_join(config: PreTrainedConfig) -> bool:
    """Whether a model keeps keys and values alone, position by position."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers)


def joined(caches: Sequence[DynamicCache], masks: Sequence[Tensor]) -> tuple[DynamicCache, Tensor]:
    """The rows of several caches in one.

    Args:
        caches: With the same layers.
        masks: Which positions of each row count, (rows, length), int64.
    """
    longest = max(mask.shape[1] for mask in masks)
    gaps = [longest - mask.shape[1] for mask in masks]
    layers = zip(*(_pairs(cache) for cache in caches), strict=True)
    together = DynamicCache(
        [tuple(torch.cat(list(map(_padded, part, gaps))) for part in zip(*pairs, strict=True)) for pairs in layers]
    )
    return together, torch.cat([pad(mask, (gap, 0)) for mask, gap in zip(masks, gaps, strict=True)])


def kept(cache: DynamicCache, mask: Tensor, rows: Sequence[int]) -> tuple[DynamicCache, Tensor]:
    """Some rows of a cache, without the positions that none of them needs."""
    index = torch.tensor(rows, device=mask.device)
    mask = mask.index_select(0, index)
    first = int(mask.any(0).int().argmax())
    pairs = [tuple(part.index_select(0, index)[:, :, first:] for part in pair) for pair in _pairs(cache)]
    return DynamicCache(pairs), mask[:, first:]


def _pairs(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _padded(part: Tensor, gap: int) -> Tensor:
    return pad(part, (0, 0, gap, 0)) if gap else part
