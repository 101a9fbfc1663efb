"""MMA role: issues every tcgen05.mma, the scores of tile i+1 before the output of tile i.

Consumes: edges `work`, `query`, `keys`, `values`, `probs`. Produces: edges `score`, `output`; frees `query`, `keys`,
`values`, `probs` by commit. Warps: one, of which one thread issues; in a pair of CTAs only the leader's. Registers:
few.

A `tcgen05` fence follows the waits for roles that touched Tensor Memory (softmax, correction), none those for TMA.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla import operands
from mla.context import Context, has_work, read_work, release_work
from mla.memory_plan import CHUNK_BYTES, OUTPUT_N, mma_steps
from mla.paths import accumulator, path_of


@cute.jit
def run(ctx: cutlass.Constexpr):
    item, tiles = Int32(0), Int32(0)
    is_open = has_work(ctx, item)
    while is_open:
        tiles = multiply_item(ctx, item, tiles)
        item = item + 1
        is_open = has_work(ctx, item)


@cute.jit
def multiply_item(ctx: cutlass.Constexpr, item: Int32, tiles: Int32):
    """One work item. Returns the number of key tiles behind it."""
    work = read_work(ctx, item)
    release_work(ctx, item)
    if ctx.is_leader:
        multiply_tiles(ctx, work.phases, item, tiles)
    return tiles + work.phases.num_tiles


@cute.jit
def multiply_tiles(ctx: cutlass.Constexpr, phases: cutlass.Constexpr, item: Int32, tiles: Int32):
    query = ctx.pipe("query")
    query.wait_full(item)
    path_of(ctx.plan).begin_item(ctx)
    for tile in cutlass.range(phases.begin - 1, phases.end, unroll=1):
        count = tiles + (tile - phases.begin)
        if tile + 1 < phases.end:
            scores(ctx, count + 1)
        if tile >= phases.begin:
            output(ctx, count, phases.keys - tile * ctx.plan.tile_tokens, tile > phases.begin)
    with cute.arch.elect_one():
        path_of(ctx.plan).commit(query.empty_barrier(item))


@cute.jit
def scores(ctx: cutlass.Constexpr, count: Int32):
    """S(count) = Q K(count)^T, slot by slot as the keys arrive."""
    plan, keys, score = ctx.plan, ctx.pipe("keys"), ctx.pipe("score")
    score.wait_empty(count)
    operands.fence_after_sync()
    for number in cutlass.range_constexpr(plan.key_slots):
        slot = count * plan.key_slots + number
        keys.wait_full(slot)
        with cute.arch.elect_one():
            issue_scores(ctx, count, slot, number)
            if cutlass.const_expr(not plan.keys_are_values):
                path_of(plan).commit(keys.empty_barrier(slot))
    with cute.arch.elect_one():
        path_of(plan).commit(score.full_barrier(count))


@cute.jit
def output(ctx: cutlass.Constexpr, count: Int32, visible: Int32, accumulate: cutlass.Boolean):
    """O (+)= P(count) V(count) over the first `visible` tokens, a half of O at a time, so that the first is rescaled
    while the second is computed. accumulate: False starts O anew.
    """
    plan, probs, held = ctx.plan, ctx.pipe("probs"), ctx.pipe("output")
    ring = ctx.pipe(plan.value_edge)
    probs.wait_full(count)
    for half in cutlass.range_constexpr(plan.output_halves):
        held.wait_empty(count * plan.output_halves + half)
        operands.fence_after_sync()
        for number in cutlass.range_constexpr(len(plan.value_slots)):
            parts = plan.value_slots[number].halves
            if cutlass.const_expr(half in [part for part, _ in parts]):
                slot = count * len(plan.value_slots) + number
                if cutlass.const_expr(half == parts[0][0]):
                    ring.wait_full(slot)
                with cute.arch.elect_one():
                    issue_output(ctx, slot, number, half, visible, accumulate)
                    if cutlass.const_expr(half == parts[-1][0]):
                        path_of(plan).commit(ring.empty_barrier(slot))
        with cute.arch.elect_one():
            path_of(plan).commit(held.full_barrier(count * plan.output_halves + half))
    with cute.arch.elect_one():
        path_of(plan).commit(probs.empty_barrier(count))


def issue_scores(ctx: Context, count: Any, slot: Any, number: int) -> None:
    """The part of S(count) that lies in ring slot `slot`, the tile's number `number`. One thread."""
    plan, path = ctx.plan, path_of(ctx.plan)
    idesc = operands.instruction_descriptor(ctx.config.dtype, path.MMA_M, plan.tile_tokens, b_is_mn_major=False)
    address = ctx.smem + ctx.slot_offset("keys", slot)
    for span_number, span, offset in plan.key_slot_spans(number):
        keys = operands.smem_descriptor(address + offset, row_bytes=span.bytes)
        for step in mma_steps(span.bytes):
            path.multiply(
                ctx,
                accumulator.score_address(ctx, count),
                query_operand(ctx, span_number, step),
                operands.advance(keys, step),
                idesc,
                span_number > 0 or step > 0,
            )


def query_operand(ctx: Context, number: int, step: int) -> Any:
    """A operand: Q's span `number`, from byte `step` on, in Tensor Memory or in shared memory."""
    plan = ctx.plan
    if number < plan.query_tmem_spans:
        return operands.tmem_pointer(ctx.tmem + (plan.query_column + number * plan.span_columns + step // 4))
    offset = plan.query_offset + number * plan.query_chunk_bytes
    return operands.advance(operands.smem_descriptor(ctx.smem + offset), step)


@cute.jit
def issue_output(
    ctx: cutlass.Constexpr,
    slot: Int32,
    number: cutlass.Constexpr,
    half: cutlass.Constexpr,
    visible: Int32,
    accumulate: cutlass.Boolean,
):
    """P*V of one half of O with the values in ring slot `slot`, the tile's number `number`, in whole K steps. One
    thread.
    """
    plan, config = ctx.plan, ctx.config
    part = plan.value_slots[number]
    values = operands.smem_descriptor(ctx.smem + ctx.slot_offset(plan.value_edge, slot), plan.value_chunk_bytes)
    idesc = operands.instruction_descriptor(config.dtype, path_of(plan).MMA_M, OUTPUT_N, b_is_mn_major=True)
    for token in cutlass.range_constexpr(part.first_token, part.first_token + part.tokens, plan.mma_k):
        if visible > token:
            path_of(plan).multiply(
                ctx,
                accumulator.output_address(ctx, half),
                probs_operand(ctx, token),
                operands.advance(values, dict(part.halves)[half] + (token - part.first_token) * CHUNK_BYTES),
                idesc,
                accumulate | (token > 0),
            )


def probs_operand(ctx: Context, token: int) -> Any:
    """A operand: P from token `token` of the tile on, rows of 128 bytes."""
    plan = ctx.plan
    position = token * ctx.config.element_bytes
    chunk = position // CHUNK_BYTES * plan.probs_chunk_bytes
    return operands.advance(operands.smem_descriptor(ctx.smem + (plan.probs_offset + chunk)), position % CHUNK_BYTES)
