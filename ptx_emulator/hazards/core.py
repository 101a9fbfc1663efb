"""The checker's compiled core: whether an access is ordered after those it conflicts with, and what remembers it."""

from __future__ import annotations

import numpy as np
from numba import njit

from ..engine_common import ENTRY_OPTIONS, OPTIONS, int32s, int64s
from . import shadow as sh


@njit(**OPTIONS)
def join(a, b, n):
    """The least clock that knows what both know, in place of `a`."""
    for i in range(n):
        a[i] = max(a[i], b[i])


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def report(s, code, prior, inst, w, dim, write, space, rank, cell):
    """Adds a finding, or counts it if the same two instructions are known for it."""
    p = int64s(s)
    n = p[sh.P_FINDINGS]
    before = np.int64(sh.record(s, prior)[sh.R_INST]) if prior > 0 else np.int64(-1)
    for i in range(n):
        f = sh.finding(s, i)
        if f[sh.F_CODE] == code and f[sh.F_INST] == inst and f[sh.F_LAUNCH] == p[sh.P_LAUNCH]:
            known = f[sh.F_PRIOR]
            other = np.int64(sh.record(s, known)[sh.R_INST]) if known > 0 else np.int64(-1)
            if other == before:
                f[sh.F_COUNT] += 1
                return
    if n == sh.FINDINGS:
        return
    f = sh.finding(s, n)
    f[sh.F_CODE], f[sh.F_PRIOR], f[sh.F_INST], f[sh.F_WARP], f[sh.F_DIM] = code, prior, inst, w, dim
    f[sh.F_WRITE], f[sh.F_SPACE], f[sh.F_RANK], f[sh.F_CELL] = write, space, rank, cell
    f[sh.F_CLUSTER], f[sh.F_LAUNCH], f[sh.F_COUNT] = p[sh.P_CLUSTER], p[sh.P_LAUNCH], 1
    f[sh.F_WARPS] = p[sh.P_WARPS]
    p[sh.P_FINDINGS] = n + 1


