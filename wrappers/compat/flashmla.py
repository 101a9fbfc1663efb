"""FlashMLA's dense decoding as vLLM 0.33.0 carries it: `flash_mla_with_kvcache`, `get_mla_metadata`
(vllm/third_party/flashmla/flash_mla_interface.py) and the fp8 pair of vllm/v1/attention/ops/flashmla.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from mla.config import LATENT_DIM
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

    def copy_(self, other: FlashMLASchedMeta) -> FlashMLASchedMeta:
        """What a captured graph's metadata is refreshed with: there is nothing to copy."""
        check_schedule("other", other)
        return self


def check_schedule(name: str, value: object) -> None:
    if not isinstance(value, FlashMLASchedMeta):
        raise TypeError(f"{name} is a {type(value).__name__}: must be what get_mla_metadata() gave")


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
    out: torch.Tensor | None = None,
    enable_batch_invariant: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns `(out [B, Q, H, 512], lse [B, H, Q] float32)`, base e, with +inf for rows that see no key, as the peer's.

    `k_cache` is [pages, page_size, 1, 576] in the dtype of `q`. The sparse mode and its fp8 cache of 656 bytes per
    token are refused, and so is `enable_batch_invariant`: how a request's keys are cut up depends on the whole batch.
    """
    check_schedule("tile_scheduler_metadata", tile_scheduler_metadata)
    refuse_unless(LATENT_DIM, head_dim_v=head_dim_v)
    refuse_unless(False, is_fp8_kvcache=is_fp8_kvcache, enable_batch_invariant=enable_batch_invariant)
    refuse_unless(
        None, num_splits=num_splits, indices=indices, attn_sink=attn_sink, extra_k_cache=extra_k_cache,
        extra_indices_in_kvcache=extra_indices_in_kvcache, topk_length=topk_length, extra_topk_length=extra_topk_length,
    )  # fmt: skip
    return dense_decode(q, k_cache, block_table, cache_seqlens, softmax_scale, causal, out=out)


def dense_decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    block_table: torch.Tensor,
    cache_seqlens: torch.Tensor,
    softmax_scale: float | torch.Tensor | None,
    causal: bool,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    names = {"query": "q", "kv_cache": "k_cache", "block_tables": "block_table", "seq_lens": "cache_seqlens"}
    with naming(**names, is_causal="causal"):
        validate.check_query(q)
        batch, num_tokens, num_heads, head_dim = q.shape
        lse = torch.empty(batch, num_heads, num_tokens, dtype=torch.float32, device=q.device)
        out, _ = mla_decode(
            q, k_cache, block_table, cache_seqlens, is_causal=causal, return_lse=True, lse=lse.transpose(1, 2),
            softmax_scale=head_dim**-0.5 if softmax_scale is None else softmax_scale, backend=current_backend(),
            **options,
        )  # fmt: skip
    return out, lse.masked_fill_(lse == -math.inf, math.inf)


def get_mla_metadata_dense_fp8(
    cache_seqlens: torch.Tensor, num_q_tokens_per_head_k: int, num_heads_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(tile_scheduler_metadata [1, 8], num_splits [B + 1])`, int32 zeros in the peer's shapes: engines copy them into
    buffers of their own, and nothing reads them."""
    refuse_unless(1, num_heads_k=num_heads_k)
    validate.check_tensor("cache_seqlens", cache_seqlens, (torch.int32,))
    options = {"dtype": torch.int32, "device": cache_seqlens.device}
    return torch.zeros(1, 8, **options), torch.zeros(len(cache_seqlens) + 1, **options)


def flash_mla_with_kvcache_fp8(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    block_table: torch.Tensor,
    cache_seqlens: torch.Tensor,
    head_dim_v: int,
    tile_scheduler_metadata: torch.Tensor,
    num_splits: torch.Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    descale_q: torch.Tensor | None = None,
    descale_k: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """e4m3 `q` and `k_cache`, bfloat16 out; otherwise as `flash_mla_with_kvcache`. `descale_q`, `descale_k`: float32
    [1] on the device, read there; None is 1. The values are those of the cache, times `descale_k`."""
    refuse_unless(LATENT_DIM, head_dim_v=head_dim_v)
    for name, value in (("q", q), ("k_cache", k_cache)):
        validate.check_tensor(name, value, (torch.float8_e4m3fn,))
    scale, output_scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale, 1.0
    for name, factor in (("descale_q", descale_q), ("descale_k", descale_k)):
        if factor is not None:
            validate.check_tensor(name, factor, (torch.float32,))
            scale = scale * validate.checked_scale(name, factor, q)
    if descale_k is not None:
        output_scale = descale_k
    with naming(output_scale="descale_k"):
        return dense_decode(q, k_cache, block_table, cache_seqlens, scale, causal, output_scale=output_scale)
