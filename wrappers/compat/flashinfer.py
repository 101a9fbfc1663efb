"""The decode functions of `flashinfer.mla`, FlashInfer 0.7.2.post1: `trtllm_batch_decode_with_kv_cache_mla`, the CuTe
DSL entry under it, `cute_dsl_mla_decode`, and `cake_mla_varq_dcp_decode` (flashinfer/mla/_core.py,
flashinfer/cute_dsl/attention/mla_dispatch.py). What is planned first is in `wrappers.compat.flashinfer_planned`."""

from __future__ import annotations

import math
from typing import Any

import torch

from mla.config import LATENT_DIM, ROPE_DIM
from wrappers import validate
from wrappers.call import OUTPUT_DTYPES
from wrappers.compat import (
    check_dims,
    current_backend,
    global_lengths,
    int32_lengths,
    integer,
    naming,
    refuse_unless,
    refuse_without,
    usable_workspace,
    value_text,
)
from wrappers.decode import mla_decode

BACKENDS = ("auto", "trtllm-gen", "cute-dsl", "cake")
IMPLEMENTATIONS = ("auto", "modular", "monolithic")
# What the peer's trtllm-gen kernels take; anything else goes to its CuTe DSL kernels.
TRTLLM_GEN_PAGE_SIZES = (32, 64)
# What the peer calls the bases of a log-sum-exp.
LSE_BASES = {"basee": "e", "base2": "2"}
# `cute_dsl_mla_decode`'s factor from base 2 to the base it returns -> that base.
LSE_SCALES = {math.log(2.0): "e", 1.0: "2"}


