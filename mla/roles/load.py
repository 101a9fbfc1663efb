"""Load role: query rows and key tiles to shared memory by TMA.

Consumes: edges `work`, `pages`, `query` and `kv` (empty). Produces: edges `query`, `kv`. Warps: one. Registers: few.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64

from mla import operands
from mla.context import has_work, read_work, release_work
from mla.page_ring import PageSpan


@cute.jit
def run(ctx: cutlass.Constexpr):
    item, tiles, stages, ragged = Int32(0), Int32(0), Int32(0), Int32(0)
    is_open = has_work(ctx, item)
    while is_open:
        tiles, stages, ragged = load_item(ctx, item, tiles, stages, ragged)
        item = item + 1
        is_open = has_work(ctx, item)


@cute.jit
def load_item(ctx: cutlass.Constexpr, item: Int32, tiles: Int32, stages: Int32, ragged: Int32):
    """One work item. Returns the counters behind it: key tiles, page-ring stages, ragged tiles."""
    plan = ctx.plan
    work = read_work(ctx, item)
    release_work(ctx, item)
    phases = work.phases
    pages, kv = ctx.pipe("pages"), ctx.pipe("kv")
    span = PageSpan.of(plan, phases)
    load_query(ctx, item, work)
    for tile in cutlass.range(phases.begin, phases.end, unroll=1):
        count = tiles + (tile - phases.begin)
        stage = stages + span.stage(tile)
        pages.wait_full(stage)
        kv.wait_empty(count)
        first_id = pages.stage(stage) * plan.page_ids_per_stage + span.position(tile)
        ragged = load_tile(ctx, tile, count, phases.keys, first_id, ragged)
        if (tile + 1 == phases.end) | (span.stage(tile + 1) != span.stage(tile)):
            cute.arch.sync_warp()
            with cute.arch.elect_one():
                pages.arrive_empty(stage)
    return tiles + phases.num_tiles, stages + span.num_stages, ragged


@cute.jit
def load_query(ctx: cutlass.Constexpr, item: Int32, work: cutlass.Constexpr):
    """The row tile, in boxes that never straddle two tokens, or, packed, of any rows.

    Rows past the request's last token arrive as zeros or are the next request's: no row's result depends on another's,
    and theirs are not written.
    """
    plan, config = ctx.plan, ctx.config
    query = ctx.pipe("query")
    barrier = query.full_barrier(item)
    box_rows = config.query_box_rows(plan.tile_rows)
    query.wait_empty(item)
    with cute.arch.elect_one():
        cute.arch.mbarrier_arrive_and_expect_tx(barrier, plan.query_bytes)
    batch = work.place(work.first_row)[0]
    source_rows = ctx.args.query
    if cutlass.const_expr(config.query_packed and config.ragged_query):
        source_rows = cute.domain_offset((work.request.query_begin * config.num_heads, 0, 0, 0), source_rows)
    boxes = cute.local_tile(source_rows, (box_rows, plan.chunk_elements), (None, None, None, None))
    for box in cutlass.range(plan.tile_rows // box_rows, unroll=1):
        row = work.first_row + box * box_rows
        token, head_box = Int32(0), row // box_rows
        if cutlass.const_expr(not config.query_packed):
            _, token, head = work.place(row)
            head_box = head // box_rows
        for chunk in cutlass.range_constexpr(plan.chunks):
            offset = plan.query_offset + chunk * plan.query_chunk_bytes + box * (box_rows * operands.SWIZZLE_BYTES)
            target = operands.box_tensor(ctx, offset, box_rows, plan.chunk_elements)
            to, source = operands.partition_box(ctx.args.query_tma, target, boxes)
            cute.copy(ctx.args.query_tma, source[(None, head_box, chunk, token, batch)], to, tma_bar_ptr=barrier)


@cute.jit
def load_tile(ctx: cutlass.Constexpr, tile: Int32, count: Int32, keys: Int32, first_id: Int32, ragged: Int32):
    """Key tile `tile` into ring buffer `count`: the pages that hold visible keys, one box per (page, chunk).

    The last K step of P*V multiplies whole groups of mma_k tokens, and 0 * NaN is NaN: rows of that group past the
    last key are cleared after the load and before the tensor core is told. Returns the number of such ragged tiles.
    """
    plan = ctx.plan
    kv, tail = ctx.pipe("kv"), ctx.pipe("tail")
    tokens = cutlass.min(keys - tile * plan.tile_tokens, plan.tile_tokens)
    num_boxes = (tokens + (plan.box_tokens - 1)) // plan.box_tokens
    is_ragged = tokens % plan.mma_k != 0
    full, own = kv.full_barrier(count).toint(), tail.full_barrier(0).toint()
    address = cutlass.select_(is_ragged, own, full)
    barrier = cute.make_ptr(Int64, address, cutlass.AddressSpace.smem, assumed_align=8)
    with cute.arch.elect_one():
        cute.arch.mbarrier_arrive_and_expect_tx(barrier, num_boxes * (plan.chunks * plan.kv_box_bytes))
    stage_offset = plan.kv_offset + kv.stage(count) * plan.kv_stage_bytes
    load_boxes(ctx, tile, num_boxes, first_id, stage_offset, barrier)
    if is_ragged:
        tail.wait_full(ragged)
        clear_rows(ctx, stage_offset, tokens)
        cute.arch.fence_proxy("async.shared", space="cta")
        cute.arch.sync_warp()
        with cute.arch.elect_one():
            kv.arrive_full(count)
        ragged = ragged + 1
    return ragged


@cute.jit
def load_boxes(
    ctx: cutlass.Constexpr, tile: Int32, num_boxes: Int32, first_id: Int32, stage_offset: Int32, barrier: cute.Pointer
):
    """`num_boxes` pages of key tile `tile` into the stage at `stage_offset`; their ids start at place `first_id`."""
    plan = ctx.plan
    page_ids = ctx.smem_ints(plan.page_ids_offset, plan.page_stages * plan.page_ids_per_stage)
    boxes = cute.local_tile(ctx.args.kv, (plan.box_tokens, plan.chunk_elements), (None, None, None))
    for box in cutlass.range(num_boxes, unroll=1):
        page_id = page_ids[first_id + box]
        for chunk in cutlass.range_constexpr(plan.chunks):
            offset = stage_offset + chunk * plan.kv_chunk_bytes + box * plan.kv_box_bytes
            target = operands.box_tensor(ctx, offset, plan.box_tokens, plan.chunk_elements)
            to, source = operands.partition_box(ctx.args.kv_tma, target, boxes)
            coordinate = (None, tile % plan.tiles_per_page, chunk, page_id)
            cute.copy(ctx.args.kv_tma, source[coordinate], to, tma_bar_ptr=barrier)


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
