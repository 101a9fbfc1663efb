"""Load role: query rows and key tiles to shared memory by TMA.

Consumes: edge `pages`, edge `kv` (empty). Produces: edges `query`, `kv`. Warps: one. Registers: few.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64
from cutlass.cute.nvgpu import cpasync

from mla import operands
from mla.context import Context


@cute.jit
def run(ctx: cutlass.Constexpr):
    phases, plan = ctx.unit.phases, ctx.plan
    pages, kv = ctx.pipe("pages"), ctx.pipe("kv")
    if phases.num_tiles > 0:
        load_query(ctx)
    for count in cutlass.range(phases.num_tiles, unroll=1):
        page_stage = count // plan.tiles_per_page_stage
        if count % plan.tiles_per_page_stage == 0:
            pages.wait_full(page_stage)
        kv.wait_empty(count)
        load_tile(ctx, count)
        if count % plan.tiles_per_page_stage == plan.tiles_per_page_stage - 1:
            cute.arch.sync_warp()
            with cute.arch.elect_one():
                pages.arrive_empty(page_stage)


@cute.jit
def load_query(ctx: cutlass.Constexpr):
    """The unit's rows, in boxes that never straddle two tokens; rows past the last token arrive as zeros."""
    plan, config = ctx.plan, ctx.config
    barrier = ctx.pipe("query").full_barrier(0)
    box_rows = config.query_box_rows(plan.tile_rows)
    rows_per_token = config.num_rows if config.query_packed else config.num_heads
    with cute.arch.elect_one():
        cute.arch.mbarrier_arrive_and_expect_tx(barrier, plan.query_bytes)
    boxes = cute.local_tile(ctx.args.query, (box_rows, plan.chunk_elements), (None, None, None, None))
    for box in cutlass.range(plan.tile_rows // box_rows, unroll=1):
        row = ctx.unit.first_row + box * box_rows
        token, head_box = row // rows_per_token, row % rows_per_token // box_rows
        for chunk in cutlass.range_constexpr(plan.chunks):
            offset = plan.query_offset + chunk * plan.query_chunk_bytes + box * (box_rows * operands.SWIZZLE_BYTES)
            target = operands.box_tensor(ctx, offset, box_rows, plan.chunk_elements)
            to, source = operands.partition_box(ctx.args.query_tma, target, boxes)
            cute.copy(
                ctx.args.query_tma, source[(None, head_box, chunk, token, ctx.unit.batch)], to, tma_bar_ptr=barrier
            )


@cute.jit
def load_tile(ctx: cutlass.Constexpr, count: Int32):
    """Key tile `count`: the pages that hold visible keys, one box per (page, 128-byte chunk).

    The last K step of P*V multiplies whole groups of mma_k tokens, and 0 * NaN is NaN: rows of that group past the
    last key are cleared after the load and before the tensor core is told.
    """
    plan = ctx.plan
    kv, tail = ctx.pipe("kv"), ctx.pipe("tail")
    tokens = cutlass.min(ctx.unit.phases.keys - count * plan.tile_tokens, plan.tile_tokens)
    num_boxes = (tokens + (plan.box_tokens - 1)) // plan.box_tokens
    is_ragged = tokens % plan.mma_k != 0
    full, own = kv.full_barrier(count).toint(), tail.full_barrier(0).toint()
    barrier = cute.make_ptr(
        Int64, cutlass.select_(is_ragged, own, full), cutlass.AddressSpace.smem, assumed_align=8
    )
    with cute.arch.elect_one():
        cute.arch.mbarrier_arrive_and_expect_tx(barrier, num_boxes * (plan.chunks * plan.kv_box_bytes))
    stage_offset = plan.kv_offset + kv.stage(count) * plan.kv_stage_bytes
    load_boxes(ctx, count, num_boxes, stage_offset, barrier)
    if is_ragged:
        tail.wait_full(0)
        clear_rows(ctx, stage_offset, tokens)
        cute.arch.fence_proxy("async.shared", space="cta")
        cute.arch.sync_warp()
        with cute.arch.elect_one():
            kv.arrive_full(count)


@cute.jit
def load_boxes(ctx: cutlass.Constexpr, count: Int32, num_boxes: Int32, stage_offset: Int32, barrier: cute.Pointer):
    """`num_boxes` pages of key tile `count` into the stage at `stage_offset`."""
    plan = ctx.plan
    page_ids = ctx.smem_ints(plan.page_ids_offset, plan.page_stages * plan.page_ids_per_stage)
    page_stage = count // plan.tiles_per_page_stage % plan.page_stages
    first_id = count % plan.tiles_per_page_stage * plan.pages_per_tile // plan.tiles_per_page
    boxes = cute.local_tile(ctx.args.kv, (plan.box_tokens, plan.chunk_elements), (None, None, None))
    for box in cutlass.range(num_boxes, unroll=1):
        page_id = page_ids[page_stage * plan.page_ids_per_stage + first_id + box]
        for chunk in cutlass.range_constexpr(plan.chunks):
            offset = stage_offset + chunk * plan.kv_chunk_bytes + box * plan.kv_box_bytes
            target = operands.box_tensor(ctx, offset, plan.box_tokens, plan.chunk_elements)
            to, source = operands.partition_box(ctx.args.kv_tma, target, boxes)
            cute.copy(
                ctx.args.kv_tma, source[(None, count % plan.tiles_per_page, chunk, page_id)], to, tma_bar_ptr=barrier
            )


@cute.jit
def clear_rows(ctx: cutlass.Constexpr, stage_offset: Int32, tokens: Int32):
    """Zero the latent part of rows [tokens, next multiple of mma_k) of a stage. Rows are 128 bytes per chunk."""
    plan, config = ctx.plan, ctx.config
    lane = cute.arch.lane_idx()
    units_per_row = operands.SWIZZLE_BYTES // 16
    units = config.kv_lora_rank * config.element_bytes // 16
    end = (tokens + (plan.mma_k - 1)) // plan.mma_k * plan.mma_k
    for row in cutlass.range(tokens, end, unroll=1):
        for first in cutlass.range_constexpr(0, units, 32):
            unit = lane + first
            offset = stage_offset + unit // units_per_row * plan.kv_chunk_bytes
            offset = offset + row * operands.SWIZZLE_BYTES + unit % units_per_row * 16
            cells = cute.make_tensor(ctx.smem_pointer(Int32, offset, 16), cute.make_layout(4))
            cells.fill(0)
