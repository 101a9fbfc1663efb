"""Load role: query rows, keys and values to shared memory by TMA, in the order in which the tensor core reads them.

Consumes: edges `work`, `pages`; `query`, `keys`, `rope`, `values` (empty). Produces: edges `query`, `keys`, `rope`, and
`values` where keys are not read again as values. Warps: one per CTA. Registers: few.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla import operands
from mla.causal_mask import TilePhases, maximum, minimum, quotient
from mla.context import Boxes, Column, Context, Slot, WorkItem, has_work, latent_slot, read_work, release_work
from mla.page_ring import PageSpan
from mla.paths import path_of
from mla.pipelines import unsigned
from mla.plan.smem import Ring
from mla.plan.tile import CHUNK_BYTES
from mla.roles import clear


@dataclass(frozen=True)
class ItemLoads:
    """A work item's key tiles, and the counters before it: work items with keys, key tiles, page-ring stages."""

    phases: TilePhases
    span: PageSpan
    items: Any
    tiles: Any
    stages: Any

    def count(self, ring: Ring, tile: Any) -> Any:
        """Where the first slot of key tile `tile` comes in a ring, behind this item's query."""
        return ring.count(self.items + 1, self.tiles + (tile - self.phases.begin))

    def stage(self, tile: Any) -> Any:
        return self.stages + self.span.stage(tile)


