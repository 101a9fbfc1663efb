"""The engine: schedules warps and the groups of lanes within them, and runs micro-operations.

Divergence: the lanes of a warp that share a pc form a group. The runnable group with the lowest pc runs first
and merges with any group whose pc it meets, so that lanes reconverge at the first common instruction. A group
that reaches a warp-synchronising operation without the lanes it needs is parked until they meet it there.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from . import microcode as mc
from . import state as st
from . import trace as et
from .barrier import finish_named, live_threads, run_barriers, settle_cluster
from .common import (
    ENTRY_OPTIONS,
    OPTIONS,
    UNCHANGED,
    call_native,
    code_table,
    guarded,
    int32s,
    int64s,
    popcount,
    rows_u32,
    rows_u64,
    store32,
    store64,
)
from .memory import fail, run_memory
from .registers import run_registers
from .remote import ALL_FIRST, ROWS, suspend
from .trace import trace_row
from .warp import run_warp_ops

NO_LIMIT = 1 << 40
FAR = 1 << 50


@njit(**OPTIONS)
def _group_address(p_warp, g):
    return p_warp + 8 * (st.W_GROUP0 + g * st.G_SIZE)


@njit(**OPTIONS)
def _runnable(p_head, p_warp, g):
    """Whether group `g` can run now; wakes it (status RUN) if what it waited for has happened."""
    head = int64s(p_head)
    group = int64s(_group_address(p_warp, g))
    status = group[st.G_STATUS]
    if status == st.RUN:
        return True
    if status == st.MBARRIER or status == st.TESTED:
        base = int64s(head[st.H_MBAR_BASES])[group[st.G_A]]
        phase = int64s(base + group[st.G_B] * (st.B_SIZE * 8))[st.B_PHASE]
        awaited = group[st.G_C]
        ready = (phase & 1) != awaited if awaited < 2 else phase != awaited - 2
        ready = ready or head[st.H_TIMEOUT] != 0
        if ready and status == st.TESTED:
            head[st.H_TIMEOUT] = 0
    elif status == st.NAMED:
        rank = int64s(p_warp)[st.W_CTA]
        base = int64s(head[st.H_NAMED_BASES])[rank]
        ready = int64s(base + group[st.G_A] * (st.N_SIZE * 8))[st.N_GENERATION] != group[st.G_B]
    elif status == st.CLUSTER:
        ready = head[st.H_CLUSTER_PHASE] != group[st.G_A]
    elif status == st.PYTHON:
        ready = head[st.H_RETRY] != 0 or head[st.H_PROGRESS] != group[st.G_A]
    else:
        ready = False
    if ready:
        group[st.G_STATUS] = st.RUN
    return ready


@njit(**OPTIONS)
def _merge_groups(p_warp):
    """Joins groups that stand at the same pc and removes empty ones."""
    warp = int64s(p_warp)
    g = 0
    while g < warp[st.W_GROUPS]:
        a = int64s(_group_address(p_warp, g))
        k = g + 1
        while k < warp[st.W_GROUPS]:
            b = int64s(_group_address(p_warp, k))
            mergeable = (
                a[st.G_PC] == b[st.G_PC]
                and a[st.G_MASK] != 0
                and b[st.G_MASK] != 0
                and a[st.G_STATUS] != st.NAMED
                and b[st.G_STATUS] != st.NAMED
                and a[st.G_STATUS] != st.CLUSTER
                and b[st.G_STATUS] != st.CLUSTER
                and a[st.G_STATUS] != st.PYTHON
                and b[st.G_STATUS] != st.PYTHON
                and a[st.G_C] != st.REDUCING
                and b[st.G_C] != st.REDUCING
            )
            if mergeable:
                a[st.G_MASK] |= b[st.G_MASK]
                a[st.G_STATUS] = st.RUN
                b[st.G_MASK] = 0
            if b[st.G_MASK] == 0:
                last = int64s(_group_address(p_warp, warp[st.W_GROUPS] - 1))
                for i in range(st.G_SIZE):
                    b[i] = last[i]
                warp[st.W_GROUPS] -= 1
            else:
                k += 1
        if a[st.G_MASK] == 0:
            last = int64s(_group_address(p_warp, warp[st.W_GROUPS] - 1))
            for i in range(st.G_SIZE):
                a[i] = last[i]
            warp[st.W_GROUPS] -= 1
        else:
            g += 1


@njit(**OPTIONS)
def _pick_group(p_head, p_warp):
    """The runnable group with the lowest pc, or -1. Groups that yielded come after those that did not."""
    warp = int64s(p_warp)
    if warp[st.W_GROUPS] > 1:
        _merge_groups(p_warp)
    best, best_pc = -1, FAR
    yielded, yielded_pc = -1, FAR
    for g in range(warp[st.W_GROUPS]):
        group = int64s(_group_address(p_warp, g))
        if group[st.G_STATUS] == st.YIELDED:
            if group[st.G_PC] < yielded_pc:
                yielded, yielded_pc = g, group[st.G_PC]
        elif group[st.G_PC] < best_pc and _runnable(p_head, p_warp, g):
            best, best_pc = g, group[st.G_PC]
    if best < 0:
        best = yielded
    for g in range(warp[st.W_GROUPS]):
        group = int64s(_group_address(p_warp, g))
        if group[st.G_STATUS] == st.YIELDED:
            group[st.G_STATUS] = st.RUN
    return best


@njit(**OPTIONS)
def _limit(p_warp, chosen):
    """The lowest pc of another group above the chosen one's: where it must stop to merge."""
    warp = int64s(p_warp)
    pc = int64s(_group_address(p_warp, chosen))[st.G_PC]
    limit = np.int64(NO_LIMIT)
    for g in range(warp[st.W_GROUPS]):
        other = int64s(_group_address(p_warp, g))[st.G_PC]
        if other > pc and other < limit:
            limit = other
    return limit


