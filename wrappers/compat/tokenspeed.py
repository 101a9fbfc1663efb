"""`tokenspeed_mla.tokenspeed_mla_decode` (tokenspeed-mla 0.2.5, python/tokenspeed_mla/mla_decode.py)."""

from __future__ import annotations

import torch

from wrappers import validate
from wrappers.compat import (
    check_dims,
    current_backend,
    global_lengths,
    int32_lengths,
    integer,
    naming,
    refuse_without,
    usable_workspace,
)
from wrappers.decode import mla_decode


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
    enable_pdl: bool = False,
    return_lse: bool = False,
    causal_seqs: torch.Tensor | None = None,
    cp_world: int = 1,
    cp_rank: int = 0,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Returns `out` or `(out, lse)`, the log-sum-exp [B, q_len, H] float32 in base 2.

    `causal_mask` and context parallelism (`causal_seqs`, `cp_world`, `cp_rank`) hold in every dtype; `seq_lens` must
    cover the rank's share of `causal_seqs`. `max_seq_len`, `is_var_seq` and `enable_pdl` are hints that are not
    needed; a `workspace_buffer` that is too small is replaced.
    """
    check_dims(kv_lora_rank, qk_rope_head_dim)
    integer("max_seq_len", max_seq_len, 0)
    cp_world, cp_rank = integer("cp_world", cp_world, 1), integer("cp_rank", cp_rank, 0)
    validate.check_query(query)
    validate.check_bool("causal_mask", causal_mask)
    lengths, names = int32_lengths(seq_lens), {}
    if cp_world > 1 or causal_seqs is not None:
        if causal_seqs is None:
            raise TypeError(f"causal_seqs is None: cp_world={cp_world} needs it, the lengths of all ranks together")
        lengths = global_lengths("causal_seqs", causal_seqs, lengths, cp_world, cp_rank, causal_mask)
        names = {"seq_lens": "causal_seqs"}
    else:
        refuse_without("cp_world above 1", 0, cp_rank=cp_rank)
    workspace = usable_workspace(workspace_buffer, query)
    with naming(dcp_world="cp_world", dcp_rank="cp_rank", workspace="workspace_buffer", **names):
        return mla_decode(
            query, kv_cache, block_tables, lengths, softmax_scale=softmax_scale, output_scale=output_scale,
            is_causal=causal_mask, out=out, return_lse=return_lse, lse_base="2", dcp_world=cp_world, dcp_rank=cp_rank,
            workspace=workspace, backend=current_backend(),
        )  # fmt: skip
