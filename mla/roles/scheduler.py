"""Scheduler role: finds the share of the batch of this CTA, or pair of CTAs, and announces it, one work item at a time.

Consumes: seq_lens (global). Produces: edge `work`. Warps: one. Registers: few.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla import split_kv
from mla.arch import WARP_SIZE
from mla.context import Context, work_cells
from mla.line import lane_request, line_length, warp_sum


@cute.jit
def run(ctx: cutlass.Constexpr):
    requests = ctx.requests
    batch_size = requests.count
    total = line_length(requests, batch_size)
    share = split_kv.share_tiles(total, cute.arch.grid_dim()[0] // ctx.plan.cluster_size)
    share_begin = unit_index(ctx) * share
    share_end = cutlass.min(share_begin + share, total)

    item, position = Int32(0), Int32(0)
    for first in cutlass.range(0, batch_size, WARP_SIZE, unroll=1):
        if position < share_end:
            of_lane, cost = lane_request(requests, batch_size, first)
            if position + warp_sum(cost) > share_begin:
                item = announce_requests(ctx, item, first, of_lane, cost, position, share_begin, share_end)
            position = position + warp_sum(cost)
    announce(ctx, item, (Int32(-1),) + (Int32(0),) * 5)


def unit_index(ctx: Context) -> Any:
    """Number of this CTA, or pair of CTAs, in the grid. Both CTAs of a pair find the same work."""
    return cute.arch.block_idx()[0] // ctx.plan.cluster_size


@cute.jit
def announce_requests(
    ctx: cutlass.Constexpr,
    item: Int32,
    first: Int32,
    of_lane: cutlass.Constexpr,
    cost: Int32,
    position: Int32,
    share_begin: Int32,
    share_end: Int32,
):
    """Announce what the share takes of requests [first, first + 32), whose line starts at `position`.

    `of_lane` and `cost` are one request per lane. Returns the next item number.
    """
    for lane in cutlass.range(WARP_SIZE, unroll=1):
        request = of_lane.of_lane(lane)
        request_cost = cute.arch.shuffle_sync(cost, lane)
        if (position < share_end) & (position + request_cost > share_begin):
            start = position
            scheduler = ctx.scheduler.of_request(request.seq_len_q)
            for row_tile in cutlass.range(scheduler.row_tiles, unroll=1):
                tile_cost = scheduler.cost(row_tile, request.seq_len_k)
                taken = split_kv.take(start, tile_cost, share_begin, share_end)
                if taken.begin < taken.end:
                    slot = split_kv.partial_slot(unit_index(ctx), taken.begin)
                    is_whole = (taken.begin == 0) & (taken.end == tile_cost)
                    slot = cutlass.select_(is_whole, Int32(-1), slot)
                    record = (first + lane, row_tile, taken.begin, taken.end, slot, request.seq_len_k)
                    if cutlass.const_expr(ctx.config.ragged_query):
                        record = (*record, request.query_begin, request.seq_len_q)
                    announce(ctx, item, record)
                    item = item + 1
                start = start + tile_cost
        position = position + request_cost
    return item


@cute.jit
def announce(ctx: cutlass.Constexpr, item: Int32, record: cutlass.Constexpr):
    """Write `record` to ring entry `item` once every warp has released the one before it.

    record: the integers of memory_plan.WORK_RECORD_INTS; those missing at the end are not read.
    """
    work = ctx.pipe("work")
    cells = work_cells(ctx, item)
    work.wait_empty(item)
    with cute.arch.elect_one():
        for i, value in enumerate(record):
            cells[i] = value
        work.arrive_full(item)
    cute.arch.sync_warp()
