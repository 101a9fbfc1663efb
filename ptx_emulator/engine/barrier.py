"""mbarriers, named barriers and the cluster barrier (PTX ISA 9.7.13.1, 9.7.13.3, 9.7.13.15).

A wait that is not satisfied leaves its status in the running group (state.py) with the pc at the instruction
(mbarrier waits, which are then executed again) or past it (barriers of threads, whose arrival is done).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from . import mbarrier
from . import microcode as mc
from . import state as st
from . import trace as et
from .common import (
    OPTIONS,
    cell_u64,
    code_table,
    guarded,
    int64s,
    popcount,
    rows_u32,
    rows_u64,
    store32,
    store64,
    warp_table,
)
from .memory import fail, shared_address
from .remote import ALL_FIRST, DROP, ROOM_FIRST, STORES_FIRST, has_room, note, suspend
from .trace import trace_row

# Flags of the mbarrier operations.
CLUSTER_SPACE = 1  # the barrier may be another CTA's
NO_COMPLETE = 2
AUTO_COUNT = 8  # (BAR_*) the count operand is absent: all threads of the CTA


@njit(**OPTIONS)
def _barrier_row(p_head, p_warp, address, cluster, lane, fresh):
    """Host address of the barrier's row (state.B_*), or 0 after an error. `fresh`: about to be initialised."""
    head = int64s(p_head)
    if address & 7:
        fail(p_head, st.ERR_MISALIGNED, lane, address, 8)
        return np.int64(0)
    word, error = shared_address(p_head, p_warp, address, 8, cluster)
    if error:
        fail(p_head, error, lane, address, 8)
        return np.int64(0)
    rank, offset = address >> st.RANK_SHIFT, address & st.OFFSET_MASK
    row = int64s(head[st.H_MBAR_BASES])[rank] + (offset >> 3) * (st.B_SIZE * 8)
    live = int64s(row)[st.B_EXPECTED] != 0
    intact = live and cell_u64(word)[0] == np.uint64(st.MBARRIER_WORD)
    if fresh:
        # Memory that was reused for other data since may be initialised again without mbarrier.inval.
        if intact:
            fail(p_head, st.ERR_MBARRIER_LIVE, lane, address, 0)
            return np.int64(0)
        return row
    if not live:
        fail(p_head, st.ERR_MBARRIER_UNINITIALISED, lane, address, 0)
        return np.int64(0)
    if not intact:
        fail(p_head, st.ERR_MBARRIER_OVERWRITTEN, lane, address, 0)
        return np.int64(0)
    return row


@njit(**OPTIONS)
def _initialise(p_head, p_warp, address, count, lane):
    head = int64s(p_head)
    if count < 1 or count > mbarrier.COUNT_LIMIT:
        fail(p_head, st.ERR_MBARRIER_COUNT, lane, address, count)
        return
    row = _barrier_row(p_head, p_warp, address, False, lane, True)
    if row == 0:
        return
    b = int64s(row)
    b[st.B_EXPECTED] = count
    b[st.B_PENDING] = count
    b[st.B_TX] = 0
    b[st.B_PHASE] = 0
    word, _ = shared_address(p_head, p_warp, address, 8, False)
    cell_u64(word)[0] = np.uint64(st.MBARRIER_WORD)
    if head[st.H_TRACE] != 0:
        trace_row(p_head, p_warp, et.INIT, head[st.H_STOP_PC], 1 << lane, address, count, 0)
    head[st.H_PROGRESS] += 1


@njit(**OPTIONS)
def _arrive(p_head, p_warp, address, count, flags, lane):
    """Returns the state token: completed phases << 32 | pending count before the arrival."""
    row = _barrier_row(p_head, p_warp, address, flags & CLUSTER_SPACE != 0, lane, False)
    if row == 0:
        return np.int64(0)
    b = int64s(row)
    token = b[st.B_PHASE] << 32 | b[st.B_PENDING]
    if count > b[st.B_PENDING] or (flags & DROP and count > b[st.B_EXPECTED]):
        fail(p_head, st.ERR_MBARRIER_UNDERFLOW, lane, address, count)
        return token
    if count < 1:
        fail(p_head, st.ERR_MBARRIER_COUNT, lane, address, count)
        return token
    if flags & NO_COMPLETE and count == b[st.B_PENDING]:
        fail(p_head, st.ERR_PHASE, lane, address, count)
        return token
    if flags & DROP:
        b[st.B_EXPECTED] -= count
    head, phase = int64s(p_head), b[st.B_PHASE]
    ended = mbarrier.arrive(p_head, row, count)
    if head[st.H_TRACE] != 0:
        trace_row(p_head, p_warp, et.ARRIVE, head[st.H_STOP_PC], 1 << lane, address, phase, np.int64(ended))
    return token


