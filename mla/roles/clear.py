"""Rows of a ring slot that the tensor core must not multiply as they are: which, and zeros there. Part of the load role.

Ordinary stores write the zeros, or, where a machine needs it (MlaDecodeConfig.avoid), TMA from beyond the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Uint32

from mla import operands
from mla.causal_mask import maximum, minimum
from mla.context import Context, Slot
from mla.paths import path_of
from mla.plan.tile import CHUNK_BYTES

UNIT_BYTES = 16  # what one lane clears at a time
NO_PAGE = -1  # a page before the first: TMA writes zeros in its place


@dataclass(frozen=True)
class RaggedTile:
    """A tile's values that TMA was asked for, and of which this warp has to clear rows before the tensor core is told.

    first: its first ring slot. visible, hidden, shared_from, shared_to: as in load.TilePages, of which it is made; 0 where
    the config has none. visible is 0 where there is no such tile.
    """

    first: Any
    visible: Any
    hidden: Any
    shared_from: Any
    shared_to: Any

    @classmethod
    def none(cls) -> RaggedTile:
        return cls(*(Int32(0) for _ in range(5)))

    @classmethod
    def of(cls, pages: Any, first: Any) -> RaggedTile:
        shared_from, shared_to = (0, 0) if pages.shared is None else pages.shared
        return cls(*(Int32(v) for v in (first, pages.visible, pages.hidden, shared_from, shared_to)))


def is_slot_by_slot(ctx: Context) -> bool:
    """Whether ragged slots are waited for, cleared and handed over one by one, each by `clear_slot`."""
    return ctx.config.avoids("nan_in_keys", "stores_over_tma")


def tokens_of_a_group(ctx: Context) -> int:
    """Tokens of which none may be read as they are if one is not: a K step of P*V, or all that an instruction of Q*K
    takes at once.
    """
    keys_too = ctx.plan.tile.keys_are_values and ctx.config.avoids("nan_in_keys")
    return ctx.plan.tile.tokens if keys_too else ctx.plan.tile.mma_k


def rows_behind(ctx: Context, slot: Slot, visible: Any) -> tuple[Any, Any]:
    """(first, how many) of tokens [visible, next multiple of mma_k) of the tile, in the slot."""
    first = visible - slot.first_token
    rows = (ctx.plan.tile.mma_k - visible % ctx.plan.tile.mma_k) * cutlass.Int32((first >= 0) & (first < slot.tokens))
    return first, rows


def rows_before(ctx: Context, slot: Slot, hidden: Any) -> tuple[Any, Any]:
    """(first, how many) of tokens [last multiple of mma_k, hidden) of the tile, in the slot."""
    before = hidden % ctx.plan.tile.mma_k
    first = hidden - before - slot.first_token
    return first, before * cutlass.Int32((first >= 0) & (first < slot.tokens))


def all_rows_behind(slot: Slot, visible: Any) -> tuple[Any, Any]:
    """(first, how many) of tokens [visible, ...) of the slot."""
    first = minimum(maximum(visible - slot.first_token, 0), slot.tokens)
    return first, slot.tokens - first


def all_rows_before(slot: Slot, hidden: Any) -> tuple[Any, Any]:
    """(first, how many) of tokens [..., hidden) of the slot."""
    return Int32(0), minimum(maximum(hidden - slot.first_token, 0), slot.tokens)


@cute.jit
def clear_tile(ctx: cutlass.Constexpr, tile: cutlass.Constexpr, ragged: Int32):
    """Of a RaggedTile, number `ragged` - 1, if there is one: wait for TMA, clear the rows behind the visible ones (and what
    of those that not all rows see is not finite), and tell the tensor core. Returns the RaggedTile that is left: none.
    """
    if cutlass.const_expr(not is_slot_by_slot(ctx)):
        if tile.visible > 0:
            clear_slots(ctx, tile, ragged - 1)
    return RaggedTile.none()


@cute.jit
def clear_slots(ctx: cutlass.Constexpr, tile: cutlass.Constexpr, count: Int32):
    """As `clear_tile`, of a tile that there is; its loads signalled phase `count` of edge `tail`."""
    plan = ctx.plan
    ring, slots = ctx.pipe(plan.tile.value_edge), plan.smem.rings[plan.tile.value_edge].tile_slots
    ctx.pipe("tail").wait_full(count)
    for number in cutlass.range(slots, unroll=1):
        slot = path_of(plan).value_slot(ctx, number)
        zero_rows(ctx, slot, tile.first + number, *rows_behind(ctx, slot, tile.visible))
    if cutlass.const_expr(ctx.config.sliding_window):
        for number in cutlass.range(slots, unroll=1):
            slot = path_of(plan).value_slot(ctx, number)
            zero_rows(ctx, slot, tile.first + number, *rows_before(ctx, slot, tile.hidden))
    if cutlass.const_expr(ctx.config.isolate_drafts):
        for number in cutlass.range(slots, unroll=1):
            slot = path_of(plan).value_slot(ctx, number)
            clear_not_finite(ctx, slot, tile.first + number, tile.shared_to, tile.visible)
            if cutlass.const_expr(ctx.config.sliding_window):
                clear_not_finite(ctx, slot, tile.first + number, tile.hidden, tile.shared_from)
    cute.arch.fence_proxy("async.shared", space="cta")
    for number in cutlass.range(slots, unroll=1):
        ring.warp_arrive_full(tile.first + number)


@cute.jit
def clear_slot(ctx: cutlass.Constexpr, slot: cutlass.Constexpr, count: Int32, pages: cutlass.Constexpr):
    """Zeros in slot `count`, which TMA has filled, and then the tensor core is told. pages: load.TilePages."""
    config = ctx.config
    is_key = config.avoids("nan_in_keys") and slot.edge in ("keys", "rope")
    ranges = [all_rows_behind(slot, pages.visible) if is_key else rows_behind(ctx, slot, pages.visible)]
    if cutlass.const_expr(config.sliding_window):
        ranges.append(all_rows_before(slot, pages.hidden) if is_key else rows_before(ctx, slot, pages.hidden))
    if cutlass.const_expr(config.avoids("stores_over_tma")):
        zero_rows_by_tma(ctx, slot, count, ranges)
    else:
        for first, rows in ranges:
            zero_rows(ctx, slot, count, first, rows)
        if cutlass.const_expr(config.isolate_drafts and slot.edge == "values"):
            clear_not_finite(ctx, slot, count, pages.shared[1], pages.visible)
            if cutlass.const_expr(config.sliding_window):
                clear_not_finite(ctx, slot, count, pages.hidden, pages.shared[0])
        cute.arch.fence_proxy("async.shared", space="cta")
        ctx.pipe(slot.edge).warp_arrive_full(count)


@cute.jit
def zero_rows(ctx: cutlass.Constexpr, slot: cutlass.Constexpr, count: Int32, first: Int32, rows: Int32):
    """Zero `rows` tokens in slot `count`, from its token `first` on."""
    for index in cutlass.range(cute.arch.lane_idx(), rows * row_units(ctx, slot), cute.arch.WARP_SIZE, unroll=1):
        unit_words(ctx, slot, count, first, index).fill(0)


@cute.jit
def zero_rows_by_tma(ctx: cutlass.Constexpr, slot: cutlass.Constexpr, count: Int32, ranges: cutlass.Constexpr):
    """The same for all `ranges`, (first, how many), and the full barrier of slot `count` counts their bytes. A row of
    zeros is the same however it is swizzled, so it may start at any multiple of its own size.
    """
    ring = ctx.pipe(slot.edge)
    total = sum(rows for _, rows in ranges)
    with cute.arch.elect_one():
        ring.expect_bytes(count, total * (len(slot.columns) * CHUNK_BYTES))
    offset, barrier = ctx.slot_offset(slot.edge, count), ring.full_barrier(count)
    for first, rows in ranges:
        for row in cutlass.range(rows, unroll=1):
            for column in slot.columns:
                place = offset + column.offset + (first + row) * CHUNK_BYTES
                coordinate = (Int32(0), column.coordinate, Int32(NO_PAGE))
                operands.load_box(ctx, ctx.args.zeros, 1, column.elements, coordinate, place, barrier)


def row_bytes(ctx: Context, slot: Slot) -> int:
    """Bytes of a token in each column."""
    return slot.columns[0].elements * ctx.config.element_bytes


def row_units(ctx: Context, slot: Slot) -> int:
    """Units of 16 bytes in a token of the slot."""
    return len(slot.columns) * (row_bytes(ctx, slot) // UNIT_BYTES)


def unit_words(ctx: Context, slot: Slot, count: Int32, first: Int32, index: Int32) -> cute.Tensor:
    """The four words of unit `index` behind token `first` of slot `count`."""
    column_units = row_bytes(ctx, slot) // UNIT_BYTES
    unit, pitch = index % row_units(ctx, slot), slot.columns[-1].offset // max(len(slot.columns) - 1, 1)
    offset = ctx.slot_offset(slot.edge, count) + unit // column_units * pitch
    offset = offset + (first + index // row_units(ctx, slot)) * row_bytes(ctx, slot) + unit % column_units * UNIT_BYTES
    return cute.make_tensor(ctx.smem_pointer(Uint32, offset, UNIT_BYTES), cute.make_layout(UNIT_BYTES // 4))


@cute.jit
def clear_not_finite(ctx: cutlass.Constexpr, slot: cutlass.Constexpr, count: Int32, begin: Int32, end: Int32):
    """Zero the words with an element that is not finite, in tokens [begin, end) of the tile in slot `count`.

    For a row that sees such a key nothing changes that its score does not say: that is NaN or +Inf, which makes the
    whole row NaN, or -Inf, and then the key's probability is 0.
    """
    first = maximum(begin - slot.first_token, 0)
    rows = maximum(minimum(end - slot.first_token, slot.tokens) - first, 0)
    for index in cutlass.range(cute.arch.lane_idx(), rows * row_units(ctx, slot), cute.arch.WARP_SIZE, unroll=1):
        cells = unit_words(ctx, slot, count, first, index)
        words = cute.make_rmem_tensor(UNIT_BYTES // 4, Uint32)
        cute.autovec_copy(cells, words)
        for i in cutlass.range_constexpr(UNIT_BYTES // 4):
            odd = operands.not_finite(words[i], ctx.config.dtype)
            words[i] = cutlass.select_(odd == Uint32(0), words[i], Uint32(0))
        cute.autovec_copy(words, cells)
