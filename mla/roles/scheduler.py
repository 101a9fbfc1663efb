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
    batch_size = cute.size(ctx.args.seq_lens)
    total = line_length(ctx.args.seq_lens, batch_size, ctx.scheduler)
    share = split_kv.share_tiles(total, cute.arch.grid_dim()[0] // ctx.plan.cluster_size)
    share_begin = unit_index(ctx) * share
    share_end = cutlass.min(share_begin + share, total)

    item, position = Int32(0), Int32(0)
    for first in cutlass.range(0, batch_size, WARP_SIZE, unroll=1):
        if position < share_end:
            length, cost = lane_request(ctx.args.seq_lens, batch_size, first, ctx.scheduler)
            if position + warp_sum(cost) > share_begin:
                item = announce_requests(ctx, item, first, length, cost, position, share_begin, share_end)
            position = position + warp_sum(cost)
    announce(ctx, item, Int32(-1), Int32(0), Int32(0), Int32(0), Int32(0), Int32(0))


def unit_index(ctx: Context) -> Any:
    """Number of this CTA, or pair of CTAs, in the grid. Both CTAs of a pair find the same work."""
    return cute.arch.block_idx()[0] // ctx.plan.cluster_size


@cute.jit
def announce_requests(
    ctx: cutlass.Constexpr,
    item: Int32,
    first: Int32,
    length: Int32,
    cost: Int32,
    position: Int32,
    share_begin: Int32,
    share_end: Int32,
):
    """Announce what the share takes of requests [first, first + 32), whose line starts at `position`.

    `length` and `cost` are one request per lane. Returns the next item number.
    """
    for lane in cutlass.range(WARP_SIZE, unroll=1):
        request_length = cute.arch.shuffle_sync(length, lane)
        request_cost = cute.arch.shuffle_sync(cost, lane)
        if (position < share_end) & (position + request_cost > share_begin):
            start = position
            for row_tile in cutlass.range(ctx.scheduler.row_tiles, unroll=1):
                tile_cost = ctx.scheduler.cost(row_tile, request_length)
                taken = split_kv.take(start, tile_cost, share_begin, share_end)
                if taken.begin < taken.end:
                    slot = split_kv.partial_slot(unit_index(ctx), taken.begin)
                    is_whole = (taken.begin == 0) & (taken.end == tile_cost)
                    slot = cutlass.select_(is_whole, Int32(-1), slot)
                    announce(ctx, item, first + lane, row_tile, request_length, taken.begin, taken.end, slot)
                    item = item + 1
                start = start + tile_cost
        position = position + request_cost
    return item


@cute.jit
def announce(
    ctx: cutlass.Constexpr,
    item: Int32,
    batch: Int32,
    row_tile: Int32,
    seq_len_k: Int32,
    begin: Int32,
    end: Int32,
    slot: Int32,
):
    """Write ring entry `item` once every warp has released the one before it."""
    work = ctx.pipe("work")
    cells = work_cells(ctx, item)
    work.wait_empty(item)
    with cute.arch.elect_one():
        cells[0] = batch
        cells[1] = row_tile
        cells[2] = seq_len_k
        cells[3] = begin
        cells[4] = end
        cells[5] = slot
        work.arrive_full(item)
    cute.arch.sync_warp()
