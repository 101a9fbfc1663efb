"""The requests of a call as the device reads them, and their places in the line of work, measured by a warp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla.arch import WARP_SIZE
from mla.causal_mask import quotient, quotient_up
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

    def row_coord(self, batch: Any, row: Any, num_heads: int) -> tuple[Any, Any, Any]:
        """(batch, token, head) index into query, output and log-sum-exp of a row of request `batch`; a ragged query is
        one batch of all requests' tokens.
        """
        is_ragged = not isinstance(self.query_begin, int)
        token = quotient(row, num_heads)
        return 0 if is_ragged else batch, token + self.query_begin, row - token * num_heads

    def of_lane(self, lane: Any) -> Request:
        """Lane `lane`'s request, in every lane."""
        values = (self.query_begin, self.seq_len_q, self.seq_len_k)
        return Request(*(v if isinstance(v, int) else cute.arch.shuffle_sync(v, lane) for v in values))

    def of_tokens(self, batch: Any, values: Any) -> TokenValues:
        """Request `batch`'s part of `values`, [B, tokens] or, ragged, [1, tokens of all requests]."""
        is_ragged = not isinstance(self.query_begin, int)
        return TokenValues(values, 0 if is_ragged else batch, self.query_begin)

    @property
    def traced(self) -> tuple[Any, ...]:
        """What of it is not known while the kernel is compiled."""
        return tuple(v for v in (self.query_begin, self.seq_len_q, self.seq_len_k) if not isinstance(v, int))


@dataclass(frozen=True)
class TokenValues:
    """A value per query token of one request, in a tensor of all requests' tokens."""

    values: Any
    batch: Any
    first: Any

    def __getitem__(self, token: Any) -> Any:
        return self.values[self.batch, self.first + token]


@dataclass(frozen=True)
class RequestList:
    """All requests of a call. seq_lens [B] int32; cu_seqlens_q [B + 1] int32, or None where all have equally many query
    tokens, those of `scheduler`. visible_lens: of every query token, int32, as `Request.of_tokens` takes them, or None.
    """

    seq_lens: Any
    cu_seqlens_q: Any
    visible_lens: Any
    scheduler: TileScheduler

    @property
    def count(self) -> Any:
        return cute.size(self.seq_lens)

    @property
    def num_row_tiles(self) -> Any:
        """Row tiles of all requests; of a ragged query, as if each had one."""
        return self.count if self.cu_seqlens_q is not None else self.count * self.scheduler.row_tiles

    def request(self, index: Any) -> Request:
        seq_len_k = cutlass.max(self.seq_lens[index], 0)
        if self.cu_seqlens_q is None:
            return Request(0, self.scheduler.mask.seq_len_q, seq_len_k)
        begin = self.cu_seqlens_q[index]
        return Request(begin, cutlass.max(self.cu_seqlens_q[index + 1] - begin, 0), seq_len_k)

    def scheduler_of(self, index: Any, request: Request) -> TileScheduler:
        """The scheduler of request `index`."""
        lens = None if self.visible_lens is None else request.of_tokens(index, self.visible_lens)
        return self.scheduler.of_request(request.seq_len_q, lens)

    @property
    def no_request(self) -> Request:
        """One without tokens and keys."""
        return self.request_of((Int32(0),) * (1 if self.cu_seqlens_q is None else 3))

    def request_of(self, traced: tuple[Any, ...]) -> Request:
        """The request whose `traced` values these are."""
        return Request(0, self.scheduler.mask.seq_len_q, *traced) if self.cu_seqlens_q is None else Request(*traced)


@cute.jit
def request_or_none(requests: cutlass.Constexpr, index: Int32):
    """(request `index`, its positions in the line); past the last request, one without tokens, keys and positions."""
    request = requests.request_of(traced_or_none(requests, index))
    return request, cost_or_none(requests, index, request)


@cute.jit
def traced_or_none(requests: cutlass.Constexpr, index: Int32):
    """What of request `index` is not known while the kernel is compiled; zeros past the last."""
    query_begin, seq_len_q, seq_len_k = Int32(0), Int32(0), Int32(0)
    if index < requests.count:
        request = requests.request(index)
        query_begin, seq_len_q, seq_len_k = Int32(request.query_begin), Int32(request.seq_len_q), request.seq_len_k
    if cutlass.const_expr(requests.cu_seqlens_q is None):
        return (seq_len_k,)
    return query_begin, seq_len_q, seq_len_k


@cute.jit
def cost_or_none(requests: cutlass.Constexpr, index: Int32, request: cutlass.Constexpr):
    """Positions of request `index`, none past the last."""
    cost = Int32(0)
    if index < requests.count:
        cost = request_cost(requests, index, request)
    return cost


