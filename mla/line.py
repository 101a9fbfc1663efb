"""The requests of a call as the device reads them, and their places in the line of work, measured by a warp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla.arch import WARP_SIZE
from mla.tile_scheduler import TileScheduler


@dataclass(frozen=True)
class Request:
    """One request, or one per lane.

    query_begin: its first token's place among the tokens of all requests where the query is ragged, else 0.
    seq_len_q, seq_len_k: query tokens and keys.
    """

    query_begin: Any
    seq_len_q: Any
    seq_len_k: Any

    def place(self, batch: Any, row: Any, num_heads: int) -> tuple[Any, Any, Any]:
        """(batch, token, head) index into query, output and log-sum-exp of a row of request `batch`; a ragged query is
        one batch of all requests' tokens.
        """
        is_ragged = not isinstance(self.query_begin, int)
        return 0 if is_ragged else batch, row // num_heads + self.query_begin, row % num_heads

    def of_lane(self, lane: Any) -> Request:
        """Lane `lane`'s request, in every lane."""
        values = (self.query_begin, self.seq_len_q, self.seq_len_k)
        return Request(*(v if isinstance(v, int) else cute.arch.shuffle_sync(v, lane) for v in values))


@dataclass(frozen=True)
class RequestList:
    """All requests of a call. seq_lens [B] int32; cu_seqlens_q [B + 1] int32, or None where all have equally many query
    tokens, those of `scheduler`.
    """

    seq_lens: Any
    cu_seqlens_q: Any
    scheduler: TileScheduler

    @property
    def count(self) -> Any:
        return cute.size(self.seq_lens)

    def request(self, index: Any) -> Request:
        seq_len_k = cutlass.max(self.seq_lens[index], 0)
        if self.cu_seqlens_q is None:
            return Request(0, self.scheduler.mask.seq_len_q, seq_len_k)
        begin = self.cu_seqlens_q[index]
        return Request(begin, cutlass.max(self.cu_seqlens_q[index + 1] - begin, 0), seq_len_k)


@cute.jit
def lane_request(requests: cutlass.Constexpr, count: Int32, first: Int32):
    """(request, positions) of the calling lane: request `first + lane`; a lane past `count` requests has none."""
    index = first + cute.arch.lane_idx()
    query_begin, seq_len_q, seq_len_k, cost = Int32(0), Int32(0), Int32(0), Int32(0)
    if index < count:
        request = requests.request(index)
        query_begin, seq_len_q, seq_len_k = Int32(request.query_begin), Int32(request.seq_len_q), request.seq_len_k
        cost = request_cost(requests, request)
    if cutlass.const_expr(requests.cu_seqlens_q is None):
        return Request(0, requests.scheduler.mask.seq_len_q, seq_len_k), cost
    return Request(query_begin, seq_len_q, seq_len_k), cost


@cute.jit
def request_cost(requests: cutlass.Constexpr, request: cutlass.Constexpr):
    """Positions of all row tiles of a request."""
    scheduler = requests.scheduler.of_request(request.seq_len_q)
    total = Int32(0)
    if cutlass.const_expr(requests.cu_seqlens_q is None):
        for row_tile in cutlass.range_constexpr(scheduler.row_tiles):
            total = total + scheduler.cost(row_tile, request.seq_len_k)
    else:
        for row_tile in cutlass.range(scheduler.row_tiles, unroll=1):
            total = total + scheduler.cost(row_tile, request.seq_len_k)
    return total


@cute.jit
def line_length(requests: cutlass.Constexpr, count: Int32):
    """Positions of requests [0, count). A warp-collective; every lane gets the sum."""
    total = Int32(0)
    for first in cutlass.range(0, count, WARP_SIZE, unroll=1):
        total = total + lane_request(requests, count, first)[1]
    return warp_sum(total)


def warp_sum(value: Any) -> Any:
    """Sum over the lanes of a warp, in every lane."""
    for distance in (16, 8, 4, 2, 1):
        value = value + cute.arch.shuffle_sync_bfly(value, distance)
    return value