@njit(**OPTIONS)
def _change_tx(p_head, p_warp, address, delta, flags, lane):
    row = _barrier_row(p_head, p_warp, address, flags & CLUSTER_SPACE != 0, lane, False)
    if row == 0:
        return
    if not mbarrier.tx_fits(row, delta):
        fail(p_head, st.ERR_MBARRIER_TX, lane, address, delta)
        return
    head, phase = int64s(p_head), int64s(row)[st.B_PHASE]
    ended = mbarrier.change_tx(p_head, row, delta)
    if head[st.H_TRACE] != 0:
        trace_row(p_head, p_warp, et.CHANGE_TX, head[st.H_STOP_PC], 1 << lane, address, phase, np.int64(ended))


@njit(**OPTIONS)
def _note_remote(p_head, p_warp, pc, op, address, count, flags, lane):
    """An arrival, expect_tx or complete_tx in another CTA that is not done now; checked as far as it can be."""
    row = _barrier_row(p_head, p_warp, address, flags & CLUSTER_SPACE != 0, lane, False)
    if row == 0:
        return
    if op == mc.MB_ARRIVE and count < 1:
        fail(p_head, st.ERR_MBARRIER_COUNT, lane, address, count)
        return
    if int64s(p_head)[st.H_TRACE] != 0:
        kind = et.ARRIVE if op == mc.MB_ARRIVE else et.CHANGE_TX
        trace_row(p_head, p_warp, kind, pc, 1 << lane, address, int64s(row)[st.B_PHASE], 0)
    note(p_head, p_warp, np.int64(op), pc, address, count, flags)


@njit(**OPTIONS)
def _must_come_first(p_head, p_warp, row, m, u):
    """Suspends if operations on other CTAs must be done before one on mbarriers. Returns whether it did."""
    op, warp = row[0], int64s(p_warp)
    if int64s(p_head)[st.H_REMOTE] == 0 or (op != mc.MB_ARRIVE and op != mc.MB_EXPECT and op != mc.MB_COMPLETE):
        return False
    place = np.uint64(row[3]) if op == mc.MB_ARRIVE else np.uint64(row[2])
    local = False
    for lane in range(32):
        if (m >> lane) & 1 and np.int64(u[place][lane]) >> st.RANK_SHIFT == warp[st.W_CTA]:
            local = True
    if local and op == mc.MB_ARRIVE and warp[st.W_REMOTE_STORES] != 0:
        suspend(p_head, STORES_FIRST)
        return True
    if not has_room(p_head):
        suspend(p_head, ROOM_FIRST)
        return True
    return False


@njit(**OPTIONS)
def _update(p_head, p_warp, row, m, p32, p64, scratch):
    """init, inval, arrive, expect_tx, complete_tx of every lane of `m`, in order."""
    op = row[0]
    head, own = int64s(p_head), int64s(p_warp)[st.W_CTA]
    u = rows_u32(p32)
    if _must_come_first(p_head, p_warp, row, m, u):
        return
    tokens = rows_u64(scratch)[0]
    first = np.uint64(row[3]) if op == mc.MB_ARRIVE else np.uint64(row[2])
    second = np.uint64(row[4]) if op == mc.MB_ARRIVE else np.uint64(row[3])
    for lane in range(32):
        if not (m >> lane) & 1:
            continue
        address = np.int64(u[first][lane])
        if head[st.H_REMOTE] != 0 and address >> st.RANK_SHIFT != own and op != mc.MB_INIT and op != mc.MB_INVAL:
            flags = np.int64(row[5]) if op == mc.MB_ARRIVE else np.int64(row[4])
            tokens[lane] = np.uint64(0)
            _note_remote(p_head, p_warp, head[st.H_STOP_PC], op, address, np.int64(u[second][lane]), flags, lane)
        elif op == mc.MB_ARRIVE:
            token = _arrive(p_head, p_warp, address, np.int64(u[second][lane]), np.int64(row[5]), lane)
            tokens[lane] = np.uint64(token)
        elif op == mc.MB_EXPECT:
            _change_tx(p_head, p_warp, address, np.int64(u[second][lane]), np.int64(row[4]), lane)
        elif op == mc.MB_COMPLETE:
            _change_tx(p_head, p_warp, address, -np.int64(u[second][lane]), np.int64(row[4]), lane)
        elif op == mc.MB_INIT:
            _initialise(p_head, p_warp, address, np.int64(u[second][lane]), lane)
        else:
            b = _barrier_row(p_head, p_warp, address, False, lane, False)
            if b != 0:
                int64s(b)[st.B_EXPECTED] = 0
                if head[st.H_TRACE] != 0:
                    trace_row(p_head, p_warp, et.INVAL, head[st.H_STOP_PC], 1 << lane, address, 0, 0)
                head[st.H_PROGRESS] += 1
        if head[st.H_ERROR]:
            return
    if op == mc.MB_ARRIVE:
        store64(p64, row[2], scratch, m)


