"""Load role: query rows, keys and values to shared memory by TMA, in the order in which the MMA role reads them.

Consumes: edges `work`, `pages`; `query`, `keys` and `values` or `rope` (empty). Produces: edges `query`, `keys`, and
`values` or, where keys are read again as values, `rope`. Warps: one per CTA. Registers: few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla import operands
from mla.causal_mask import TilePhases, maximum, minimum
from mla.context import Boxes, Column, Context, Slot, WorkItem, has_work, read_work, release_work
from mla.memory_plan import CHUNK_BYTES, KeySlot
from mla.page_ring import PageSpan
from mla.paths import path_of


@dataclass(frozen=True)
class Part:
    """A work item's key tiles, and the counters before it: key tiles, page-ring stages."""

    phases: TilePhases
    span: PageSpan
    tiles: Any
    stages: Any

    def count(self, tile: Any) -> Any:
        return self.tiles + (tile - self.phases.begin)

    def stage(self, tile: Any) -> Any:
        return self.stages + self.span.stage(tile)


@cute.jit
def run(ctx: cutlass.Constexpr):
    item, queries, tiles, stages, ragged = Int32(0), Int32(0), Int32(0), Int32(0), Int32(0)
    is_open = has_work(ctx, item)
    while is_open:
        queries, tiles, stages, ragged = load_item(ctx, item, queries, tiles, stages, ragged)
        item = item + 1
        is_open = has_work(ctx, item)
    drain(ctx, "query", queries)
    for name, ring in ctx.plan.rings.items():
        drain(ctx, name, tiles * ring.tile_slots)


@cute.jit
def drain(ctx: cutlass.Constexpr, edge: cutlass.Constexpr, count: Int32):
    """Until the tensor core has freed all `count` slots of a ring: a commit must not arrive in shared memory that this
    CTA has given back.
    """
    ring = ctx.pipe(edge)
    for index in cutlass.range(maximum(count - ring.edge.stages, 0), count, unroll=1):
        ring.wait_drained(index)


@cute.jit
def load_item(ctx: cutlass.Constexpr, item: Int32, queries: Int32, tiles: Int32, stages: Int32, ragged: Int32):
    """One work item. Returns the counters behind it: work items with keys, key tiles, page-ring stages, ragged tiles.

    The query follows the first keys: its buffer is free once the item before has all its scores, theirs is sooner.
    """
    work = read_work(ctx, item)
    release_work(ctx, item)
    phases = work.phases
    part = Part(phases, PageSpan.of(ctx.plan, phases), tiles, stages)
    ahead = 0 if ctx.plan.keys_are_values else 2
    for tile in cutlass.range(phases.begin - ahead, phases.end, unroll=1):
        if tile + ahead < phases.end:
            ctx.pipe("pages").wait_full(part.stage(tile + ahead))
        if tile >= phases.begin:
            ragged = load_values(ctx, part, tile, ragged)
        if tile + ahead < phases.end:
            load_keys(ctx, part, tile + ahead)
            if tile + ahead == phases.begin:
                load_query(ctx, queries, work)
                queries = queries + 1
        if tile >= phases.begin:
            if (tile + 1 == phases.end) | (part.stage(tile + 1) != part.stage(tile)):
                ctx.pipe("pages").warp_arrive_empty(part.stage(tile))
    return queries, tiles + phases.num_tiles, stages + part.span.num_stages, ragged


