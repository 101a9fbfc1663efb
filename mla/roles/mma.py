"""MMA role: issues every tcgen05.mma, the scores of tile i+1 before the output of tile i.

Consumes: edges `work`, `query`, `kv`, `probs`, `rescaled`. Produces: edge `score`; frees `query`, `kv`, `probs` by
commit. Warps: one, of which one thread issues. Registers: few.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla import operands
from mla.context import has_work, read_work, release_work
from mla.paths import narrow


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
    phases, query = work.phases, ctx.pipe("query")
    query.wait_full(item)
    if phases.num_tiles > 0:
        scores(ctx, tiles)
    for tile in cutlass.range(phases.begin, phases.end, unroll=1):
        count = tiles + (tile - phases.begin)
        if tile + 1 < phases.end:
            scores(ctx, count + 1)
        output(ctx, count, phases.keys - tile * ctx.plan.tile_tokens, tile > phases.begin)
    with cute.arch.elect_one():
        operands.commit(query.empty_barrier(item))
    return tiles + phases.num_tiles


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
def output(ctx: cutlass.Constexpr, count: Int32, visible: Int32, accumulate: cutlass.Boolean):
    kv, probs = ctx.pipe("kv"), ctx.pipe("probs")
    probs.wait_full(count)
    ctx.pipe("rescaled").wait_full(count)
    operands.fence_after_sync()
    with cute.arch.elect_one():
        narrow.issue_output(ctx, count, visible, accumulate)
        operands.commit(kv.empty_barrier(count))
        operands.commit(probs.empty_barrier(count))
