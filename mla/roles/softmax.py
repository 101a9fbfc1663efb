"""Softmax role: scores to probabilities, row maxima and sums.

Consumes: edges `work`, `score`. Produces: edges `probs`, `scale`; the LSE. Warps: four (one TMEM lane per thread; the
threads of lanes r and r + 64 share row r). Registers: half a tile's scores of one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64
from cutlass.experimental import primitives as prims

from mla import operands, softmax
from mla.arch import WARP_SIZE
from mla.causal_mask import WORD_BITS, draft_window, minimum
from mla.config import INT_BYTES, TREE_WORD_BITS
from mla.context import Context, WorkItem, has_work, read_work, release_work
from mla.paths import accumulator
from mla.plan.smem import PROBS_PARTS
from mla.plan.tile import CHUNK_BYTES
from mla.roles.load import drain

EXCHANGE_BARRIER = 1  # the first of the named barriers of softmax warps
UNIT_BYTES = 16  # of P, that a thread moves at a time
UNIT_WORDS = UNIT_BYTES // INT_BYTES


@dataclass(frozen=True)
class Edges:
    """What of a key tile is masked: keys below `start`, and from `bound` on. None: the tile is known to have none."""

    bound: Any = None
    start: Any = None


@cute.jit
def run(ctx: cutlass.Constexpr):
    item, tiles = Int32(0), Int32(0)
    is_open = has_work(ctx, item)
    while is_open:
        tiles = softmax_loop(ctx, item, tiles)
        item = item + 1
        is_open = has_work(ctx, item)
    if cutlass.const_expr(not ctx.plan.tile.probs_over_scores):
        drain(ctx, "probs", tiles)


@cute.jit
def softmax_loop(ctx: cutlass.Constexpr, item: Int32, tiles: Int32):
    """One work item. Returns the number of key tiles behind it."""
    work = read_work(ctx, item)
    release_work(ctx, item)
    phases = work.phases
    lane = cute.arch.thread_idx()[0] - ctx.plan.warps.softmax[0] * 32
    row = work.first_row + accumulator.row_of_lane(lane)
    bound = work.mask.k_bound(row, work.request.seq_len_k)
    row_max, row_sum = Float32(softmax.NEG_INF), Float32(0.0)
    shift = tiles - phases.begin

    # The final tile is one more of those without mask code, or of those with it. Where no mask code runs, the largest
    # score is that of the largest product, which a negative scale turns round.
    is_turned = ctx.args.scale_log2 < Float32(0.0)
    unmasked_end = cutlass.select_(phases.final_straddles, phases.bulk_end, phases.end)
    unmasked_end = cutlass.select_(is_turned, phases.window_end, unmasked_end)
    if cutlass.const_expr(ctx.config.sliding_window):
        edges = Edges(bound, work.mask.window_start(row, work.request.seq_len_k))
        for tile in cutlass.range(phases.begin, phases.window_end, unroll=1):
            row_max, row_sum = softmax_step(ctx, tile, tile + shift, item, work, lane, edges, row_max, row_sum)
    for tile in cutlass.range(phases.window_end, unmasked_end, unroll=1):
        row_max, row_sum = softmax_step(ctx, tile, tile + shift, item, work, lane, None, row_max, row_sum)
    for tile in cutlass.range(unmasked_end, phases.end, unroll=1):
        row_max, row_sum = softmax_step(ctx, tile, tile + shift, item, work, lane, Edges(bound), row_max, row_sum)
    finish(ctx, work, tiles + phases.num_tiles + item, lane, row_max, row_sum)
    return tiles + phases.num_tiles


@cute.jit
def softmax_step(
    ctx: cutlass.Constexpr,
    tile: Int32,
    count: Int32,
    item: Int32,
    work: cutlass.Constexpr,
    lane: Int32,
    edges: cutlass.Constexpr,
    row_max: Float32,
    row_sum: Float32,
):
    """Key tile `tile` in ring buffers `count`, masked at its `edges`. None: no row can have one there, and no mask code
    runs. Returns the row's new (maximum, this thread's part of the sum).
    """
    plan = ctx.plan
    score, scale = ctx.pipe("score"), ctx.args.scale_log2
    scale_count = count + item
    half_tokens = plan.tmem.score_columns

    score.wait_full(count)
    operands.fence_after_sync()
    lanes = lane // 32 * 32 << 16
    products = accumulator.load_columns(accumulator.score_address(ctx, count) + lanes, half_tokens)
    if cutlass.const_expr(not plan.tile.probs_over_scores):
        operands.fence_before_sync()
        score.warp_arrive_empty(count)

    if cutlass.const_expr(edges is not None):
        scores = softmax.scaled(products, scale)
        first_token = tile * plan.tile.tokens + accumulator.half_of_lane(lane) * half_tokens
        if cutlass.const_expr(ctx.config.tree_mask):
            scores = softmax.masked_by_bits(scores, draft_bits(ctx, work, lane, first_token, half_tokens))
        else:
            scores = softmax.masked(scores, edges.bound - first_token)
            if cutlass.const_expr(edges.start is not None):
                scores = softmax.masked_before(scores, edges.start - first_token)
        local_max = cute.arch.fmax(row_max, softmax.maximum(scores))
    else:
        local_max = cute.arch.fmax(row_max, softmax.maximum(products) * scale)
    largest = cute.arch.fmax(local_max, exchange(ctx, scale_count, lane, local_max))
    new_max = softmax.kept_maximum(row_max, largest, ctx.config.rescale_threshold)
    reference = softmax.reference_maximum(new_max)
    rescale = cute.math.exp2(row_max - reference, fastmath=True)
    write_scale(ctx, scale_count, lane, rescale)

    reference = reference - ctx.config.probs_scale_log2
    if cutlass.const_expr(edges is not None):
        probs = softmax.probabilities(scores, reference)
    else:
        probs = softmax.scaled_probabilities(products, scale, reference)
    words = operands.converted_words(probs, ctx.config.dtype)
    if cutlass.const_expr(plan.tile.probs_over_scores):
        store_over_scores(ctx, count, lane, words)
    else:
        store_probabilities(ctx, count, lane, words)
    return new_max, row_sum * rescale + softmax.total(probs)


@cute.jit
def write_scale(ctx: cutlass.Constexpr, scale_count: Int32, lane: Int32, value: Float32):
    """A value of every row to the correction warps, from the warps whose lanes hold the first half of each row."""
    plan, scale = ctx.plan, ctx.pipe("scale")
    if accumulator.half_of_lane(lane) == 0:
        scales = ctx.smem_floats(plan.smem.scale_offset, plan.smem.scale_stages * plan.tile.cta_rows)
        scale.wait_empty(scale_count)
        scales[scale.stage(scale_count) * plan.tile.cta_rows + accumulator.row_of_lane(lane)] = value
        scale.warp_arrive_full(scale_count)


def draft_bits(ctx: Context, work: WorkItem, lane: Any, first_token: Any, count: int) -> list[Any]:
    """Which of keys [first_token, first_token + count) the row of `lane` sees under its tree mask, 32 to a word."""
    mask = work.mask
    row = minimum(work.first_row + accumulator.row_of_lane(lane), mask.num_rows - 1)
    batch, token, _ = work.row_coord(row)
    tokens_words = ctx.args.tree_mask[batch, token, None]

    def word_of(index: Any) -> Any:
        return Int64(tokens_words[minimum(index, cute.size(tokens_words) - 1)]) & WORD_BITS

    first_draft = first_token - mask.first_draft(work.request.seq_len_k)
    firsts = range(0, count, TREE_WORD_BITS)
    return [Int32(draft_window(word_of, first_draft + first, mask.seq_len_q)) for first in firsts]


@cute.jit
def exchange(ctx: cutlass.Constexpr, scale_count: Int32, lane: Int32, value: Float32):
    """Give `value` to the thread that holds the row's other half, and return its value.

    Two warps hold the same rows, and meet at a barrier of their own. Two buffers alternate: a thread that has passed
    barrier i + 1 knows that both have read buffer i.
    """
    plan = ctx.plan
    cells = ctx.smem_floats(plan.smem.row_exchange_offset, 2 * 2 * plan.tile.cta_rows)
    buffer = scale_count % 2 * (2 * plan.tile.cta_rows)
    cells[buffer + lane] = value
    meet(lane)
    return cells[buffer + (lane ^ plan.tile.cta_rows)]


def meet(lane: Any) -> None:
    """Barrier of the two warps that hold the same rows."""
    rows = accumulator.row_of_lane(lane) // WARP_SIZE
    cute.arch.barrier(barrier_id=EXCHANGE_BARRIER + rows, number_of_threads=2 * WARP_SIZE)


@cute.jit
def store_over_scores(ctx: cutlass.Constexpr, count: Int32, lane: Int32, words: cutlass.Constexpr):
    """P(count) over S(count) in Tensor Memory, at the operand's precision: whole rows, in both lane halves, as an A of 64
    rows a CTA is read.
    """
    half_columns = cute.size(words)
    address = accumulator.score_address(ctx, count) + (lane // WARP_SIZE * WARP_SIZE << 16)
    own = accumulator.half_of_lane(lane)
    accumulator.store_words(address + own * half_columns, [words[i] for i in range(half_columns)])
    others = other_half(ctx, lane, words)
    accumulator.store_words(address + (1 - own) * half_columns, [others[i] for i in range(half_columns)])
    prims.tcgen05_wait("store")
    operands.fence_before_sync()
    ctx.pipe("probs").warp_arrive_full(count)


@cute.jit
def other_half(ctx: cutlass.Constexpr, lane: Int32, words: cutlass.Constexpr):
    """The words of the row's other thread, for `words`: through shared memory, a part of them at a time.

    One buffer is enough: before a thread writes its first part it has exchanged a maximum with the one that read the last.
    """
    total = cute.size(words)
    others = cute.make_rmem_tensor(total, Int32)
    for begin in cutlass.range_constexpr(0, total, total // PROBS_PARTS):
        units = range(begin, begin + total // PROBS_PARTS, UNIT_WORDS)
        if cutlass.const_expr(begin > 0):
            meet(lane)
        for number, first in enumerate(units):
            operands.store_words(unit_pointer(ctx, number, lane), words, first, UNIT_WORDS)
        meet(lane)
        for number, first in enumerate(units):
            operands.load_words(unit_pointer(ctx, number, lane ^ ctx.plan.tile.cta_rows), others, first, UNIT_WORDS)
    return others


def unit_pointer(ctx: Context, number: int, lane: Any) -> Any:
    """Where the thread of TMEM lane `lane` leaves its unit `number` for the other: those of all threads side by side."""
    unit = number * ctx.plan.warps.softmax_threads + lane
    return ctx.smem_pointer(Int32, ctx.plan.smem.probs_offset + unit * UNIT_BYTES, UNIT_BYTES)


@cute.jit
def store_probabilities(ctx: cutlass.Constexpr, count: Int32, lane: Int32, words: cutlass.Constexpr):
    """P(count) to shared memory at the operand's precision: K-major rows of 128 bytes, 16-byte units swizzled."""
    plan = ctx.plan
    edge = ctx.pipe("probs")
    row, half = accumulator.row_of_lane(lane), accumulator.half_of_lane(lane)
    half_bytes = cute.size(words) * INT_BYTES
    start = ctx.probs_offset(count) + half * half_bytes // CHUNK_BYTES * plan.tile.probs_chunk_bytes + row * CHUNK_BYTES
    first_unit = half * half_bytes % CHUNK_BYTES // UNIT_BYTES
    edge.wait_empty(count)
    for unit in cutlass.range_constexpr(half_bytes // UNIT_BYTES):
        offset = start + ((first_unit + unit) ^ (row % 8)) * UNIT_BYTES
        operands.store_words(ctx.smem_pointer(Int32, offset, UNIT_BYTES), words, unit * UNIT_WORDS, UNIT_WORDS)
    cute.arch.fence_proxy("async.shared", space="cta")
    edge.warp_arrive_full(count)


@cute.jit
def finish(
    ctx: cutlass.Constexpr, work: cutlass.Constexpr, scale_count: Int32, lane: Int32, row_max: Float32, row_sum: Float32
):
    """Denominators to the epilogue; log-sum-exp to global memory."""
    config, row = ctx.config, accumulator.row_of_lane(lane)
    row_sum = row_sum + exchange(ctx, scale_count, lane, row_sum)
    write_scale(ctx, scale_count, lane, row_sum)

    lse = row_max + cute.math.log2(row_sum, fastmath=True) - config.probs_scale_log2
    lse = cutlass.select_(row_sum == Float32(0.0), Float32(softmax.NEG_INF), lse)
    partial_lse, slot = ctx.args.partial_lse, work.slot
    if slot >= 0:
        if accumulator.half_of_lane(lane) == 0:
            partial_lse[slot, ctx.first_cta_row + row] = lse
    elif cutlass.const_expr(config.lse_base is not None):
        position = work.first_row + row
        lse_out = ctx.args.lse
        if (accumulator.half_of_lane(lane) == 0) & (position < work.mask.num_rows):
            lse_out[work.row_coord(position)] = softmax.in_base(lse, config.lse_base)
