"""The time of each executed micro-operation: issue slots and pipes, operands that are not ready yet, memory and barriers.

A warp's front moves with its issue slots. A result that is late does not hold the front up (ptxas moves independent
work ahead of it, within a window of instructions), but what synchronises does wait for its operands: barriers, branches
of loops, waits.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..engine import memory as em
from ..engine import microcode as mc
from ..engine import native as nat
from ..engine import state as st
from ..engine.common import code_table, guarded, int64s, popcount, rows_u32, rows_u64
from . import constants as c
from . import costs
from . import tables as tb
from .fetch import fetch
from .units import OPTIONS, arrive, drop_l1, finish, from_hbm, in_l1, note, reserve, take_into_l1, through_port, touch

(
    K_ISSUE, K_BRANCH, K_WINDOW, K_SHARED, K_PORT, K_L2, K_L2_LATENCY, K_HBM_LATENCY, K_TMEM_LOAD, K_TMEM_STORE, K_MACS, K_WS,
    K_WS_COLUMN, K_FLOOR,
    K_MMA_LATENCY, K_MMA_SHARED, K_MMA_PAIR, K_MMA_ISSUE, K_MMA_START, K_ARRIVE, K_WAKE, K_TEST, K_REMOTE, K_NAMED,
    K_CLUSTER, K_TAGS, K_L1,
) = (
    c.INDEX[name]
    for name in (
        "issue", "branch", "window", "shared_latency", "shared_port", "l2_bytes", "l2_latency", "hbm_latency",
        "tmem_load", "tmem_store", "mma_macs", "ws_floor", "ws_column", "mma_floor", "mma_latency", "mma_latency_shared", "mma_latency_pair", "mma_issue",
        "mma_start", "arrive", "wake", "test", "remote", "named", "cluster_barrier", "tags", "l1_latency",
    )
)  # fmt: skip
_UNIT_OF_PIPE = (0, tb.ALU, tb.FMA, tb.MUFU)


@njit(**OPTIONS)
def operands_ready(t, w, pc):
    """When the last register that a micro-operation reads is there."""
    latest = 0.0
    for i in range(t.costs.source_starts[pc], t.costs.source_starts[pc + 1]):
        latest = max(latest, t.ready[w, t.costs.sources[i]])
    return latest


@njit(**OPTIONS)
def results_ready(t, w, pc, when):
    for i in range(t.costs.target_starts[pc], t.costs.target_starts[pc + 1]):
        t.ready[w, t.costs.targets[i]] = when


@njit(**OPTIONS)
def issue(t, cta, w, quarter, slots, done_at_least):
    """Takes issue slots; returns when the instruction issues. The window: it waits for the result that lies as many
    instructions back. `done_at_least`: when this instruction's own result will be there at the earliest."""
    warp = t.warps[w]
    if slots <= 0.0:
        return warp[tb.FRONT]
    number = np.int64(warp[tb.ISSUED])
    size = np.int64(t.constants[K_WINDOW])
    start = max(warp[tb.FRONT], t.window[w, number % size])
    end = reserve(t, cta, tb.ISSUE + quarter, start, slots / t.constants[K_ISSUE])
    warp[tb.FRONT] = end
    warp[tb.ISSUED] = number + 1
    t.window[w, number % size] = max(done_at_least, end)
    return end


@njit(**OPTIONS)
def account_registers(t, cta, w, quarter, begin, end):
    """Micro-operations [begin, end), which only read and write registers."""
    for pc in range(begin, end):
        if t.code_lines[pc] != t.warps[w, tb.LINE]:
            fetch(t, cta, w, t.code_lines[pc])
        operands = operands_ready(t, w, pc)
        kind = t.costs.kind[pc]
        if kind == costs.NOTHING:
            results_ready(t, w, pc, operands)
            continue
        cost = t.costs.cost[pc]
        start = max(issue(t, cta, w, quarter, cost[0], operands), operands)
        done = start + cost[2]
        if t.costs.pipe[pc] != costs.NO_PIPE:
            # A pipe's time is part of the latency.
            end = reserve(t, cta, _UNIT_OF_PIPE[t.costs.pipe[pc]] + quarter, start, cost[1])
            done = end + max(cost[2] - cost[1], 0.0)
        results_ready(t, w, pc, done)
        number = np.int64(t.warps[w, tb.ISSUED]) - 1
        slot = number % np.int64(t.constants[K_WINDOW])
        t.window[w, slot] = max(t.window[w, slot], done)


