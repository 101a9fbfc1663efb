"""The timed loop: as engine.run, but the warp whose clock is earliest goes first, and every micro-operation is accounted
for before it is executed. Asynchronous work is done where it is issued; what it signals carries its time.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..engine import loop as base
from ..engine import microcode as mc
from ..engine import state as st
from ..engine.barrier import run_barriers
from ..engine.common import code_table, guarded, int64s
from ..engine.memory import run_memory
from ..engine.registers import run_registers
from ..engine.warp import run_warp_ops
from . import account as ac
from . import costs
from . import tables as tb
from .fetch import fetch
from .units import OPTIONS, finish

STOP_TIMED = 6  # Python is to account for the handler at H_STOP_*, approve it, and go on
FOREVER = 1 << 40
NEVER = 1e300
TURN = 1 << 16  # operations of a warp's turn, at most
SLACK = 4.0  # cycles that a warp may run ahead of the next


@njit(**OPTIONS)
def _barrier_step(t, p_head, p_warp, p_group, p_code, p_counts, cta, w, quarter, pc, mask, p32, p64, scratch):
    """One micro-operation of the barrier family. Returns the next pc."""
    head, warp, group = int64s(p_head), int64s(p_warp), int64s(p_group)
    op = code_table(p_code)[np.uint64(pc), 0]
    if op <= mc.MB_COMPLETE:
        ac.account_arrivals(t, p_head, p_warp, p_code, p32, cta, w, quarter, pc, mask)
    elif op <= mc.MB_TEST_STATE:
        outcome = ac.account_wait(t, p_head, p_warp, p_code, p32, p64, cta, w, quarter, pc, mask)
        if outcome == 2:
            _fail_test(p_head, p_code, p_counts, pc, mask, p32)
            return pc + 1
    elif op >= mc.BAR_SYNC:
        number = ac.account_joins(t, p_head, p_warp, p_group, p_code, p32, cta, w, quarter, pc, mask)
        named = int64s(int64s(head[st.H_NAMED_BASES])[cta] + max(number, 0) % st.NAMED_BARRIERS * (st.N_SIZE * 8))
        is_cluster = number == st.NAMED_BARRIERS
        before = head[st.H_CLUSTER_PHASE] if is_cluster else named[st.N_GENERATION]
        awaited = warp[st.W_CLUSTER_PHASE] if is_cluster else before
        after_pc = run_barriers(p_head, p_warp, p_group, p_code, p_counts, pc, pc + 1, mask, p32, p64, scratch)
        if number < 0:
            return after_pc
        now = head[st.H_CLUSTER_PHASE] if is_cluster else named[st.N_GENERATION]
        if now != before:
            finish(t.named[0 if is_cluster else cta, number], before & 1)
        if op != mc.BAR_ARRIVE and op != mc.CLUSTER_ARRIVE:
            row = t.warps[w]
            row[tb.PENDING], row[tb.PENDING_NUMBER] = 1.0, np.float64(number)
            row[tb.PENDING_PARITY] = np.float64(awaited & 1)
            if group[st.G_STATUS] == st.RUN:
                _wake(t, w, cta)
        return after_pc
    return run_barriers(p_head, p_warp, p_group, p_code, p_counts, pc, pc + 1, mask, p32, p64, scratch)


@njit(**OPTIONS)
def _wake(t, w, cta):
    is_cluster = t.warps[w, tb.PENDING_NUMBER] == st.NAMED_BARRIERS
    ac.wake(t, w, cta, t.constants[ac.K_CLUSTER if is_cluster else ac.K_NAMED])


@njit(**OPTIONS)
def _fail_test(p_head, p_code, p_counts, pc, mask, p32):
    """A test_wait that comes before the time of the phase's end: false, whatever is executed already."""
    row = code_table(p_code)[np.uint64(pc)]
    lanes = mask if row[1] == 0 else guarded(p32, np.int64(row[1]), mask)
    target = ac.rows_u32(p32)[np.uint64(row[2])]
    for lane in range(32):
        if (lanes >> lane) & 1:
            target[lane] = np.uint32(0)
    int64s(p_counts)[np.uint64(pc)] += 1


