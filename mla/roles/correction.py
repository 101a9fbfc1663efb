"""Correction role: rescales O when a row's maximum has grown, then runs the epilogue.

Consumes: edges `scale`, `probs` (drained: P*V is done). Produces: edge `rescaled`. Warps: four, one TMEM lane per
thread. Registers: 32 columns of O at a time.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.experimental import primitives as prims

from mla import operands, softmax
from mla.context import Context
from mla.paths import narrow
from mla.roles import epilogue

CHUNK_COLUMNS = 32


@cute.jit
def run(ctx: cutlass.Constexpr):
    num_tiles = ctx.unit.phases.num_tiles
    scale = ctx.pipe("scale")
    lane = cute.arch.thread_idx()[0] - ctx.plan.warps.correction[0] * 32
    for count in cutlass.range(num_tiles, unroll=1):
        scale.wait_full(count)
        factor = ctx.smem_floats(ctx.plan.scale_offset, ctx.plan.scale_stages * ctx.plan.tile_rows)[
            scale.stage(count) * ctx.plan.tile_rows + narrow.row_of_lane(lane)
        ]
        scale.arrive_empty(count)
        if count > 0:
            rescale(ctx, count, lane, factor)
    scale.wait_full(num_tiles)
    epilogue.run(ctx, lane)


@cute.jit
def rescale(ctx: cutlass.Constexpr, count: Int32, lane: Int32, factor: Float32):
    """O *= factor once P*V(count - 1) is complete; skipped where no row of the warp has a new maximum."""
    ctx.pipe("probs").wait_drained(count - 1)
    operands.fence_after_sync()
    if not cute.arch.vote_all_sync(factor == Float32(1.0)):
        address = ctx.tmem + ctx.plan.output_column + (lane // 32 * 32 << 16)
        for column in cutlass.range_constexpr(0, ctx.plan.output_columns, CHUNK_COLUMNS):
            values = narrow.load_columns(address + column, CHUNK_COLUMNS)
            narrow.store_columns(address + column, softmax.scaled(values, factor))
        prims.tcgen05_wait("store")
    operands.fence_before_sync()
    ctx.pipe("rescaled").arrive_full(count - 1)
