"""Load role: query rows, keys and values to shared memory by TMA, in the order in which the MMA role reads them.

Consumes: edges `work`, `pages`; `query`, `keys` and `values` (empty). Produces: edges `query`, `keys`, `values`. Warps:
one per CTA. Registers: few. Where keys are read again as values there is no edge `values`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla import operands
from mla.causal_mask import TilePhases, maximum, minimum
from mla.context import Boxes, Column, Context, WorkItem, has_work, read_work, release_work
from mla.memory_plan import CHUNK_BYTES
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


@dataclass(frozen=True)
class Slot:
    """What goes into a ring slot.

    edge: the ring. columns: what of each token. first_token: first token, counted from the tile's first. tokens: how
    many, if the tile is whole. holds_values: P*V will read it.
    """

    edge: str
    columns: list[Column]
    first_token: Any
    tokens: int
    holds_values: bool


@cute.jit
def run(ctx: cutlass.Constexpr):
    item, tiles, stages, ragged = Int32(0), Int32(0), Int32(0), Int32(0)
    is_open = has_work(ctx, item)
    while is_open:
        tiles, stages, ragged = load_item(ctx, item, tiles, stages, ragged)
        item = item + 1
        is_open = has_work(ctx, item)
    drain(ctx, "query", item)
    drain(ctx, "keys", tiles * ctx.plan.key_slots)
    if cutlass.const_expr(not ctx.plan.keys_are_values):
        drain(ctx, "values", tiles * len(ctx.plan.value_slots))


@cute.jit
def drain(ctx: cutlass.Constexpr, edge: cutlass.Constexpr, count: Int32):
    """Until the tensor core has freed all `count` slots of a ring: a commit must not arrive in shared memory that this
    CTA has given back.
    """
    ring = ctx.pipe(edge)
    for index in cutlass.range(maximum(count - ring.edge.stages, 0), count, unroll=1):
        ring.wait_drained(index)


@cute.jit
def load_item(ctx: cutlass.Constexpr, item: Int32, tiles: Int32, stages: Int32, ragged: Int32):
    """One work item. Returns the counters behind it: key tiles, page-ring stages, ragged slots."""
    work = read_work(ctx, item)
    release_work(ctx, item)
    phases = work.phases
    part = Part(phases, PageSpan.of(ctx.plan, phases), tiles, stages)
    load_query(ctx, item, work)
    ahead = 0 if ctx.plan.keys_are_values else 1
    for tile in cutlass.range(phases.begin - ahead, phases.end, unroll=1):
        if tile + ahead < phases.end:
            ragged = load_keys(ctx, part, tile + ahead, ragged)
        if tile >= phases.begin:
            ragged = load_values(ctx, part, tile, ragged)
            if (tile + 1 == phases.end) | (part.stage(tile + 1) != part.stage(tile)):
                ctx.pipe("pages").warp_arrive_empty(part.stage(tile))
    return tiles + phases.num_tiles, stages + part.span.num_stages, ragged


@cute.jit
def load_query(ctx: cutlass.Constexpr, item: Int32, work: cutlass.Constexpr):
    """This CTA's rows, in boxes that never straddle two tokens, or, packed, of any rows.

    Rows past the request's last token arrive as zeros or are the next request's: no row's result depends on another's,
    and theirs are not written.
    """
    plan, config = ctx.plan, ctx.config
    query = ctx.pipe("query")
    box_rows = config.query_box_rows(plan.cta_rows)
    batch = work.place(work.first_row)[0]
    query.wait_empty(item)
    with cute.arch.elect_one():
        query.expect_bytes(item, plan.query_bytes)
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
                query.full_barrier(item),
            )  # fmt: skip


def query_boxes(ctx: Context, work: WorkItem) -> Boxes:
    """The query as TMA reads it; a ragged packed one starts at the request's first row, a multiple of nothing."""
    boxes = ctx.args.query
    if not (ctx.config.query_packed and ctx.config.ragged_query):
        return boxes
    first_row = work.request.query_begin * ctx.config.num_heads
    return replace(boxes, tensor=cute.domain_offset((first_row, 0, 0, 0), boxes.tensor))