@cute.jit
def request_cost(requests: cutlass.Constexpr, index: Int32, request: cutlass.Constexpr):
    """Positions of all row tiles of request `index`."""
    scheduler = requests.scheduler_of(index, request)
    if cutlass.const_expr(requests.cu_seqlens_q is None and requests.visible_lens is None):
        return scheduler.request_cost(request.seq_len_k)
    total = Int32(0)
    for row_tile in cutlass.range(scheduler.row_tiles, unroll=1):
        total = total + scheduler.cost(row_tile, request.seq_len_k)
    return total


@dataclass(frozen=True)
class Window:
    """Neighbouring requests, one to a lane (`measure`: `per_lane` to a lane), and their places in the line of work.

    first: the first lane's first request. traced: of the lane's first request, what is not known while the kernel is
    compiled (a dynamic `if` or loop makes traced values of all that it carries). start, end: the lane's positions, none
    past the last request. end_of_all: the last lane's end, known before `start` and `end` are.
    """

    first: Any
    per_lane: Any
    traced: tuple[Any, ...]
    start: Any
    end: Any
    end_of_all: Any

    def lane_at(self, position: Any) -> Any:
        """The lane that holds `position`: as many as end before it. WARP_SIZE where it lies behind the window."""
        return cute.arch.popc(cute.arch.vote_ballot_sync(self.end <= position))

    def lanes_before(self, position: Any) -> Any:
        """How many lanes start before `position`."""
        return cute.arch.popc(cute.arch.vote_ballot_sync(self.start < position))


def first_of_lane(requests: RequestList) -> tuple[Any, Any]:
    """(how many requests `measure` gives to a lane, the first of the calling one)."""
    per_lane = quotient_up(requests.count, WARP_SIZE)
    return per_lane, cute.arch.lane_idx() * per_lane


@cute.jit
def measure(requests: cutlass.Constexpr, traced: cutlass.Constexpr):
    """The window of all requests; `end_of_all` is the length of the line. A warp-collective, like all that follows.

    traced: `traced_or_none` of the lane's first, which takes an access to memory and can be had before.
    """
    per_lane, first = first_of_lane(requests)
    request = requests.request_of(traced)
    cost = cost_or_none(requests, first, request)
    for index in cutlass.range(first + 1, first + per_lane, unroll=4):
        cost = cost + request_or_none(requests, index)[1]
    end = running_sum(cost)
    return Window(Int32(0), per_lane, request.traced, end - cost, end, cute.arch.warp_redux_sync(cost, "add"))


@cute.jit
def window_at(requests: cutlass.Constexpr, whole: cutlass.Constexpr, position: Int32):
    """The window, one request to a lane, of which a lane holds `position`. whole: `measure`'s."""
    window = whole
    if whole.per_lane > 1:
        lane = whole.lane_at(position)
        window = window_of(requests, lane * whole.per_lane, cute.arch.shuffle_sync(whole.start, lane))
        while (window.lane_at(position) == WARP_SIZE) & (window.first + WARP_SIZE < requests.count):
            window = next_window(requests, window)
    return window


@cute.jit
def next_window(requests: cutlass.Constexpr, window: cutlass.Constexpr):
    """The requests behind those of a window of one request to a lane."""
    return window_of(requests, window.first + WARP_SIZE, window.end_of_all)


@cute.jit
def window_of(requests: cutlass.Constexpr, first: Int32, position: Int32):
    """Requests [first, first + 32), whose line starts at `position`."""
    request, cost = request_or_none(requests, first + cute.arch.lane_idx())
    end = position + running_sum(cost)
    end_of_all = position + cute.arch.warp_redux_sync(cost, "add")
    return Window(first, Int32(1), request.traced, end - cost, end, end_of_all)


@cute.jit
def row_tile_at(scheduler: cutlass.Constexpr, seq_len_k: Int32, start: Int32, position: Int32):
    """(row tile, its first position, its positions) of a request, from `start` on in the line, that holds `position`.
    Both count the gap in front of it.
    """
    row_tile, first, cost = Int32(0), start, scheduler.cost(Int32(0), seq_len_k)
    if cutlass.const_expr(not isinstance(scheduler.row_tiles, int) or scheduler.row_tiles > 1):
        while first + cost <= position:
            row_tile, first = row_tile + 1, first + cost
            cost = scheduler.cost(row_tile, seq_len_k)
    return row_tile, first, cost


def running_sum(value: Any) -> Any:
    """Sum over the lanes of a warp up to the calling one, itself included."""
    lane = cute.arch.lane_idx()
    for distance in (1, 2, 4, 8, 16):
        earlier = cute.arch.shuffle_sync_up(value, distance)
        value = value + cutlass.select_(lane >= distance, earlier, 0)
    return value
