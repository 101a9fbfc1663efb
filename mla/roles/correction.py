"""Correction role: rescales O when a row's maximum has grown, then runs the epilogue.

Consumes: edges `work`, `scale`, `output`: each half of O, of every key tile, is given back to the tensor core here or in
the epilogue. Warps: four, one TMEM lane per thread. Registers: two chunks of columns of O.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.experimental import primitives as prims

from mla import operands, softmax
from mla.context import has_work, read_work, release_work
from mla.paths import accumulator
from mla.roles import epilogue

CHUNK_COLUMNS = 64


@cute.jit
def run(ctx: cutlass.Constexpr):
    item, tiles = Int32(0), Int32(0)
    is_open = has_work(ctx, item)
    while is_open:
        tiles = correct_item(ctx, item, tiles)
        item = item + 1
        is_open = has_work(ctx, item)


@cute.jit
def correct_item(ctx: cutlass.Constexpr, item: Int32, tiles: Int32):
    """One work item. Returns the number of key tiles behind it. `scale` counts one more per item than tiles."""
    plan, scale = ctx.plan, ctx.pipe("scale")
    work = read_work(ctx, item)
    release_work(ctx, item)
    num_tiles = work.phases.num_tiles
    lane = cute.arch.thread_idx()[0] - plan.warps.correction[0] * 32
    scales = ctx.smem_floats(plan.smem.scale_offset, plan.smem.scale_stages * plan.tile.cta_rows)
    row = accumulator.row_of_lane(lane)
    address = epilogue.row_address(ctx, work, row)  # while nobody waits for it
    for index in cutlass.range(num_tiles, unroll=1):
        scale_count = tiles + item + index
        scale.wait_full(scale_count)
        factor = scales[scale.stage(scale_count) * plan.tile.cta_rows + row]
        scale.warp_arrive_empty(scale_count)
        if index > 0:
            rescale(ctx, tiles + (index - 1), lane, factor)
    scale_count = tiles + item + num_tiles
    scale.wait_full(scale_count)
    row_sum = scales[scale.stage(scale_count) * plan.tile.cta_rows + row]
    scale.warp_arrive_empty(scale_count)
    epilogue.run(ctx, work, lane, address, tiles + num_tiles, row_sum)
    return tiles + num_tiles


@cute.jit
def rescale(ctx: cutlass.Constexpr, count: Int32, lane: Int32, factor: Float32):
    """O *= factor between P*V(count) and the next, half by half; skipped where no row of the warp has a new maximum."""
    plan, output = ctx.plan, ctx.pipe("output")
    is_current = cute.arch.vote_all_sync(factor == Float32(1.0))
    for half in cutlass.range(plan.tile.output_halves, unroll=1):
        held = count * plan.tile.output_halves + half
        output.wait_full(held)
        operands.fence_after_sync()
        if not is_current:
            multiply_columns(
                accumulator.output_address(ctx, half) + (lane // 32 * 32 << 16), plan.tmem.half_columns, factor
            )
        operands.fence_before_sync()
        output.warp_arrive_empty(held)


def multiply_columns(address: Any, count: int, factor: Any) -> None:
    """`count` columns of the calling thread's TMEM lane, times `factor`."""
    for column, values in accumulator.stream_columns(address, count, CHUNK_COLUMNS):
        accumulator.store_columns(address + column, softmax.scaled(values, factor))
    prims.tcgen05_wait("store")
