"""Epilogue, run by the correction warps: O / row sum * output_scale to global memory.

Consumes: row sums (shared), O (TMEM). Produces: out. Rows that saw no key are written as zeros.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from mla import operands, softmax
from mla.context import Context
from mla.paths import narrow

CHUNK_COLUMNS = 32


@cute.jit
def run(ctx: cutlass.Constexpr, lane: Int32):
    plan, config = ctx.plan, ctx.config
    num_tiles = ctx.unit.phases.num_tiles
    row = narrow.row_of_lane(lane)
    row_sum = ctx.smem_floats(plan.row_sum_offset, plan.tile_rows)[row]
    # The largest probability of a row that sees a key is 1, so its sum is 0 iff it sees none; NaN sums propagate.
    is_empty = row_sum == Float32(0.0)
    factor = ctx.args.output_scale / row_sum
    if num_tiles > 0:
        ctx.pipe("probs").wait_drained(num_tiles - 1)
        operands.fence_after_sync()
    for column in cutlass.range_constexpr(0, plan.output_columns, CHUNK_COLUMNS):
        values = narrow.load_columns(ctx.tmem + (plan.output_column + column) + (lane // 32 * 32 << 16), CHUNK_COLUMNS)
        scaled = [cutlass.select_(is_empty, Float32(0.0), value) for value in softmax.scaled(values, factor)]
        store_chunk(ctx, lane, column, operands.converted_words(scaled, config.output_dtype))


@cute.jit
def store_chunk(ctx: cutlass.Constexpr, lane: Int32, column: cutlass.Constexpr, words: cute.Tensor):
    config = ctx.config
    position = ctx.unit.first_row + narrow.row_of_lane(lane)
    if position < config.num_rows:
        target = ctx.args.out[ctx.unit.batch, position // config.num_heads, position % config.num_heads, None]
        address = target.iterator.toint() + narrow.output_dim(lane, column) * config.output_bytes
        pointer = cute.make_ptr(Int32, address, cutlass.AddressSpace.gmem, assumed_align=16)
        operands.store_words(pointer, words, 0, cute.size(words))