@njit(**OPTIONS)
def _exit_lanes(p_head, p_warp, g, m):
    """Lanes `m` of group `g` exit; barriers that only waited for them complete."""
    head, warp = int64s(p_head), int64s(p_warp)
    group = int64s(_group_address(p_warp, g))
    warp[st.W_LIVE] &= ~m
    group[st.G_MASK] &= ~m
    group[st.G_PC] += 1
    for k in range(warp[st.W_GROUPS]):
        other = int64s(_group_address(p_warp, k))
        if other[st.G_STATUS] == st.PARKED:
            other[st.G_STATUS] = st.RUN
    if group[st.G_MASK] == 0:
        group[st.G_PC] = -1 - g  # never equal to another group's pc until it is removed
        _merge_groups(p_warp)
    if warp[st.W_LIVE] == 0:
        if head[st.H_TRACE] != 0:
            trace_row(p_head, p_warp, et.EXIT, group[st.G_PC] - 1, m, 0, 0, 0)
        rank = warp[st.W_CTA]
        base = int64s(head[st.H_NAMED_BASES])[rank]
        for number in range(st.NAMED_BARRIERS):
            named = base + number * (st.N_SIZE * 8)
            b = int64s(named)
            if b[st.N_EXPECTED] == -1 and b[st.N_ARRIVED] >= live_threads(p_head, rank):
                finish_named(p_head, named)
    settle_cluster(p_head)


@njit(**OPTIONS)
def _split(p_warp, g, stay, leave, target):
    """Group `g` keeps lanes `stay` at its pc; lanes `leave` become a group at `target`."""
    warp = int64s(p_warp)
    group = int64s(_group_address(p_warp, g))
    other = int64s(_group_address(p_warp, warp[st.W_GROUPS]))
    group[st.G_MASK] = stay
    other[st.G_MASK] = leave
    other[st.G_PC] = target
    other[st.G_STATUS] = st.RUN
    other[st.G_C] = 0
    warp[st.W_GROUPS] += 1


