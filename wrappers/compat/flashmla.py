"""`flash_mla.flash_mla_with_kvcache` for dense attention, and `flash_mla.get_mla_metadata` (FlashMLA 9241ae3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from wrappers import validate
from wrappers.compat import current_backend, naming, refuse_unless
from wrappers.decode import mla_decode


@dataclass
class FlashMLASchedMeta:
    """Stands for the peer's schedule. Ours is made on the device in every call, from the lengths it has then: nothing
    is kept, one object serves any shapes and lengths, and the fields stay as they are.
    """

    have_initialized: bool = False
    config: Any = None
    tile_scheduler_metadata: torch.Tensor | None = None
    num_splits: torch.Tensor | None = None


def get_mla_metadata(*args: Any, **kwargs: Any) -> tuple[FlashMLASchedMeta, None]:
    """Any arguments, none of which matters."""
    return FlashMLASchedMeta(), None


def flash_mla_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    block_table: torch.Tensor | None,
    cache_seqlens: torch.Tensor | None,
    head_dim_v: int,
    tile_scheduler_metadata: FlashMLASchedMeta,
    num_splits: None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    is_fp8_kvcache: bool = False,
    indices: torch.Tensor | None = None,
    attn_sink: torch.Tensor | None = None,
    extra_k_cache: torch.Tensor | None = None,
    extra_indices_in_kvcache: torch.Tensor | None = None,
    topk_length: torch.Tensor | None = None,
    extra_topk_length: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns `(out [B, Q, H, 512], lse [B, H, Q] float32)`, base e, with +inf for rows that see no key, as the peer's.

    `k_cache` is [pages, page_size, 1, 576] in the dtype of `q`. The sparse mode and its fp8 cache of 656 bytes per
    token are refused.
    """
    if not isinstance(tile_scheduler_metadata, FlashMLASchedMeta):
        kind = type(tile_scheduler_metadata).__name__
        raise TypeError(f"tile_scheduler_metadata is a {kind}: must be what get_mla_metadata() gave")
    refuse_unless(validate.LATENT_DIM, head_dim_v=head_dim_v)
    refuse_unless(False, is_fp8_kvcache=is_fp8_kvcache)
    refuse_unless(
        None, num_splits=num_splits, indices=indices, attn_sink=attn_sink, extra_k_cache=extra_k_cache,
        extra_indices_in_kvcache=extra_indices_in_kvcache, topk_length=topk_length, extra_topk_length=extra_topk_length,
    )  # fmt: skip
    names = {"query": "q", "kv_cache": "k_cache", "block_tables": "block_table", "seq_lens": "cache_seqlens"}
    with naming(**names, is_causal="causal"):
        validate.check_query(q)
        batch, num_tokens, num_heads, head_dim = q.shape
        lse = torch.empty(batch, num_heads, num_tokens, dtype=torch.float32, device=q.device)
        out, _ = mla_decode(
            q, k_cache, block_table, cache_seqlens, is_causal=causal, return_lse=True, lse=lse.transpose(1, 2),
            softmax_scale=head_dim**-0.5 if softmax_scale is None else softmax_scale, backend=current_backend(),
        )  # fmt: skip
    return out, lse.masked_fill_(lse == -math.inf, math.inf)
