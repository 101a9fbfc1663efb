"""`mla_decode` as a torch operator, `blackwell_mla::decode`, for `torch.compile`, FakeTensor and graph capture.

`mla_decode` comes here by itself when it is traced; nothing else needs to. The operator writes into `out`, `lse` and
`workspace` and returns nothing; what it writes is declared, so a compiler may neither drop nor reorder it.
"""

# ruff: noqa: UP045  (the operator's schema is read from the annotations, on Python 3.10 too)

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from wrappers import validate
from wrappers.decode import mla_decode

NAME = "blackwell_mla::decode"


@torch.library.custom_op(NAME, mutates_args=("out", "lse", "workspace"))
def decode(
    query: Tensor,
    kv_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    out: Tensor,
    lse: Optional[Tensor],
    workspace: Optional[Tensor],
    softmax_scale: float,
    output_scale: float,
    is_causal: bool,
    lse_base: str,
    backend: str,
    softmax_scale_tensor: Optional[Tensor] = None,
    output_scale_tensor: Optional[Tensor] = None,
    cu_seqlens_q: Optional[Tensor] = None,
    max_seq_len_q: Optional[int] = None,
    tree_mask: Optional[Tensor] = None,
    dcp_world: int = 1,
    dcp_rank: int = 0,
    dcp_interleave: int = 1,
    window_left: Optional[int] = None,
    local_visible_lens: Optional[Tensor] = None,
    check_values: Optional[bool] = None,
    isolate_drafts: bool = False,
) -> None:
    """Arguments are `mla_decode`'s; `lse` None is without `return_lse`. A scale's tensor, where given, replaces it."""
    mla_decode(
        query, kv_cache, block_tables, seq_lens,
        softmax_scale=softmax_scale if softmax_scale_tensor is None else softmax_scale_tensor,
        output_scale=output_scale if output_scale_tensor is None else output_scale_tensor,
        is_causal=is_causal, out=out, return_lse=lse is not None, lse=lse, lse_base=lse_base, workspace=workspace,
        backend=backend, cu_seqlens_q=cu_seqlens_q, max_seq_len_q=max_seq_len_q, tree_mask=tree_mask,
        dcp_world=dcp_world, dcp_rank=dcp_rank, dcp_interleave=dcp_interleave, window_left=window_left,
        local_visible_lens=local_visible_lens, check_values=check_values, isolate_drafts=isolate_drafts,
    )  # fmt: skip


@decode.register_fake
def decode_fake(
    query, kv_cache, block_tables, seq_lens, out, lse, workspace, softmax_scale, output_scale, is_causal, lse_base,
    backend, softmax_scale_tensor=None, output_scale_tensor=None, cu_seqlens_q=None, max_seq_len_q=None,
    tree_mask=None, dcp_world=1, dcp_rank=0, dcp_interleave=1, window_left=None, local_visible_lens=None,
    check_values=None, isolate_drafts=False,
):  # fmt: skip
    """Checks everything but values."""
    validate.check_backend(backend)
    validate.check_decode_call(
        query, kv_cache, block_tables, seq_lens,
        softmax_scale=softmax_scale if softmax_scale_tensor is None else softmax_scale_tensor,
        output_scale=output_scale if output_scale_tensor is None else output_scale_tensor,
        is_causal=is_causal, out=out, return_lse=lse is not None, lse=lse, lse_base=lse_base, workspace=workspace,
        check_values=False, cu_seqlens_q=cu_seqlens_q, max_seq_len_q=max_seq_len_q, tree_mask=tree_mask,
        dcp_world=dcp_world, dcp_rank=dcp_rank, dcp_interleave=dcp_interleave, window_left=window_left,
        local_visible_lens=local_visible_lens, isolate_drafts=isolate_drafts,
    )  # fmt: skip


def traced_decode(
    query: Tensor,
    kv_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    softmax_scale: float | Tensor,
    output_scale: float | Tensor,
    out: Tensor | None,
    lse: Tensor | None,
    workspace: Tensor | None,
    cu_seqlens_q: Tensor | None,
    tree_mask: Tensor | None,
    local_visible_lens: Tensor | None,
    *,
    is_causal: bool,
    return_lse: bool,
    lse_base: str,
    check_values: bool | None,
    backend: str,
    max_seq_len_q: int | None,
    dcp_world: int,
    dcp_rank: int,
    dcp_interleave: int,
    window_left: int | None,
    isolate_drafts: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """`mla_decode` through the operator: new outputs are allocated by the graph around it."""
    validate.check_query(query, is_ragged=cu_seqlens_q is not None)
    if check_values is not None:
        validate.check_bool("check_values", check_values)
    if out is not None:
        validate.check_out(out, query)
    if lse is not None:
        validate.check_lse(lse, query, return_lse)
    if out is None:
        out = query.new_empty(*query.shape[:-1], validate.LATENT_DIM, dtype=validate.OUTPUT_DTYPES[query.dtype])
    if return_lse and lse is None:
        lse = query.new_empty(query.shape[:-1], dtype=torch.float32)
    scales = (softmax_scale, output_scale)
    decode(
        query, kv_cache, block_tables, seq_lens, out, lse, workspace,
        *(1.0 if isinstance(scale, Tensor) else scale for scale in scales), is_causal, lse_base, backend,
        *(scale if isinstance(scale, Tensor) else None for scale in scales), cu_seqlens_q, max_seq_len_q, tree_mask,
        dcp_world, dcp_rank, dcp_interleave, window_left, local_visible_lens, check_values,
        isolate_drafts,
    )  # fmt: skip
    return (out, lse) if return_lse else out