@njit(**OPTIONS)
def _control(p_head, p_warp, g, pc, m, budget):
    """One control operation. Returns the pc to go on at with the same group, or -1 - STOP_* / -100 to pick
    a group again."""
    head, warp = int64s(p_head), int64s(p_warp)
    group = int64s(_group_address(p_warp, g))
    row = code_table(head[st.H_CODE])[np.uint64(pc)]
    op = row[0]
    p32, scratch = warp[st.W_R32], head[st.H_SCRATCH]
    lanes = group[st.G_MASK]
    if budget < 0:
        # The turn is over. A loop also lets the warp's other groups go first.
        if op == mc.BRA and row[2] <= pc:
            group[st.G_STATUS] = st.YIELDED
        return np.int64(-100)
    if op == mc.BRA:
        target = np.int64(row[2])
        if m == lanes:
            group[st.G_PC] = target
            return target if warp[st.W_GROUPS] == 1 else np.int64(-100)
        group[st.G_PC] = pc + 1
        _split(p_warp, g, lanes & ~m, m, target)
        return np.int64(-100)
    if op == mc.EXIT:
        _exit_lanes(p_head, p_warp, g, m)
        return np.int64(-100)
    if op == mc.CONVERGE or op == mc.CONVERGE_ALL:
        need = warp[st.W_LIVE]
        if op == mc.CONVERGE:
            leader = np.int64(popcount(np.int64((m & -m) - 1)))
            members = np.int64(rows_u32(p32)[np.uint64(row[2])][leader])
            if m & ~members:
                fail(p_head, st.ERR_NOT_CONVERGED, leader, members, m)
                return np.int64(-1 - st.STOP_ERROR)
            need &= members
        if need & ~m:
            group[st.G_STATUS] = st.PARKED
            group[st.G_A] = need
            group[st.G_PC] = pc
            return np.int64(-100)
        if head[st.H_TRACE] != 0 and warp[st.W_LIVE] != st.FULL_MASK:
            named = np.int64(st.FULL_MASK)
            if op == mc.CONVERGE:
                named = np.int64(rows_u32(p32)[np.uint64(row[2])][np.int64(popcount(np.int64((m & -m) - 1)))])
            trace_row(p_head, p_warp, et.ABSENT, pc, m, named, 0, 0)
        return pc + 1
    if op == mc.SETTLE and warp[st.W_LOADS] == 0:
        int64s(warp[st.W_COUNTS])[np.uint64(pc)] += 1
        return pc + 1
    if op == mc.HANDLER or op == mc.SETTLE:
        if op == mc.HANDLER and row[7] != 0:
            arguments = head[st.H_AUX] + 4 * np.int64(row[7])
            function = int32s(arguments)
            if function[1] <= head[st.H_NATIVE]:
                address = int64s(head[st.H_NATIVE_TABLE])[np.int64(function[0])]
                head[st.H_STOP_PC] = pc
                done = call_native(address, p_head, p_warp, arguments, m)
                if done != 0:
                    if done != UNCHANGED:
                        head[st.H_PROGRESS] += 1
                    int64s(warp[st.W_COUNTS])[np.uint64(pc)] += 1
                    return pc + 1
        head[st.H_STOP_GROUP] = g
        head[st.H_STOP_MASK] = m
        group[st.G_PC] = pc
        return np.int64(-1 - st.STOP_HANDLER)
    if op == mc.CLOCK:
        t = rows_u32(scratch)[0]
        for i in range(32):
            t[i] = np.uint32(head[st.H_CLOCK] & 0xFFFFFFFF)
        store32(p32, row[2], scratch, m)
    elif op == mc.CLOCK64:
        w = rows_u64(scratch)[0]
        for i in range(32):
            w[i] = np.uint64(head[st.H_CLOCK])
        store64(warp[st.W_R64], row[2], scratch, m)
    elif op == mc.YIELD:
        group[st.G_STATUS] = st.YIELDED
        group[st.G_PC] = pc + 1
        return np.int64(-100)
    elif op == mc.FENCE:
        if row[2] != 0 and warp[st.W_REMOTE] != 0:
            group[st.G_PC] = pc
            int64s(warp[st.W_COUNTS])[np.uint64(pc)] -= 1
            suspend(p_head, ALL_FIRST)
            return np.int64(-1 - st.STOP_ERROR)
        if head[st.H_TRACE] != 0:
            trace_row(p_head, p_warp, et.FENCE, pc, m, 0, 0, 0)
    elif op == mc.TRAP:
        fail(p_head, st.ERR_TRAP, 0, 0, 0)
        return np.int64(-1 - st.STOP_ERROR)
    return pc + 1


@njit(**OPTIONS)
def _run_group(p_head, p_warp, g, budget):
    """Runs group `g` until it must give way. Returns (STOP_* or -1 for none, remaining budget)."""
    head, warp = int64s(p_head), int64s(p_warp)
    p_group = _group_address(p_warp, g)
    group = int64s(p_group)
    code = code_table(head[st.H_CODE])
    p_code, p_aux, p_counts = head[st.H_CODE], head[st.H_AUX], warp[st.W_COUNTS]
    counts = int64s(p_counts)
    p32, p64, scratch = warp[st.W_R32], warp[st.W_R64], head[st.H_SCRATCH]
    limit = _limit(p_warp, g)
    mask, pc = group[st.G_MASK], group[st.G_PC]
    while True:
        start = pc
        family = code[np.uint64(pc), 0] >> mc.FAMILY_SHIFT
        if family == mc.CONTROL:
            m = mask
            guard = np.int64(code[np.uint64(pc), 1])
            if guard != 0:
                m = guarded(p32, guard, mask)
            if m == 0:
                pc += 1
            else:
                pc = _control(p_head, p_warp, g, pc, m, budget)
            op = code[np.uint64(start), 0]
            if (budget >= 0 or m == 0) and op != mc.HANDLER and op != mc.SETTLE:
                counts[np.uint64(start)] += 1
            budget -= 1
            head[st.H_CLOCK] += 1
            if m != 0:
                if pc == -100:
                    return np.int64(-1), budget
                if pc < 0:
                    head[st.H_STOP_PC] = start
                    return -1 - pc, budget
        elif family <= mc.CONVERT:
            pc = run_registers(p_code, p_counts, pc, limit, mask, p32, p64)
        elif family == mc.MEMORY:
            pc = run_memory(p_head, p_warp, p_code, p_aux, p_counts, pc, limit, mask, p32, p64, scratch)
        elif family == mc.WARP:
            pc = run_warp_ops(p_code, p_counts, pc, limit, mask, p32, p64, scratch)
        else:
            pc = run_barriers(p_head, p_warp, p_group, p_code, p_counts, pc, limit, mask, p32, p64, scratch)
        if family != mc.CONTROL:
            budget -= pc - start
            head[st.H_CLOCK] += pc - start
            if head[st.H_ERROR]:
                head[st.H_STOP_PC] = pc
                group[st.G_PC] = pc
                return np.int64(st.STOP_ERROR), budget
            if family == mc.BARRIER and group[st.G_STATUS] != st.RUN:
                return np.int64(-1), budget
        group[st.G_PC] = pc
        if pc >= limit:
            return np.int64(-1), budget


