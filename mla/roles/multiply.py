"""Scores and output roles as one, where P lies over S: Q K of a tile, then P V of the tile before.

Consumes, produces and frees what the two do, without `order`. Warps: one, of which one thread issues; in a pair of CTAs
only the leader's.

The next scores go over the P that P V reads. What one thread issues behind it runs behind it (row 16 of
docs/silicon-assumptions.md); another would have to wait until P V is complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32

from mla.causal_mask import maximum
from mla.context import has_work, read_work
from mla.paths import path_of
from mla.roles import output, scores

NONE = -1


@dataclass(frozen=True)
class Pending:
    """Key tile `count`, whose scores are issued and whose P V is not, or NONE. Its Steps are [first, end);
    `queries` work items with keys are before its own. accumulate: it is not the first of its work item.
    """

    count: Any
    queries: Any
    first: Any
    end: Any
    accumulate: Any

    @classmethod
    def none(cls) -> Pending:
        return cls(Int32(NONE), Int32(0), Int32(0), Int32(0), Boolean(False))

    @classmethod
    def of(cls, count: Any, queries: Any, steps: output.Steps, accumulate: Any) -> Pending:
        return cls(count, queries, Int32(steps.first), Int32(steps.end), accumulate)


@cute.jit
def run(ctx: cutlass.Constexpr):
    with cute.arch.elect_one():
        item, queries, tiles = Int32(0), Int32(0), Int32(0)
        pending = Pending.none()
        is_open = Boolean(True)
        while is_open:
            is_open = has_work(ctx, item)
            phases = read_work(ctx, item).phases
            if is_open:
                ctx.pipe("work").arrive_empty(item)
            if ctx.is_leader:
                pending = multiply_item(ctx, phases, queries, tiles, pending)
                if phases.num_tiles > 0:
                    queries, tiles = queries + 1, tiles + phases.num_tiles
            item = item + 1


@cute.jit
def multiply_item(
    ctx: cutlass.Constexpr, phases: cutlass.Constexpr, queries: Int32, tiles: Int32, pending: cutlass.Constexpr
):
    """One work item; `queries` with keys, and `tiles` key tiles, are before it. Returns the tile that is pending: its last.

    One without keys, as the record that ends the list is, completes what is pending, for which correction waits, and leaves
    none. That is a turn of the same loop: at the end, where everybody waits for P V, its code has been fetched.
    """
    if phases.num_tiles > 0:
        scores.copy_query(ctx, queries, tiles)
    turns = maximum(phases.num_tiles, 1)
    for tile in cutlass.range(phases.begin, phases.begin + turns, unroll=1):
        count = Int32(NONE)
        if phases.num_tiles > 0:
            count = tiles + (tile - phases.begin)
            scores.score_tile(ctx, queries, count, tile == phases.begin)
            if tile + 1 == phases.end:
                path_of(ctx.plan).commit(ctx.pipe("query").empty_barrier(queries))
        complete(ctx, pending)
        pending = Pending.of(count, queries, output.Steps.of(ctx, phases, tile), tile > phases.begin)
    return pending


@cute.jit
def complete(ctx: cutlass.Constexpr, tile: cutlass.Constexpr):
    """P V of the pending tile, if there is one."""
    if tile.count != NONE:
        output.output_tile(ctx, tile.queries, tile.count, output.Steps(tile.first, tile.end), tile.accumulate)
