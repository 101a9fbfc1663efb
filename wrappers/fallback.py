"""The `torch` backend: MLA decode on any device torch runs on, one request and one key chunk at a time.

Memory: each chunk gathers at most `CHUNK_KEYS` of the request's own keys from the paged cache, so the working set
does not grow with the key length and no mask over (query tokens x keys) is ever stored: a row's visible keys are
neighbours, and its bounds are two numbers; a tree mask covers the query tokens alone. Rows are packed as (token, head),
`row = token * num_heads + head`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from mla.config import LATENT_DIM
from wrappers.call import DecodeCall

CHUNK_KEYS = 1024


def decode_torch(call: DecodeCall) -> None:
    """Writes the out and, where given, the lse of a checked call. Scores, softmax and accumulation are fp32, under
    autocast too.

    `out` may be of any float dtype. Lengths are read on the host, so the call synchronises a GPU and cannot be captured
    in a CUDA graph.
    """
    query, out, lse = call.query, call.out, call.lse
    starts = None if call.cu_seqlens_q is None else call.cu_seqlens_q.tolist()
    with full_precision(query.device):
        for request, num_keys in enumerate(call.seq_lens.tolist()):
            tokens = request if starts is None else slice(starts[request], starts[request + 1])
            num_tokens, num_heads = query[tokens].shape[:2]
            if num_tokens == 0:
                continue
            rows = query[tokens].reshape(num_tokens * num_heads, -1)
            is_causal = call.is_causal and call.tree_mask is None
            bounds = row_bounds(num_tokens, num_heads, num_keys, is_causal, query.device)
            starts_of_rows = None
            if call.window_left is not None:
                starts_of_rows = window_starts(num_tokens, num_heads, num_keys, call.window_left, query.device)
            if call.local_visible_lens is not None:
                bounds = call.local_visible_lens[tokens].long().clamp(0, num_keys).repeat_interleave(num_heads)
                num_keys = int(bounds.max())
            drafts = None
            if call.tree_mask is not None:
                seen = unpack(call.tree_mask[tokens], num_tokens).repeat_interleave(num_heads, 0)
                drafts = DraftKeys(num_keys - num_tokens, seen)
            if call.dcp_world > 1:
                num_keys, bounds = call.shard.local_keys(num_keys), call.shard.local_keys(bounds)
                starts_of_rows = None if starts_of_rows is None else call.shard.local_keys(starts_of_rows)
            keys = call.kv_cache, call.block_tables[request], num_keys
            latent, log_sum = attend(rows, *keys, bounds, call.softmax_scale, drafts, starts_of_rows)
            latent = torch.where(log_sum[:, None] == -math.inf, 0.0, latent * call.output_scale)
            out[tokens] = rounded(latent.view(num_tokens, num_heads, LATENT_DIM), out.dtype)
            if lse is not None:
                base = 1.0 if call.lse_base == "e" else math.log(2.0)
                lse[tokens] = log_sum.view(num_tokens, num_heads) / base


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No gradients, and no autocast: it would round the operands of the fp32 products to its own dtype."""
    autocast = nullcontext()
    if torch.amp.is_autocast_available(device.type):
        autocast = torch.autocast(device.type, enabled=False)
    with torch.no_grad(), autocast:
        yield


def rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`values` rounded to nearest; e4m3, which has no infinity, saturates."""
    if dtype == torch.float8_e4m3fn:
        largest = torch.finfo(dtype).max
        values = values.clamp(-largest, largest)
    return values.to(dtype)


@dataclass(frozen=True)
class DraftKeys:
    """Which of the draft tokens, keys `first` and on, each packed row sees: `seen` [M, Q] bool."""

    first: int
    seen: torch.Tensor

    def hidden(self, start: int, stop: int) -> torch.Tensor:
        """[M, stop - start] bool: keys [start, stop) that the rows do not see."""
        draft = torch.arange(start, stop, device=self.seen.device) - self.first
        return (draft >= 0) & ~self.seen[:, draft.clamp(0, self.seen.shape[1] - 1)]


def unpack(words: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` bits of packed rows [T, words] int32, lowest first, as [T, count] bool."""
    bit = torch.arange(count, device=words.device)
    return (words[:, bit // 32] >> (bit % 32)) & 1 != 0


def row_bounds(num_tokens: int, num_heads: int, num_keys: int, is_causal: bool, device: torch.device) -> torch.Tensor:
    """Number of keys that each packed row sees, `[num_tokens * num_heads]` int64; the row sees keys [0, bound)."""
    token = torch.arange(num_tokens * num_heads, device=device) // num_heads
    if not is_causal:
        return torch.full_like(token, num_keys)
    return (num_keys - (num_tokens - 1) + token).clamp(0, num_keys)


def window_starts(
    num_tokens: int, num_heads: int, num_keys: int, window_left: int, device: torch.device
) -> torch.Tensor:
    """First key in the window of each packed row, `[num_tokens * num_heads]` int64."""
    token = torch.arange(num_tokens * num_heads, device=device) // num_heads
    return (num_keys - num_tokens - window_left + token).clamp(min=0)


def attend(
    rows: torch.Tensor,
    kv_cache: torch.Tensor,
    page_ids: torch.Tensor,
    num_keys: int,
    bounds: torch.Tensor,
    softmax_scale: float | torch.Tensor,
    drafts: DraftKeys | None = None,
    starts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Online softmax of packed rows `[M, 576]` over keys [0, num_keys): `(latent [M, 512], lse [M])`, base e, fp32. Row m
    sees keys [starts[m], bounds[m]); pages before all starts are not read.

    A row that sees no key, or whose scores are all -inf, has lse -inf and any latent. NaN in a row, a key that it sees
    or the scale makes latent and log-sum-exp NaN.
    """
    rows = rows.float()
    row_max = rows.new_full((rows.shape[0],), -math.inf)
    row_sum = torch.zeros_like(row_max)
    latent = rows.new_zeros(rows.shape[0], LATENT_DIM)
    page_size = kv_cache.shape[1]
    pages_per_chunk = max(1, CHUNK_KEYS // page_size)
    first_seen = 0 if starts is None else int(starts.min()) // page_size
    for first_page in range(first_seen, -(-num_keys // page_size), pages_per_chunk):
        start = first_page * page_size
        stop = min(num_keys, start + pages_per_chunk * page_size)
        keys = gather(kv_cache, page_ids, start, stop).float()
        scores = (rows @ keys.T) * softmax_scale
        key = torch.arange(start, stop, device=rows.device)
        hidden = key >= bounds[:, None]
        if starts is not None:
            hidden = hidden | (key < starts[:, None])
        if drafts is not None:
            hidden = hidden | drafts.hidden(start, stop)
        scores = scores.masked_fill(hidden, -math.inf)
        new_max = torch.maximum(row_max, scores.amax(dim=-1))
        # A row that has seen no key yet has maximum -inf; (-inf) - (-inf) would be NaN.
        shift = torch.where(new_max == -math.inf, 0.0, new_max)
        probabilities = torch.exp(scores - shift[:, None])
        rescale = torch.exp(row_max - shift)
        row_sum = row_sum * rescale + probabilities.sum(dim=-1)
        latent = latent * rescale[:, None] + weighted_sum(probabilities, hidden, keys[:, :LATENT_DIM])
        row_max = new_max
    return latent / row_sum[:, None], row_max + torch.log(row_sum)


def weighted_sum(probabilities: torch.Tensor, hidden: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """probabilities [M, N] @ values [N, 512], in which keys that are `hidden` [M, N] from a row do not count for it.

    Their probability is 0, but 0 * NaN is NaN: the few keys with such values are added one by one.
    """
    odd = ~torch.isfinite(values).all(dim=-1)
    if not (odd & hidden.any(dim=0)).any():
        return probabilities @ values
    total = probabilities @ values.masked_fill(odd[:, None], 0.0)
    for key in odd.nonzero().flatten().tolist():
        total = total + (probabilities[:, key, None] * values[key]).masked_fill(hidden[:, key, None], 0.0)
    return total


def gather(kv_cache: torch.Tensor, page_ids: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Keys [start, stop) of one request, `[stop - start, 576]`; `start` is the first key of a page.

    Only the pages of those keys are read, and the slots behind `stop` in the last page are cut off: they and the
    table entries behind it can hold anything.
    """
    page_size = kv_cache.shape[1]
    ids = page_ids[start // page_size : -(-stop // page_size)].long()
    return kv_cache.index_select(0, ids).reshape(-1, kv_cache.shape[-1])[: stop - start]
