"""Scores and output role of one thread, where P lies over S: Q K of a tile, then P V of the tile before.

Consumes, produces and frees what scores.py and output.py do, but for `order`. Warps: one, of which one thread issues; in a
pair of CTAs only the leader's.

The next scores go over the P that P V reads. Issued by one thread behind it they run behind it, which FlashAttention-4
depends on, too; two threads would have to wait for P V to be complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32

from mla.context import Context, has_work, read_work
from mla.paths import path_of
from mla.roles import output, scores


@dataclass(frozen=True)
class Pending:
    """The key tile `count` whose scores are issued and whose P V is not; count < 0: there is none."""

    count: Any
    queries: Any
    first: Any
    end: Any
    accumulate: Any

    @classmethod
    def none(cls) -> Pending:
        return cls(Int32(-1), Int32(0), Int32(0), Int32(0), Boolean(False))


@cute.jit
def run(ctx: cutlass.Constexpr):
    with cute.arch.elect_one():
        item, queries, tiles, pending = Int32(0), Int32(0), Int32(0), Pending.none()
        is_open = has_work(ctx, item)
        while is_open:
            phases = read_work(ctx, item).phases
            ctx.pipe("work").arrive_empty(item)
            if ctx.is_leader & (phases.num_tiles > 0):
                pending = multiply_item(ctx, phases, queries, tiles, pending)
                queries, tiles = queries + 1, tiles + phases.num_tiles
            item = item + 1
            is_open = has_work(ctx, item)
        finish(ctx, pending)


@cute.jit
def multiply_item(ctx: cutlass.Constexpr, phases: cutlass.Constexpr, queries: Int32, tiles: Int32, pending: cutlass.Constexpr):
    """One work item; `queries` with keys, and `tiles` key tiles, are before it. Returns its last tile, which is pending."""
    scores.copy_query(ctx, queries, tiles)
    for tile in cutlass.range(phases.begin, phases.end, unroll=1):
        count = tiles + (tile - phases.begin)
        scores.score_tile(ctx, queries, count, tile == phases.begin)
        if tile + 1 == phases.end:
            path_of(ctx.plan).commit(ctx.pipe("query").empty_barrier(queries))
        finish(ctx, pending)
        steps = output.Steps.of(ctx, phases, tile)
        pending = Pending(count, queries, steps.first, steps.end, tile > phases.begin)
    return pending


@cute.jit
def finish(ctx: cutlass.Constexpr, pending: cutlass.Constexpr):
    """P V of the pending tile, if there is one."""
    if pending.count >= 0:
        steps = output.Steps(pending.first, pending.end)
        output.output_tile(ctx, pending.queries, pending.count, steps, pending.accumulate)


@cute.jit
def run_idle(ctx: cutlass.Constexpr):
    """The warp that has nothing to issue."""
    with cute.arch.elect_one():
        item = Int32(0)
        is_open = has_work(ctx, item)
        while is_open:
            ctx.pipe("work").arrive_empty(item)
            item = item + 1
            is_open = has_work(ctx, item)
