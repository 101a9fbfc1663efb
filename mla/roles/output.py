"""Output role: P V of a key tile, half of the latent dimensions after half, as soon as its probabilities are there.

Consumes: edges `work`, `probs`, `values` (the keys on the narrow path). Produces: edges `output`, `order`; frees `probs`
and `values` by commit. Warps: one, of which one thread issues; in a pair of CTAs only the leader's. Registers: few.

A `tcgen05` fence follows the waits for roles that touched Tensor Memory (softmax, correction), none those for TMA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla import operands
from mla.causal_mask import TilePhases, quotient
from mla.context import Context
from mla.paths import accumulator, path_of
from mla.pipelines import unsigned
from mla.plan.tile import CHUNK_BYTES, OUTPUT_N
from mla.plan.tmem import COLUMN_BYTES
from mla.roles import issue


@dataclass(frozen=True)
class Steps:
    """K steps [first, end) of a key tile, those that hold keys which the row tile reads."""

    first: Any
    end: Any

    @classmethod
    def of(cls, ctx: Context, phases: TilePhases, tile: Any) -> Steps:
        plan = ctx.plan
        hidden, visible = phases.keys_read(tile, plan.tile.tokens)
        end = Int32(unsigned(visible + (plan.tile.mma_k - 1)) // plan.tile.mma_k)
        return cls(quotient(hidden, plan.tile.mma_k), end)


def run(ctx: Context) -> None:
    issue.run(ctx, output_item)


@cute.jit
def output_item(ctx: cutlass.Constexpr, phases: cutlass.Constexpr, queries: Int32, tiles: Int32):
    """One work item; `queries` with keys, and `tiles` key tiles, are before it."""
    for tile in cutlass.range(phases.begin, phases.end, unroll=1):
        steps = Steps.of(ctx, phases, tile)
        output_tile(ctx, queries, tiles + (tile - phases.begin), steps, tile > phases.begin)


@cute.jit
def output_tile(
    ctx: cutlass.Constexpr, queries: Int32, count: Int32, steps: cutlass.Constexpr, accumulate: cutlass.Boolean
):
    """O (+)= P(count) V over the tile's `steps`. queries: work items with keys before this one.

    A loop of the halves, not their code twice: an SM's instruction cache is about as large as what its roles loop over.
    """
    plan, probs, output = ctx.plan, ctx.pipe("probs"), ctx.pipe("output")
    values = ctx.pipe(plan.tile.value_edge)
    first = plan.smem.rings[plan.tile.value_edge].count(queries + 1, count)
    probs.wait_full(count)
    for half in cutlass.range(plan.tile.output_halves, unroll=1):
        held = count * plan.tile.output_halves + half
        output.wait_empty(held)
        operands.fence_after_sync()
        for part in plan.tile.value_parts:
            slots = [first + half * plan.tile.half_slots + number for number in part.slots]
            if cutlass.const_expr(not plan.tile.keys_are_values):
                for slot in slots:
                    values.wait_full(slot)
            issue_output(ctx, part, half, count, slots[0], steps, accumulate)
            for slot in slots:
                free_values(ctx, part, steps, values.empty_barrier(slot))
        path_of(plan).commit(output.full_barrier(held))
        if cutlass.const_expr(not plan.tile.probs_over_scores):
            ctx.pipe("order").arrive_full(held)
    if cutlass.const_expr(not plan.tile.probs_over_scores):
        path_of(plan).commit(probs.empty_barrier(count))


@cute.jit
def free_values(ctx: cutlass.Constexpr, part: cutlass.Constexpr, steps: cutlass.Constexpr, barrier: cutlass.Constexpr):
    """A slot may be filled again once what was issued has read it. One that holds no key which the row tile reads is not
    read, and is given back without a commit: that would follow no multiplication, which no public kernel is known to
    rely on. Free of charge: modelled 21.7 us instead of 21.6, bf16 h128 q1 8190 b8.
    """
    plan, tile = ctx.plan, ctx.plan.tile
    begin, end = (token // tile.mma_k for token in (part.first_token, part.first_token + part.tokens))
    if cutlass.const_expr(part.tokens == tile.tokens):
        path_of(plan).commit(barrier)
    elif (steps.end > begin) & (steps.first < end):
        path_of(plan).commit(barrier)
    else:
        for rank in cutlass.range_constexpr(tile.cluster_size):
            cute.arch.mbarrier_arrive(barrier, rank)


@cute.jit
def issue_output(
    ctx: cutlass.Constexpr,
    part: cutlass.Constexpr,
    half: Int32,
    tile: Int32,
    slot: Int32,
    steps: cutlass.Constexpr,
    accumulate: cutlass.Boolean,
):
    """P(tile) times one part of a half of the values, which start in slot `slot` of their ring, over the tile's `steps`. One
    thread.
    """
    plan, config = ctx.plan, ctx.config
    values = operands.smem_descriptor(
        ctx.smem + ctx.slot_offset(plan.tile.value_edge, slot), plan.tile.value_chunk_bytes
    )
    probs = probs_operand(ctx, tile)
    idesc = operands.instruction_descriptor(config.dtype, path_of(plan).MMA_M, OUTPUT_N, b_is_mn_major=True)
    for token in cutlass.range_constexpr(part.first_token, part.first_token + part.tokens, plan.tile.mma_k):
        step = token // plan.tile.mma_k
        is_read = steps.end > step
        if cutlass.const_expr(ctx.config.sliding_window):
            is_read = is_read & (steps.first <= step)
        if is_read:
            path_of(plan).multiply(
                ctx,
                accumulator.output_address(ctx, half),
                probs_step(ctx, probs, token),
                operands.advance(values, (token - part.first_token) * CHUNK_BYTES),
                idesc,
                accumulate | (step > steps.first),
            )


def probs_operand(ctx: Context, count: Any) -> Any:
    """P(count) as A operand: its address in Tensor Memory, or the descriptor of its rows of 128 bytes in shared memory."""
    if ctx.plan.tile.probs_over_scores:
        return accumulator.score_address(ctx, count)
    return operands.smem_descriptor(ctx.smem + ctx.probs_offset(count))


def probs_step(ctx: Context, probs: Any, token: int) -> Any:
    """The operand `probs` from token `token` of the tile on."""
    position = token * ctx.config.element_bytes
    if ctx.plan.tile.probs_over_scores:
        return operands.tmem_pointer(probs + position // COLUMN_BYTES)
    return operands.advance(probs, position // CHUNK_BYTES * ctx.plan.tile.probs_chunk_bytes + position % CHUNK_BYTES)