@njit("int64(int64, int64, int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def new_record(s, dim, clock, inst, w, mode, write, flags):
    """The record of an access by agent `dim`, on behalf of warp `w`."""
    p = int64s(s)
    last, issue = sh.recent(s, w), sh.clock(s)[w]
    known = np.int64(last[2 * inst + write])
    if known > 0:
        r = sh.record(s, known)
        if (
            r[sh.R_DIM] == dim
            and r[sh.R_CLOCK] == clock
            and r[sh.R_WRITE] == write
            and r[sh.R_FLAGS] == flags
            and r[sh.R_MODE] == mode
            and r[sh.R_ISSUE] == issue
        ):
            return known
    n = p[sh.P_RECORDS]
    if n >= sh.RECORDS - 1:
        p[sh.P_FULL] = 2
        return np.int64(sh.FORGOTTEN)
    r = sh.record(s, n)
    r[sh.R_DIM], r[sh.R_CLOCK], r[sh.R_INST], r[sh.R_WARP] = dim, clock, inst, w
    r[sh.R_CLUSTER], r[sh.R_LAUNCH] = p[sh.P_CLUSTER], p[sh.P_LAUNCH]
    r[sh.R_MODE], r[sh.R_WRITE], r[sh.R_FLAGS], r[sh.R_ISSUE] = mode, write, flags, issue
    p[sh.P_RECORDS] = n + 1
    last[2 * inst + write] = n
    return n


@njit(**OPTIONS)
def _judge(s, w, dim, mode, flags, prior):
    """0 if record `prior` happened before what warp `w` (or its agent `dim`) does now, else the finding's code."""
    r, p = sh.record(s, prior), int64s(s)
    if flags & sh.STRONG and r[sh.R_FLAGS] & sh.STRONG:
        return 0
    if r[sh.R_CLUSTER] != p[sh.P_CLUSTER]:
        if r[sh.R_LAUNCH] == p[sh.P_LAUNCH]:
            return 0 if int32s(p[sh.T_KNOWN])[r[sh.R_CLUSTER]] >= prior else sh.CROSS_CTA
        if flags & sh.EARLY and r[sh.R_LAUNCH] == p[sh.P_LAUNCH] - 1:
            return sh.PREREQUISITE
        if r[sh.R_FLAGS] & sh.EARLY and r[sh.R_LAUNCH] == p[sh.P_LAUNCH] + 1:
            return sh.PREREQUISITE
        return 0
    d, c, warps = np.int64(r[sh.R_DIM]), r[sh.R_CLOCK], p[sh.P_WARPS]
    hb = sh.knowledge(s, sh.HB, w)
    if d < warps:
        if d != w and hb[d] < c:
            return sh.RACE
        if mode == sh.ASYNC and sh.knowledge(s, sh.PX, w)[d] < c:
            return sh.PROXY if r[sh.R_WRITE] else sh.PROXY_READ
        if d != w and not r[sh.R_FLAGS] & sh.SOLO and hb[sh.A_STRICT * warps + d] < c:
            return sh.ELECTED
        return 0
    if d == dim and d // warps == sh.A_PIPE:
        return 0
    if hb[d] < c:
        issuer = r[sh.R_WARP]
        if issuer != w and hb[issuer] < r[sh.R_ISSUE]:
            return sh.RACE
        return sh.WAIT_LD if d // warps == sh.A_LD else sh.INCOMPLETE
    if mode == sh.TENSOR and r[sh.R_MODE] == sh.TENSOR and sh.knowledge(s, sh.TC, w)[d] < c:
        return sh.TENSOR_FENCE
    return 0


@njit(**OPTIONS)
def check(s, prior, r, w, dim, space, rank, cell):
    """Reports access `r` if it is not ordered after record `prior`, with which it conflicts."""
    p = int64s(s)
    if prior == sh.FORGOTTEN or (prior == r and dim < p[sh.P_WARPS]):
        return
    pair = prior << 32 | r
    if p[sh.P_PAIR] == pair:
        return
    p[sh.P_PAIR] = pair
    row = sh.record(s, r)
    code = _judge(s, w, dim, np.int64(row[sh.R_MODE]), np.int64(row[sh.R_FLAGS]), prior)
    if code:
        report(s, code, prior, np.int64(row[sh.R_INST]), w, dim, np.int64(row[sh.R_WRITE]), space, rank, cell)


@njit(**OPTIONS)
def _with(s, old, r):
    """The interned set `old` with record `r` in place of earlier ones of its agent. 0 if there is no room."""
    p = int64s(s)
    keys, values, items = int64s(p[sh.T_SET_KEYS]), int32s(p[sh.T_SET_VALUES]), int32s(p[sh.T_SET_ITEMS])
    ends = int32s(p[sh.T_SET_ENDS])
    key = old << 32 | r
    place = ((key ^ key >> 29) * np.int64(0x1E3779B97F4A7C15) >> 24) & (sh.HASH - 1)
    while keys[place] != 0:
        if keys[place] == key:
            return np.int64(values[place])
        place = (place + 1) & (sh.HASH - 1)
    start, end = np.int64(ends[2 * old]), np.int64(ends[2 * old + 1])
    new, out = p[sh.P_SETS], p[sh.P_ITEMS]
    if new >= sh.SETS - 1 or out + end - start + 1 >= sh.ITEMS:
        p[sh.P_FULL] = max(p[sh.P_FULL], 1)
        return np.int64(0)
    first = out
    mine = sh.record(s, r)
    for i in range(start, end):
        other = sh.record(s, np.int64(items[i]))
        if (
            other[sh.R_DIM] != mine[sh.R_DIM]
            or other[sh.R_CLUSTER] != mine[sh.R_CLUSTER]
            or other[sh.R_FLAGS] & ~mine[sh.R_FLAGS] & sh.EARLY
            or mine[sh.R_FLAGS] & ~other[sh.R_FLAGS] & sh.SOLO
        ):
            items[out] = items[i]
            out += 1
    items[out] = r
    out += 1
    ends[2 * new], ends[2 * new + 1] = first, out
    p[sh.P_SETS], p[sh.P_ITEMS] = new + 1, out
    keys[place], values[place] = key, new
    return new


@njit(**OPTIONS)
def touch(s, p_writes, p_reads, p_starts, n, count, r, space, rank):
    """An access by record `r` to `count` cells from each of `n` starts: judged against what conflicts, and remembered.

    p_writes, p_reads: host addresses of the cells; p_starts: of int64[n]. Returns how many of the cells nobody has
    written before.
    """
    writes, reads, starts = int32s(p_writes), int32s(p_reads), int64s(p_starts)
    p = int64s(s)
    items, ends = int32s(p[sh.T_SET_ITEMS]), int32s(p[sh.T_SET_ENDS])
    row = sh.record(s, r)
    w, dim, write = np.int64(row[sh.R_WARP]), np.int64(row[sh.R_DIM]), row[sh.R_WRITE] != 0
    last_write, last_set, new_set, unwritten = np.int32(-1), np.int32(-1), np.int32(0), np.int64(0)
    for k in range(n):
        for i in range(starts[k], starts[k] + count):
            prior = writes[i]
            if prior != last_write:
                last_write = prior
                if prior > 0:
                    check(s, np.int64(prior), r, w, dim, space, rank, i)
            if prior == 0:
                unwritten += 1
            known = reads[i]
            if write:
                if known != 0 and known != last_set:
                    last_set = known
                    for j in range(ends[2 * np.int64(known)], ends[2 * np.int64(known) + 1]):
                        check(s, np.int64(items[j]), r, w, dim, space, rank, i)
                reads[i] = 0
                writes[i] = r
            else:
                if known != last_set:
                    last_set = known
                    new_set = np.int32(_with(s, np.int64(known), r))
                reads[i] = new_set
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
    if write and known > 0 and sh.lane_cells(s, 1, rank)[cell] != lane:
        ends = int32s(p[sh.T_SET_ENDS])
        for k in range(ends[2 * known], ends[2 * known + 1]):
            item = np.int64(int32s(p[sh.T_SET_ITEMS])[k])
            other = sh.record(s, item)
            if item != sh.FORGOTTEN and other[sh.R_DIM] == w and other[sh.R_CLOCK] >= since:
                report(s, sh.LANES, item, inst, w, w, write, sh.SHARED, rank, cell)
                return


@njit(**OPTIONS)
def release(s, w, barrier, whole):
    """Warp `w` arrives at a barrier; `whole`: with all of its lanes. Its clock ticks."""
    p = int64s(s)
    hb, clock = sh.knowledge(s, sh.HB, w), sh.clock(s)
    hb[w] = clock[w]
    strict = sh.A_STRICT * p[sh.P_WARPS] + w
    hb[strict] = clock[w] if whole else max(hb[strict], sh.synced(s)[w] - 1)
    n = p[sh.P_DIMS]
    join(sh.joined(s, 0, sh.HB, barrier), hb, n)
    join(sh.joined(s, 0, sh.PX, barrier), sh.knowledge(s, sh.PX, w), n)
    join(sh.joined(s, 0, sh.TC, barrier), sh.knowledge(s, sh.TO if whole else sh.TS, w), n)
    clock[w] += 1


@njit(**OPTIONS)
def acquire(s, w, barrier):
    """Warp `w` learns what was given to the complete phases of a barrier."""
    p = int64s(s)
    n, given = p[sh.P_DIMS], sh.joined(s, 1, sh.HB, barrier)
    join(sh.knowledge(s, sh.HB, w), given, n)
    join(sh.knowledge(s, sh.PX, w), sh.joined(s, 1, sh.PX, barrier), n)
    join(sh.knowledge(s, sh.TI, w), sh.joined(s, 1, sh.TC, barrier), n)
    # What all lanes of the warp had given away before is ordered between them too.
    synced = sh.synced(s)
    synced[w] = max(synced[w], given[sh.A_STRICT * p[sh.P_WARPS] + w] + 1)


@njit(**OPTIONS)
def complete(s, barrier):
    """The barrier's phase ends."""
    n = int64s(s)[sh.P_DIMS]
    for plane in range(sh.PLANES):
        now = sh.joined(s, 0, plane, barrier)
        join(sh.joined(s, 1, plane, barrier), now, n)
        for i in range(n):
            now[i] = 0


@njit(**OPTIONS)
def first_copy(s):
    """The agent of the copies that complete on barrier 0."""
    p = int64s(s)
    return p[sh.P_DIMS] - 2 * p[sh.P_ROWS]


@njit("void(int64, int64, int64)", **ENTRY_OPTIONS)
def complete_mbarrier(s, barrier, count):
    """The mbarrier's phase ends, the `count`th: publishes the copies that are complete, and the phase itself."""
    b, p = sh.barrier_row(s, barrier), int64s(s)
    complete(s, barrier)
    given = sh.joined(s, 1, sh.HB, barrier)
    given[first_copy(s) + barrier] = b[sh.M_COMPLETE]
    given[first_copy(s) + p[sh.P_ROWS] + barrier] = count
    if b[sh.M_OBSERVED] > 0 and b[sh.M_OBSERVED] < count - 1:
        prior = b[sh.M_INIT]
        report(s, sh.OVERRUN, prior, np.int64(sh.record(s, prior)[sh.R_INST]), 0, 0, 0, sh.BARRIER, 0, barrier)


@njit("void(int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def use_mbarrier(s, w, barrier, phases, inst, remote):
    """Warp `w` (or an asynchronous operation of it) changes an mbarrier of which `phases` phases are complete."""
    b = sh.barrier_row(s, barrier)
    prior, hb = b[sh.M_INIT], sh.knowledge(s, sh.HB, w)
    row = sh.record(s, prior)
    if row[sh.R_DIM] != w and hb[row[sh.R_DIM]] < row[sh.R_CLOCK]:
        report(s, sh.INIT, prior, inst, w, w, 1, sh.BARRIER, 0, barrier)
    elif remote and not b[sh.M_FENCED]:
        report(s, sh.INIT_FENCE, prior, inst, w, w, 1, sh.BARRIER, 0, barrier)
    elif phases > 0 and hb[first_copy(s) + int64s(s)[sh.P_ROWS] + barrier] < phases:
        report(s, sh.PHASE, prior, inst, w, w, 1, sh.BARRIER, 0, barrier)


@njit("void(int64, int64, int64)", **ENTRY_OPTIONS)
def hand_over(s, p_view, barrier):
    """An asynchronous operation that was issued with the view int32[PLANES, D] arrives at a barrier."""
    n = int64s(s)[sh.P_DIMS]
    for plane in range(sh.PLANES):
        join(sh.joined(s, 0, plane, barrier), int32s(p_view + plane * n * 4), n)


@njit(**OPTIONS)
def warp_sync(s, w):
    """The lanes of a warp have synchronised their memory accesses."""
    clock = sh.clock(s)
    clock[w] += 1
    sh.synced(s)[w] = clock[w]
    join(sh.knowledge(s, sh.TS, w), sh.knowledge(s, sh.TO, w), int64s(s)[sh.P_DIMS])


@njit(**OPTIONS)
def proxy_fence(s, w):
    """fence.proxy.async: what warp `w` knows may be used in the async proxy."""
    px, clock = sh.knowledge(s, sh.PX, w), sh.clock(s)
    join(px, sh.knowledge(s, sh.HB, w), int64s(s)[sh.P_DIMS])
    px[w] = clock[w]
    clock[w] += 1


@njit("void(int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def outlived(s, rank, r, dim, clock):
    """A CTA must not exit before what record `r` stands for is complete: when agent `dim` has reached `clock`."""
    row = sh.record(s, r)
    clocks = sh.remote(s, 0, rank)
    if sh.ended(s, rank)[int64s(s)[sh.P_DIMS]] == 0:
        report(s, sh.EXITED, 0, np.int64(row[sh.R_INST]), np.int64(row[sh.R_WARP]), dim, 1, sh.SHARED, rank, 0)
    elif clock >= clocks[dim]:
        clocks[dim] = clock
        sh.remote(s, 1, rank)[dim] = r


@njit(**OPTIONS)
def touch_remote(s, rank, r):
    """An access to another CTA's memory: it must not exit before."""
    row = sh.record(s, r)
    outlived(s, rank, r, np.int64(row[sh.R_DIM]), np.int64(row[sh.R_CLOCK]))


@njit(**OPTIONS)
def warp_exit(s, w):
    """The last warp of a CTA must know of every access by others to its memory, and of its own asynchronous work."""
    p = int64s(s)
    n = p[sh.P_DIMS]
    rank = np.int64(sh.cta_of(s)[w])
    ended = sh.ended(s, rank)
    join(ended, sh.knowledge(s, sh.HB, w), n)
    ended[n] -= 1
    if ended[n] > 0:
        return
    clocks, records = sh.remote(s, 0, rank), sh.remote(s, 1, rank)
    for dim in range(n):
        if clocks[dim] > ended[dim]:
            r = np.int64(records[dim])
            row = sh.record(s, r)
            inst, w = np.int64(row[sh.R_INST]), np.int64(row[sh.R_WARP])
            if sh.cta_of(s)[w] != rank:
                report(s, sh.EXITED, r, inst, w, dim, 1, sh.SHARED, rank, 0)
            else:
                code = sh.EXITED_WORK if dim < first_copy(s) + p[sh.P_ROWS] else sh.EXITED_COMMIT
                report(s, code, 0, inst, w, np.int64(row[sh.R_DIM]), 1, sh.BARRIER, rank, 0)


@njit(**OPTIONS)
def _unwritten(s, r, space, rank, cell):
    row = sh.record(s, r)
    inst, w, dim = np.int64(row[sh.R_INST]), np.int64(row[sh.R_WARP]), np.int64(row[sh.R_DIM])
    report(s, sh.UNWRITTEN, 0, inst, w, dim, 0, space, rank, cell)


@njit("int64(int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def touch_shared(s, rank, p_starts, n, count, r):
    """`touch` of a CTA's shared memory, which may be another's. Returns the cells that nobody has written."""
    cells = sh.shared_cells(s, 0, rank), sh.shared_cells(s, 1, rank)
    unwritten = touch(s, cells[0], cells[1], p_starts, n, count, r, sh.SHARED, rank)
    row = sh.record(s, r)
    kind = row[sh.R_DIM] // int64s(s)[sh.P_WARPS]
    if sh.cta_of(s)[row[sh.R_WARP]] != rank or kind == sh.A_PIPE or kind >= sh.A_KINDS:
        touch_remote(s, rank, r)
    # An operand or a copy's source may be partly unwritten: what comes of that part may be masked or out of bounds.
    if not row[sh.R_WRITE] and unwritten >= (1 if row[sh.R_MODE] == sh.GENERIC else n * count):
        _unwritten(s, r, sh.SHARED, rank, int64s(p_starts)[0])
    return unwritten


@njit("void(int64, int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def touch_tmem(s, rank, p_starts, n, count, r, reads):
    """`touch` of a CTA's Tensor Memory. `reads`: how many unwritten cells are a hazard (an accumulator's are)."""
    cells = sh.tmem_cells(s, 0, rank), sh.tmem_cells(s, 1, rank)
    if touch(s, cells[0], cells[1], p_starts, n, count, r, sh.TMEM, rank) >= reads:
        _unwritten(s, r, sh.TMEM, rank, int64s(p_starts)[0])


@njit("void(int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def touch_memory(s, buffer, p_addresses, n, count, r):
    """`touch` of `count` bytes of global memory from each of `n` addresses, all in `buffer`."""
    row = sh.buffer_row(s, buffer)
    shift = (row[sh.B_FIRST] - row[sh.B_START]) * 4
    cells = sh.memory_cells(s, 0) + shift, sh.memory_cells(s, 1) + shift
    touch(s, cells[0], cells[1], p_addresses, n, count, r, sh.GLOBAL, buffer)
