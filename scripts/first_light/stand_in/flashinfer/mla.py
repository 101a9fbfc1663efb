"""Stands in for the peer in a rehearsal: the right shape, computed by nobody."""

import torch


def trtllm_batch_decode_with_kv_cache_mla(*, query, kv_cache, workspace_buffer, qk_nope_head_dim, kv_lora_rank,
                                          qk_rope_head_dim, block_tables, seq_lens, max_seq_len, bmm1_scale,
                                          bmm2_scale):  # fmt: skip
    return torch.zeros(*query.shape[:-1], kv_lora_rank, dtype=torch.bfloat16, device=query.device)
