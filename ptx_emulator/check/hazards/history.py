"""What the cells of memory remember: their last write, and the reads since. Each access is judged against them."""

from __future__ import annotations

import numpy as np
from numba import njit

from ...engine.common import ENTRY_OPTIONS, OPTIONS, int32s, int64s
from . import shadow as sh
from .core import check, report, touch_remote

BLOCK = 16  # cells compared at once


@njit(**OPTIONS)
def _replaces(s, new, old):
    """Whether a set of reads that has record `new` need not have `old`: what is ordered after `new` is after `old`."""
    mine, other = sh.record(s, new), sh.record(s, old)
    return (
        other[sh.R_DIM] == mine[sh.R_DIM]
        and other[sh.R_CLUSTER] == mine[sh.R_CLUSTER]
        and not other[sh.R_FLAGS] & ~mine[sh.R_FLAGS] & sh.EARLY
        and not mine[sh.R_FLAGS] & ~other[sh.R_FLAGS] & (sh.SOLO | sh.STRONG)
        and not other[sh.R_FLAGS] & ~mine[sh.R_FLAGS] & sh.CONSTANT
        and (other[sh.R_FLAGS] >> sh.SCOPE_SHIFT & 3) >= (mine[sh.R_FLAGS] >> sh.SCOPE_SHIFT & 3)
    )


@njit(**OPTIONS)
def _push(s, r, rest):
    p = int64s(s)
    new, nodes = p[sh.P_NODES], int32s(p[sh.T_NODES])
    nodes[2 * new], nodes[2 * new + 1] = r, rest
    p[sh.P_NODES] = new + 1
    return new


@njit(**OPTIONS)
def _with(s, old, r):
    """The set `old` with record `r` in place of earlier ones of its agent; the same set for the same two. 0 if there is
    no room."""
    p = int64s(s)
    keys, values, nodes = int64s(p[sh.T_SET_KEYS]), int32s(p[sh.T_SET_VALUES]), int32s(p[sh.T_NODES])
    key = old << 32 | r
    place = ((key ^ key >> 29) * np.int64(0x1E3779B97F4A7C15) >> 24) & (sh.HASH - 1)
    while keys[place] != 0:
        if keys[place] == key:
            return np.int64(values[place])
        place = (place + 1) & (sh.HASH - 1)
    # What comes after the last replaced node is shared with the old set.
    count = copied = np.int64(0)
    node = new = old
    while node != 0:
        item, node = np.int64(nodes[2 * node]), np.int64(nodes[2 * node + 1])
        if item == r:
            return old
        count += 1
        if _replaces(s, r, item):
            copied, new = count, node
    if p[sh.P_NODES] + copied >= sh.NODES:
        p[sh.P_FULL] = max(p[sh.P_FULL], 1)
        return np.int64(0)
    node = old
    for _ in range(copied):
        item, node = np.int64(nodes[2 * node]), np.int64(nodes[2 * node + 1])
        if not _replaces(s, r, item):
            new = _push(s, item, new)
    new = _push(s, r, new)
    keys[place], values[place] = key, new
    return new


@njit(**OPTIONS)
def _same_history(p_writes, p_reads, count):
    """How many of `count` cells, from the first on, have the first one's history. At least 1."""
    i = np.int64(0)
    while i + BLOCK <= count:
        writes, reads = int32s(p_writes + 4 * i), int32s(p_reads + 4 * i)
        write, known = int32s(p_writes)[0], int32s(p_reads)[0]
        differs = np.int32(0)
        for k in range(BLOCK):
            differs |= (writes[k] ^ write) | (reads[k] ^ known)
        if differs != 0:
            break
        i += BLOCK
    writes, reads = int32s(p_writes), int32s(p_reads)
    while i < count and writes[i] == writes[0] and reads[i] == reads[0]:
        i += 1
    return i


@njit(**OPTIONS)
def _fill(p_cells, count, value):
    cells = int32s(p_cells)
    for k in range(count):
        cells[k] = value


@njit(**OPTIONS)
def touch(s, p_writes, p_reads, p_starts, n, origin, count, r, space, rank):
    """An access by record `r` to `count` cells from `origin` + each of `n` starts: judged against what conflicts, and
    remembered.

    p_writes, p_reads: host addresses of the cells; p_starts: of int64[n]. Returns how many of the cells nobody has
    written before.
    """
    starts, p = int64s(p_starts), int64s(s)
    nodes = int32s(p[sh.T_NODES])
    row = sh.record(s, r)
    w, dim, write = np.int64(row[sh.R_WARP]), np.int64(row[sh.R_DIM]), row[sh.R_WRITE] != 0
    last_write, last_set, new_set, unwritten = np.int32(-1), np.int32(-1), np.int32(0), np.int64(0)
    for k in range(n):
        cell = starts[k] + origin
        end = cell + count
        while cell < end:
            here, there = p_writes + 4 * cell, p_reads + 4 * cell
            same = _same_history(here, there, end - cell)
            prior, known = int32s(here)[0], int32s(there)[0]
            if prior != last_write:
                last_write = prior
                if prior > 0:
                    check(s, np.int64(prior), r, w, dim, space, rank, cell)
            if prior == 0:
                unwritten += same
            if write:
                if known != 0:
                    if known != last_set:
                        last_set = known
                        node = np.int64(known)
                        while node != 0:
                            check(s, np.int64(nodes[2 * node]), r, w, dim, space, rank, cell)
                            node = np.int64(nodes[2 * node + 1])
                    _fill(there, same, np.int32(0))
                if prior != r:
                    _fill(here, same, np.int32(r))
            else:
                if known != last_set:
                    last_set = known
                    new_set = np.int32(_with(s, np.int64(known), r))
                if new_set != known:
                    _fill(there, same, new_set)
            cell += same
    return unwritten


