"""The CUTLASS decode operators of vLLM 0.33.0 (vllm/_custom_ops.py) and of sgl-kernel 0.3.21 (sgl_kernel/attention.py).

One query token per request, so every key is visible; no context parallelism, no scales."""

from __future__ import annotations

import torch

from mla.config import LATENT_DIM, ROPE_DIM
from wrappers import validate
from wrappers.compat import current_backend, integer, naming, usable_workspace
from wrappers.decode import mla_decode, workspace_bytes

NAMES = {"kv_cache": "kv_c_and_k_pe_cache", "softmax_scale": "scale", "block_tables": "page_table"}


def sm100_cutlass_mla_decode(
    out: torch.Tensor,
    lse: torch.Tensor,
    q_nope: torch.Tensor,
    q_pe: torch.Tensor,
    kv_c_and_k_pe_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    page_table: torch.Tensor,
    workspace: torch.Tensor,
    scale: float,
    num_kv_splits: int,
) -> torch.Tensor:
    """vLLM's: writes `out` [B, at least H, 512] and, unless it has no elements, `lse` [B, at least H] in base e; H is
    that of q_nope [B, H, 512] and q_pe [B, H, 64]. Heads beyond H, the peer's padding, are left alone. `num_kv_splits`
    is a hint that is not needed. Returns `out`."""
    integer("num_kv_splits", num_kv_splits, -1)
    query = joined_query(q_nope, q_pe)
    heads = query.shape[2]
    wanted = {"out": (out, (query.shape[0], heads, LATENT_DIM))}
    if lse.numel():
        wanted["lse"] = (lse, (query.shape[0], heads))
    for name, (value, shape) in wanted.items():
        fits = len(value.shape) == len(shape) and value.shape[1] >= heads and value[:, :heads].shape == shape
        if not fits:
            raise ValueError(f"{name} has shape {list(value.shape)}: must be {list(shape)}, or with more heads")
    with naming(**NAMES):
        mla_decode(
            query, kv_c_and_k_pe_cache, page_table, seq_lens, softmax_scale=scale, out=out[:, None, :heads],
            return_lse=bool(lse.numel()), lse=lse[:, None, :heads] if lse.numel() else None,
            workspace=usable_workspace(workspace, query), backend=current_backend(),
        )  # fmt: skip
    return out


def sm100_cutlass_mla_get_workspace_size(max_seq_len: int, num_batches: int, sm_count: int, num_kv_splits: int) -> int:
    """Bytes, on the current CUDA device or for the emulator; our size does not depend on the call."""
    return workspace_bytes("cuda" if torch.cuda.is_available() else None)


def cutlass_mla_decode(
    q_nope: torch.Tensor,
    q_pe: torch.Tensor,
    kv_c_and_k_pe_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    page_table: torch.Tensor,
    workspace: torch.Tensor,
    sm_scale: float,
    num_kv_splits: int = 1,
) -> torch.Tensor:
    """sgl-kernel's: returns out [B, H, 512]."""
    integer("num_kv_splits", num_kv_splits, -1)
    query = joined_query(q_nope, q_pe)
    with naming(**{**NAMES, "softmax_scale": "sm_scale"}):
        return mla_decode(
            query, kv_c_and_k_pe_cache, page_table, seq_lens, softmax_scale=sm_scale,
            workspace=usable_workspace(workspace, query), backend=current_backend(),
        )[:, 0]  # fmt: skip


def cutlass_mla_get_workspace_size(
    max_seq_len: int, num_batches: int, sm_count: int = 0, num_kv_splits: int = 1
) -> int:
    return sm100_cutlass_mla_get_workspace_size(max_seq_len, num_batches, sm_count, num_kv_splits)


def joined_query(q_nope: torch.Tensor, q_pe: torch.Tensor) -> torch.Tensor:
    """[B, 1, H, 576] from the two parts."""
    for name, value, width in (("q_nope", q_nope, LATENT_DIM), ("q_pe", q_pe, ROPE_DIM)):
        validate.check_tensor(name, value, validate.DTYPES)
        if value.dim() != 3 or value.shape[-1] != width:
            raise ValueError(f"{name} has shape {list(value.shape)}: must be [batch, heads, {width}]")
    if q_nope.shape[:2] != q_pe.shape[:2] or q_nope.dtype != q_pe.dtype:
        raise ValueError(
            f"q_pe is {q_pe.dtype} {list(q_pe.shape)}: must go with q_nope, {q_nope.dtype} {list(q_nope.shape)}"
        )
    return torch.cat([q_nope, q_pe], dim=-1).unsqueeze(1)
