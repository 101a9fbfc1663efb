"""Scheduler role: finds the range of the batch of this CTA, or pair of CTAs, announces it, one work item at a time, and
fetches each item's page ids ahead of the loads.

Consumes: seq_lens, block_tables (global). Produces: edges `work`, `pages`. Warps: one. Registers: few.

Keys can be loaded no sooner than seq_lens, then page ids, then two hops through barriers allow. So the range is found
while the rest of the CTA sets up, and one warp does both, without a hop between them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla import split_kv
from mla.arch import WARP_SIZE
from mla.causal_mask import maximum, minimum, quotient, quotient_up
from mla.context import work_cells
from mla.page_ring import PageSpan
from mla.pipelines import LEADER_RANK
from mla.plan.memory import MemoryPlan
from mla.varlen import (
    RequestList,
    Window,
    first_of_lane,
    measure,
    next_window,
    row_tile_at,
    traced_or_none,
    window_at,
)


@dataclass(frozen=True)
class UnitRange:
    """Positions [begin, end) of the line, and the window in which they begin. partition: of all units."""

    partition: split_kv.Partition
    window: Window
    begin: Any
    end: Any


def no_range(requests: RequestList) -> UnitRange:
    """What other warps hold where the scheduler's has its range."""
    zero = Int32(0)
    window = Window(zero, zero, requests.no_request.traced, zero, zero, zero)
    return UnitRange(split_kv.Partition(zero, zero, zero), window, zero, zero)


@cute.jit
def first_lengths(requests: cutlass.Constexpr):
    """The first access to memory on the way to the first keys."""
    return traced_or_none(requests, first_of_lane(requests)[1])


@cute.jit
def find_range(requests: cutlass.Constexpr, lengths: cutlass.Constexpr, unit: Int32, num_units: Int32):
    """The range of one unit; where it is idle, an empty one behind the last request. lengths: of `first_lengths`."""
    whole = measure(requests, lengths)
    of_all = requests.scheduler
    partition = split_kv.Partition.of(
        whole.end_of_all, num_units, requests.num_row_tiles, of_all.gap, of_all.uncut_tiles
    )
    begin, end = partition.begin(unit), partition.begin(unit + 1)
    return UnitRange(partition, window_at(requests, whole, begin), begin, end)


@cute.jit
def run(ctx: cutlass.Constexpr, unit_range: cutlass.Constexpr):
    window = unit_range.window
    item, stages = write_items(ctx, unit_range, window, Int32(0), Int32(0))
    while (window.end_of_all < unit_range.end) & (window.first + WARP_SIZE < ctx.requests.count):
        window = next_window(ctx.requests, window)
        item, stages = write_items(ctx, unit_range, window, item, stages)
    write_work(ctx, item, (Int32(-1),) + (Int32(0),) * (ctx.plan.smem.work_record_told - 1))
    if item == 0:
        write_cut(ctx, split_kv.Cut(*(Int32(0),) * 6))


@cute.jit
def write_items(
    ctx: cutlass.Constexpr, unit_range: cutlass.Constexpr, window: cutlass.Constexpr, item: Int32, stages: Int32
):
    """Write what the range takes of a window as work items. Returns the next work item and page-ring stage."""
    begin, end = unit_range.begin, unit_range.end
    requests = ctx.requests
    for lane in cutlass.range(window.lane_at(begin), window.lanes_before(end), unroll=1):
        request = requests.request_of(window.traced).of_lane(lane)
        scheduler = requests.scheduler_of(window.first + lane, request)
        start = cute.arch.shuffle_sync(window.start, lane)
        row_tile, first, cost = row_tile_at(scheduler, request.seq_len_k, start, maximum(begin, start))
        while (row_tile < scheduler.row_tiles) & (first + scheduler.gap < end):
            key_tiles = (first + scheduler.gap, cost - scheduler.gap)
            taken = split_kv.take(*key_tiles, begin, end)
            slot = split_kv.partial_slot(unit_index(ctx.plan)[0], taken.begin)
            slot = cutlass.select_((taken.begin == 0) & (taken.end == key_tiles[1]), Int32(-1), slot)
            record = (window.first + lane, row_tile, taken.begin, taken.end, slot, request.seq_len_k)
            if cutlass.const_expr(ctx.config.ragged_query):
                record = (*record, request.query_begin, request.seq_len_q)
            seen = scheduler.seen_keys(row_tile, request.seq_len_k)
            if cutlass.const_expr(ctx.config.visible_lens):
                record = (*record, seen.end, seen.whole_to)
            phases = scheduler.phases(seen, taken.begin, taken.end)
            stages = write_item(ctx, item, record, phases, stages)
            if item == 0:
                first_unit, parts = unit_range.partition.units_of(*key_tiles)
                rows = minimum(scheduler.mask.num_rows - row_tile * scheduler.tile_rows, scheduler.tile_rows)
                cut = (record[0], row_tile, Int32(request.query_begin), rows, first_unit, parts)
                write_cut(ctx, split_kv.Cut(*(cutlass.select_(taken.begin > 0, v, Int32(0)) for v in cut)))
            item, row_tile, first = item + 1, row_tile + 1, first + cost
            cost = scheduler.cost(row_tile, request.seq_len_k)
    return item, stages