@cute.jit
def load_query(ctx: cutlass.Constexpr, count: Int32, work: cutlass.Constexpr):
    """This CTA's rows, in boxes that never straddle two tokens, or, packed, of any rows.

    Rows past the request's last token arrive as zeros or are the next request's: no row's result depends on another's,
    and theirs are not written.
    """
    plan, config = ctx.plan, ctx.config
    query = ctx.pipe("query")
    box_rows = config.query_box_rows(plan.cta_rows)
    batch = work.place(work.first_row)[0]
    query.wait_empty(count)
    with cute.arch.elect_one():
        query.expect_bytes(count, plan.query_bytes)
    for box in cutlass.range(plan.cta_rows // box_rows, unroll=1):
        row = work.first_row + box * box_rows
        token, head_box = Int32(0), row // box_rows
        if cutlass.const_expr(not config.query_packed):
            _, token, head = work.place(row)
            head_box = head // box_rows
        for chunk in cutlass.range_constexpr(plan.query_chunks):
            place = plan.query_offset + chunk * plan.query_chunk_bytes + box * (box_rows * CHUNK_BYTES)
            operands.load_box(
                ctx, query_boxes(ctx, work), box_rows, plan.chunk_elements, (head_box, chunk, token, batch), place,
                query.full_barrier(count),
            )  # fmt: skip


def query_boxes(ctx: Context, work: WorkItem) -> Boxes:
    """The query as TMA reads it; a ragged packed one starts at the request's first row, a multiple of nothing."""
    boxes = ctx.args.query
    if not (ctx.config.query_packed and ctx.config.ragged_query):
        return boxes
    first_row = work.request.query_begin * ctx.config.num_heads
    return replace(boxes, tensor=cute.domain_offset((first_row, 0, 0, 0), boxes.tensor))


@cute.jit
def load_keys(ctx: cutlass.Constexpr, part: cutlass.Constexpr, tile: Int32):
    """This CTA's keys of tile `tile`, but for those that `load_values` loads."""
    plan = ctx.plan
    for key_slot in plan.key_slots:
        ring = plan.rings[key_slot.edge]
        if cutlass.const_expr(key_slot.edge != plan.value_edge):
            slot = Slot(key_slot.edge, key_columns(ctx, key_slot), ctx.cta_rank * plan.key_rows, plan.key_rows)
            fill(ctx, part, slot, part.count(tile) * ring.tile_slots + key_slot.number, tile)


@cute.jit
def load_values(ctx: cutlass.Constexpr, part: cutlass.Constexpr, tile: Int32, ragged: Int32):
    """This CTA's values of tile `tile`, on the narrow path its latent keys. Returns the number of ragged tiles so far.

    The last K step of P*V multiplies whole groups of mma_k tokens, and 0 * NaN is NaN: rows of that group past the
    last key are cleared after the load and before the tensor core is told.
    """
    plan = ctx.plan
    slots = plan.rings[plan.value_edge].tile_slots
    first = part.count(tile) * slots
    visible = minimum(part.phases.keys - tile * plan.tile_tokens, plan.tile_tokens)
    if visible % plan.mma_k != 0:
        load_ragged_values(ctx, part, tile, first, visible, ragged)
        ragged = ragged + 1
    else:
        for number in cutlass.range(slots, unroll=1):
            fill(ctx, part, path_of(plan).value_slot(ctx, number), first + number, tile)
    return ragged


@cute.jit
def load_ragged_values(
    ctx: cutlass.Constexpr, part: cutlass.Constexpr, tile: Int32, first: Int32, visible: Int32, ragged: Int32
):
    """Ring slots `first` .. of a tile of `visible` tokens: this warp waits for TMA, clears the rows behind them, and
    tells the tensor core.
    """
    plan, tail = ctx.plan, ctx.pipe("tail")
    ring = ctx.pipe(plan.value_edge)
    slots = plan.rings[plan.value_edge].tile_slots
    for number in cutlass.range(slots, unroll=1):
        slot = tail_slot(ctx, path_of(plan).value_slot(ctx, number))
        ring.wait_empty(first + number)
        load_boxes(ctx, part, slot, first + number, tile, tail, 0)
    tail.wait_full(ragged)
    for number in cutlass.range(slots, unroll=1):
        clear_rows(ctx, path_of(plan).value_slot(ctx, number), first + number, visible)
    cute.arch.fence_proxy("async.shared", space="cta")
    for number in cutlass.range(slots, unroll=1):
        ring.warp_arrive_full(first + number)


@cute.jit
def fill(ctx: cutlass.Constexpr, part: cutlass.Constexpr, slot: cutlass.Constexpr, count: Int32, tile: Int32):
    """Slot `count` of its ring; TMA itself tells the tensor core."""
    ring = ctx.pipe(slot.edge)
    ring.wait_empty(count)
    load_boxes(ctx, part, slot, count, tile, ring, count)


def key_columns(ctx: Context, slot: KeySlot) -> list[Column]:
    """What this CTA loads for a tile's key slot: spans of the head dimension."""
    columns = []
    for number, offset in slot.spans:
        span = ctx.plan.spans[number]
        boxes = ctx.args.kv if span.start < ctx.config.kv_lora_rank else ctx.args.kv_rope
        elements = span.bytes // ctx.config.element_bytes
        columns.append(Column(boxes, span.start // elements, elements, offset))
    return columns


def tail_slot(ctx: Context, slot: Slot) -> Slot:
    """The slot, loaded by copies that signal a barrier of this CTA."""
    if ctx.args.kv_tail is None:
        return slot
    return replace(slot, columns=[replace(column, boxes=ctx.args.kv_tail) for column in slot.columns])


@cute.jit
def load_boxes(
    ctx: cutlass.Constexpr,
    part: cutlass.Constexpr,
    slot: cutlass.Constexpr,
    count: Int32,
    tile: Int32,
    told: cutlass.Constexpr,
    told_count: Int32,
):
    """The pages that hold visible keys to slot `count` of its ring, one box per (page, column). Full barrier
    `told_count` of edge `told` counts their bytes.
    """
    plan, page_size = ctx.plan, ctx.config.page_size
    tokens = minimum(part.phases.keys - tile * plan.tile_tokens - slot.first_token, slot.tokens)
    num_boxes = (maximum(tokens, 0) + (plan.box_tokens - 1)) // plan.box_tokens
    row_bytes = sum(column.elements for column in slot.columns) * ctx.config.element_bytes
    with cute.arch.elect_one():
        told.expect_bytes(told_count, num_boxes * (plan.box_tokens * row_bytes))
    page_ids = ctx.smem_ints(plan.page_ids_offset, plan.page_stages * plan.page_ids_per_stage)
    stage = ctx.pipe("pages").stage(part.stage(tile))
    first_id = stage * plan.page_ids_per_stage + part.span.position(tile)
    offset = ctx.slot_offset(slot.edge, count)
    for box in cutlass.range(num_boxes, unroll=1):
        token = slot.first_token + box * plan.box_tokens
        page_id = page_ids[first_id + token // page_size]
        page_box = (tile * plan.tile_tokens + token) % page_size // plan.box_tokens
        for index in cutlass.range_constexpr(len(slot.columns)):
            column = slot.columns[index]
            place = offset + column.offset + box * (plan.box_tokens * column.elements * ctx.config.element_bytes)
            operands.load_box(
                ctx, column.boxes, plan.box_tokens, column.elements, (page_box, column.coordinate, page_id), place,
                told.full_barrier(told_count),
            )  # fmt: skip


@cute.jit
def clear_rows(ctx: cutlass.Constexpr, slot: cutlass.Constexpr, count: Int32, visible: Int32):
    """Zero tokens [visible, next multiple of mma_k) of the tile in slot `count`. Rows are 128 bytes per column."""
    plan = ctx.plan
    row_units = CHUNK_BYTES // 16
    units = len(slot.columns) * row_units
    first = visible - slot.first_token
    rows = (plan.mma_k - visible % plan.mma_k) * cutlass.Int32((first >= 0) & (first < slot.tokens))
    for index in cutlass.range(cute.arch.lane_idx(), rows * units, cute.arch.WARP_SIZE, unroll=1):
        unit = index % units
        offset = ctx.slot_offset(slot.edge, count) + unit // row_units * plan.value_chunk_bytes
        offset = offset + (first + index // units) * CHUNK_BYTES + unit % row_units * 16
        cells = cute.make_tensor(ctx.smem_pointer(Int32, offset, 16), cute.make_layout(4))
        cells.fill(0)
