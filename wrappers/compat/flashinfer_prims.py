"""`BatchMLADecodePagedTSWrapper` and its one-shot function `batch_mla_decode_with_paged_kv_cache` (FlashInfer
0.7.2.post1, flashinfer/attention/prims_ts/mla_decode.py). No log-sum-exp, as the peer's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mla.config import LATENT_DIM, ROPE_DIM
from wrappers.compat import (
    check_dims,
    current_backend,
    int32_lengths,
    integer,
    naming,
    refuse_without,
    usable_workspace,
)
from wrappers.compat.flashinfer import ragged_query, typed_output
from wrappers.decode import mla_decode
from wrappers.validate import check_bool, check_choice, check_query

MASKS = ("dense", "causal")
NAMES = {"cu_seqlens_q": "qo_indptr", "cum_seq_lens_q": "qo_indptr", "max_q_len": "max_seq_len_q"}


@dataclass(frozen=True)
class PagedTSPlan:
    """What `plan` leaves for `run`; max_seq_len_q is exact for a query [B, max_seq_len_q, H, 576], and the most a
    request may have for a packed one [total_q, H, 576]."""

    batch_size: int
    num_heads: int
    page_size: int
    max_seq_len_q: int
    packed_query: bool
    q_dtype: torch.dtype
    out_dtype: torch.dtype
    is_causal: bool
    workspace_buffer: torch.Tensor | None


class BatchMLADecodePagedTSWrapper:
    """One static shape, planned once. Lengths of 0 and more query tokens than keys are computed, not refused.

    `validate` decides nothing here: shapes are always checked, values where that costs no synchronisation.
    """

    def __init__(self) -> None:
        self._plan: PagedTSPlan | None = None

    def plan(
        self,
        device: int | str | torch.device,
        batch_size: int,
        num_heads: int,
        kv_lora_rank: int,
        qk_rope_head_dim: int,
        page_size: int,
        max_kv_len: int,
        *,
        max_seq_len_q: int,
        packed_query: bool,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
        o_data_type: torch.dtype,
        mask_type: str = "causal",
        workspace_buffer: torch.Tensor | None = None,
        validate: bool = True,
    ) -> None:
        check_dims(kv_lora_rank, qk_rope_head_dim)
        check_bool("packed_query", packed_query)
        check_bool("validate", validate)
        check_choice("mask_type", mask_type, MASKS)
        integer("max_kv_len", max_kv_len, 1)
        if q_data_type != kv_data_type:
            raise ValueError(f"kv_data_type={kv_data_type}: must be q_data_type={q_data_type}")
        sizes = {"batch_size": batch_size, "num_heads": num_heads, "page_size": page_size}
        sizes["max_seq_len_q"] = max_seq_len_q
        self._plan = PagedTSPlan(
            **{name: integer(name, value, 1) for name, value in sizes.items()}, packed_query=packed_query,
            q_dtype=q_data_type, out_dtype=o_data_type, is_causal=mask_type == "causal",
            workspace_buffer=workspace_buffer,
        )  # fmt: skip

    def run(
        self,
        query: torch.Tensor,
        kv_cache: torch.Tensor,
        block_tables: torch.Tensor,
        seq_lens: torch.Tensor,
        *,
        qo_indptr: torch.Tensor | None = None,
        bmm1_scale: float = 1.0,
        bmm2_scale: float = 1.0,
        out: torch.Tensor | None = None,
        validate: bool = True,
    ) -> torch.Tensor:
        plan = self._plan
        if plan is None:
            raise RuntimeError("run() before plan()")
        check_bool("validate", validate)
        if not plan.packed_query:
            refuse_without("packed_query=True", None, qo_indptr=qo_indptr)
        elif qo_indptr is None:
            raise TypeError("qo_indptr is None: a plan with packed_query=True needs it")
        with naming(**NAMES):
            check_query(query, is_ragged=plan.packed_query)
            ragged = ragged_query(query, qo_indptr, plan.max_seq_len_q) if plan.packed_query else {}
        given = {"batch_size": seq_lens.shape[0], "num_heads": query.shape[-2], "page_size": kv_cache.shape[-2]}
        if not plan.packed_query:
            given["max_seq_len_q"] = query.shape[1]
        for name, value in given.items():
            if value != getattr(plan, name):
                raise ValueError(f"{name}={value}: planned was {getattr(plan, name)}")
        if query.dtype != plan.q_dtype:
            raise ValueError(f"query is {query.dtype}: planned was {plan.q_dtype}")
        workspace = None if plan.workspace_buffer is None else usable_workspace(plan.workspace_buffer, query)
        with naming(softmax_scale="bmm1_scale", output_scale="bmm2_scale", workspace="workspace_buffer", **NAMES):
            return mla_decode(
                query, kv_cache, block_tables, int32_lengths(seq_lens), softmax_scale=bmm1_scale,
                output_scale=bmm2_scale, is_causal=plan.is_causal, out=typed_output(out, plan.out_dtype, query),
                workspace=workspace, backend=current_backend(), **ragged,
            )  # fmt: skip


def batch_mla_decode_with_paged_kv_cache(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    qo_indptr: torch.Tensor | None = None,
    max_seq_len_q: int | None = None,
    kv_lora_rank: int = LATENT_DIM,
    qk_rope_head_dim: int = ROPE_DIM,
    mask_type: str = "causal",
    max_kv_len: int | None = None,
    bmm1_scale: float = 1.0,
    bmm2_scale: float = 1.0,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    workspace_buffer: torch.Tensor | None = None,
    validate: bool = True,
) -> torch.Tensor:
    """Plan and run in one. Without `max_seq_len_q` a packed query's lengths are read on the host, as by the peer."""
    with naming(**NAMES):
        check_query(query, is_ragged=qo_indptr is not None)
    tokens = max_seq_len_q
    if qo_indptr is None and tokens is None:
        tokens = query.shape[1]
    elif tokens is None:
        with naming(**NAMES):
            tokens = ragged_query(query, qo_indptr, None)["max_seq_len_q"]
    wrapper = BatchMLADecodePagedTSWrapper()
    wrapper.plan(
        query.device, seq_lens.shape[0], query.shape[-2], kv_lora_rank, qk_rope_head_dim, kv_cache.shape[-2],
        1 if max_kv_len is None else max_kv_len, max_seq_len_q=tokens, packed_query=qo_indptr is not None,
        q_data_type=query.dtype, kv_data_type=kv_cache.dtype, o_data_type=out_dtype, mask_type=mask_type,
        workspace_buffer=workspace_buffer, validate=validate,
    )  # fmt: skip
    return wrapper.run(
        query, kv_cache, block_tables, seq_lens, qo_indptr=qo_indptr, bmm1_scale=bmm1_scale, bmm2_scale=bmm2_scale,
        out=out, validate=validate,
    )  # fmt: skip
