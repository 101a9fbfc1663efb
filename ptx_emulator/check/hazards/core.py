"""The checker's compiled core: whether an access is ordered after those it conflicts with, and what remembers it."""

from __future__ import annotations

import numpy as np
from numba import njit

from ...engine import state as st
from ...engine.common import ENTRY_OPTIONS, OPTIONS, int32s, int64s
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


@njit("int64(int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def add_event(s, cluster, w, time, hb, px):
    """Warp `w` has acquired, at its time, clocks of the agents of another cluster. Returns the row, 0 if all are taken:
    from then on accesses of other clusters are not judged."""
    p = int64s(s)
    n = p[sh.P_EVENTS]
    if n >= sh.EVENTS:
        return np.int64(0)
    e, heads = sh.event(s, n), int32s(p[sh.T_HEADS])
    e[sh.E_WARP], e[sh.E_TIME], e[sh.E_NEXT], e[sh.E_HB], e[sh.E_PX] = w, time, heads[cluster], hb, px
    e[sh.E_CLUSTER] = cluster
    heads[cluster] = n
    p[sh.P_EVENTS] = n + 1
    return n


@njit(**OPTIONS)
def _judge_foreign(s, w, mode, prior):
    """As `_judge`, for a record of another cluster of the grid."""
    r, p = sh.record(s, prior), int64s(s)
    if p[sh.P_EVENTS] >= sh.EVENTS:
        return 0
    d, c, warps, hb = np.int64(r[sh.R_DIM]), r[sh.R_CLOCK], p[sh.P_WARPS], sh.knowledge(s, sh.HB, w)
    i = np.int64(int32s(p[sh.T_HEADS])[r[sh.R_CLUSTER]])
    found = sh.CROSS_CTA
    while i != 0:
        e = sh.event(s, i)
        i = e[sh.E_NEXT]
        if e[sh.E_TIME] < 0 or e[sh.E_WARP] != w and hb[e[sh.E_WARP]] < e[sh.E_TIME]:
            continue
        known = int32s(e[sh.E_HB])
        if known[d] < c:
            if d >= warps and known[r[sh.R_WARP]] >= r[sh.R_ISSUE] and found == sh.CROSS_CTA:
                found = sh.INCOMPLETE
            continue
        # A fence of ours makes of all that was known a vector that was fenced.
        fenced = int32s(e[sh.E_PX])[d if e[sh.E_PX] == e[sh.E_HB] else sh.A_GLOBAL * warps + d] if d < warps else c
        if d < warps and mode == sh.ASYNC and fenced < c and r[sh.R_WRITE]:
            found = sh.PROXY
        elif d < warps and not r[sh.R_FLAGS] & sh.SOLO and known[sh.A_STRICT * warps + d] < c:
            found = sh.ELECTED
        elif d < warps and mode == sh.ASYNC and fenced < c:
            found = sh.PROXY_READ
        else:
            return 0
    return found


@njit(**OPTIONS)
def _in_scope(s, w, flags, r):
    """Whether two strong accesses reach each other with their scopes."""
    mine, other = (flags >> sh.SCOPE_SHIFT) & 3, (r[sh.R_FLAGS] >> sh.SCOPE_SHIFT) & 3
    if r[sh.R_CLUSTER] != int64s(s)[sh.P_CLUSTER]:
        return min(mine, other) >= sh.GPU
    return sh.cta_of(s)[r[sh.R_WARP]] == sh.cta_of(s)[w] or min(mine, other) >= sh.CLUSTER_SCOPE


@njit(**OPTIONS)
def _judge(s, w, dim, mode, flags, prior, space):
    """0 if record `prior` happened before what warp `w` (or its agent `dim`) does now, else the finding's code."""
    r, p = sh.record(s, prior), int64s(s)
    if flags & r[sh.R_FLAGS] & sh.REDUCES:
        return 0
    if (flags | r[sh.R_FLAGS]) & sh.CONSTANT and r[sh.R_LAUNCH] == p[sh.P_LAUNCH]:
        return sh.NOT_CONSTANT
    strong = flags & r[sh.R_FLAGS] & sh.STRONG != 0
    if strong and _in_scope(s, w, flags, r):
        return 0
    code = _judge_order(s, w, dim, mode, flags, prior, space)
    return sh.SCOPE if strong and (code == sh.RACE or code == sh.CROSS_CTA) else code


@njit(**OPTIONS)
def _judge_order(s, w, dim, mode, flags, prior, space):
    r, p = sh.record(s, prior), int64s(s)
    if r[sh.R_CLUSTER] != p[sh.P_CLUSTER]:
        if r[sh.R_LAUNCH] == p[sh.P_LAUNCH]:
            return _judge_foreign(s, w, mode, prior)
        if flags & sh.EARLY and r[sh.R_LAUNCH] == p[sh.P_LAUNCH] - 1:
            return sh.PREREQUISITE
        if r[sh.R_FLAGS] & sh.EARLY and r[sh.R_LAUNCH] == p[sh.P_LAUNCH] + 1:
            return sh.PREREQUISITE
        return 0
    d, c, warps = np.int64(r[sh.R_DIM]), r[sh.R_CLOCK], p[sh.P_WARPS]
    hb = sh.knowledge(s, sh.HB, w)
    if d < warps:
        by_several = not r[sh.R_FLAGS] & sh.SOLO
        if d != w and hb[d] < c:
            return sh.RACE
        px = sh.knowledge(s, sh.PX, w)
        fenced = mode != sh.ASYNC or px[sh.A_GLOBAL * warps + d if space == sh.GLOBAL else d] >= c
        if not fenced and r[sh.R_WRITE]:
            return sh.PROXY
        if d != w and by_several and hb[sh.A_STRICT * warps + d] < c:
            return sh.ELECTED
        if mode != sh.ASYNC:
            return 0
        # What is lacking besides a fence after reads, which pipelines on hardware do without.
        if d == w and by_several and flags & sh.SOLO and c >= sh.synced(s)[w]:
            return sh.ASYNC_LANES
        if not fenced:
            return sh.PROXY_READ
        if by_several and r[sh.R_WRITE] and px[sh.A_STRICT * warps + d] < c:
            return sh.PROXY_LANES
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
    code = _judge(s, w, dim, np.int64(row[sh.R_MODE]), np.int64(row[sh.R_FLAGS]), prior, space)
    if code:
        report(s, code, prior, np.int64(row[sh.R_INST]), w, dim, np.int64(row[sh.R_WRITE]), space, rank, cell)


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
        rank, cell = b[sh.M_PLACE] >> st.RANK_SHIFT, b[sh.M_PLACE] & st.OFFSET_MASK
        report(s, sh.OVERRUN, prior, np.int64(sh.record(s, prior)[sh.R_INST]), 0, 0, 0, sh.BARRIER, rank, cell)


@njit("void(int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def use_mbarrier(s, w, barrier, phases, inst, remote):
    """Warp `w` (or an asynchronous operation of it) changes an mbarrier of which `phases` phases are complete."""
    b = sh.barrier_row(s, barrier)
    prior, hb = b[sh.M_INIT], sh.knowledge(s, sh.HB, w)
    row = sh.record(s, prior)
    rank, cell = b[sh.M_PLACE] >> st.RANK_SHIFT, b[sh.M_PLACE] & st.OFFSET_MASK
    if row[sh.R_DIM] != w and hb[row[sh.R_DIM]] < row[sh.R_CLOCK]:
        report(s, sh.INIT, prior, inst, w, w, 1, sh.BARRIER, rank, cell)
    elif remote and not b[sh.M_FENCED]:
        report(s, sh.INIT_FENCE, prior, inst, w, w, 1, sh.BARRIER, rank, cell)
    elif phases > 0 and hb[first_copy(s) + int64s(s)[sh.P_ROWS] + barrier] < phases:
        report(s, sh.PHASE, prior, inst, w, w, 1, sh.BARRIER, rank, cell)


@njit(**OPTIONS)
def warp_sync(s, w):
    """The lanes of a warp have synchronised their memory accesses."""
    clock = sh.clock(s)
    clock[w] += 1
    sh.synced(s)[w] = clock[w]
    join(sh.knowledge(s, sh.TS, w), sh.knowledge(s, sh.TO, w), int64s(s)[sh.P_DIMS])


@njit(**OPTIONS)
def proxy_fence(s, w, whole, marks):
    """fence.proxy.async: what warp `w` knows may be used in the async proxy, in the state spaces that `marks` (I_*)
    tell. `whole`: by all lanes of the warp."""
    px, clock, p = sh.knowledge(s, sh.PX, w), sh.clock(s), int64s(s)
    hb, warps = sh.knowledge(s, sh.HB, w), p[sh.P_WARPS]
    if marks & sh.I_PROXY_SHARED:
        join(px, hb, p[sh.P_DIMS])
        px[w] = clock[w]
    if marks & sh.I_PROXY_GLOBAL:
        for d in range(warps):
            px[sh.A_GLOBAL * warps + d] = max(px[sh.A_GLOBAL * warps + d], hb[d])
            px[sh.A_STRICT * warps + d] = max(px[sh.A_STRICT * warps + d], hb[sh.A_STRICT * warps + d])
        px[sh.A_GLOBAL * warps + w] = clock[w]
    strict = sh.A_STRICT * warps + w
    px[strict] = clock[w] if whole else max(px[strict], sh.synced(s)[w] - 1)
    heads = int32s(p[sh.T_HEADS])
    for i in range(1, p[sh.P_EVENTS] if marks & sh.I_PROXY_GLOBAL else 1):
        # What is known of other clusters too.
        e = sh.event(s, i)
        if e[sh.E_TIME] > 0 and e[sh.E_PX] != e[sh.E_HB] and (e[sh.E_WARP] == w or hb[e[sh.E_WARP]] >= e[sh.E_TIME]):
            last = sh.event(s, np.int64(heads[e[sh.E_CLUSTER]]))
            if last[sh.E_WARP] != w or last[sh.E_HB] != e[sh.E_HB] or last[sh.E_PX] != e[sh.E_HB]:
                add_event(s, e[sh.E_CLUSTER], w, np.int64(clock[w]), e[sh.E_HB], e[sh.E_HB])
    clock[w] += 1


@njit(**OPTIONS)
def _has_started(s, rank, w):
    """Whether warp `w` knows of anything that a warp of CTA `rank` has done."""
    hb, ctas = sh.knowledge(s, sh.HB, w), sh.cta_of(s)
    for other in range(int64s(s)[sh.P_WARPS]):
        if ctas[other] == rank and hb[other] > 0:
            return True
    return False


@njit(**OPTIONS)
def issues(s, w, lanes):
    """`lanes` of a warp issue a tensor core operation."""
    int64s(int64s(s)[sh.T_PIPE])[w] |= lanes


@njit(**OPTIONS)
def commits(s, w, inst, lanes):
    """`lanes` of a warp commit: what they have issued themselves."""
    issuers = int64s(int64s(s)[sh.T_PIPE])
    if issuers[w] != 0 and issuers[w] & lanes == 0:
        report(s, sh.OTHER_LANE, 0, inst, w, w, 0, sh.BARRIER, np.int64(sh.cta_of(s)[w]), 0)
    issuers[w] &= ~lanes


@njit("void(int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def outlived(s, rank, r, dim, clock):
    """A CTA must not exit before what record `r` stands for is complete: when agent `dim` has reached `clock`. If it is
    the work of another CTA, that must know that this one has started."""
    row = sh.record(s, r)
    clocks = sh.remote(s, 0, rank)
    if sh.cta_of(s)[row[sh.R_WARP]] != rank and not _has_started(s, rank, np.int64(row[sh.R_WARP])):
        w = np.int64(row[sh.R_WARP])
        report(s, sh.NOT_STARTED, 0, np.int64(row[sh.R_INST]), w, dim, np.int64(row[sh.R_WRITE]), sh.SHARED, rank, 0)
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