@njit(**OPTIONS)
def _test(p_head, p_warp, p_group, row, m, p32, p64, scratch):
    """test_wait and try_wait. Returns False if the group now waits."""
    op = row[0]
    head = int64s(p_head)
    group = int64s(p_group)
    u = rows_u32(p32)
    by_state = op == mc.MB_TRY_STATE or op == mc.MB_TEST_STATE
    t = rows_u32(scratch)[0]
    done_any = False
    wait_rank = wait_slot = wait_phase = traced = np.int64(-1)
    for lane in range(32):
        t[lane] = np.uint32(0)
        if not (m >> lane) & 1:
            continue
        address = np.int64(u[np.uint64(row[3])][lane])
        b_row = _barrier_row(p_head, p_warp, address, False, lane, False)
        if b_row == 0:
            return True
        phase = int64s(b_row)[st.B_PHASE]
        if by_state:
            token = np.int64(rows_u64(p64)[np.uint64(row[4])][lane]) >> 32
            done = phase != token
            awaited = token + 2
        else:
            parity = np.int64(u[np.uint64(row[4])][lane])
            if parity > 1:
                fail(p_head, st.ERR_PHASE, lane, address, parity)
                return True
            done = (phase & 1) != parity
            awaited = parity
        if done:
            t[lane] = np.uint32(1)
            done_any = True
            if head[st.H_TRACE] != 0 and address != traced:
                traced = address
                trace_row(p_head, p_warp, et.WAITED, head[st.H_STOP_PC], m, address, phase, 0)
        elif wait_slot < 0:
            wait_rank, wait_slot, wait_phase = address >> st.RANK_SHIFT, (address & st.OFFSET_MASK) >> 3, awaited
    tries = op == mc.MB_TRY or op == mc.MB_TRY_STATE
    if tries and head[st.H_SPURIOUS] != 0 and not done_any:
        chance = np.uint64(head[st.H_CLOCK] * 32 + head[st.H_STOP_WARP]) * np.uint64(0x9E3779B97F4A7C15)
        if chance >> np.uint64(63) == 0:
            store32(p32, row[2], scratch, m)
            return True
    if done_any or (tries and head[st.H_TIMEOUT]):
        store32(p32, row[2], scratch, m)
        head[st.H_TIMEOUT] = 0
        return True
    group[st.G_A], group[st.G_B], group[st.G_C] = wait_rank, wait_slot, wait_phase
    if tries:
        group[st.G_STATUS] = st.MBARRIER
        return False
    store32(p32, row[2], scratch, m)
    group[st.G_STATUS] = st.TESTED
    group[st.G_PC] += 1
    return False


@njit(**OPTIONS)
def finish_named(p_head, named):
    """Ends the generation of a named barrier: its waiters may go on."""
    b = int64s(named)
    if int64s(p_head)[st.H_TRACE] != 0:
        trace_row(p_head, 0, et.NAMED_DONE, int64s(p_head)[st.H_STOP_PC], 0, named, 0, 0)
    b[st.N_RESULT_AND], b[st.N_RESULT_OR], b[st.N_RESULT_POPC] = b[st.N_AND], b[st.N_OR], b[st.N_POPC]
    b[st.N_EXPECTED] = 0
    b[st.N_ARRIVED] = 0
    b[st.N_AND] = 1
    b[st.N_OR] = 0
    b[st.N_POPC] = 0
    b[st.N_GENERATION] += 1
    int64s(p_head)[st.H_PROGRESS] += 1


