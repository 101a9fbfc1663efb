"""What an engine calls of tokenspeed-mla 2.0.4 for decoding: `tokenspeed_mla_decode`, `get_num_sm` and
`warmup_compile_prefill` (tokenspeed_mla/mla_decode.py, utils.py, mla_prefill.py)."""

from __future__ import annotations

import warnings

import torch

from wrappers import validate
from wrappers.compat import (
    check_dims,
    current_backend,
    global_lengths,
    int32_lengths,
    integer,
    naming,
    refuse_with,
    refuse_without,
    usable_workspace,
)
from wrappers.decode import mla_decode, num_ctas

# What the peer takes for `min_split_kv`.
MAX_MIN_SPLIT_KV = 256


def tokenspeed_mla_decode(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    workspace_buffer: torch.Tensor,
    kv_lora_rank: int,
    qk_rope_head_dim: int,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    max_seq_len: int,
    softmax_scale: float,
    output_scale: float = 1.0,
    out: torch.Tensor | None = None,
    is_var_seq: bool = True,
    causal_mask: bool = True,
    window_left: int = -1,
    enable_pdl: bool = False,
    return_lse: bool = False,
    causal_seqs: torch.Tensor | None = None,
    cp_world: int = 1,
    cp_rank: int = 0,
    cp_interleave_size: int = 1,
    *,
    min_split_kv: int = 1,
    local_visible_lens: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Returns `out` or `(out, lse)`, the log-sum-exp [B, q_len, H] float32 in base 2.

    `causal_mask` and context parallelism (`causal_seqs`, `cp_world`, `cp_rank`, `cp_interleave_size`) hold in every
    dtype; `seq_lens` must cover the rank's share of `causal_seqs`. `max_seq_len`, `is_var_seq`, `enable_pdl` and
    `min_split_kv` are hints that are not needed; a `workspace_buffer` that is too small is replaced. `window_left` and
    `local_visible_lens` are `mla_decode`'s, in every dtype and with any strides; a window is refused beside context
    parallelism, where the peer counts it among the rank's own keys.
    """
    check_dims(kv_lora_rank, qk_rope_head_dim)
    window_left = integer("window_left", window_left, -1)
    integer("max_seq_len", max_seq_len, 0)
    if integer("min_split_kv", min_split_kv, 1) > MAX_MIN_SPLIT_KV:
        raise ValueError(f"min_split_kv={min_split_kv}: must be at most {MAX_MIN_SPLIT_KV}")
    cp_world, cp_rank = integer("cp_world", cp_world, 1), integer("cp_rank", cp_rank, 0)
    interleave = integer("cp_interleave_size", cp_interleave_size, 1)
    validate.check_query(query)
    validate.check_bool("causal_mask", causal_mask)
    lengths, names = int32_lengths(seq_lens), {}
    if cp_world > 1 or causal_seqs is not None:
        if causal_seqs is None:
            raise TypeError(f"causal_seqs is None: cp_world={cp_world} needs it, the lengths of all ranks together")
        refuse_with("causal_seqs", -1, window_left=window_left)
        refuse_with("causal_seqs", None, local_visible_lens=local_visible_lens)
        lengths = global_lengths("causal_seqs", causal_seqs, lengths, cp_world, cp_rank, causal_mask, interleave)
        names = {"seq_lens": "causal_seqs"}
    else:
        refuse_without("cp_world above 1", 0, cp_rank=cp_rank)
    workspace = usable_workspace(workspace_buffer, query)
    names |= {"dcp_world": "cp_world", "dcp_rank": "cp_rank", "dcp_interleave": "cp_interleave_size"}
    with naming(workspace="workspace_buffer", **names):
        return mla_decode(
            query, kv_cache, block_tables, lengths, softmax_scale=softmax_scale, output_scale=output_scale,
            is_causal=causal_mask, out=out, return_lse=return_lse, lse_base="2", dcp_world=cp_world, dcp_rank=cp_rank,
            dcp_interleave=interleave, workspace=workspace, backend=current_backend(), window_left=window_left,
            local_visible_lens=local_visible_lens,
        )  # fmt: skip


def get_num_sm(device: torch.device) -> int:
    """SMs of a CUDA device; for "cpu" the CTAs of an emulated launch. Engines size the workspace with it."""
    return num_ctas(device)


def warmup_compile_prefill(
    q_dtype: torch.dtype = torch.float8_e4m3fn, d_qk: int = 192, d_v: int = 128, enable_pdl: bool = False
) -> None:
    """Compiles nothing and says so: this project has no prefill kernels. Decode kernels: `wrappers.warm_up`."""
    warnings.warn("warmup_compile_prefill: nothing was compiled, there are no prefill kernels here", stacklevel=2)
