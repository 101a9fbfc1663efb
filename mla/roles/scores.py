"""Scores role: Q K of a key tile, slot by slot as its keys arrive, and Q's way to Tensor Memory.

Consumes: edges `work`, `query`, `keys`, `rope`, `order`. Produces: edge `score`; frees `query`, `rope` and what of `keys`
is not read again as values by commit. Warps: one, of which one thread issues; in a pair of CTAs only the leader's.
Registers: few.

The output role has a warp of its own (but see multiply.py): each waits for one thing at a time, and neither holds up the
other. A `tcgen05` fence follows the waits for roles that touched Tensor Memory (softmax), none those for TMA.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla import operands
from mla.context import Context
from mla.paths import accumulator, path_of
from mla.plan.barriers import ORDER_LAG
from mla.plan.tile import CHUNK_BYTES, KeySlot, mma_steps
from mla.roles import issue

COPY_BYTES = 16  # of a row, per tcgen05.cp
COPY_COLUMNS = COPY_BYTES // 4


def run(ctx: Context) -> None:
    issue.run(ctx, score_item)


@cute.jit
def score_item(ctx: cutlass.Constexpr, phases: cutlass.Constexpr, queries: Int32, tiles: Int32):
    """One work item; `queries` with keys, and `tiles` key tiles, are before it."""
    copy_query(ctx, queries, tiles)
    for tile in cutlass.range(phases.begin, phases.end, unroll=1):
        score_tile(ctx, queries, tiles + (tile - phases.begin), tile == phases.begin)
    path_of(ctx.plan).commit(ctx.pipe("query").empty_barrier(queries))


@cute.jit
def score_tile(ctx: cutlass.Constexpr, queries: Int32, count: Int32, is_first: cutlass.Boolean):
    """S(count). queries: work items with keys before this one. is_first: of the work item's tiles."""
    plan, score = ctx.plan, ctx.pipe("score")
    for key_slot in plan.tile.key_slots:
        ring = ctx.pipe(key_slot.edge)
        slot = plan.smem.rings[key_slot.edge].count(queries + 1, count, key_slot.number)
        ring.wait_full(slot)
        if cutlass.const_expr(key_slot.edge == "keys" and not plan.tile.probs_over_scores):
            if cutlass.const_expr(key_slot.number == 0):
                score.wait_empty(count)
                operands.fence_after_sync()
            take_turn(ctx, count, key_slot.number)
        if cutlass.const_expr(key_slot.spans[-1][0] >= plan.tmem.query_spans):
            if is_first:
                ctx.pipe("query").wait_full(queries)
        issue_scores(ctx, count, slot, key_slot)
        if cutlass.const_expr(key_slot.edge != plan.tile.value_edge):
            path_of(plan).commit(ring.empty_barrier(slot))
    path_of(plan).commit(score.full_barrier(count))


@cute.jit
def take_turn(ctx: cutlass.Constexpr, count: Int32, number: cutlass.Constexpr):
    """Wait with slot `number` of the keys until P V of an earlier tile's half of O is issued, the slots shared out among
    the halves. The tensor core works in the order of issue: a tile's scores all at once would stand in front of a half
    of O that has just been given back, for which everybody waits, while nobody waits for them yet.
    """
    plan = ctx.plan
    slots = plan.smem.rings["keys"].tile_slots // plan.tile.output_halves
    if cutlass.const_expr(number % slots == 0):
        half = (count - plan.tmem.score_stages) * plan.tile.output_halves + number // slots - ORDER_LAG
        if half >= 0:
            ctx.pipe("order").wait_full(half)


@cute.jit
def copy_query(ctx: cutlass.Constexpr, queries: Int32, tiles: Int32):
    """The next query's part that is kept in Tensor Memory, from slots of the ring of keys, once the scores before are
    complete. The copies run before the multiplications issued behind them (PTX ISA 9.7.16.6.2).
    """
    plan, keys, ring = ctx.plan, ctx.pipe("keys"), ctx.plan.smem.rings["keys"]
    if tiles > 0:
        ctx.pipe("score").wait_full(tiles - 1)
    for number in range(ring.item_slots):
        slot = ring.count(queries, tiles, number)
        keys.wait_full(slot)
        for chunk in range(plan.tile.query_slot_chunks):
            span = number * plan.tile.query_slot_chunks + chunk
            source_offset = ctx.slot_offset("keys", slot) + chunk * plan.tile.query_chunk_bytes
            source = operands.smem_descriptor(ctx.smem + source_offset)
            target = ctx.tmem + (plan.tmem.query_column + span * plan.tmem.span_columns)
            for unit in range(CHUNK_BYTES // COPY_BYTES):
                path_of(plan).copy_to_tmem(target + unit * COPY_COLUMNS, operands.advance(source, unit * COPY_BYTES))
        path_of(plan).commit(keys.empty_barrier(slot))


def issue_scores(ctx: Context, count: Any, slot: Any, key_slot: KeySlot) -> None:
    """The part of S(count) whose keys lie in slot `slot` of their ring. One thread."""
    plan, path = ctx.plan, path_of(ctx.plan)
    idesc = operands.instruction_descriptor(ctx.config.dtype, path.MMA_M, plan.tile.tokens, b_is_mn_major=False)
    address = ctx.smem + ctx.slot_offset(key_slot.edge, slot)
    for number, offset in key_slot.spans:
        row_bytes = plan.tile.spans[number].bytes
        keys = operands.smem_descriptor(address + offset, row_bytes=row_bytes)
        for step in mma_steps(row_bytes):
            path.multiply(
                ctx,
                accumulator.score_address(ctx, count),
                query_operand(ctx, number, step),
                operands.advance(keys, step),
                idesc,
                number > 0 or step > 0,
            )


def query_operand(ctx: Context, number: int, step: int) -> Any:
    """A operand: Q's span `number`, from byte `step` on, in Tensor Memory or in shared memory."""
    plan = ctx.plan
    if number < plan.tmem.query_spans:
        return operands.tmem_pointer(ctx.tmem + (plan.tmem.query_column + number * plan.tmem.span_columns + step // 4))
    offset = plan.smem.query_offset + plan.smem.query_chunks_kept.index(number) * plan.tile.query_chunk_bytes
    return operands.advance(operands.smem_descriptor(ctx.smem + offset), step)