def cute_dsl_mla_decode(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    workspace_buffer: torch.Tensor,
    kv_lora_rank: int,
    qk_rope_head_dim: int,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    max_seq_len: int,
    softmax_scale: float | torch.Tensor,
    output_scale: float | torch.Tensor = 1.0,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    is_var_seq: bool = True,
    enable_pdl: bool | None = None,
    lse: torch.Tensor | None = None,
    return_lse: bool = False,
    lse_scale: float = math.log(2.0),
    cum_seq_lens_q: torch.Tensor | None = None,
    max_q_len: int | None = None,
    enable_dcp: bool = False,
    cp_world: int = 1,
    cp_rank: int = 0,
    causal_seqlens_kv_global: torch.Tensor | None = None,
    *,
    cute_dsl_impl: str = "auto",
    sinks: None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Returns `out` or `(out, lse)`: the log-sum-exp in base e, or in base 2 with `lse_scale` 1, [B, q_len, H] or in
    the shape of the caller's `lse`, which may also be [B * q_len, H]. Causal, as the peer's monolithic kernel. With
    `cum_seq_lens_q` the query is [total_q, H, 576]; give `max_q_len` too, without it the call waits for the device.
    With `enable_dcp`, `seq_lens` must cover the rank's share of `causal_seqlens_kv_global`; ragged queries and a
    log-sum-exp go with it.

    `max_seq_len`, `is_var_seq` and `enable_pdl` are hints that are not needed; a `workspace_buffer` that is too small
    is replaced; a table of any width will do.
    """
    check_dims(kv_lora_rank, qk_rope_head_dim)
    integer("max_seq_len", max_seq_len, 0)
    cp_world, cp_rank = integer("cp_world", cp_world, 1), integer("cp_rank", cp_rank, 0)
    refuse_unless(None, sinks=sinks)
    lse_base = base_of_scale(lse_scale)
    validate.check_choice("cute_dsl_impl", cute_dsl_impl, IMPLEMENTATIONS)
    validate.check_bool("enable_dcp", enable_dcp)
    validate.check_bool("return_lse", return_lse)
    names = {"workspace": "workspace_buffer", "dcp_world": "cp_world", "dcp_rank": "cp_rank"}
    names |= {"cu_seqlens_q": "cum_seq_lens_q", "max_seq_len_q": "max_q_len"}
    with naming(**names):
        ragged = ragged_query(query, cum_seq_lens_q, max_q_len)
        validate.check_query(query, is_ragged=cum_seq_lens_q is not None)
    lengths = int32_lengths(seq_lens)
    if enable_dcp:
        if not return_lse:
            raise ValueError("return_lse=False: must be True with enable_dcp=True, the ranks' results need it to merge")
        if causal_seqlens_kv_global is None:
            raise TypeError("causal_seqlens_kv_global is None: enable_dcp=True needs it, the lengths of all ranks")
        lengths = global_lengths("causal_seqlens_kv_global", causal_seqlens_kv_global, lengths, cp_world, cp_rank)
        names["seq_lens"] = "causal_seqlens_kv_global"
    else:
        refuse_without("enable_dcp=True", 1, cp_world=cp_world)
        refuse_without("enable_dcp=True", 0, cp_rank=cp_rank)
        refuse_without("enable_dcp=True", None, causal_seqlens_kv_global=causal_seqlens_kv_global)
    rows = query.shape[:-1]
    if out_dtype is not None:
        out = typed_output(out, out_dtype, query)
    if return_lse and lse is None:
        lse = torch.empty(rows, dtype=torch.float32, device=query.device)
    workspace = usable_workspace(workspace_buffer, query)
    with naming(**names):
        result = mla_decode(
            query, kv_cache, block_tables, lengths, softmax_scale=softmax_scale, output_scale=output_scale, out=out,
            return_lse=return_lse, lse=rows_of(lse, rows) if return_lse else None, lse_base=lse_base,
            workspace=workspace, backend=current_backend(), **ragged, dcp_world=cp_world, dcp_rank=cp_rank,
        )  # fmt: skip
    return (result[0], lse) if return_lse else result


def base_of_scale(lse_scale: object) -> str:
    for scale, base in LSE_SCALES.items():
        if isinstance(lse_scale, (int, float)) and math.isclose(lse_scale, scale, rel_tol=1e-6):
            return base
    raise ValueError(f"lse_scale={value_text(lse_scale)}: must be {math.log(2.0)} (base e) or 1.0 (base 2)")


def typed_output(out: torch.Tensor | None, out_dtype: torch.dtype, query: torch.Tensor) -> torch.Tensor:
    """The caller's output, or a new one of the dtype asked for."""
    allowed = (OUTPUT_DTYPES[query.dtype], query.dtype)
    if out_dtype not in allowed:
        names = " or ".join(map(str, dict.fromkeys(allowed)))
        raise ValueError(f"out_dtype={out_dtype}: must be None or {names} for a query of {query.dtype}")
    if out is not None:
        return out
    return torch.empty(*query.shape[:-1], LATENT_DIM, dtype=out_dtype, device=query.device)


def ragged_query(
    query: torch.Tensor, cum_seq_lens_q: torch.Tensor | None, max_q_len: int | None
) -> dict[str, torch.Tensor | int | None]:
    """`mla_decode`'s arguments for a compact query. `max_q_len` None is read from the device, as the peer does."""
    if cum_seq_lens_q is None:
        refuse_without("cum_seq_lens_q", None, max_q_len=max_q_len)
        return {}
    validate.check_tensor("cum_seq_lens_q", cum_seq_lens_q, (torch.int32,))
    if max_q_len is None:
        if cum_seq_lens_q.numel() < 2:
            raise ValueError(f"cum_seq_lens_q has shape {list(cum_seq_lens_q.shape)}: must be [batch + 1]")
        max_q_len = max(1, int(cum_seq_lens_q.diff().max()))
    return {"cu_seqlens_q": cum_seq_lens_q, "max_seq_len_q": integer("max_q_len", max_q_len, 1)}


def rows_of(lse: torch.Tensor, rows: torch.Size) -> torch.Tensor:
    """The caller's log-sum-exp memory as `[B, q_len, H]` or, ragged, `[total_q, H]`."""
    validate.check_tensor("lse", lse, (torch.float32,))
    flat = (rows[:-1].numel(), rows[-1])
    if tuple(lse.shape) not in (flat, tuple(rows)):
        raise ValueError(f"lse has shape {list(lse.shape)}: must be {list(rows)} or {list(flat)}")
    if not lse.is_contiguous():
        raise ValueError(f"lse has strides {list(lse.stride())}: must be contiguous")
    return lse.view(rows)


def trtllm_batch_decode_with_kv_cache_mla(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    workspace_buffer: torch.Tensor,
    qk_nope_head_dim: int,
    kv_lora_rank: int,
    qk_rope_head_dim: int,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor | None,
    max_seq_len: int,
    sparse_mla_top_k: int = 0,
    out: torch.Tensor | None = None,
    bmm1_scale: float | torch.Tensor = 1.0,
    bmm2_scale: float | torch.Tensor = 1.0,
    sinks: list[torch.Tensor] | None = None,
    skip_softmax_threshold_scale_factor: float | None = None,
    enable_pdl: bool | None = None,
    backend: str = "auto",
    is_var_seq: bool = True,
    uses_shared_paged_kv_idx: bool = True,
    lse: torch.Tensor | None = None,
    return_lse: bool = False,
    cute_dsl_impl: str = "auto",
    kv_scale_format: str = "auto",
    cum_seq_lens_q: torch.Tensor | None = None,
    max_q_len: int | None = None,
    multi_ctas_kv_counter_buffer: torch.Tensor | None = None,
    sparse_mla_top_k_lens: torch.Tensor | None = None,
    enable_dcp: bool = False,
    cp_world: int = 1,
    cp_rank: int = 0,
    causal_seqlens_kv_global: torch.Tensor | None = None,
    use_fp16_softmax: bool | None = None,
    return_lse_base: str | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Returns `out` (bfloat16) or `(out, lse)`: the log-sum-exp [B * q_len, H], or in the shape of the caller's `lse`.

    Causal. The base of the log-sum-exp is `return_lse_base`, "basee" or "base2"; where that is None, the one of the
    kernel that the peer would run for these arguments (`peer_lse_base`).
    The peer's resources and hints (`backend`, `cute_dsl_impl`, `multi_ctas_kv_counter_buffer`, `kv_scale_format`,
    `qk_nope_head_dim`) are accepted and not needed. Sparse MLA, sinks, skipped softmax blocks, separate K and V tables
    and fp16 softmax are refused. The output is bfloat16 for an fp16 query too.
    """
    validate.check_choice("backend", backend, BACKENDS)
    if return_lse_base is not None:
        validate.check_choice("return_lse_base", return_lse_base, tuple(LSE_BASES))
    refuse_unless(0, sparse_mla_top_k=sparse_mla_top_k)
    refuse_unless(True, uses_shared_paged_kv_idx=uses_shared_paged_kv_idx)
    refuse_unless(
        None, sinks=sinks, skip_softmax_threshold_scale_factor=skip_softmax_threshold_scale_factor,
        sparse_mla_top_k_lens=sparse_mla_top_k_lens, use_fp16_softmax=use_fp16_softmax or None,
    )  # fmt: skip
    validate.check_query(query, is_ragged=cum_seq_lens_q is not None)
    validate.check_bool("return_lse", return_lse)
    if return_lse and lse is None:
        rows = query.shape[:-1]
        lse = torch.empty(rows[:-1].numel(), rows[-1], dtype=torch.float32, device=query.device)
    needs_cute_dsl = cum_seq_lens_q is not None or enable_dcp
    base = LSE_BASES.get(return_lse_base) or peer_lse_base(backend, query.shape[-2], kv_cache, needs_cute_dsl)
    given = {
        "query": query, "kv_cache": kv_cache, "workspace_buffer": workspace_buffer, "kv_lora_rank": kv_lora_rank,
        "qk_rope_head_dim": qk_rope_head_dim, "block_tables": block_tables, "seq_lens": seq_lens,
        "max_seq_len": max_seq_len, "softmax_scale": bmm1_scale, "is_var_seq": is_var_seq, "enable_pdl": enable_pdl,
        "lse": lse, "return_lse": return_lse, "cum_seq_lens_q": cum_seq_lens_q, "max_q_len": max_q_len,
        "enable_dcp": enable_dcp, "cp_world": cp_world, "cp_rank": cp_rank, "cute_dsl_impl": cute_dsl_impl,
        "causal_seqlens_kv_global": causal_seqlens_kv_global,
        "lse_scale": next(scale for scale, name in LSE_SCALES.items() if name == base),
    }  # fmt: skip
    with naming(softmax_scale="bmm1_scale", output_scale="bmm2_scale"):
        if query.dtype == torch.float16:
            return in_bfloat16(given, out, bmm2_scale)
        return cute_dsl_mla_decode(**given, out=out, output_scale=bmm2_scale)


def in_bfloat16(
    given: dict[str, Any], out: torch.Tensor | None, output_scale: float | torch.Tensor
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """`cute_dsl_mla_decode` of an fp16 query with the peer's bfloat16 output.

    Ours for such a query is fp16, so the result is rounded twice, and scaled in between: an average of fp16 values
    fits in fp16, times the scale it may not.
    """
    query = given["query"]
    if out is None:
        out = torch.empty(*query.shape[:-1], LATENT_DIM, dtype=torch.bfloat16, device=query.device)
    validate.check_out(out, query, (torch.bfloat16,))
    read = {name: given[name] for name in ("query", "kv_cache", "block_tables", "seq_lens")}
    validate.check_written_apart({"out": out, "lse": given["lse"]}, {**read, "output_scale": output_scale})
    scale = validate.checked_scale("output_scale", output_scale, query)
    result = cute_dsl_mla_decode(**given)
    half, *rest = result if given["return_lse"] else (result,)
    with torch.no_grad():
        out.copy_(half.float() * scale)
    return (out, *rest) if rest else out


def peer_lse_base(backend: str, num_heads: int, kv_cache: torch.Tensor, needs_cute_dsl: bool) -> str:
    """Base 2 where the peer runs trtllm-gen and base e where it runs CuTe DSL.

    "auto" is taken to be trtllm-gen wherever that can run the call, which is the peer's choice without autotuning
    (with it, the base of the peer's result depends on which kernel was faster).
    """
    if backend != "auto":
        return "2" if backend == "trtllm-gen" else "e"
    validate.check_tensor("kv_cache", kv_cache, tuple(OUTPUT_DTYPES))
    page_size = kv_cache.shape[-2] if kv_cache.dim() >= 2 else None
    takes = page_size in TRTLLM_GEN_PAGE_SIZES and not 64 < num_heads < 128 and not needs_cute_dsl
    return "2" if takes else "e"


def cake_mla_varq_dcp_decode(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    workspace_buffer: torch.Tensor,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    max_seq_len: int,
    softmax_scale: float,
    *,
    cum_seq_lens_q: torch.Tensor,
    max_q_len: int,
    enable_dcp: bool = False,
    cp_world: int = 1,
    cp_rank: int = 0,
    causal_seqlens_kv_global: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    return_lse: bool = True,
    backend: str = "cake",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Compact queries [total_q, H, 576] of one rank: `(out [total_q, H, 512], lse [total_q, H])`, base e."""
    validate.check_choice("backend", backend, ("cake",))
    return cute_dsl_mla_decode(
        query, kv_cache, workspace_buffer, LATENT_DIM, ROPE_DIM, block_tables, seq_lens, max_seq_len,
        softmax_scale, cum_seq_lens_q=cum_seq_lens_q, max_q_len=max_q_len, enable_dcp=enable_dcp, cp_world=cp_world,
        cp_rank=cp_rank, causal_seqlens_kv_global=causal_seqlens_kv_global, out=out, lse=lse, return_lse=return_lse,
    )  # fmt: skip
