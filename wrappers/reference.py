"""The answer key: MLA decode in fp32 or fp64, written to be obviously right rather than fast.

Nothing here is shared with the kernel, the fallback or the test problems: the visibility rule is the position
argument of a decode step spelled out pair by pair, so a wrong bound elsewhere cannot hide in a common helper.
"""

from __future__ import annotations

import math

import torch

LATENT_DIM = 512


def mla_decode_reference(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    softmax_scale: float | torch.Tensor,
    output_scale: float | torch.Tensor = 1.0,
    is_causal: bool = True,
    lse_base: str = "e",
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of `seq_len_q` query tokens per request over that request's own keys.

    query [B, Q, H, 576]; kv_cache [pages, page_size, 576], [pages, 1, page_size, 576] or
    [pages, page_size, 1, 576]; block_tables [B, W] page ids; seq_lens [B] keys per request, the query tokens' own
    keys included. The first 512 of the 576 cache elements are the value. A scale is a number or a one-element tensor.

    Returns `(out [B, Q, H, 512], lse [B, Q, H])`, both in `dtype` (torch.float32 or torch.float64). The log-sum-exp
    is of the scaled scores, base e or base 2. A row that sees no key has `out = 0` and `lse = -inf`.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype}: the reference computes in torch.float32 or torch.float64")
    softmax_scale, output_scale = float(softmax_scale), float(output_scale)
    batch, num_tokens, num_heads, _ = query.shape
    out = torch.zeros(batch, num_tokens, num_heads, LATENT_DIM, dtype=dtype, device=query.device)
    lse = torch.full((batch, num_tokens, num_heads), -math.inf, dtype=dtype, device=query.device)
    for request in range(batch):
        kv = gather_tokens(kv_cache, block_tables[request], int(seq_lens[request])).to(dtype)
        for token in range(num_tokens):
            keys = visible_keys(token, num_tokens, kv.shape[0], is_causal)
            if not keys:
                continue
            seen = kv[torch.tensor(keys, device=kv.device)]
            scores = softmax_scale * (query[request, token].to(dtype) @ seen.T)
            log_sum = torch.logsumexp(scores, dim=-1)
            probabilities = torch.exp(scores - log_sum[:, None])
            out[request, token] = output_scale * (probabilities @ seen[:, :LATENT_DIM])
            lse[request, token] = log_sum if lse_base == "e" else log_sum / math.log(2.0)
    return out, lse


def visible_keys(token: int, num_tokens: int, num_keys: int, is_causal: bool) -> list[int]:
    """Key positions that query token `token` (0-based, of `num_tokens`) attends to, in ascending order.

    The query tokens are the last `num_tokens` positions of the request: token t sits at position
    `num_keys - num_tokens + t`, which is negative for tokens that precede the first key. Causal attention sees every
    key at or before that position.
    """
    position = num_keys - num_tokens + token
    return [key for key in range(num_keys) if not is_causal or key <= position]


def gather_tokens(kv_cache: torch.Tensor, page_ids: torch.Tensor, num_keys: int) -> torch.Tensor:
    """The request's keys in order, `[num_keys, 576]`, read one token at a time through its page ids."""
    pages = kv_cache
    if pages.dim() == 4:
        pages = pages.squeeze(1) if pages.shape[1] == 1 else pages.squeeze(2)
    page_size = pages.shape[1]
    table = page_ids.tolist()
    rows = [pages[table[key // page_size], key % page_size] for key in range(num_keys)]
    return torch.stack(rows) if rows else pages.new_zeros(0, pages.shape[-1])