@njit(**OPTIONS)
def live_threads(p_head, rank):
    """Threads of the live warps of CTA `rank` (whole warps); of the cluster's live lanes when rank is -1."""
    head = int64s(p_head)
    warps = warp_table(head[st.H_WARP_TABLE])
    n = np.int64(0)
    for w in range(head[st.H_WARPS]):
        if rank < 0:
            n += np.int64(popcount(warps[w, st.W_LIVE]))
        elif warps[w, st.W_CTA] == rank and warps[w, st.W_LIVE] != 0:
            n += 32
    return n


@njit(**OPTIONS)
def _join_named(p_head, p_warp, p_group, row, m, p32):
    """bar.sync / arrive / red. Returns True if the barrier completed with this arrival."""
    op = row[0]
    head, warp = int64s(p_head), int64s(p_warp)
    group = int64s(p_group)
    reducing = op == mc.BAR_RED
    k = 4 if reducing else 2
    lane = np.int64(popcount(np.int64((m & -m) - 1)))
    u = rows_u32(p32)
    number, count = np.int64(u[np.uint64(row[k])][lane]), np.int64(u[np.uint64(row[k + 1])][lane])
    automatic = np.int64(row[k + 2]) & AUTO_COUNT != 0
    if number >= st.NAMED_BARRIERS:
        fail(p_head, st.ERR_NAMED_ID, lane, number, 0)
        return True
    rank = warp[st.W_CTA]
    named = int64s(head[st.H_NAMED_BASES])[rank] + number * (st.N_SIZE * 8)
    b = int64s(named)
    if automatic:
        expected = np.int64(-1)
        count = live_threads(p_head, rank)
    else:
        expected = count
        if count <= 0 or count % 32:
            fail(p_head, st.ERR_NAMED_COUNT, lane, number, count)
            return True
    if b[st.N_EXPECTED] != 0 and b[st.N_EXPECTED] != expected:
        fail(p_head, st.ERR_NAMED_COUNT, lane, number, count)
        return True
    if b[st.N_EXPECTED] == 0:
        b[st.N_AND] = 1
    b[st.N_EXPECTED] = expected
    arrivals = np.int64(32) if m == warp[st.W_LIVE] else np.int64(popcount(m))
    b[st.N_ARRIVED] += arrivals
    if b[st.N_ARRIVED] > count:
        fail(p_head, st.ERR_NAMED_OVERFLOW, lane, number, count)
        return True
    if reducing:
        source = u[np.uint64(row[3])]
        for i in range(32):
            if (m >> i) & 1:
                value = np.int64(source[i] & np.uint32(1))
                b[st.N_AND] &= value
                b[st.N_OR] |= value
                b[st.N_POPC] += value
    group[st.G_A], group[st.G_B] = number, b[st.N_GENERATION]
    head[st.H_PROGRESS] += 1
    if head[st.H_TRACE] != 0:
        waits = np.int64(op != mc.BAR_ARRIVE)
        trace_row(p_head, p_warp, et.NAMED_JOIN, head[st.H_STOP_PC], m, named, waits, 0)
    if b[st.N_ARRIVED] == count:
        finish_named(p_head, named)
        return True
    return False


@njit(**OPTIONS)
def _named(p_head, p_warp, p_group, row, m, p32, scratch):
    """Returns False if the group now waits."""
    op = row[0]
    head, warp, group = int64s(p_head), int64s(p_warp), int64s(p_group)
    if op != mc.BAR_RED or group[st.G_C] != st.REDUCING:
        complete = _join_named(p_head, p_warp, p_group, row, m, p32)
        if head[st.H_ERROR]:
            return True
        if op == mc.BAR_ARRIVE or (op == mc.BAR_SYNC and complete):
            return True
        if op == mc.BAR_SYNC:
            group[st.G_PC] += 1
        if not complete:
            group[st.G_STATUS] = st.NAMED
            # A reduction comes back here for its result.
            group[st.G_C] = st.REDUCING if op == mc.BAR_RED else 0
            return False
    group[st.G_C] = 0
    named = int64s(head[st.H_NAMED_BASES])[warp[st.W_CTA]] + group[st.G_A] * (st.N_SIZE * 8)
    b = int64s(named)
    t = rows_u32(scratch)[0]
    kind = np.int64(row[6]) >> 4
    result = b[st.N_RESULT_AND] if kind == 0 else (b[st.N_RESULT_OR] if kind == 1 else b[st.N_RESULT_POPC])
    for i in range(32):
        t[i] = np.uint32(result)
    store32(p32, row[2], scratch, m)
    return True


