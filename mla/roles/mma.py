"""MMA role: issues every tcgen05.mma, the scores of tile i+1 before the output of tile i.

Consumes: edges `query`, `kv`, `probs`, `rescaled`. Produces: edge `score`; frees `kv`, `probs` by commit.
Warps: one, of which one thread issues. Registers: few.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla import operands
from mla.context import Context
from mla.paths import narrow


@cute.jit
def run(ctx: cutlass.Constexpr):
    num_tiles = ctx.unit.phases.num_tiles
    if num_tiles > 0:
        ctx.pipe("query").wait_full(0)
        scores(ctx, Int32(0))
    for count in cutlass.range(num_tiles, unroll=1):
        if count + 1 < num_tiles:
            scores(ctx, count + 1)
        output(ctx, count)


@cute.jit
def scores(ctx: cutlass.Constexpr, count: Int32):
    kv, score = ctx.pipe("kv"), ctx.pipe("score")
    kv.wait_full(count)
    score.wait_empty(count)
    operands.fence_after_sync()
    with cute.arch.elect_one():
        narrow.issue_scores(ctx, count)
        operands.commit(score.full_barrier(count))


@cute.jit
def output(ctx: cutlass.Constexpr, count: Int32):
    kv, probs = ctx.pipe("kv"), ctx.pipe("probs")
    probs.wait_full(count)
    if count > 0:
        ctx.pipe("rescaled").wait_full(count - 1)
    operands.fence_after_sync()
    visible = ctx.unit.phases.keys - count * ctx.plan.tile_tokens
    with cute.arch.elect_one():
        narrow.issue_output(ctx, count, visible)
        operands.commit(kv.empty_barrier(count))
        operands.commit(probs.empty_barrier(count))