@njit(**OPTIONS)
def _run_group(t, p_head, p_warp, w, g, until):
    """Runs group `g` of warp `w` until it gives way, or its clock is behind `until`. Returns STOP_* or -1."""
    head, warp = int64s(p_head), int64s(p_warp)
    p_group = base._group_address(p_warp, g)
    group = int64s(p_group)
    code = code_table(head[st.H_CODE])
    p_code, p_aux, p_counts = head[st.H_CODE], head[st.H_AUX], warp[st.W_COUNTS]
    counts = int64s(p_counts)
    p32, p64, scratch = warp[st.W_R32], warp[st.W_R64], head[st.H_SCRATCH]
    limit = base._limit(p_warp, g)
    mask, pc = group[st.G_MASK], group[st.G_PC]
    cta, quarter = warp[st.W_CTA], warp[st.W_INDEX] % 4
    end_of_turn = t.misc[tb.STEPS] + TURN
    while True:
        start = pc
        t.misc[tb.STEPS] += 1
        if t.code_lines[start] != t.warps[w, tb.LINE]:
            fetch(t, cta, w, t.code_lines[start])
        family = code[np.uint64(pc), 0] >> mc.FAMILY_SHIFT
        if family == mc.CONTROL:
            m = mask
            guard = np.int64(code[np.uint64(pc), 1])
            if guard != 0:
                m = guarded(p32, guard, mask)
            op = code[np.uint64(pc), 0]
            if op == mc.BRA:
                ac.account_branch(t, cta, w, quarter, pc, np.int64(code[np.uint64(pc), 2]) if m != 0 else pc + 1)
            elif m != 0:
                if t.costs.kind[pc] == costs.PYTHON and t.misc[tb.APPROVED] == 0:
                    group[st.G_PC] = pc
                    ac.account_control(t, p_head, p_warp, cta, w, quarter, pc, m)
                    head[st.H_STOP_PC], head[st.H_STOP_GROUP], head[st.H_STOP_MASK] = pc, g, m
                    return np.int64(STOP_TIMED)
                if t.costs.kind[pc] != costs.PYTHON:
                    ac.account_control(t, p_head, p_warp, cta, w, quarter, pc, m)
                t.misc[tb.APPROVED] = 0
                if op == mc.EXIT:
                    row = t.warps[w]
                    row[tb.ENDED] = max(max(row[tb.FRONT], row[tb.STORED]), row[tb.BULK])
            if m == 0:
                pc += 1
            else:
                head[st.H_CLOCK] = np.int64(t.warps[w, tb.FRONT])
                pc = base._control(p_head, p_warp, g, pc, m, np.int64(FOREVER))
            if op != mc.HANDLER and op != mc.SETTLE:
                counts[np.uint64(start)] += 1
            if m != 0:
                if pc == -100:
                    return np.int64(-1)
                if pc < 0:
                    head[st.H_STOP_PC] = start
                    return -1 - pc
        elif family <= mc.CONVERT:
            pc = run_registers(p_code, p_counts, pc, limit, mask, p32, p64)
            t.misc[tb.STEPS] += pc - start - 1
            ac.account_registers(t, cta, w, quarter, start, pc)
        elif family == mc.WARP:
            pc = run_warp_ops(p_code, p_counts, pc, limit, mask, p32, p64, scratch)
            t.misc[tb.STEPS] += pc - start - 1
            ac.account_registers(t, cta, w, quarter, start, pc)
        elif family == mc.MEMORY:
            if t.costs.kind[pc] == costs.MEMORY:
                ac.account_memory(t, p_head, p_warp, p_code, p32, cta, w, quarter, pc, mask)
            else:
                ac.account_registers(t, cta, w, quarter, pc, pc + 1)
            pc = run_memory(p_head, p_warp, p_code, p_aux, p_counts, pc, pc + 1, mask, p32, p64, scratch)
        else:
            pc = _barrier_step(
                t, p_head, p_warp, p_group, p_code, p_counts, cta, w, quarter, pc, mask, p32, p64, scratch
            )
        if t.misc[tb.TOUCHED] != 0:
            ac.settle(t, p_head)
        if family != mc.CONTROL:
            if head[st.H_ERROR]:
                head[st.H_STOP_PC] = pc
                group[st.G_PC] = pc
                return np.int64(st.STOP_ERROR)
            if family == mc.BARRIER and group[st.G_STATUS] != st.RUN:
                return np.int64(-1)
        group[st.G_PC] = pc
        if pc >= limit:
            return np.int64(-1)
        if family != mc.MEMORY and (t.warps[w, tb.FRONT] > until or t.misc[tb.STEPS] > end_of_turn):
            return np.int64(-1)
        if family == mc.BARRIER or code[np.uint64(start), 0] == mc.HANDLER:
            # It may have woken a warp whose clock is earlier.
            return np.int64(-1)


@njit(nogil=True, error_model="numpy", cache=True)
def run(t, p_head):
    """Runs the cluster until Python is needed, or it has taken PAUSE_AT steps. Returns STOP_*."""
    head = int64s(p_head)
    n = head[st.H_WARPS]
    if t.misc[tb.TOUCHED] != 0 and t.misc[tb.APPROVED] == 0:
        ac.settle(t, p_head)  # of a handler that Python has executed
    while True:
        chosen, group, live = -1, -1, False
        first, second = NEVER, NEVER
        resumed = t.misc[tb.LAST_WARP] - 1 if t.misc[tb.APPROVED] != 0 else -1
        for w in range(n):
            p_warp = head[st.H_WARP_TABLE] + w * (st.W_SIZE * 8)
            if int64s(p_warp)[st.W_LIVE] == 0:
                continue
            live = True
            if t.warps[w, tb.FRONT] >= second and w != resumed:
                continue
            g = head[st.H_STOP_GROUP] if w == resumed else base._pick_group(p_head, p_warp)
            if g < 0:
                continue
            clock = -1.0 if w == resumed else t.warps[w, tb.FRONT]
            if clock < first:
                second = first
                first, chosen, group = clock, w, g
            elif clock < second:
                second = clock
        if chosen < 0:
            return np.int64(st.STOP_IDLE if live else st.STOP_DONE)
        p_warp = head[st.H_WARP_TABLE] + chosen * (st.W_SIZE * 8)
        head[st.H_CURSOR] = chosen
        head[st.H_STOP_WARP] = chosen
        t.misc[tb.LAST_WARP] = chosen + 1
        if t.warps[chosen, tb.PENDING] != 0.0:
            _wake(t, chosen, int64s(p_warp)[st.W_CTA])
        stop = _run_group(t, p_head, p_warp, chosen, group, second + SLACK)
        if stop >= 0:
            return stop
        if t.misc[tb.STEPS] >= t.misc[tb.PAUSE_AT]:
            return np.int64(st.STOP_PAUSE)
