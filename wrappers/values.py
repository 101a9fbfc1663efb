"""What of a call's lengths and page ids can be wrong: checks that read them on the host (`check_values`)."""

from __future__ import annotations

import torch

from wrappers.call import DecodeCall

# Key positions are int32 in the kernel and are rounded up to whole tiles of keys.
MAX_KV_LEN = 2**31 - 1024


def check_call_values(call: DecodeCall) -> None:
    """What is read of lengths and page ids, on the host."""
    if call.is_ragged:
        check_query_lengths(call.cu_seqlens_q, call.max_seq_len_q, call.query.shape[0])
    check_lengths(call)
    if call.batch:
        check_pages(call)


def check_query_lengths(cu_seqlens_q: torch.Tensor, max_seq_len_q: int, total_q: int) -> None:
    """Starts ascend from 0, no request has more tokens than declared, and the query has them all."""
    starts = cu_seqlens_q.tolist()
    if starts[0] != 0:
        raise ValueError(f"cu_seqlens_q[0]={starts[0]}: must be 0")
    for request, (begin, end) in enumerate(zip(starts, starts[1:])):
        if not 0 <= end - begin <= max_seq_len_q:
            raise ValueError(
                f"cu_seqlens_q[{request + 1}]={end}, {end - begin} more than the entry before it: must be 0 to "
                f"max_seq_len_q={max_seq_len_q} more"
            )
    if starts[-1] > total_q:
        raise ValueError(f"cu_seqlens_q[{len(starts) - 1}]={starts[-1]}: must be at most query.shape[0]={total_q}")


def check_lengths(call: DecodeCall) -> None:
    """Keys of requests in range, and those that query tokens see."""
    lengths = call.seq_lens.tolist()
    for request, length in enumerate(lengths):
        if not 0 <= length <= MAX_KV_LEN:
            raise ValueError(f"seq_lens[{request}]={length}: must be 0..{MAX_KV_LEN}")
    if call.local_visible_lens is None:
        return
    request = request_of_tokens(call)
    visible = call.local_visible_lens[: len(request)]
    most = call.seq_lens[request] if call.is_ragged else call.seq_lens[:, None]
    wrong = (visible < 0) | (visible > most)
    if wrong.any():
        index = wrong.nonzero()[0].tolist()
        of = int(request[index[0]])
        raise ValueError(
            f"local_visible_lens{index}={int(visible[tuple(index)])}: must be 0..seq_lens[{of}]={lengths[of]}"
        )


def request_of_tokens(call: DecodeCall) -> torch.Tensor:
    """The request of each entry of the query's first dimension: of itself, or of a ragged query's tokens."""
    request = torch.arange(call.batch, device=call.seq_lens.device)
    return request.repeat_interleave(call.cu_seqlens_q.diff().long()) if call.is_ragged else request


def keys_in_use(call: DecodeCall) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each request's keys in this rank's cache, int64 [B]: (the first one that a query token may see, how many there
    are from the first on that one may see)."""
    shard, first, end = call.shard, 0, call.seq_lens.long()
    if call.window_left is not None:
        tokens = call.cu_seqlens_q.diff().long() if call.is_ragged else call.seq_len_q
        first = (end - call.window_left - tokens).clamp(min=0)
    if call.local_visible_lens is not None:
        request = request_of_tokens(call)
        visible = call.local_visible_lens[: len(request)].long()
        visible = visible if call.is_ragged else visible.amax(1)
        end = torch.zeros_like(end).scatter_reduce(0, request, visible, "amax")
    return shard.local_keys(torch.zeros_like(end) + first), shard.local_keys(end)


def check_pages(call: DecodeCall) -> None:
    """The table is wide enough for the longest request, and every table entry in use names a page."""
    block_tables, page_size, width = call.block_tables, call.page_size, call.block_tables.shape[1]
    lengths, shard = call.seq_lens.tolist(), call.shard
    held = shard.local_keys(call.seq_lens.long())
    longest = int(held.argmax())
    needed = -(-int(held[longest]) // page_size)
    of_rank = f" on rank {shard.rank} of {shard.world}" if shard.world > 1 else ""
    if width < needed:
        raise ValueError(
            f"block_tables.shape[1]={width}: seq_lens[{longest}]={lengths[longest]}{of_rank} with "
            f"page_size={page_size} needs at least {needed} entries"
        )
    if needed == 0:
        return
    table, (first, end) = block_tables[:, :needed], keys_in_use(call)
    start_of_page = torch.arange(needed, device=table.device) * page_size
    used = (start_of_page < end[:, None]) & (start_of_page + page_size > first[:, None])
    wrong = used & ((table < 0) | (table >= call.kv_cache.shape[0]))
    if wrong.any():
        request, entry = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"block_tables[{request}, {entry}]={int(table[request, entry])}: an entry in use "
            f"(seq_lens[{request}]={lengths[request]}) must be 0..{call.kv_cache.shape[0] - 1}"
        )
