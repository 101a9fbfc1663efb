"""Reads off an implementation which keys it lets each query token see."""

from __future__ import annotations

import torch

from wrappers.decode import mla_decode


def visible_mask(
    num_tokens: int,
    num_keys: int,
    *,
    is_causal: bool = True,
    backend: str = "torch",
    num_heads: int = 1,
    page_size: int = 16,
    dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """`[num_tokens, num_keys]` bool, the same for all heads. Key j's value is the j-th unit vector and all scores are 0, so
    element j of an output row is the probability of key j: 1 / (number of visible keys) where it is visible, else exactly
    0."""
    assert num_keys <= 512
    num_pages = -(-num_keys // page_size)
    cache = torch.zeros(max(num_pages, 1) * page_size, 576)
    cache[:num_keys, :num_keys] = torch.eye(num_keys)
    out, _ = mla_decode(
        torch.zeros(1, num_tokens, num_heads, 576, dtype=dtype),
        cache.to(dtype).view(-1, page_size, 576),
        torch.arange(max(num_pages, 1), dtype=torch.int32)[None],
        torch.tensor([num_keys], dtype=torch.int32),
        softmax_scale=1.0,
        is_causal=is_causal,
        return_lse=True,
        backend=backend,
    )
    assert not out[..., num_keys:].any()
    seen = out[0, :, :, :num_keys] > 0
    assert (seen == seen[:, :1]).all()
    return seen[:, 0]
