"""What the two roles that issue tcgen05.mma share: one thread follows the work items, in a pair of CTAs the leader's."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla.context import has_work, read_work


@cute.jit
def run(ctx: cutlass.Constexpr, issue_item: cutlass.Constexpr):
    """`issue_item(ctx, phases, queries, tiles)` for every work item with keys: its TilePhases, and the work items with
    keys, and the key tiles, before it. The other CTA of a pair does nothing here but to release the items.
    """
    with cute.arch.elect_one():
        item, queries, tiles = Int32(0), Int32(0), Int32(0)
        is_open = has_work(ctx, item)
        while is_open:
            phases = read_work(ctx, item).phases
            ctx.pipe("work").arrive_empty(item)
            if ctx.is_leader & (phases.num_tiles > 0):
                issue_item(ctx, phases, queries, tiles)
                queries, tiles = queries + 1, tiles + phases.num_tiles
            item = item + 1
            is_open = has_work(ctx, item)
