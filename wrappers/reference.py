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
    cu_seqlens_q: torch.Tensor | None = None,
    tree_mask: torch.Tensor | None = None,
    dcp_world: int = 1,
    dcp_rank: int = 0,
    dcp_interleave: int = 1,
    window_left: int | None = None,
    local_visible_lens: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of `seq_len_q` query tokens per request over that request's own keys.

    query [B, Q, H, 576]; kv_cache [pages, page_size, 576], [pages, 1, page_size, 576] or
    [pages, page_size, 1, 576]; block_tables [B, W] page ids; seq_lens [B] keys per request, the query tokens' own
    keys included. The first 512 of the 576 cache elements are the value. A scale is a number or a one-element tensor.

    With `cu_seqlens_q` [B + 1], query is [total_q, H, 576] and request b has tokens cu_seqlens_q[b] up to
    cu_seqlens_q[b + 1]. `tree_mask`, bool [B, Q, Q] or, ragged, [total_q, Q], says which of the request's query tokens,
    its last keys, a token sees. With `dcp_world` ranks, key g of a request of seq_lens[b] keys lies on rank
    g // interleave % world, and the cache has this rank's keys, in order. `window_left` hides keys more than so many
    positions before the query token's. `local_visible_lens` [B, Q] or [total_q] says how many keys, the first ones, a
    token sees, in place of the causal rule.

    Returns `(out [B, Q, H, 512], lse [B, Q, H])`, or `[total_q, H, ...]`, both
    in `dtype` (torch.float32 or torch.float64). The log-sum-exp
    is of the scaled scores, base e or base 2. A row that sees no key has `out = 0` and `lse = -inf`.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype}: the reference computes in torch.float32 or torch.float64")
    softmax_scale, output_scale = float(softmax_scale), float(output_scale)
    out = torch.zeros(*query.shape[:-1], LATENT_DIM, dtype=dtype, device=query.device)
    lse = torch.full(query.shape[:-1], -math.inf, dtype=dtype, device=query.device)
    for request, tokens in enumerate(tokens_of_requests(query, cu_seqlens_q)):
        num_keys = int(seq_lens[request])
        held = keys_of_rank(num_keys, dcp_world, dcp_rank, dcp_interleave)
        kv = gather_tokens(kv_cache, block_tables[request], len(held)).to(dtype)
        num_tokens = len(query[tokens])
        for token in range(num_tokens):
            tree_row = None if tree_mask is None else tree_mask[tokens][token].tolist()
            length = None if local_visible_lens is None else int(local_visible_lens[tokens][token])
            visible = set(visible_keys(token, num_tokens, num_keys, is_causal, tree_row, window_left, length))
            keys = [local for local, key in enumerate(held) if key in visible]
            if not keys:
                continue
            seen = kv[torch.tensor(keys, device=kv.device)]
            scores = softmax_scale * (query[tokens][token].to(dtype) @ seen.T)
            log_sum = torch.logsumexp(scores, dim=-1)
            probabilities = torch.exp(scores - log_sum[:, None])
            out[tokens][token] = output_scale * (probabilities @ seen[:, :LATENT_DIM])
            lse[tokens][token] = log_sum if lse_base == "e" else log_sum / math.log(2.0)
    return out, lse


def tokens_of_requests(query: torch.Tensor, cu_seqlens_q: torch.Tensor | None) -> list[int | slice]:
    """Index of each request's tokens in the first dimension of query, output and log-sum-exp."""
    if cu_seqlens_q is None:
        return list(range(query.shape[0]))
    bounds = cu_seqlens_q.tolist()
    return [slice(begin, end) for begin, end in zip(bounds, bounds[1:])]


def keys_of_rank(num_keys: int, world: int, rank: int, interleave: int) -> list[int]:
    """Positions of the keys that a rank holds, in the order of its cache: `interleave` keys to each rank in turn."""
    return [key for key in range(num_keys) if key // interleave % world == rank]


def visible_keys(
    token: int,
    num_tokens: int,
    num_keys: int,
    is_causal: bool,
    tree_row: list[bool] | None = None,
    window_left: int | None = None,
    visible_len: int | None = None,
) -> list[int]:
    """Key positions that query token `token` (0-based, of `num_tokens`) attends to, in ascending order.

    The query tokens are the last `num_tokens` positions of the request: token t sits at position
    `num_keys - num_tokens + t`, which is negative for tokens that precede the first key. Causal attention sees every
    key at or before that position. With `tree_row` it sees every key ahead of the query tokens, and query token u iff
    tree_row[u]. With `visible_len` it sees the first so many keys. With `window_left` it sees of all these none that is
    further before its own position.
    """
    if visible_len is not None:
        return [key for key in range(num_keys) if key < visible_len]
    if tree_row is not None:
        first = num_keys - num_tokens
        return [key for key in range(num_keys) if key < first or tree_row[key - first]]
    position = num_keys - num_tokens + token
    seen = [key for key in range(num_keys) if not is_causal or key <= position]
    return [key for key in seen if window_left is None or position - key <= window_left]


def gather_tokens(kv_cache: torch.Tensor, page_ids: torch.Tensor, num_keys: int) -> torch.Tensor:
    """The request's keys in order, `[num_keys, 576]`, read one token at a time through its page ids; NaN where such an
    id names no page, as before a window it may.
    """
    pages = kv_cache
    if pages.dim() == 4:
        pages = pages.squeeze(1) if pages.shape[1] == 1 else pages.squeeze(2)
    page_size = pages.shape[1]
    table = page_ids.tolist()
    no_key = torch.full((pages.shape[-1],), math.nan, device=pages.device).to(pages.dtype)
    rows = [
        pages[table[key // page_size], key % page_size] if 0 <= table[key // page_size] < len(pages) else no_key
        for key in range(num_keys)
    ]
    return torch.stack(rows) if rows else pages.new_zeros(0, pages.shape[-1])