@njit(**OPTIONS)
def _next_random(p_head):
    """xorshift64; the state is never 0."""
    head = int64s(p_head)
    x = np.uint64(head[st.H_RANDOM])
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    head[st.H_RANDOM] = np.int64(x)
    return np.int64(x >> np.uint64(33))


@njit("int64(int64)", **ENTRY_OPTIONS)
def run(p_head):
    """Runs the cluster whose header is at `p_head` until Python is needed. Returns STOP_*.

    STOP_HANDLER: H_STOP_* name the warp, group, micro-op and lanes of a handler to call.
    STOP_IDLE: no group can run. STOP_SLICE: a time slice is over (random order), or much was executed without
    anything changing. STOP_PAUSE: H_CLOCK has reached H_PAUSE. STOP_ERROR: H_ERROR*.
    """
    head = int64s(p_head)
    n = head[st.H_WARPS]
    while True:
        first = head[st.H_CURSOR]
        budget = head[st.H_BUDGET]
        head[st.H_BUDGET] = 0
        if budget <= 0 and head[st.H_RANDOM] != 0:
            first = _next_random(p_head) % n
        chosen, live = np.int64(-1), False
        p_warp = np.int64(0)
        g = -1
        for k in range(n):
            w = first + k
            if w >= n:
                w -= n
            p_warp = head[st.H_WARP_TABLE] + w * (st.W_SIZE * 8)
            if int64s(p_warp)[st.W_LIVE] == 0:
                continue
            live = True
            if int64s(p_warp)[st.W_STALLED] != 0:
                continue
            g = _pick_group(p_head, p_warp)
            if g >= 0:
                chosen = w
                break
        if chosen < 0:
            return np.int64(st.STOP_IDLE if live else st.STOP_DONE)
        head[st.H_CURSOR] = chosen
        head[st.H_STOP_WARP] = chosen
        int64s(p_warp)[st.W_TURNS] += 1
        if budget <= 0 or chosen != first:
            budget = head[st.H_SLICE]
        while g >= 0 and budget >= 0:
            stop, budget = _run_group(p_head, p_warp, g, budget)
            if stop >= 0:
                head[st.H_BUDGET] = max(budget, 1)
                return stop
            # Picking a group makes those that yielded eligible again, so it must be one that runs.
            if budget < 0 or int64s(p_warp)[st.W_LIVE] == 0:
                break
            g = _pick_group(p_head, p_warp)
        # Its turn is over: the next warp is looked at first.
        head[st.H_CURSOR] = chosen + 1 if chosen + 1 < n else 0
        if head[st.H_PROGRESS] != head[st.H_IDLE_PROGRESS]:
            head[st.H_IDLE_PROGRESS] = head[st.H_PROGRESS]
            head[st.H_IDLE_INSTRUCTIONS] = 0
        else:
            head[st.H_IDLE_INSTRUCTIONS] += head[st.H_SLICE] - budget
        if head[st.H_TRACE_COUNT] > et.ROWS // 2 or head[st.H_REMOTE_COUNT] > ROWS // 2:
            return np.int64(st.STOP_TRACE)
        if head[st.H_RANDOM] != 0 or head[st.H_IDLE_INSTRUCTIONS] > head[st.H_IDLE_LIMIT]:
            return np.int64(st.STOP_SLICE)
        if head[st.H_CLOCK] >= head[st.H_PAUSE]:
            return np.int64(st.STOP_PAUSE)