@cute.jit
def load_keys(ctx: cutlass.Constexpr, part: cutlass.Constexpr, tile: Int32, ragged: Int32):
    """This CTA's keys of tile `tile`. Returns the number of ragged slots so far."""
    plan = ctx.plan
    ctx.pipe("pages").wait_full(part.stage(tile))
    first_token = ctx.cta_rank * plan.key_rows
    for number in cutlass.range_constexpr(plan.key_slots):
        slot = Slot("keys", key_columns(ctx, number), first_token, plan.key_rows, plan.keys_are_values)
        ragged = fill_slot(ctx, part, slot, part.count(tile) * plan.key_slots + number, tile, ragged)
    return ragged


@cute.jit
def load_values(ctx: cutlass.Constexpr, part: cutlass.Constexpr, tile: Int32, ragged: Int32):
    """This CTA's values of tile `tile`, where they are not the keys. Returns the number of ragged slots so far."""
    if cutlass.const_expr(not ctx.plan.keys_are_values):
        slots = ctx.plan.value_slots
        for number in cutlass.range_constexpr(len(slots)):
            columns = path_of(ctx.plan).value_columns(ctx, number, ctx.args.kv)
            slot = Slot("values", columns, slots[number].first_token, slots[number].tokens, True)
            ragged = fill_slot(ctx, part, slot, part.count(tile) * len(slots) + number, tile, ragged)
    return ragged


@cute.jit
def fill_slot(
    ctx: cutlass.Constexpr,
    part: cutlass.Constexpr,
    slot: cutlass.Constexpr,
    count: Int32,
    tile: Int32,
    ragged: Int32,
):
    """The pages that hold visible keys to slot `count` of its ring, one box per (page, column).

    The last K step of P*V multiplies whole groups of mma_k tokens, and 0 * NaN is NaN: rows of that group past the
    last key are cleared after the load and before the tensor core is told. Returns the number of such ragged slots.
    """
    plan = ctx.plan
    tokens = minimum(part.phases.keys - tile * plan.tile_tokens - slot.first_token, slot.tokens)
    num_boxes = (maximum(tokens, 0) + (plan.box_tokens - 1)) // plan.box_tokens
    ctx.pipe(slot.edge).wait_empty(count)
    if cutlass.const_expr(not slot.holds_values):
        fill_whole(ctx, part, slot, count, tile, num_boxes)
    elif (tokens > 0) & (tokens % plan.mma_k != 0):
        fill_ragged(ctx, part, slot, count, tile, num_boxes, tokens, ragged)
        ragged = ragged + 1
    else:
        fill_whole(ctx, part, slot, count, tile, num_boxes)
    return ragged


@cute.jit
def fill_whole(
    ctx: cutlass.Constexpr,
    part: cutlass.Constexpr,
    slot: cutlass.Constexpr,
    count: Int32,
    tile: Int32,
    num_boxes: Int32,
):
    """TMA itself tells the tensor core."""
    ring = ctx.pipe(slot.edge)
    with cute.arch.elect_one():
        ring.expect_bytes(count, num_boxes * (ctx.plan.box_tokens * row_bytes(ctx, slot)))
    load_boxes(ctx, part, slot.columns, slot, count, tile, num_boxes, ring.full_barrier(count))


@cute.jit
def fill_ragged(
    ctx: cutlass.Constexpr,
    part: cutlass.Constexpr,
    slot: cutlass.Constexpr,
    count: Int32,
    tile: Int32,
    num_boxes: Int32,
    tokens: Int32,
    ragged: Int32,
):
    """This warp waits for TMA, clears the rows behind `tokens`, and tells the tensor core."""
    ring, tail = ctx.pipe(slot.edge), ctx.pipe("tail")
    with cute.arch.elect_one():
        tail.expect_bytes(0, num_boxes * (ctx.plan.box_tokens * row_bytes(ctx, slot)))
    load_boxes(ctx, part, tail_columns(ctx, slot), slot, count, tile, num_boxes, tail.full_barrier(0))
    tail.wait_full(ragged)
    clear_rows(ctx, slot, count, tokens)
    cute.arch.fence_proxy("async.shared", space="cta")
    ring.warp_arrive_full(count)


