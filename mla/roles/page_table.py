"""Page-table role: block-table entries to shared memory, ahead of the loads.

Consumes: edge `work`, block_tables (global). Produces: edge `pages`. Warps: one. Registers: few.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla.context import has_work, read_work, release_work
from mla.page_ring import PageSpan


@cute.jit
def run(ctx: cutlass.Constexpr):
    item, stages = Int32(0), Int32(0)
    is_open = has_work(ctx, item)
    while is_open:
        stages = fetch(ctx, item, stages)
        item = item + 1
        is_open = has_work(ctx, item)


@cute.jit
def fetch(ctx: cutlass.Constexpr, item: Int32, first_stage: Int32):
    """Page ids of one work item, in ring stages from `first_stage` on. Returns the next stage number."""
    plan = ctx.plan
    work = read_work(ctx, item)
    release_work(ctx, item)
    pages = ctx.pipe("pages")
    page_ids = ctx.smem_ints(plan.page_ids_offset, plan.page_stages * plan.page_ids_per_stage)
    span = PageSpan.of(plan, work.phases)
    num_pages = (work.phases.keys + (ctx.config.page_size - 1)) // ctx.config.page_size
    block_tables, batch = ctx.args.block_tables, work.batch
    lane = cute.arch.lane_idx()
    for index in cutlass.range(span.num_stages, unroll=1):
        count = first_stage + index
        pages.wait_empty(count)
        entry = span.first_page + index * plan.page_ids_per_stage + lane
        page_id = Int32(0)
        if entry < num_pages:
            page_id = block_tables[batch, entry]
        page_ids[pages.stage(count) * plan.page_ids_per_stage + lane] = page_id
        pages.arrive_full(count)
    return first_stage + span.num_stages