@dataclass(frozen=True)
class TilePages:
    """Where the pages of a key tile are.

    visible: the row tile reads none of the tile's keys from this one on. hidden: nor any before this one, 0 without a
    window. first_id: place of the first page's id in shared memory.
    first_box: the tile's first box within that page, which is not its first where a page holds several tiles.
    shared: with isolate_drafts, those between them that every row of the row tile sees, from and to.
    """

    visible: Any
    hidden: Any
    first_id: Any
    first_box: Any
    shared: Any = None

    @classmethod
    def of(cls, ctx: Context, loads: ItemLoads, tile: Any) -> TilePages:
        plan, page_size = ctx.plan, ctx.config.page_size
        hidden, visible = loads.phases.keys_read(tile, plan.tile.tokens)
        stage = ctx.pipe("pages").stage(loads.stage(tile))
        first_id = stage * plan.smem.page_ids_per_stage + loads.span.position(tile)
        tiles = plan.tile.tiles_per_page
        first_box = 0 if tiles == 1 else Int32(unsigned(tile) % tiles) * (page_size // plan.tile.box_tokens // tiles)
        shared = None
        if ctx.config.isolate_drafts:
            shared = tuple(maximum(key - tile * plan.tile.tokens, 0) for key in keys_of_all_rows(loads.phases))
        return cls(visible, hidden, first_id, first_box, shared)

    def needs_clearing(self, mma_k: int) -> Any:
        """Whether a K step of P*V multiplies keys that are not read, or one that must not be multiplied as it is."""
        is_needed = self.visible % mma_k != 0
        if not isinstance(self.hidden, int):
            is_needed = is_needed | (self.hidden % mma_k != 0)
        if self.shared is None:
            return is_needed
        return is_needed | (self.hidden < self.shared[0]) | (self.shared[1] < self.visible)


@cute.jit
def run(ctx: cutlass.Constexpr):
    item, queries, tiles, stages, ragged = Int32(0), Int32(0), Int32(0), Int32(0), Int32(0)
    uncleared = clear.RaggedTile.none()
    is_open = has_work(ctx, item)
    while is_open:
        queries, tiles, stages, ragged, uncleared = load_item(ctx, item, queries, tiles, stages, ragged, uncleared)
        item = item + 1
        is_open = has_work(ctx, item)
    clear.clear_tile(ctx, uncleared, ragged)
    drain(ctx, "query", queries)
    for name, ring in ctx.plan.smem.rings.items():
        drain(ctx, name, ring.count(queries, tiles))


@cute.jit
def drain(ctx: cutlass.Constexpr, edge: cutlass.Constexpr, count: Int32):
    """Until the tensor core has freed all `count` slots of a ring: a commit must not arrive in shared memory that this
    CTA has given back.
    """
    ring = ctx.pipe(edge)
    for index in cutlass.range(maximum(count - ring.edge.stages, 0), count, unroll=1):
        ring.wait_drained(index)


@cute.jit
def load_item(
    ctx: cutlass.Constexpr,
    item: Int32,
    queries: Int32,
    tiles: Int32,
    stages: Int32,
    ragged: Int32,
    uncleared: cutlass.Constexpr,
):
    """One work item. Returns the counters behind it: work items with keys, key tiles, page-ring stages, ragged tiles; and
    its last tile, if that is ragged.

    uncleared: the clear.RaggedTile of the item before. Its values take as long to come as any, so this item's query and, on
    the wide path, its first keys are asked for meanwhile. That must not wait for P V of those values: on the narrow path
    there is room for the query beside them (asserted in MemoryPlan); on the wide path scores free the keys' slots, and
    those before these wait for earlier tiles' P V only.
    """
    work = read_work(ctx, item)
    release_work(ctx, item)
    phases = work.phases
    loads = ItemLoads(phases, PageSpan.of(ctx.plan, phases), queries, tiles, stages)
    ahead = 0 if ctx.plan.tile.keys_are_values else 2
    if phases.num_tiles > 0:
        pass_query(ctx, work, loads)
    if cutlass.const_expr(ahead == 0):
        uncleared = clear.clear_tile(ctx, uncleared, ragged)
    else:
        for index in cutlass.range(maximum(minimum(phases.num_tiles, ahead), 1), unroll=1):
            if index < phases.num_tiles:
                ctx.pipe("pages").wait_full(loads.stage(phases.begin + index))
                ragged = load_keys(ctx, work, loads, phases.begin + index, ragged)
            if index == 0:
                uncleared = clear.clear_tile(ctx, uncleared, ragged)
    for tile in cutlass.range(phases.begin, phases.end, unroll=1):
        if tile + ahead < phases.end:
            ctx.pipe("pages").wait_full(loads.stage(tile + ahead))
        pages = TilePages.of(ctx, loads, tile)
        first = loads.count(ctx.plan.smem.rings[ctx.plan.tile.value_edge], tile)
        ragged, uncleared = load_values(ctx, pages, first, ragged, uncleared)
        if tile + ahead < phases.end:
            ragged = load_keys(ctx, work, loads, tile + ahead, ragged)
        if cutlass.const_expr(ctx.config.sliding_window or ctx.config.isolate_drafts):
            # Not only the last tile may be ragged; there is one `tail` at a time.
            if tile + 1 < phases.end:
                uncleared = clear.clear_tile(ctx, uncleared, ragged)
        if (tile + 1 == phases.end) | (loads.stage(tile + 1) != loads.stage(tile)):
            ctx.pipe("pages").warp_arrive_empty(loads.stage(tile))
    if phases.num_tiles > 0:
        queries = queries + 1
    return queries, tiles + phases.num_tiles, stages + loads.span.num_stages, ragged, uncleared


@cute.jit
def pass_query(ctx: cutlass.Constexpr, work: cutlass.Constexpr, loads: cutlass.Constexpr):
    """The chunks of the query that the scores role copies to Tensor Memory, to slots of the ring of keys."""
    plan = ctx.plan
    keys, ring = ctx.pipe("keys"), plan.smem.rings["keys"]
    for number in cutlass.range(ring.item_slots, unroll=1):
        count = ring.count(loads.items, loads.tiles, number)
        keys.wait_empty(count)
        chunks = plan.tile.query_slot_chunks
        load_chunks(ctx, work, number * chunks, chunks, ctx.slot_offset("keys", count), keys, count)


@cute.jit
def keep_query(ctx: cutlass.Constexpr, work: cutlass.Constexpr, count: Int32):
    """The chunks of the query that are multiplied from shared memory."""
    plan, query = ctx.plan, ctx.pipe("query")
    query.wait_empty(count)
    kept = plan.smem.query_chunks_kept
    load_chunks(ctx, work, kept.start, len(kept), plan.smem.query_offset, query, count)


@cute.jit
def load_chunks(
    ctx: cutlass.Constexpr,
    work: cutlass.Constexpr,
    first_chunk: Int32,
    chunks: cutlass.Constexpr,
    offset: Int32,
    edge: cutlass.Constexpr,
    count: Int32,
):
    """Chunks of this CTA's rows to byte `offset`, in boxes that never straddle two tokens, or, packed, of any rows. The
    full barrier `count` of `edge` counts their bytes.

    Rows past the request's last token arrive as zeros or are the next request's: no row's result depends on another's,
    and theirs are not written.
    """
    plan, config = ctx.plan, ctx.config
    box_rows = config.query_box_rows(plan.tile.cta_rows)
    batch = work.row_coord(work.first_row)[0]
    with cute.arch.elect_one():
        edge.expect_bytes(count, chunks * plan.tile.query_chunk_bytes)
    for box in cutlass.range(plan.tile.cta_rows // box_rows, unroll=1):
        row = work.first_row + box * box_rows
        token, head_box = Int32(0), row // box_rows
        if cutlass.const_expr(not config.query_packed):
            _, token, head = work.row_coord(row)
            head_box = head // box_rows
        for chunk in cutlass.range_constexpr(chunks):
            box_offset = offset + chunk * plan.tile.query_chunk_bytes + box * (box_rows * CHUNK_BYTES)
            operands.load_box(
                ctx, query_boxes(ctx, work), box_rows, plan.tile.chunk_elements,
                (head_box, first_chunk + chunk, token, batch), box_offset, edge.full_barrier(count),
            )  # fmt: skip


def query_boxes(ctx: Context, work: WorkItem) -> Boxes:
    """The query as TMA reads it; a ragged packed one starts at the request's first row, a multiple of nothing."""
    boxes = ctx.args.query
    if not (ctx.config.query_packed and ctx.config.ragged_query):
        return boxes
    first_row = work.request.query_begin * ctx.config.num_heads
    return replace(boxes, tensor=cute.domain_offset((first_row, 0, 0, 0), boxes.tensor))


@cute.jit
def load_keys(ctx: cutlass.Constexpr, work: cutlass.Constexpr, loads: cutlass.Constexpr, tile: Int32, ragged: Int32):
    """This CTA's keys of tile `tile`; where they are values too, only those that are not. Returns the number of ragged
    tiles so far.

    What stays of an item's query in shared memory follows its first keys: its place is free once the item before has
    all its scores, theirs is sooner. But it goes ahead of those whose slots the rest of the query still passes through.
    """
    plan, pages, ring = ctx.plan, TilePages.of(ctx, loads, tile), ctx.plan.smem.rings["keys"]
    is_first = tile == loads.phases.begin
    free = ring.stages - ring.item_slots
    is_split = not plan.tile.keys_are_values and free < ring.tile_slots
    if cutlass.const_expr(not plan.tile.keys_are_values):
        first = loads.count(ring, tile)
        for number in cutlass.range(ring.tile_slots, unroll=1):
            if cutlass.const_expr(is_split):
                if is_first & (number == free):
                    keep_query(ctx, work, loads.items)
            ragged = fill_keys(ctx, pages, latent_slot(ctx, number), first + number, ragged)
    elements = ctx.config.qk_rope_head_dim
    column = Column(ctx.args.kv_rope, ctx.config.kv_lora_rank // elements, elements, 0)
    rope = Slot("rope", [column], ctx.cta_rank * plan.tile.key_rows, plan.tile.key_rows)
    ragged = fill_keys(ctx, pages, rope, loads.count(plan.smem.rings["rope"], tile), ragged)
    if cutlass.const_expr(not is_split):
        if is_first:
            keep_query(ctx, work, loads.items)
    return ragged


def keys_of_all_rows(phases: TilePhases) -> tuple[Any, Any]:
    """The keys, from and to, that every row of the row tile sees, in both CTAs of a pair: the tensor core multiplies the
    values of each with the rows of both.
    """
    return phases.whole_from, phases.whole_to


@cute.jit
def load_values(
    ctx: cutlass.Constexpr, pages: cutlass.Constexpr, first: Int32, ragged: Int32, uncleared: cutlass.Constexpr
):
    """This CTA's values of a tile to ring slots `first` .., on the narrow path its latent keys. Returns the number of
    ragged tiles so far, and the clear.RaggedTile that is left: this one, if it is ragged. There is none before it.

    The last K step of P*V multiplies whole groups of mma_k tokens, and 0 * NaN is NaN: rows of that group past the
    last key are cleared after the load and before the tensor core is told. So are those before a window's first key, and,
    with isolate_drafts, what is not finite of keys that only some rows see, whose probability is 0 for the others.
    """
    plan = ctx.plan
    slots = plan.smem.rings[plan.tile.value_edge].tile_slots
    if pages.needs_clearing(clear.tokens_of_a_group(ctx)):
        if cutlass.const_expr(clear.is_slot_by_slot(ctx)):
            for number in cutlass.range(slots, unroll=1):
                slot = path_of(plan).value_slot(ctx, number)
                ragged = fill_cleared(ctx, pages, slot, first + number, ragged)
        else:
            load_ragged_values(ctx, pages, first)
            ragged, uncleared = ragged + 1, clear.RaggedTile.of(pages, first)
    else:
        for number in cutlass.range(slots, unroll=1):
            fill(ctx, pages, path_of(plan).value_slot(ctx, number), first + number)
    return ragged, uncleared


@cute.jit
def fill_keys(ctx: cutlass.Constexpr, pages: cutlass.Constexpr, slot: cutlass.Constexpr, count: Int32, ragged: Int32):
    """Slot `count` of a ring of keys that are not values. Returns the number of ragged tiles so far."""
    if cutlass.const_expr(not ctx.config.avoids("nan_in_keys")):
        fill(ctx, pages, slot, count)
    elif pages.needs_clearing(ctx.plan.tile.tokens):
        ragged = fill_cleared(ctx, pages, slot, count, ragged)
    else:
        fill(ctx, pages, slot, count)
    return ragged


@cute.jit
def fill_cleared(
    ctx: cutlass.Constexpr, pages: cutlass.Constexpr, slot: cutlass.Constexpr, count: Int32, ragged: Int32
):
    """Slot `count` of its ring, with zeros where the tensor core must not read what is there: this warp waits for TMA
    before it writes them. Returns the number of ragged slots so far.
    """
    ring, tail = ctx.pipe(slot.edge), ctx.pipe("tail")
    ring.wait_empty(count)
    load_boxes(ctx, pages, tail_slot(ctx, slot), count, tail, ragged)
    tail.wait_full(ragged)
    clear.clear_slot(ctx, slot, count, pages)
    return ragged + 1


@cute.jit
def load_ragged_values(ctx: cutlass.Constexpr, pages: cutlass.Constexpr, first: Int32):
    """Ring slots `first` ..; TMA tells this warp, which has to clear some of them."""
    tail, ring = ctx.pipe("tail"), ctx.pipe(ctx.plan.tile.value_edge)
    for number in cutlass.range(ctx.plan.smem.rings[ctx.plan.tile.value_edge].tile_slots, unroll=1):
        slot = tail_slot(ctx, path_of(ctx.plan).value_slot(ctx, number))
        ring.wait_empty(first + number)
        load_boxes(ctx, pages, slot, first + number, tail, 0)


@cute.jit
def fill(ctx: cutlass.Constexpr, pages: cutlass.Constexpr, slot: cutlass.Constexpr, count: Int32):
    """Slot `count` of its ring; TMA itself tells the tensor core."""
    ring = ctx.pipe(slot.edge)
    ring.wait_empty(count)
    load_boxes(ctx, pages, slot, count, ring, count)


def tail_slot(ctx: Context, slot: Slot) -> Slot:
    """The slot, loaded by copies that signal a barrier of this CTA."""
    boxes = ctx.args.rope_tail if slot.edge == "rope" else ctx.args.kv_tail
    if boxes is None:
        return slot
    return replace(slot, columns=[replace(column, boxes=boxes) for column in slot.columns])


@cute.jit
def load_boxes(
    ctx: cutlass.Constexpr,
    pages: cutlass.Constexpr,
    slot: cutlass.Constexpr,
    count: Int32,
    told: cutlass.Constexpr,
    told_count: Int32,
):
    """The pages that hold keys which the row tile reads to slot `count` of its ring, one box per (page, column). Full
    barrier `told_count` of edge `told` counts their bytes.
    """
    plan, page_size = ctx.plan, ctx.config.page_size
    num_boxes = (maximum(pages.visible - slot.first_token, 0) + (plan.tile.box_tokens - 1)) // plan.tile.box_tokens
    num_boxes = minimum(num_boxes, slot.tokens // plan.tile.box_tokens)
    first_box = 0
    if cutlass.const_expr(ctx.config.sliding_window):
        first_box = quotient(maximum(pages.hidden - slot.first_token, 0), plan.tile.box_tokens)
        first_box = minimum(first_box, num_boxes)
    row_bytes = sum(column.elements for column in slot.columns) * ctx.config.element_bytes
    with cute.arch.elect_one():
        told.expect_bytes(told_count, (num_boxes - first_box) * (plan.tile.box_tokens * row_bytes))
    page_ids = ctx.smem_ints(plan.smem.page_ids_offset, plan.smem.page_stages * plan.smem.page_ids_per_stage)
    offset, barrier = ctx.slot_offset(slot.edge, count), told.full_barrier(told_count)
    for box in cutlass.range_constexpr(slot.tokens // plan.tile.box_tokens):
        is_read = box < num_boxes
        if cutlass.const_expr(ctx.config.sliding_window):
            is_read = is_read & (first_box <= box)
        if is_read:
            token = unsigned(slot.first_token + box * plan.tile.box_tokens)
            page_id = page_ids[pages.first_id + Int32(token // page_size)]
            page_box = pages.first_box + Int32(token % page_size // plan.tile.box_tokens)
            for column in slot.columns:
                box_bytes = plan.tile.box_tokens * column.elements * ctx.config.element_bytes
                box_offset = offset + column.offset + box * box_bytes
                coordinate = (page_box, column.coordinate, page_id)
                operands.load_box(
                    ctx, column.boxes, plan.tile.box_tokens, column.elements, coordinate, box_offset, barrier
                )
