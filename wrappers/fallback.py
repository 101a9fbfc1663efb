"""The `torch` backend: MLA decode on any device torch runs on, one request and one key chunk at a time.

Memory: each chunk gathers at most `CHUNK_KEYS` of the request's own keys from the paged cache, so the working set
does not grow with the key length and no mask over (query tokens x keys) is ever stored: a row's visible keys are a
prefix, and its bound is one number. Rows are packed as (token, head), `row = token * num_heads + head`.
"""

from __future__ import annotations

import math

import torch

LATENT_DIM = 512
CHUNK_KEYS = 1024


@torch.no_grad()
def decode_torch(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor | None,
    *,
    softmax_scale: float | torch.Tensor,
    output_scale: float | torch.Tensor,
    is_causal: bool,
    lse_base: str,
) -> None:
    """Writes `out` and, where given, `lse`. Scores, softmax and accumulation are fp32.

    query [B, Q, H, 576]; kv_cache [pages, page_size, 576]; block_tables [B, W] int32; seq_lens [B] int32;
    out [B, Q, H, 512] of any float dtype; lse [B, Q, H] float32. Arguments are as
    `wrappers.validate.check_decode_call` leaves them. `seq_lens` is read on the host, so the call synchronises a
    GPU and cannot be captured in a CUDA graph.
    """
    batch, num_tokens, num_heads, _ = query.shape
    for request, num_keys in enumerate(seq_lens.tolist()):
        rows = query[request].reshape(num_tokens * num_heads, -1)
        bounds = row_bounds(num_tokens, num_heads, num_keys, is_causal, query.device)
        latent, log_sum = attend(rows, kv_cache, block_tables[request], num_keys, bounds, softmax_scale)
        out[request] = (latent * output_scale).view(num_tokens, num_heads, LATENT_DIM).to(out.dtype)
        if lse is not None:
            base = 1.0 if lse_base == "e" else math.log(2.0)
            lse[request] = log_sum.view(num_tokens, num_heads) / base


def row_bounds(num_tokens: int, num_heads: int, num_keys: int, is_causal: bool, device: torch.device) -> torch.Tensor:
    """Number of keys that each packed row sees, `[num_tokens * num_heads]` int64; the row sees keys [0, bound)."""
    token = torch.arange(num_tokens * num_heads, device=device) // num_heads
    if not is_causal:
        return torch.full_like(token, num_keys)
    return (num_keys - (num_tokens - 1) + token).clamp(0, num_keys)


def attend(
    rows: torch.Tensor,
    kv_cache: torch.Tensor,
    page_ids: torch.Tensor,
    num_keys: int,
    bounds: torch.Tensor,
    softmax_scale: float | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Online softmax of packed rows `[M, 576]` over keys [0, num_keys): `(latent [M, 512], lse [M])`, both fp32.

    The log-sum-exp is base e. Rows with bound 0 come back as latent 0 and lse -inf.
    """
    rows = rows.float()
    row_max = rows.new_full((rows.shape[0],), -math.inf)
    row_sum = torch.zeros_like(row_max)
    latent = rows.new_zeros(rows.shape[0], LATENT_DIM)
    page_size = kv_cache.shape[1]
    pages_per_chunk = max(1, CHUNK_KEYS // page_size)
    for first_page in range(0, -(-num_keys // page_size), pages_per_chunk):
        start = first_page * page_size
        stop = min(num_keys, start + pages_per_chunk * page_size)
        keys = gather(kv_cache, page_ids, start, stop).float()
        scores = (rows @ keys.T) * softmax_scale
        hidden = torch.arange(start, stop, device=rows.device) >= bounds[:, None]
        scores = scores.masked_fill(hidden, -math.inf)
        new_max = torch.maximum(row_max, scores.amax(dim=-1))
        # A row that has seen no key yet has maximum -inf; (-inf) - (-inf) would be NaN.
        shift = torch.where(new_max == -math.inf, 0.0, new_max)
        probabilities = torch.exp(scores - shift[:, None])
        rescale = torch.exp(row_max - shift)
        row_sum = row_sum * rescale + probabilities.sum(dim=-1)
        latent = latent * rescale[:, None] + probabilities @ keys[:, :LATENT_DIM]
        row_max = new_max
    # row_sum is at least 1 for a row that sees a key (its largest term is exp(0)) and 0 for one that does not.
    seen = row_sum > 0
    latent = torch.where(seen[:, None], latent / row_sum[:, None], 0.0)
    return latent, row_max + torch.log(row_sum)


def gather(kv_cache: torch.Tensor, page_ids: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Keys [start, stop) of one request, `[stop - start, 576]`; `start` is the first key of a page.

    Only the pages of those keys are read, and the slots behind `stop` in the last page are cut off: they and the
    table entries behind it can hold anything.
    """
    page_size = kv_cache.shape[1]
    ids = page_ids[start // page_size : -(-stop // page_size)].long()
    return kv_cache.index_select(0, ids).reshape(-1, kv_cache.shape[-1])[: stop - start]