def key_columns(ctx: Context, number: int) -> list[Column]:
    """What this CTA loads for a tile's key slot `number`: spans of the head dimension."""
    columns = []
    for _, span, offset in ctx.plan.key_slot_spans(number):
        boxes = ctx.args.kv if span.start < ctx.config.kv_lora_rank else ctx.args.kv_rope
        elements = span.bytes // ctx.config.element_bytes
        columns.append(Column(boxes, span.start // elements, elements, offset))
    return columns


def row_bytes(ctx: Context, slot: Slot) -> int:
    """Bytes of a token in a slot."""
    return sum(column.elements for column in slot.columns) * ctx.config.element_bytes


def tail_columns(ctx: Context, slot: Slot) -> list[Column]:
    """A slot's columns, loaded by copies that signal a barrier of this CTA."""
    if ctx.args.kv_tail is None:
        return slot.columns
    return [replace(column, boxes=ctx.args.kv_tail) for column in slot.columns]


@cute.jit
def load_boxes(
    ctx: cutlass.Constexpr,
    part: cutlass.Constexpr,
    columns: cutlass.Constexpr,
    slot: cutlass.Constexpr,
    count: Int32,
    tile: Int32,
    num_boxes: Int32,
    barrier: cute.Pointer,
):
    """`num_boxes` boxes of each of `columns`, from the slot's first token on."""
    plan, page_size = ctx.plan, ctx.config.page_size
    page_ids = ctx.smem_ints(plan.page_ids_offset, plan.page_stages * plan.page_ids_per_stage)
    stage = ctx.pipe("pages").stage(part.stage(tile))
    first_id = stage * plan.page_ids_per_stage + part.span.position(tile)
    offset = ctx.slot_offset(slot.edge, count)
    for box in cutlass.range(num_boxes, unroll=1):
        token = slot.first_token + box * plan.box_tokens
        page_id = page_ids[first_id + token // page_size]
        page_box = (tile * plan.tile_tokens + token) % page_size // plan.box_tokens
        for index in cutlass.range_constexpr(len(columns)):
            column = columns[index]
            place = offset + column.offset + box * (plan.box_tokens * column.elements * ctx.config.element_bytes)
            coordinate = (page_box, column.coordinate, page_id)
            operands.load_box(ctx, column.boxes, plan.box_tokens, column.elements, coordinate, place, barrier)


@cute.jit
def clear_rows(ctx: cutlass.Constexpr, slot: cutlass.Constexpr, count: Int32, tokens: Int32):
    """Zero the latent part of rows [tokens, next multiple of mma_k) of a slot. Rows are 128 bytes per chunk."""
    plan = ctx.plan
    lane = cute.arch.lane_idx()
    units_per_row = CHUNK_BYTES // 16
    chunks = sum(column.elements == plan.chunk_elements for column in slot.columns)
    chunks = min(chunks, ctx.config.kv_lora_rank // plan.chunk_elements)
    units = chunks * units_per_row
    end = (tokens + (plan.mma_k - 1)) // plan.mma_k * plan.mma_k
    for row in cutlass.range(tokens, end, unroll=1):
        for first in cutlass.range_constexpr(0, units, 32):
            unit = lane + first
            if unit < units:
                offset = ctx.slot_offset(slot.edge, count) + unit // units_per_row * plan.value_chunk_bytes
                offset = offset + row * CHUNK_BYTES + unit % units_per_row * 16
                cells = cute.make_tensor(ctx.smem_pointer(Int32, offset, 16), cute.make_layout(4))
                cells.fill(0)
