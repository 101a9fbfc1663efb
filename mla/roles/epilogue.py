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

CHUNK_COLUMNS = 32
ZERO_BYTES = 16  # at a time, of a row that saw no key: rows are so aligned


@dataclass(frozen=True)
class Target:
    """Where the calling thread writes its half of its lane's row: byte address of the row, or 0; to the partial results?"""

    is_partial: Any
    row: Any


@cute.jit
def run(ctx: cutlass.Constexpr, work: cutlass.Constexpr, lane: Int32, row: Int64, tiles: Int32, row_sum: Float32):
    """Write one work item's result; `tiles` key tiles lie behind its end. row: `row_address` of the lane's row."""
    plan, config = ctx.plan, ctx.config
    factor = cutlass.select_(work.slot < 0, ctx.args.output_scale, Float32(2.0**config.partial_scale_log2)) / row_sum
    # The largest probability of a row that sees a key is 1 or more, so its sum is 0 iff it sees none; NaN sums propagate.
    if row_sum == Float32(0.0):
        write_zeros(ctx, Target(work.slot >= 0, row), lane)
        row = Int64(0)
    if work.phases.num_tiles > 0:
        for half in cutlass.range(plan.tile.output_halves, unroll=1):
            write_half(
                ctx, Target(work.slot >= 0, row), lane, half, (tiles - 1) * plan.tile.output_halves + half, factor
            )


@cute.jit
def row_address(ctx: cutlass.Constexpr, work: cutlass.Constexpr, row: Int32):
    """Byte address of the result of a row of this CTA's: partial result or output; 0 past the request's last row."""
    position = work.first_row + row
    address = Int64(0)
    if work.slot >= 0:
        address = ctx.args.partial_out[work.slot, ctx.first_cta_row + row, None].iterator.toint()
    elif position < work.mask.num_rows:
        address = ctx.args.out[(*work.row_coord(position), None)].iterator.toint()
    return address


@cute.jit
def write_zeros(ctx: cutlass.Constexpr, target: cutlass.Constexpr, lane: Int32):
    """The row of a lane that saw no key."""
    config, plan = ctx.config, ctx.plan
    element_bytes = cutlass.select_(target.is_partial, Int32(config.partial_bytes), Int32(config.output_bytes))
    zeros = cute.make_rmem_tensor(ZERO_BYTES // 4, Int32)
    zeros.fill(0)
    if target.row != 0:
        for half in cutlass.range(plan.tile.output_halves, unroll=1):
            start = target.row + accumulator.output_dim(lane, half, 0) * element_bytes
            for offset in cutlass.range(0, plan.tmem.half_columns * element_bytes, ZERO_BYTES, unroll=1):
                operands.store_aligned(start + offset, zeros, ZERO_BYTES)


@cute.jit
def write_half(
    ctx: cutlass.Constexpr,
    target: cutlass.Constexpr,
    lane: Int32,
    half: Int32,
    held: Int32,
    factor: Float32,
):
    """One half of O, number `held` of edge `output`, given back as soon as all of it is in registers.

    A loop of small chunks, not unrolled: what runs once per work item is mostly not in the instruction cache. Each thread
    writes whole sectors of its own row: neighbours that exchanged theirs, to write lines together, took longer to do so.
    """
    output, columns = ctx.pipe("output"), ctx.plan.tmem.half_columns
    address = accumulator.output_address(ctx, half) + (lane // 32 * 32 << 16)
    output.wait_full(held)
    operands.fence_after_sync()
    for column in cutlass.range(0, columns, CHUNK_COLUMNS, unroll=1):
        values = softmax.scaled(accumulator.load_columns(address + column, CHUNK_COLUMNS), factor)
        if column + CHUNK_COLUMNS == columns:
            operands.fence_before_sync()
            output.warp_arrive_empty(held)
        store(ctx, target, accumulator.output_dim(lane, half, column), values)


@cute.jit
def store(ctx: cutlass.Constexpr, target: cutlass.Constexpr, dim: Int32, values: cutlass.Constexpr):
    """Values of O, from latent dimension `dim` on, to the output or to the partial result."""
    config = ctx.config
    if target.row != 0:
        if target.is_partial:
            words = words_of(values, config.partial_dtype)
            operands.store_aligned(target.row + dim * config.partial_bytes, words, operands.SECTOR_BYTES)
        else:
            words = words_of(values, config.output_dtype)
            operands.store_sectors(
                target.row + dim * config.output_bytes, words, target.row % operands.SECTOR_BYTES == 0
            )


def words_of(values: list[Any], dtype: str) -> Any:
    """fp32 values in `dtype`, as a register tensor of 32-bit words."""
    return operands.register_words(values) if dtype == "fp32" else operands.converted_words(values, dtype)