@njit(**OPTIONS)
def lane_conflict(s, r, lane, write, rank, cell):
    """Reports if another lane of the warp last accessed the cell in a conflicting way since the warp synchronised."""
    row = sh.record(s, r)
    p = int64s(s)
    w, since = np.int64(row[sh.R_WARP]), sh.synced(s)[row[sh.R_WARP]]
    prior = np.int64(int32s(sh.shared_cells(s, 0, rank))[cell])
    inst = np.int64(row[sh.R_INST])
    if prior > sh.FORGOTTEN:
        other = sh.record(s, prior)
        if (
            other[sh.R_DIM] == w
            and other[sh.R_CLOCK] >= since
            and sh.lane_cells(s, 0, rank)[cell] != lane
            and not row[sh.R_FLAGS] & other[sh.R_FLAGS] & sh.STRONG
        ):
            report(s, sh.LANES, prior, inst, w, w, write, sh.SHARED, rank, cell)
            return
    known = np.int64(int32s(sh.shared_cells(s, 1, rank))[cell])
    mark = sh.lane_cells(s, 1, rank)[cell]
    if write and known > 0 and mark != lane and mark != sh.ALL_LANES:
        nodes = int32s(p[sh.T_NODES])
        while known != 0:
            item, known = np.int64(nodes[2 * known]), np.int64(nodes[2 * known + 1])
            other = sh.record(s, item)
            if item != sh.FORGOTTEN and other[sh.R_DIM] == w and other[sh.R_CLOCK] >= since:
                report(s, sh.LANES, item, inst, w, w, write, sh.SHARED, rank, cell)
                return


@njit(**OPTIONS)
def _unwritten(s, r, space, rank, cell):
    row = sh.record(s, r)
    inst, w, dim = np.int64(row[sh.R_INST]), np.int64(row[sh.R_WARP]), np.int64(row[sh.R_DIM])
    report(s, sh.UNWRITTEN, 0, inst, w, dim, 0, space, rank, cell)


@njit("void(int64, int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def touch_shared(s, rank, p_starts, n, origin, count, r):
    """`touch` of a CTA's shared memory, which may be another's."""
    cells = sh.shared_cells(s, 0, rank), sh.shared_cells(s, 1, rank)
    unwritten = touch(s, cells[0], cells[1], p_starts, n, origin, count, r, sh.SHARED, rank)
    row = sh.record(s, r)
    kind = row[sh.R_DIM] // int64s(s)[sh.P_WARPS]
    if sh.cta_of(s)[row[sh.R_WARP]] != rank or kind in (sh.A_PIPE, sh.A_BULK_READ) or kind >= sh.A_KINDS:
        touch_remote(s, rank, r)
    # An operand or a copy's source may be partly unwritten: what comes of that part may be masked or out of bounds.
    if not row[sh.R_WRITE] and unwritten >= (1 if row[sh.R_MODE] == sh.GENERIC else n * count):
        _unwritten(s, r, sh.SHARED, rank, int64s(p_starts)[0] + origin)


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def touch_tmem(s, rank, p_starts, n, origin, count, r, reads):
    """`touch` of a CTA's Tensor Memory. `reads`: how many unwritten cells are a hazard (an accumulator's are)."""
    cells = sh.tmem_cells(s, 0, rank), sh.tmem_cells(s, 1, rank)
    if touch(s, cells[0], cells[1], p_starts, n, origin, count, r, sh.TMEM, rank) >= reads:
        _unwritten(s, r, sh.TMEM, rank, int64s(p_starts)[0] + origin)


@njit("void(int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def touch_memory(s, buffer, p_addresses, n, count, r):
    """`touch` of `count` bytes of global memory from each of `n` addresses, all in `buffer`."""
    row = sh.buffer_row(s, buffer)
    row[sh.B_TOUCHED] = 1
    shift = (row[sh.B_FIRST] - row[sh.B_START]) * 4
    cells = sh.memory_cells(s, 0) + shift, sh.memory_cells(s, 1) + shift
    touch(s, cells[0], cells[1], p_addresses, n, 0, count, r, sh.GLOBAL, buffer)