@njit(**OPTIONS)
def settle_cluster(p_head):
    """Ends the cluster barrier's phase if every live lane has arrived."""
    head = int64s(p_head)
    if head[st.H_CLUSTER_ARRIVED] > 0 and head[st.H_CLUSTER_ARRIVED] >= live_threads(p_head, -1):
        head[st.H_CLUSTER_ARRIVED] = 0
        head[st.H_CLUSTER_PHASE] += 1
        if head[st.H_TRACE] != 0:
            trace_row(p_head, 0, et.CLUSTER_DONE, head[st.H_STOP_PC], 0, 0, 0, 0)
    head[st.H_PROGRESS] += 1


@njit(**OPTIONS)
def _lowest(mask):
    return np.int64(popcount((mask & -mask) - 1))


@njit(**OPTIONS)
def run_barriers(p_head, p_warp, p_group, p_code, p_counts, pc, limit, mask, p32, p64, scratch):
    code = code_table(p_code)
    counts = int64s(p_counts)
    head, warp, group = int64s(p_head), int64s(p_warp), int64s(p_group)
    while pc < limit:
        row = code[np.uint64(pc)]
        op = row[0]
        if op >> mc.FAMILY_SHIFT != mc.BARRIER:
            break
        m = mask
        if row[1] != 0:
            m = guarded(p32, np.int64(row[1]), mask)
            if m == 0:
                counts[np.uint64(pc)] += 1
                pc += 1
                continue
        group[st.G_PC] = pc
        head[st.H_STOP_PC] = pc
        if op <= mc.MB_COMPLETE:
            _update(p_head, p_warp, row, m, p32, p64, scratch)
        elif op <= mc.MB_TEST_STATE:
            if not _test(p_head, p_warp, p_group, row, m, p32, p64, scratch):
                if group[st.G_STATUS] == st.TESTED:
                    counts[np.uint64(pc)] += 1
                return group[st.G_PC]
        elif op == mc.MB_COUNT:
            tokens, t = rows_u64(p64)[np.uint64(row[3])], rows_u32(scratch)[0]
            for i in range(32):
                t[i] = np.uint32(tokens[i] & np.uint64(0xFFFFFFFF))
            store32(p32, row[2], scratch, m)
        elif op == mc.CLUSTER_ARRIVE:
            if row[2] == 0 and warp[st.W_REMOTE] != 0:
                suspend(p_head, ALL_FIRST)
                return pc
            twice = warp[st.W_CLUSTER_LANES] & m
            if twice and head[st.H_CLUSTER_PHASE] == warp[st.W_CLUSTER_PHASE]:
                fail(p_head, st.ERR_CLUSTER_ARRIVE, _lowest(twice), 0, 0)
                return pc
            warp[st.W_CLUSTER_LANES] |= m
            head[st.H_CLUSTER_ARRIVED] += np.int64(popcount(m))
            warp[st.W_CLUSTER_PHASE] = head[st.H_CLUSTER_PHASE]
            if head[st.H_TRACE] != 0:
                trace_row(p_head, p_warp, et.CLUSTER_ARRIVE, pc, m, 0, 0, 0)
            settle_cluster(p_head)
        elif op == mc.CLUSTER_WAIT:
            absent = m & ~warp[st.W_CLUSTER_LANES]
            if absent:
                fail(p_head, st.ERR_CLUSTER_WAIT, _lowest(absent), 0, 0)
                return pc
            warp[st.W_CLUSTER_LANES] &= ~m
            waits = head[st.H_CLUSTER_PHASE] == warp[st.W_CLUSTER_PHASE]
            if head[st.H_TRACE] != 0:
                trace_row(p_head, p_warp, et.CLUSTER_WAIT, pc, m, np.int64(not waits), 0, 0)
            if waits:
                group[st.G_STATUS] = st.CLUSTER
                group[st.G_A] = warp[st.W_CLUSTER_PHASE]
                group[st.G_PC] = pc + 1
                counts[np.uint64(pc)] += 1
                return pc + 1
        elif warp[st.W_REMOTE] != 0:
            suspend(p_head, ALL_FIRST)
        elif not _named(p_head, p_warp, p_group, row, m, p32, scratch):
            if op != mc.BAR_RED:
                counts[np.uint64(pc)] += 1
            return group[st.G_PC]
        if head[st.H_ERROR]:
            return pc
        counts[np.uint64(pc)] += 1
        pc += 1
    return pc