@cute.jit
def write_cut(ctx: cutlass.Constexpr, cut: cutlass.Constexpr):
    """Tell the merge of the beginning of this unit's range. Both CTAs of a pair know it, the leading one writes it."""
    target = ctx.args.cuts[unit_index(ctx.plan)[0], None]
    if (cute.arch.lane_idx() == 0) & (ctx.cta_rank == LEADER_RANK):
        for i, field in enumerate(fields(cut)):
            target[i] = getattr(cut, field.name)


@cute.jit
def write_item(
    ctx: cutlass.Constexpr, item: Int32, record: cutlass.Constexpr, phases: cutlass.Constexpr, first_stage: Int32
):
    """A work item to the other roles, its page ids to the ring from stage `first_stage` on, each loaded a stage ahead.

    Returns the next stage.
    """
    plan, pages = ctx.plan, ctx.pipe("pages")
    ids = plan.smem.page_ids_per_stage
    ring = ctx.smem_ints(plan.smem.page_ids_offset, plan.smem.page_stages * ids)
    span = PageSpan.of(plan, phases)
    lane = cute.arch.lane_idx()
    page_id = table_entry(ctx, record[0], phases, span.first_page + lane)
    write_work(ctx, item, record)
    for index in cutlass.range(span.num_stages, unroll=1):
        count = first_stage + index
        upcoming = table_entry(ctx, record[0], phases, span.first_page + (index + 1) * ids + lane)
        pages.wait_empty(count)
        ring[pages.stage(count) * ids + lane] = page_id
        pages.arrive_full(count)
        page_id = upcoming
    return first_stage + span.num_stages


@cute.jit
def table_entry(ctx: cutlass.Constexpr, batch: Int32, phases: cutlass.Constexpr, entry: Int32):
    """Page id number `entry` of a request; 0 behind the last page that the work item's part of the keys ends in."""
    page_id = Int32(0)
    keys = cutlass.min(phases.keys, phases.end * ctx.plan.tile.tokens)
    if entry < quotient_up(keys, ctx.config.page_size):
        page_id = ctx.args.block_tables[batch, entry]
    return page_id


def unit_index(plan: MemoryPlan) -> tuple[Any, Any]:
    """(number of this CTA, or pair of CTAs, in the grid; how many there are). A pair's CTAs find the same work."""
    size = plan.tile.cluster_size
    return quotient(cute.arch.block_idx()[0], size), quotient(cute.arch.grid_dim()[0], size)


@cute.jit
def write_work(ctx: cutlass.Constexpr, item: Int32, record: cutlass.Constexpr):
    """Write `record` to ring entry `item` once every warp has released the one before it.

    record: integers, see SmemPlan.work_record_told; those missing at the end are not read.
    """
    work = ctx.pipe("work")
    cells = work_cells(ctx, item)
    work.wait_empty(item)
    with cute.arch.elect_one():
        for i, value in enumerate(record):
            cells[i] = value
        work.arrive_full(item)
    cute.arch.sync_warp()
