"""Softmax role: scores to probabilities, row maxima and sums.

Consumes: edge `score`. Produces: edges `probs`, `scale`; the LSE. Warps: four (one TMEM lane per thread; the threads
of lanes r and r + 64 share row r). Registers: half a tile's scores of one row.
"""

from __future__ import annotations

import math

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from mla import operands, softmax
from mla.context import Context
from mla.paths import narrow

EXCHANGE_BARRIER = 1  # named barrier of the softmax warps


@cute.jit
def run(ctx: cutlass.Constexpr):
    phases, unit = ctx.unit.phases, ctx.unit
    mask, plan = ctx.scheduler.mask, ctx.plan
    lane = cute.arch.thread_idx()[0] - ctx.plan.warps.softmax[0] * 32
    row = narrow.row_of_lane(lane)
    bound = mask.k_bound(unit.first_row + row, ctx.seq_len_k)
    row_max, row_sum = Float32(softmax.NEG_INF), Float32(0.0)

    for count in cutlass.range(0, phases.bulk_end, unroll=1):
        row_max, row_sum = tile(ctx, count, lane, bound, row_max, row_sum, False)
    for count in cutlass.range(phases.bulk_end, phases.num_tiles - 1, unroll=1):
        row_max, row_sum = tile(ctx, count, lane, bound, row_max, row_sum, True)
    if phases.num_tiles > 0:
        if phases.final_straddles:
            row_max, row_sum = tile(ctx, phases.num_tiles - 1, lane, bound, row_max, row_sum, True)
        else:
            row_max, row_sum = tile(ctx, phases.num_tiles - 1, lane, bound, row_max, row_sum, False)
    finish(ctx, lane, row_max, row_sum)


@cute.jit
def tile(
    ctx: cutlass.Constexpr,
    count: Int32,
    lane: Int32,
    bound: Int32,
    row_max: Float32,
    row_sum: Float32,
    is_masked: cutlass.Constexpr,
):
    """One key tile. Returns the row's new (maximum, this thread's part of the sum)."""
    plan = ctx.plan
    score, scale = ctx.pipe("score"), ctx.pipe("scale")
    half_tokens = plan.score_columns

    score.wait_full(count)
    operands.fence_after_sync()
    lanes = lane // 32 * 32 << 16
    scores = narrow.load_columns(narrow.score_address(ctx, count) + lanes, half_tokens)
    operands.fence_before_sync()
    score.arrive_empty(count)

    values = softmax.scaled(scores, ctx.args.scale_log2)
    if cutlass.const_expr(is_masked):
        first_token = count * plan.tile_tokens + narrow.half_of_lane(lane) * half_tokens
        values = softmax.masked(values, bound - first_token)
    local_max = cute.arch.fmax(row_max, softmax.maximum(values))
    new_max = exchange(ctx, count, lane, local_max)[0]
    new_max = cute.arch.fmax(local_max, new_max)
    reference = softmax.reference_maximum(new_max)
    rescale = cute.math.exp2(row_max - reference, fastmath=True)

    scale.wait_empty(count)
    scales = ctx.smem_floats(plan.scale_offset, plan.scale_stages * plan.tile_rows)
    if narrow.half_of_lane(lane) == 0:
        scales[scale.stage(count) * plan.tile_rows + narrow.row_of_lane(lane)] = rescale
    scale.arrive_full(count)

    probs = softmax.probabilities(values, reference - ctx.config.probs_scale_log2)
    store_probabilities(ctx, count, lane, probs)
    return new_max, row_sum * rescale + softmax.total(probs)


@cute.jit
def exchange(ctx: cutlass.Constexpr, count: Int32, lane: Int32, value: Float32):
    """Give `value` to the thread that holds the row's other half; returns (its value,).

    Two buffers alternate: a thread that has passed barrier i + 1 knows that all have read buffer i.
    """
    plan = ctx.plan
    cells = ctx.smem_floats(plan.row_exchange_offset, 2 * 2 * plan.tile_rows)
    buffer = count % 2 * (2 * plan.tile_rows)
    cells[buffer + lane] = value
    cute.arch.barrier(barrier_id=EXCHANGE_BARRIER, number_of_threads=plan.warps.softmax_threads)
    return (cells[buffer + (lane ^ plan.tile_rows)],)


@cute.jit
def store_probabilities(ctx: cutlass.Constexpr, count: Int32, lane: Int32, probs: cutlass.Constexpr):
    """P(count) to shared memory at the operand's precision: K-major rows of 128 bytes, 16-byte units swizzled."""
    plan = ctx.plan
    edge = ctx.pipe("probs")
    row, half = narrow.row_of_lane(lane), narrow.half_of_lane(lane)
    words = operands.converted_words(probs, ctx.config.dtype)
    unit_words = 4
    units = len(probs) * ctx.config.element_bytes // 16
    edge.wait_empty(count)
    for unit in cutlass.range_constexpr(units):
        swizzled = (half * units + unit) ^ (row % 8)
        offset = plan.probs_offset + row * operands.SWIZZLE_BYTES + swizzled * 16
        operands.store_words(ctx.smem_pointer(Int32, offset, 16), words, unit * unit_words, unit_words)
    cute.arch.fence_proxy("async.shared", space="cta")
    edge.arrive_full(count)


@cute.jit
def finish(ctx: cutlass.Constexpr, lane: Int32, row_max: Float32, row_sum: Float32):
    """Denominators to the epilogue; log-sum-exp to global memory."""
    plan, config, num_tiles = ctx.plan, ctx.config, ctx.unit.phases.num_tiles
    scale = ctx.pipe("scale")
    row = narrow.row_of_lane(lane)
    row_sum = row_sum + exchange(ctx, num_tiles, lane, row_sum)[0]
    row_sums = ctx.smem_floats(plan.row_sum_offset, plan.tile_rows)
    scale.wait_empty(num_tiles)
    if narrow.half_of_lane(lane) == 0:
        row_sums[row] = row_sum
    scale.arrive_full(num_tiles)
    if cutlass.const_expr(config.lse_base is not None):
        position = ctx.unit.first_row + row
        lse_out = ctx.args.lse
        if (narrow.half_of_lane(lane) == 0) & (position < config.num_rows):
            lse = row_max + cute.math.log2(row_sum, fastmath=True) - config.probs_scale_log2
            if cutlass.const_expr(config.lse_base == "e"):
                lse = lse * math.log(2.0)
            lse = cutlass.select_(row_sum == Float32(0.0), Float32(softmax.NEG_INF), lse)
            lse_out[ctx.unit.batch, position // config.num_heads, position % config.num_heads] = lse
