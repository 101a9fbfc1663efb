"""Epilogue, run by the correction warps: O / row sum to global memory.

Consumes: row sums, O (TMEM). Produces: out (times output_scale), or a fp32 partial result where other CTAs
have the rest of the row tile. Rows that saw no key are written as zeros.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from mla import operands, softmax
from mla.paths import accumulator

CHUNK_COLUMNS = 32


@cute.jit
def run(ctx: cutlass.Constexpr, work: cutlass.Constexpr, lane: Int32, tiles: Int32, row_sum: Float32):
    """Write one work item's result; `tiles` key tiles lie behind its end."""
    plan, config, slot = ctx.plan, ctx.config, work.slot
    num_tiles = work.phases.num_tiles
    position = work.first_row + accumulator.row_of_lane(lane)
    # The largest probability of a row that sees a key is 1, so its sum is 0 iff it sees none; NaN sums propagate.
    is_empty = row_sum == Float32(0.0)
    factor = cutlass.select_(slot < 0, ctx.args.output_scale, Float32(1.0)) / row_sum
    if num_tiles > 0:
        ctx.pipe("probs").wait_drained(tiles - 1)
        operands.fence_after_sync()
    for column in cutlass.range_constexpr(0, plan.output_columns, CHUNK_COLUMNS):
        values = accumulator.load_columns(ctx.tmem + (plan.output_column + column) + (lane // 32 * 32 << 16), CHUNK_COLUMNS)
        scaled = [cutlass.select_(is_empty, Float32(0.0), value) for value in softmax.scaled(values, factor)]
        if slot >= 0:
            store_partial(ctx, slot, lane, column, operands.register_words(scaled))
        elif position < work.mask.num_rows:
            store_output(ctx, work.place(position), lane, column, operands.converted_words(scaled, config.output_dtype))


@cute.jit
def store_output(
    ctx: cutlass.Constexpr, place: cutlass.Constexpr, lane: Int32, column: cutlass.Constexpr, words: cute.Tensor
):
    target = ctx.args.out[(*place, None)]
    operands.store_row(target, accumulator.output_dim(lane, column) * ctx.config.output_bytes, words)


@cute.jit
def store_partial(ctx: cutlass.Constexpr, slot: Int32, lane: Int32, column: cutlass.Constexpr, words: cute.Tensor):
    target = ctx.args.partial_out[slot, ctx.first_cta_row + accumulator.row_of_lane(lane), None]
    operands.store_row(target, accumulator.output_dim(lane, column) * 4, words)
