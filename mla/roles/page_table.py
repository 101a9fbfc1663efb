"""Page-table role: block-table entries to shared memory, ahead of the loads.

Consumes: block_tables (global). Produces: edge `pages`. Warps: one. Registers: few.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla.context import Context


@cute.jit
def run(ctx: cutlass.Constexpr):
    plan, phases = ctx.plan, ctx.unit.phases
    pages = ctx.pipe("pages")
    page_ids = ctx.smem_ints(plan.page_ids_offset, plan.page_stages * plan.page_ids_per_stage)
    lane = cute.arch.lane_idx()
    num_pages = (phases.keys + (ctx.config.page_size - 1)) // ctx.config.page_size
    num_stages = (phases.num_tiles + (plan.tiles_per_page_stage - 1)) // plan.tiles_per_page_stage
    for count in cutlass.range(num_stages, unroll=1):
        pages.wait_empty(count)
        entry = count * plan.page_ids_per_stage + lane
        page_id = Int32(0)
        if entry < num_pages:
            page_id = ctx.args.block_tables[ctx.unit.batch, entry]
        page_ids[pages.stage(count) * plan.page_ids_per_stage + lane] = page_id
        pages.arrive_full(count)