@njit(**OPTIONS)
def _wavefronts(pointers, lanes, nbytes):
    """Cycles of the shared-memory port that one access takes: the most different words of a bank, per group of lanes
    whose bytes fit one row of the banks."""
    group = max(1, min(32, 128 // max(nbytes, 4)))
    words = max(1, nbytes // 4)
    total = 0
    for first in range(0, 32, group):
        counts = np.zeros(32, np.int64)
        seen = np.zeros((32, 32), np.int64)
        most = 0
        for lane in range(first, first + group):
            if not (lanes >> lane) & 1:
                continue
            for k in range(words):
                word = (pointers[lane] >> 2) + k
                bank = word & 31
                known = False
                for i in range(counts[bank]):
                    if seen[bank, i] == word:
                        known = True
                        break
                if not known and counts[bank] < 32:
                    seen[bank, counts[bank]] = word
                    counts[bank] += 1
                    most = max(most, counts[bank])
        total += most
    return max(total, 1)


@njit(**OPTIONS)
def _lines(pointers, lanes, nbytes):
    """Different 128-byte lines that an access of global memory touches."""
    found = np.zeros(64, np.int64)
    n = 0
    for lane in range(32):
        if not (lanes >> lane) & 1:
            continue
        line = pointers[lane] >> 7
        known = False
        for i in range(n):
            if found[i] == line:
                known = True
                break
        if not known:
            found[n] = line
            n += 1
    return n


@njit(**OPTIONS)
def account_memory(t, p_head, p_warp, p_code, p32, cta, w, quarter, pc, mask):
    """A load, store or atomic whose addresses stand resolved in scratch."""
    code = code_table(p_code)
    row, address_row = code[np.uint64(pc)], code[np.uint64(pc - 1)]
    lanes = mask if row[1] == 0 else guarded(p32, np.int64(row[1]), mask)
    operands = max(operands_ready(t, w, pc), operands_ready(t, w, pc - 1))
    start = issue(t, cta, w, quarter, t.costs.cost[pc, 0], operands)
    if lanes == 0:
        return
    pointers = int64s(int64s(p_head)[st.H_SCRATCH] + em.POINTERS)
    start = max(start, operands)
    space, nbytes = address_row[4], np.int64(address_row[5]) & 255
    op = row[0]
    stores = op == mc.ST or op == mc.STX
    lane = np.int64(popcount(np.int64((lanes & -lanes) - 1)))
    shared = int64s(int64s(p_head)[st.H_SHARED_BASES])[cta]
    own = pointers[lane] >= shared and pointers[lane] < shared + int64s(p_head)[st.H_SHARED_BYTES]
    is_shared = space == em.SHARED_CTA or space == em.SHARED_CLUSTER or (space == em.GENERIC and own)
    if is_shared:
        done = through_port(t, cta, start, np.float64(_wavefronts(pointers, lanes, nbytes)))
        if not own:
            done += t.constants[K_REMOTE]
        if stores:
            t.warps[w, tb.STORED] = max(t.warps[w, tb.STORED], done)
        else:
            results_ready(t, w, pc, done + t.constants[K_SHARED])
        return
    if space == em.LOCAL:
        results_ready(t, w, pc, start + t.constants[K_SHARED])
        return
    lines = _lines(pointers, lanes, nbytes)
    l1 = t.costs.cost[pc, 3]
    if l1 == costs.L1_DROPPED:
        drop_l1(t, cta)
    elif l1 == costs.L1_CACHED:
        there = in_l1(t, cta, pointers, lanes, nbytes, start)
        if there >= 0.0:
            end = reserve(t, cta, tb.LOAD_STORE, start, lines / t.constants[K_TAGS])
            end = max(end, reserve(t, cta, tb.PORT, start, popcount(lanes) * nbytes / t.constants[K_PORT]))
            results_ready(t, w, pc, max(end, there) + t.constants[K_L1])
            return
    new, charged, total = 0.0, 0.0, 0
    for i in range(32):
        if (lanes >> i) & 1:
            more, paid = touch(t, pointers[i], nbytes)
            new += more
            charged += paid
            total += nbytes
    # The load/store unit finds a few lines a cycle; data passes the port, and the SM's link: whole sectors of loads.
    end = reserve(t, cta, tb.LOAD_STORE, start, lines / t.constants[K_TAGS])
    end = max(end, reserve(t, cta, tb.PORT, start, total / t.constants[K_PORT]))
    unit, moved = (tb.BULK_STORE, total) if stores else (tb.LINK, max(total, 32 * lines))
    end = max(end, reserve(t, cta, unit, start, moved / t.constants[K_L2]))
    t.bytes[cta, 2] += total
    if stores:
        t.warps[w, tb.STORED] = max(t.warps[w, tb.STORED], end)
        return
    latency = t.constants[K_HBM_LATENCY] if new > 0 else t.constants[K_L2_LATENCY]
    if charged > 0:
        end = max(end, from_hbm(t, cta, start, charged))
    results_ready(t, w, pc, end + latency)
    if l1 == costs.L1_CACHED:
        take_into_l1(t, cta, pointers, lanes, nbytes, start, end + latency - t.constants[K_L1])


@njit(**OPTIONS)
def account_branch(t, cta, w, quarter, pc, target):
    operands = operands_ready(t, w, pc)
    issue(t, cta, w, quarter, t.costs.cost[pc, 0], 0.0)
    if t.costs.kind[pc] == costs.BRANCH:
        warp = t.warps[w]
        warp[tb.FRONT] = max(warp[tb.FRONT], operands)
        if target <= pc:
            warp[tb.FRONT] += t.constants[K_BRANCH]


@njit(**OPTIONS)
def account_control(t, p_head, p_warp, cta, w, quarter, pc, lanes):
    """A handler or fence, before it is executed."""
    kind = t.costs.kind[pc]
    warp, cost = t.warps[w], t.costs.cost[pc]
    if kind == costs.PYTHON or kind == costs.MMA:
        warp[tb.POLLING] = 0.0
    operands = operands_ready(t, w, pc)
    if kind == costs.CLOCK:
        # A clock tells when what stands before it is done.
        for row in range(t.ready.shape[1]):
            warp[tb.FRONT] = max(warp[tb.FRONT], t.ready[w, row])
        return
    if kind == costs.NOTHING or kind == costs.PYTHON:
        results_ready(t, w, pc, warp[tb.FRONT])
        if kind == costs.PYTHON:
            issue(t, cta, w, quarter, cost[0], 0.0)
            warp[tb.FRONT] = max(warp[tb.FRONT], operands)
        return
    issue(t, cta, w, quarter, max(cost[0], 1.0), 0.0)
    if kind == costs.STALL:
        if cost[3] == costs.L1_DROPPED:
            drop_l1(t, cta)
        elif cost[3] == costs.DEPENDENT and warp[tb.WAITED] == 0.0:
            warp[tb.WAITED] = warp[tb.FRONT]
        warp[tb.FRONT] = max(max(warp[tb.FRONT], operands), warp[tb.STORED]) + cost[2]
        results_ready(t, w, pc, warp[tb.FRONT])
    elif kind == costs.TMEM_LOAD or kind == costs.TMEM_STORE:
        start = max(warp[tb.FRONT], operands)
        rate = t.constants[K_TMEM_LOAD if kind == costs.TMEM_LOAD else K_TMEM_STORE]
        end = reserve(t, cta, tb.TMEM + quarter, start, 128.0 * cost[3] / rate)
        note(t, start, end, cta, w, tb.TRACE_TMEM, cost[3])
        done = end + cost[2]
        if kind == costs.TMEM_LOAD:
            warp[tb.LOADED] = max(warp[tb.LOADED], done)
            results_ready(t, w, pc, done)
        else:
            warp[tb.STORED_TMEM] = max(warp[tb.STORED_TMEM], done)
    elif kind == costs.TMEM_WAIT_LOAD:
        warp[tb.FRONT] = max(warp[tb.FRONT], warp[tb.LOADED]) + cost[2]
    elif kind == costs.TMEM_WAIT_STORE:
        warp[tb.FRONT] = max(warp[tb.FRONT], warp[tb.STORED_TMEM]) + cost[2]
    elif kind == costs.MMA:
        warp[tb.FRONT] = max(warp[tb.FRONT], operands) + t.constants[K_MMA_ISSUE]
        multiply(t, p_head, p_warp, cta, w, pc, lanes)


@njit(**OPTIONS)
def multiply(t, p_head, p_warp, cta, w, pc, lanes):
    """A tcgen05.mma: in order on the tensor cores of its CTA or pair, each with its part of the operands."""
    lane = np.int64(popcount(np.int64((lanes & -lanes) - 1)))
    code = t.costs.operands[pc : pc + 1, :]
    flags = code[0, 2]
    descriptor = nat.operand_value(p_warp, code.ctypes.data, lane) & 0xFFFFFFFF
    m, n = ((descriptor >> 24) & 31) << 4, ((descriptor >> 17) & 63) << 3
    pair = flags & costs.MMA_PAIR != 0
    members = 2 if pair else 1
    first = cta & ~1 if pair else cta
    if first + members > int64s(p_head)[st.H_CTAS]:
        return
    rows, columns = m // members, n // members
    per_cycle = t.constants[K_MACS] * (2.0 if flags & costs.MMA_8_BIT else 1.0)
    k = 32 if flags & costs.MMA_8_BIT else 16
    # The array works on 128 rows: fewer leave a part of it idle, but for a pair's 64 + 64.
    interval = max(m, 128 if not flags & costs.MMA_WS else m) * n * k / (per_cycle * members)
    if flags & costs.MMA_WS:
        interval = max(max(m * n * k / per_cycle, t.constants[K_WS]), t.constants[K_WS_COLUMN] * n)
    elif not pair and m < 128:
        interval = max(interval, n / 2.0)
    interval = max(interval, t.constants[K_FLOOR])
    a_bytes = 0 if flags & costs.MMA_TMEM_A else rows * 32
    port = (a_bytes + columns * 32) / t.constants[K_PORT]
    latency = t.constants[K_MMA_LATENCY]
    if a_bytes:
        latency += t.constants[K_MMA_SHARED]
    if pair:
        latency += t.constants[K_MMA_PAIR]
    start = t.warps[w, tb.FRONT] + t.constants[K_MMA_START]
    for member in range(first, first + members):
        start = max(start, t.ctas[member, tb.TENSOR_FREE])
    end = start + interval
    for member in range(first, first + members):
        end = max(end, reserve(t, member, tb.PORT, start, port))
    for member in range(first, first + members):
        t.ctas[member, tb.TENSOR_FREE] = end
        t.ctas[member, tb.TENSOR_DONE] = max(t.ctas[member, tb.TENSOR_DONE], end + latency - t.constants[K_MMA_START])
        t.busy[member, tb.UNITS] += interval
    note(t, start, end, first, -1, tb.TRACE_MMA, n)


@njit(**OPTIONS)
def touch_barrier(t, p_head, rank, slot, when, by):
    """An arrival at an mbarrier that takes effect at `when`; it is executed next, then `settle` sees what it did."""
    times = t.barriers[rank, slot]
    arrive(times, when, by)
    n = t.misc[tb.TOUCHED]
    row = int64s(int64s(p_head)[st.H_MBAR_BASES])[rank] + slot * (st.B_SIZE * 8)
    t.touched[n, 0], t.touched[n, 1], t.touched[n, 2] = rank, slot, int64s(row)[st.B_PHASE]
    t.misc[tb.TOUCHED] = n + 1


@njit(**OPTIONS)
def settle(t, p_head):
    """Barriers touched by what was executed since: whether their phases are complete."""
    for i in range(t.misc[tb.TOUCHED]):
        rank, slot, phase = t.touched[i]
        row = int64s(int64s(p_head)[st.H_MBAR_BASES])[rank] + slot * (st.B_SIZE * 8)
        if int64s(row)[st.B_PHASE] != phase:
            finish(t.barriers[rank, slot], phase & 1)
            # Several arrivals of one instruction were all of the phase that the first of them found.
            for k in range(i + 1, t.misc[tb.TOUCHED]):
                if t.touched[k, 0] == rank and t.touched[k, 1] == slot:
                    t.touched[k, 2] = int64s(row)[st.B_PHASE]
    t.misc[tb.TOUCHED] = 0


@njit(**OPTIONS)
def account_arrivals(t, p_head, p_warp, p_code, p32, cta, w, quarter, pc, mask):
    """mbarrier operations but waits, before they are executed."""
    row = code_table(p_code)[np.uint64(pc)]
    lanes = mask if row[1] == 0 else guarded(p32, np.int64(row[1]), mask)
    operands = operands_ready(t, w, pc)
    issue(t, cta, w, quarter, t.costs.cost[pc, 0], 0.0)
    warp = t.warps[w]
    warp[tb.FRONT] = max(max(warp[tb.FRONT], operands), warp[tb.STORED])
    op = row[0]
    warp[tb.POLLING] = 0.0
    if lanes == 0 or op == mc.MB_INIT or op == mc.MB_INVAL:
        return
    place = np.uint64(row[3]) if op == mc.MB_ARRIVE else np.uint64(row[2])
    addresses = rows_u32(p32)[place]
    count = np.int64(popcount(lanes))
    # Lanes that arrive at the same barrier do so one after the other.
    when = warp[tb.FRONT] + np.float64(count - 1) + t.constants[K_ARRIVE]
    noted = np.int64(-1)
    for lane in range(32):
        if not (lanes >> lane) & 1 or np.int64(addresses[lane]) == noted:
            continue
        noted = np.int64(addresses[lane])
        rank = noted >> st.RANK_SHIFT
        if rank < int64s(p_head)[st.H_CTAS] and t.misc[tb.TOUCHED] < tb.TOUCH_CAPACITY:
            effect = when if rank == cta else when + t.constants[K_REMOTE]
            touch_barrier(t, p_head, rank, (noted & st.OFFSET_MASK) >> 3, effect, tb.BY_ARRIVAL)
    results_ready(t, w, pc, when)


@njit(**OPTIONS)
def account_wait(t, p_head, p_warp, p_code, p32, p64, cta, w, quarter, pc, mask):
    """test_wait or try_wait of a phase that is over or not. Returns 1 if it can be executed now, 0 if a try must wait
    for an arrival that nobody has made yet, 2 if a test fails (its time has not come). A warp that polls waits from its
    first failed test on, until it arrives somewhere or issues asynchronous work; the barrier that has completed since
    gets the wait."""
    row = code_table(p_code)[np.uint64(pc)]
    lanes = mask if row[1] == 0 else guarded(p32, np.int64(row[1]), mask)
    if lanes == 0:
        return 1
    warp = t.warps[w]
    lane = np.int64(popcount(np.int64((lanes & -lanes) - 1)))
    address = np.int64(rows_u32(p32)[np.uint64(row[3])][lane])
    rank, slot = address >> st.RANK_SHIFT, (address & st.OFFSET_MASK) >> 3
    if rank >= int64s(p_head)[st.H_CTAS] or slot >= t.barriers.shape[1]:
        return 1
    b = int64s(int64s(int64s(p_head)[st.H_MBAR_BASES])[rank] + slot * (st.B_SIZE * 8))
    op, phase = row[0], b[st.B_PHASE]
    if op == mc.MB_TRY_STATE or op == mc.MB_TEST_STATE:
        awaited = np.int64(rows_u64(p64)[np.uint64(row[4])][lane]) >> 32
        over = phase != awaited
        parity = awaited & 1
    else:
        parity = np.int64(rows_u32(p32)[np.uint64(row[4])][lane])
        over = (phase & 1) != parity
    tries = op == mc.MB_TRY or op == mc.MB_TRY_STATE
    now = max(warp[tb.FRONT], operands_ready(t, w, pc))
    if not over and tries:
        return 0
    times = t.barriers[rank, slot]
    done = times[tb.DONE + parity] if over and phase > 0 else 0.0
    if not tries and (not over or done > now):
        if warp[tb.POLLING] == 0.0:
            warp[tb.POLLING] = now
        warp[tb.FRONT] = max(warp[tb.FRONT], operands_ready(t, w, pc))
        issue(t, cta, w, quarter, 1.0, 0.0)
        warp[tb.FRONT] += t.constants[K_TEST]
        results_ready(t, w, pc, warp[tb.FRONT])
        return 2
    issue(t, cta, w, quarter, 1.0, 0.0)
    after = max(now + t.constants[K_TEST], done + t.constants[K_WAKE] if done > now else 0.0)
    # A poller has waited since its first test that failed for what has come since; what was there before did not let it
    # go on.
    since = now if tries else warp[tb.POLLING]
    if done > since > 0.0:
        t.waits[w, slot, np.int64(times[tb.DONE_BY + parity])] += after - since
        note(t, since, after, cta, w, tb.TRACE_WAIT, np.float64(slot))
        warp[tb.POLLING] = 0.0
    warp[tb.FRONT] = max(warp[tb.FRONT], after)
    results_ready(t, w, pc, warp[tb.FRONT])
    return 1


@njit(**OPTIONS)
def account_joins(t, p_head, p_warp, p_group, p_code, p32, cta, w, quarter, pc, mask):
    """A named or cluster barrier, before it is executed. Returns the row of `named` that it is about, -1 for none."""
    row = code_table(p_code)[np.uint64(pc)]
    op = row[0]
    lanes = mask if row[1] == 0 else guarded(p32, np.int64(row[1]), mask)
    warp = t.warps[w]
    issue(t, cta, w, quarter, t.costs.cost[pc, 0], 0.0)
    if lanes == 0:
        return -1
    warp[tb.FRONT] = max(max(warp[tb.FRONT], operands_ready(t, w, pc)), warp[tb.STORED])
    if op == mc.CLUSTER_ARRIVE:
        # One barrier for the cluster: its times are kept with CTA 0.
        arrive(t.named[0, st.NAMED_BARRIERS], warp[tb.FRONT], tb.BY_NAMED)
        return st.NAMED_BARRIERS
    if op == mc.CLUSTER_WAIT:
        return st.NAMED_BARRIERS
    if op == mc.BAR_RED and int64s(p_group)[st.G_C] == st.REDUCING:
        return -1
    k = 4 if op == mc.BAR_RED else 2
    lane = np.int64(popcount(np.int64((lanes & -lanes) - 1)))
    number = np.int64(rows_u32(p32)[np.uint64(row[k])][lane])
    if number >= st.NAMED_BARRIERS:
        return -1
    arrive(t.named[cta, number], warp[tb.FRONT], tb.BY_NAMED)
    return number


@njit(**OPTIONS)
def wake(t, w, cta, cost):
    """A warp that waited at a named or cluster barrier goes on: not before the barrier was complete."""
    warp = t.warps[w]
    number, parity = np.int64(warp[tb.PENDING_NUMBER]), np.int64(warp[tb.PENDING_PARITY])
    holder = 0 if number == st.NAMED_BARRIERS else cta
    done = t.named[holder, number, tb.DONE + parity] + cost
    t.blocked[w, tb.BLOCKED_CLUSTER if number == st.NAMED_BARRIERS else tb.BLOCKED_NAMED] += max(
        done - warp[tb.FRONT], 0.0
    )
    warp[tb.FRONT] = max(warp[tb.FRONT], done)
    warp[tb.PENDING] = 0.0
