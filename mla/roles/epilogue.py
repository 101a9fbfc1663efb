"""Epilogue, run by the correction warps: O / row sum to global memory.

Consumes: row sums, edge `output` (O of the work item's last key tile). Produces: out (times output_scale), or a partial
result where other CTAs have the rest of the row tile. Rows that saw no key are written as zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from mla import operands, softmax
from mla.paths import accumulator

PAIR_BYTES = 2 * operands.SECTOR_BYTES  # of a row, that two lanes write together


@dataclass(frozen=True)
class Target:
    """Where the calling thread and its neighbour write the rows of their lanes.

    is_partial: to the partial results. even_row, odd_row: byte addresses, see operands.store_pair.
    """

    is_partial: Any
    even_row: Any
    odd_row: Any


@cute.jit
def run(ctx: cutlass.Constexpr, work: cutlass.Constexpr, lane: Int32, tiles: Int32, row_sum: Float32):
    """Write one work item's result; `tiles` key tiles lie behind its end."""
    plan, config = ctx.plan, ctx.config
    # The largest probability of a row that sees a key is 1 or more, so its sum is 0 iff it sees none; NaN sums propagate.
    is_empty = row_sum == Float32(0.0)
    factor = cutlass.select_(work.slot < 0, ctx.args.output_scale, Float32(2.0**config.partial_scale_log2)) / row_sum
    own_row = row_address(ctx, work, accumulator.row_of_lane(lane))
    other_row, is_odd = operands.other_lane_long(own_row), lane % 2 == 1
    target = Target(
        work.slot >= 0, cutlass.select_(is_odd, other_row, own_row), cutlass.select_(is_odd, own_row, other_row)
    )
    for half in cutlass.range(plan.tile.output_halves, unroll=1):
        held = (tiles - 1) * plan.tile.output_halves + half
        write_half(ctx, target, lane, half, held, work.phases.num_tiles > 0, factor, is_empty)


@cute.jit
def row_address(ctx: cutlass.Constexpr, work: cutlass.Constexpr, row: Int32):
    """Byte address of the result of a row of this CTA's: partial result or output; 0 past the request's last row."""
    position = work.first_row + row
    address = Int64(0)
    if work.slot >= 0:
        address = ctx.args.partial_out[work.slot, ctx.first_cta_row + row, None].iterator.toint()
    elif position < work.mask.num_rows:
        address = ctx.args.out[(*work.place(position), None)].iterator.toint()
    return address


@cute.jit
def write_half(
    ctx: cutlass.Constexpr,
    target: cutlass.Constexpr,
    lane: Int32,
    half: Int32,
    held: Int32,
    has_tiles: cutlass.Boolean,
    factor: Float32,
    is_empty: cutlass.Boolean,
):
    """One half of O, number `held` of edge `output`, given back as soon as all of it is in registers; zeros where the work
    item has no key tiles.

    A loop of the smallest chunk, not unrolled: what runs once per work item is mostly not in the instruction cache.
    """
    output, columns = ctx.pipe("output"), ctx.plan.tmem.half_columns
    address = accumulator.output_address(ctx, half) + (lane // 32 * 32 << 16)
    if has_tiles:
        output.wait_full(held)
        operands.fence_after_sync()
    chunk = PAIR_BYTES // min(ctx.config.output_bytes, ctx.config.partial_bytes)
    for column in cutlass.range(0, columns, chunk, unroll=1):
        values = cute.make_rmem_tensor(chunk, Float32)
        values.fill(0.0)
        if has_tiles:
            loaded = softmax.scaled(accumulator.load_columns(address + column, chunk), factor)
            for i in cutlass.range_constexpr(chunk):
                values[i] = cutlass.select_(is_empty, Float32(0.0), loaded[i])
            if column + chunk == columns:
                operands.fence_before_sync()
                output.warp_arrive_empty(held)
        store(ctx, target, lane, half, column, [values[i] for i in range(chunk)])


@cute.jit
def store(
    ctx: cutlass.Constexpr,
    target: cutlass.Constexpr,
    lane: Int32,
    half: Int32,
    column: Int32,
    values: cutlass.Constexpr,
):
    """Values of a half of O, from its `column` on, to the output or to the partial result."""
    config, dim = ctx.config, accumulator.output_dim(lane, half, column)
    if target.is_partial:
        words = words_of(values, config.partial_dtype)
        operands.store_pair(target.even_row, target.odd_row, dim * config.partial_bytes, words)
    else:
        words = words_of(values, config.output_dtype)
        operands.store_pair(target.even_row, target.odd_row, dim * config.output_bytes, words)


def words_of(values: list[Any], dtype: str) -> Any:
    """fp32 values in `dtype`, as a register tensor of 32-bit words."""
    return operands.register_words(values) if dtype == "fp32" else operands.converted_words(values, dtype)
