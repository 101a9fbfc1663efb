"""Epilogue, run by the correction warps: O / row sum to global memory.

Consumes: row sums, edge `output` (O of the work item's last key tile). Produces: out (times output_scale), or a fp32
partial result where other CTAs have the rest of the row tile. Rows that saw no key are written as zeros.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from mla import operands, softmax
from mla.config import ELEMENT_BYTES
from mla.paths import accumulator

CHUNK_COLUMNS = 64


@cute.jit
def run(ctx: cutlass.Constexpr, work: cutlass.Constexpr, lane: Int32, tiles: Int32, row_sum: Float32):
    """Write one work item's result; `tiles` key tiles lie behind its end."""
    plan = ctx.plan
    # The largest probability of a row that sees a key is 1, so its sum is 0 iff it sees none; NaN sums propagate.
    is_empty = row_sum == Float32(0.0)
    factor = cutlass.select_(work.slot < 0, ctx.args.output_scale, Float32(1.0)) / row_sum
    if work.phases.num_tiles > 0:
        for half in cutlass.range_constexpr(plan.output_halves):
            write_half(ctx, work, lane, half, (tiles - 1) * plan.output_halves + half, factor, is_empty)
    else:
        for column in cutlass.range(0, plan.output_columns, CHUNK_COLUMNS, unroll=1):
            store(ctx, work, lane, column, None)


@cute.jit
def write_half(
    ctx: cutlass.Constexpr,
    work: cutlass.Constexpr,
    lane: Int32,
    half: cutlass.Constexpr,
    held: Int32,
    factor: Float32,
    is_empty: cutlass.Boolean,
):
    """One half of O, number `held` of edge `output`, given back as soon as all of it is in registers."""
    output, columns = ctx.pipe("output"), ctx.plan.half_columns
    output.wait_full(held)
    operands.fence_after_sync()
    address = accumulator.output_address(ctx, half) + (lane // 32 * 32 << 16)
    for column, values in accumulator.stream_columns(address, columns, CHUNK_COLUMNS):
        if cutlass.const_expr(column + CHUNK_COLUMNS == columns):
            operands.fence_before_sync()
            output.warp_arrive_empty(held)
        scaled = [cutlass.select_(is_empty, Float32(0.0), value) for value in softmax.scaled(values, factor)]
        store(ctx, work, lane, half * columns + column, scaled)


@cute.jit
def store(
    ctx: cutlass.Constexpr, work: cutlass.Constexpr, lane: Int32, column: cutlass.Constexpr, values: cutlass.Constexpr
):
    """CHUNK_COLUMNS values of O, from `column` on, to the output or to the partial result. None: zeros."""
    position = work.first_row + accumulator.row_of_lane(lane)
    if work.slot >= 0:
        store_partial(ctx, work.slot, lane, column, words_of(values, None))
    elif position < work.mask.num_rows:
        store_output(ctx, work.place(position), lane, column, words_of(values, ctx.config.output_dtype))


def words_of(values: list[Any] | None, dtype: str | None) -> Any:
    """CHUNK_COLUMNS fp32 values in `dtype`, or as they are, as a register tensor of 32-bit words; zeros for None."""
    if values is None:
        words = cute.make_rmem_tensor(CHUNK_COLUMNS * ELEMENT_BYTES.get(dtype, 4) // 4, Int32)
        words.fill(0)
        return words
    return operands.register_words(values) if dtype is None else operands.converted_words(values, dtype)


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
