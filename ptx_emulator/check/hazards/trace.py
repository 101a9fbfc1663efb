"""Reads the engine's trace (engine/trace.py) into the shadow: ordinary accesses, barriers, fences, native forms."""

from __future__ import annotations

import numpy as np
from numba import njit

from ...engine import state as st
from ...engine import trace as et
from ...engine.common import ENTRY_OPTIONS, OPTIONS, int32s, int64s
from ...engine.native import address_of
from ...units.tcgen05 import load_store_native as tmem
from ...units.tcgen05 import mma_native as mm
from ...units.tma import load_native as tma
from . import core, history
from . import operations as ops
from . import shadow as sh

WARPS_PER_WORD = 48
SPACE_LOCAL = 4  # engine/memory.py, LOCAL
ROW_BYTES = et.T_SIZE * 8


@njit(**OPTIONS)
def _find_buffer(s, address):
    for i in range(int64s(s)[sh.P_BUFFERS]):
        row = sh.buffer_row(s, i)
        if row[sh.B_START] <= address < row[sh.B_END]:
            return np.int64(i)
    return np.int64(-1)


@njit(**OPTIONS)
def _find_cta(s, address):
    p = int64s(s)
    for k in range(p[sh.P_CTAS]):
        start = sh.base(s, 0, k)
        if start <= address < start + p[sh.P_SHARED_BYTES]:
            return np.int64(k)
    return np.int64(-1)


@njit(**OPTIONS)
def _check_row(s, buffer, address, nbytes, inst, w, write):
    """Reports an access to what lies between the rows of an array."""
    rows = sh.buffer_row(s, buffer)
    step = rows[sh.B_ROW_STEP]
    if step != 0 and (address - rows[sh.B_ROWS]) % step + nbytes > rows[sh.B_ROW_BYTES]:
        core.report(s, sh.BETWEEN_ROWS, 0, inst, w, w, write, sh.GLOBAL, buffer, address)


@njit(**OPTIONS)
def _first_address(row):
    lane = 0
    while lane < 31 and not row[et.T_MASK] >> lane & 1:
        lane += 1
    return row[et.T_LANES + lane]


@njit(**OPTIONS)
def _unknown_history(s, row):
    """The buffer whose earlier copies are not in the shadow yet although this access writes to it, or -1."""
    for lane in range(32):
        if row[et.T_MASK] >> lane & 1:
            i = _find_buffer(s, row[et.T_LANES + lane])
            if i >= 0 and not sh.buffer_row(s, i)[sh.B_WRITTEN]:
                return i
    return np.int64(-1)


@njit(**OPTIONS)
def _access(s, p_row, inst, marks):
    """One instruction's access by the lanes of a warp. Returns False if Python must write down reads first."""
    row = int64s(p_row)
    w, mask = row[et.T_WARP], row[et.T_MASK]
    nbytes, write = row[et.T_A] & 255, row[et.T_A] >> 16
    early = sh.early(s)[w] != 0
    flags = (sh.EARLY if early else 0) | (sh.CONSTANT if marks & sh.I_CONSTANT else 0)
    if marks & sh.I_STRONG:
        flags |= sh.STRONG | ((marks >> sh.I_SCOPE) & 3) << sh.SCOPE_SHIFT
    if mask & (mask - 1) == 0:
        flags |= sh.SOLO
    if write and row[et.T_B] == 0:
        buffer = _unknown_history(s, row)
        if buffer >= 0:
            int64s(s)[sh.P_BUFFER] = buffer
            return False
    r = core.new_record(s, w, np.int64(sh.clock(s)[w]), inst, w, sh.GENERIC, write, flags)
    # Run by run of neighbouring lanes in one place.
    rank = buffer = np.int64(-1)
    start = 0
    for lane in range(33):
        new_rank = new_buffer = np.int64(-1)
        active = lane < 32 and (mask >> lane & 1) != 0
        if active:
            new_rank = _find_cta(s, row[et.T_LANES + lane])
            if new_rank < 0:
                new_buffer = _find_buffer(s, row[et.T_LANES + lane])
                if new_buffer >= 0:
                    _check_row(s, new_buffer, row[et.T_LANES + lane], nbytes, inst, w, write)
        if lane > start and (not active or new_rank != rank or new_buffer != buffer):
            _run(s, p_row, start, lane, nbytes, r, rank, buffer)
            start = lane
        if not active:
            start = lane + 1
        rank, buffer = new_rank, new_buffer
    return True


@njit(**OPTIONS)
def _run(s, p_row, first, last, nbytes, r, rank, buffer):
    """Lanes [first, last), all in the shared memory of CTA `rank`, or in `buffer`, or elsewhere."""
    row, p_lanes = int64s(p_row), p_row + (et.T_LANES + first) * 8
    write = sh.record(s, r)[sh.R_WRITE] != 0
    if rank >= 0:
        start = sh.base(s, 0, rank)
        for lane in range(first, last):
            row[et.T_LANES + lane] -= start
            history.lane_conflict(s, r, lane, write, rank, row[et.T_LANES + lane])
        history.touch_shared(s, rank, p_lanes, last - first, 0, nbytes, r)
        cells = sh.lane_cells(s, 0 if write else 1, rank)
        for lane in range(first, last):
            cell = row[et.T_LANES + lane]
            mark = lane
            for other in range(first, lane):
                if not write and row[et.T_LANES + other] == cell:
                    mark = 255
            for i in range(cell, cell + nbytes):
                cells[i] = mark
        for lane in range(first, last):
            row[et.T_LANES + lane] += start
    elif buffer >= 0:
        history.touch_memory(s, buffer, p_lanes, last - first, nbytes, r)


@njit(**OPTIONS)
def _mbarrier(s, address):
    rank, slot = address >> st.RANK_SHIFT, (address & st.OFFSET_MASK) >> 3
    return np.int64(sh.slots(s, rank)[slot])


@njit(**OPTIONS)
def _initialise(s, p_row, inst):
    p, row = int64s(s), int64s(p_row)
    w, address = row[et.T_WARP], row[et.T_A]
    rank, slot = address >> st.RANK_SHIFT, (address & st.OFFSET_MASK) >> 3
    i = np.int64(sh.slots(s, rank)[slot])
    if i < 0:
        i = min(p[sh.P_MBARRIERS], p[sh.P_CTAS] * sh.MBARRIERS_PER_CTA - 1)
        p[sh.P_MBARRIERS] = i + 1
        sh.slots(s, rank)[slot] = i
    early = sh.early(s)[w] != 0
    r = core.new_record(s, w, np.int64(sh.clock(s)[w]), inst, w, sh.GENERIC, 1, sh.SOLO | (sh.EARLY if early else 0))
    row[et.T_LANES] = slot * 8
    history.touch_shared(s, rank, p_row + et.T_LANES * 8, 1, 0, 8, r)
    b = sh.barrier_row(s, i)
    b[sh.M_INIT], b[sh.M_FENCED], b[sh.M_OBSERVED], b[sh.M_PLACE] = r, 0, 0, address
    # A place that is used again starts to count phases again.
    phases = core.first_copy(s) + p[sh.P_ROWS] + i
    for other in range(p[sh.P_WARPS]):
        sh.knowledge(s, sh.HB, other)[phases] = 0
    for other in range(p[sh.P_CTAS]):
        sh.remote(s, 0, other)[phases] = 0
    for plane in range(sh.PLANES):
        for k in range(p[sh.P_DIMS]):
            sh.joined(s, 0, plane, i)[k] = 0
            sh.joined(s, 1, plane, i)[k] = 0


@njit(**OPTIONS)
def _arrive(s, p_log, n, i, inst):
    """Arrivals of the lanes of one instruction at one mbarrier. Returns the index of the last row used."""
    row = int64s(p_log + i * ROW_BYTES)
    w, address, mask, completes = row[et.T_WARP], row[et.T_A], row[et.T_MASK], row[et.T_C]
    while i + 1 < n and not completes:
        other = int64s(p_log + (i + 1) * ROW_BYTES)
        if (
            other[et.T_KIND] != row[et.T_KIND]
            or other[et.T_WARP] != w
            or other[et.T_PC] != row[et.T_PC]
            or other[et.T_A] != address
        ):
            break
        i += 1
        mask |= other[et.T_MASK]
        completes = other[et.T_C]
    b = _mbarrier(s, address)
    if b < 0:
        return i
    rank = address >> st.RANK_SHIFT
    remote = rank != sh.cta_of(s)[w]
    core.use_mbarrier(s, w, b, row[et.T_B], inst, np.int64(remote))
    if remote:
        early = sh.early(s)[w] != 0
        clock = np.int64(sh.clock(s)[w])
        core.touch_remote(s, rank, core.new_record(s, w, clock, inst, w, sh.GENERIC, 1, sh.EARLY if early else 0))
    if row[et.T_KIND] == et.ARRIVE:
        core.release(s, w, b, mask == row[et.T_LIVE])
    if completes:
        core.complete_mbarrier(s, b, row[et.T_B] + 1)
    return i


@njit(**OPTIONS)
def _waited(s, row, inst):
    w, b = row[et.T_WARP], _mbarrier(s, row[et.T_A])
    if b < 0:
        return
    barrier = sh.barrier_row(s, b)
    r = sh.record(s, barrier[sh.M_INIT])
    if r[sh.R_DIM] != w and sh.knowledge(s, sh.HB, w)[r[sh.R_DIM]] < r[sh.R_CLOCK]:
        rank, cell = barrier[sh.M_PLACE] >> st.RANK_SHIFT, barrier[sh.M_PLACE] & st.OFFSET_MASK
        core.report(s, sh.INIT, barrier[sh.M_INIT], inst, w, w, 0, sh.BARRIER, rank, cell)
    core.acquire(s, w, b)
    barrier[sh.M_OBSERVED] = max(barrier[sh.M_OBSERVED], row[et.T_B])


@njit(**OPTIONS)
def _wait_at(s, w, b):
    sh.barrier_row(s, b)[sh.M_WAITING + w // WARPS_PER_WORD] |= np.int64(1) << (w % WARPS_PER_WORD)


@njit(**OPTIONS)
def _finish(s, b):
    """A barrier of threads completes: its waiters know what all who arrived knew."""
    core.complete(s, b)
    row = sh.barrier_row(s, b)
    for w in range(int64s(s)[sh.P_WARPS]):
        word, bit = sh.M_WAITING + w // WARPS_PER_WORD, np.int64(1) << (w % WARPS_PER_WORD)
        if row[word] & bit:
            core.acquire(s, w, b)
            core.warp_sync(s, w)
    for word in range(sh.M_WAITING, sh.M_SIZE):
        row[word] = 0


@njit(**OPTIONS)
def _named(s, address):
    p = int64s(s)
    for rank in range(p[sh.P_CTAS]):
        number = (address - sh.base(s, 1, rank)) // (st.N_SIZE * 8)
        if 0 <= number < st.NAMED_BARRIERS:
            return p[sh.P_CTAS] * sh.MBARRIERS_PER_CTA + st.NAMED_BARRIERS * rank + number
    return np.int64(0)


@njit(**OPTIONS)
def _fence(s, w, lanes, live, marks):
    p = int64s(s)
    if marks & (sh.I_LOADS | sh.I_STORES):
        ops.tensor_wait(s, w, marks & sh.I_LOADS)
    if marks & (sh.I_BEFORE | sh.I_AFTER):
        ops.tensor_fence(s, w, lanes, marks & sh.I_BEFORE)
    if marks & sh.I_PROXY:
        core.proxy_fence(s, w, lanes == live, marks)
    if marks & sh.I_WARP_SYNC:
        core.warp_sync(s, w)
    if marks & sh.I_FENCE:
        ops.memory_fence(s, w, (marks >> sh.I_SCOPE) & 3)
    if marks & (sh.I_INIT_FENCE | sh.I_PROXY | sh.I_FENCE):
        for b in range(p[sh.P_MBARRIERS]):
            row = sh.barrier_row(s, b)
            if row[sh.M_INIT] > 0 and sh.record(s, row[sh.M_INIT])[sh.R_WARP] == w:
                row[sh.M_FENCED] = 1


# What native forms did: work that was carried out, and complete, at once.


@njit(**OPTIONS)
def _fragment(s, row, inst):
    arguments = row[et.T_B]
    code = int32s(arguments)
    p_starts = address_of(arguments + 4 * tmem.RUNS)
    n, length = np.int64(code[tmem.RUN_COUNT]), np.int64(code[tmem.RUN_LENGTH])
    ops.fragment(s, row[et.T_WARP], inst, p_starts, n, row[et.T_A], length, row[et.T_C])


@njit(**OPTIONS)
def _multiply(s, row, inst):
    first, keep = row[et.T_LANES + mm.FIRST], row[et.T_LANES + mm.KEEP]
    place, a_address, lanes = row[et.T_B], row[et.T_C], row[et.T_MASK]
    ops.multiply(s, row[et.T_WARP], inst, row[et.T_A], place, a_address, first, np.int64(keep != 0), lanes)


@njit(**OPTIONS)
def _commit(s, row, inst):
    w, address, view = row[et.T_WARP], row[et.T_A], int64s(s)[sh.T_VIEW]
    b = _mbarrier(s, address)
    core.commits(s, w, inst, row[et.T_MASK])
    if b < 0:
        return
    ops.issue_commit(s, w, inst, b, row[et.T_B], address >> st.RANK_SHIFT)
    ops.take_commit_view(s, w, view)
    ops.hand_over(s, view, b)
    if row[et.T_C]:
        core.complete_mbarrier(s, b, row[et.T_B] + 1)


@njit(**OPTIONS)
def _copy(s, row, inst):
    """Returns the record of what the copy reads, 0 if nothing is known of its barrier."""
    w, b, view = row[et.T_WARP], _mbarrier(s, row[et.T_A]), int64s(s)[sh.T_VIEW]
    if b < 0:
        return np.int64(0)
    number, flags = ops.issue_copy(s, w, inst, b, row[et.T_B]), ops.solo(row[et.T_MASK])
    read = ops.copy_record(s, w, inst, b, number, 0, flags)
    to, nbytes = row[et.T_LANES + tma.TO], row[et.T_LANES + tma.BYTES]
    ops.copy_write(s, w, inst, b, number, to >> st.RANK_SHIFT, to & st.OFFSET_MASK, nbytes, flags)
    sh.barrier_row(s, b)[sh.M_COMPLETE] = number
    ops.take_view(s, w, view)
    ops.hand_over(s, view, b)
    if row[et.T_C]:
        core.complete_mbarrier(s, b, row[et.T_B] + 1)
    return read


@njit("int64(int64, int64, int64, int64)", **ENTRY_OPTIONS)
def consume(s, p_log, start, n):
    """Reads rows [start, n) of the trace. Returns n, or the index of a row for which Python must act: write down the
    reads of buffer P_BUFFER and try again; or, if P_BUFFER is STOP_FULL, make room and try again; if STOP_ATOMIC,
    deal with an atomic access (T_C of its row is now whether it is one to a buffer), if STOP_FENCE, with a fence.sc, if
    STOP_COPY, with what a copy reads (T_B of its row is now the record), and go on."""
    p = int64s(s)
    cluster = p[sh.P_ROWS] - 1
    i = start
    while i < n:
        if sh.is_full(s):
            p[sh.P_BUFFER] = sh.STOP_FULL
            return i
        p_row = p_log + i * ROW_BYTES
        row = int64s(p_row)
        kind, w = row[et.T_KIND], row[et.T_WARP]
        inst, marks = np.int64(sh.instruction(s, row[et.T_PC])[0]), np.int64(sh.instruction(s, row[et.T_PC])[1])
        if kind == et.ACCESS:
            if row[et.T_B] != SPACE_LOCAL and not marks & sh.I_SKIP:
                if not _access(s, p_row, inst, marks):
                    return i
                if marks & sh.I_STRONG:
                    p[sh.P_BUFFER] = sh.STOP_ATOMIC
                    row[et.T_C] = _find_cta(s, _first_address(row)) < 0
                    return i
        elif kind == et.FRAGMENT:
            _fragment(s, row, inst)
        elif kind == et.MULTIPLY:
            _multiply(s, row, inst)
        elif kind == et.COMMIT:
            _commit(s, row, inst)
        elif kind == et.COPY:
            row[et.T_B] = _copy(s, row, inst)
            if row[et.T_B] != 0:
                p[sh.P_BUFFER] = sh.STOP_COPY
                return i
        elif kind == et.ARRIVE or kind == et.CHANGE_TX:
            i = _arrive(s, p_log, n, i, inst)
        elif kind == et.WAITED:
            _waited(s, row, inst)
        elif kind == et.INIT:
            _initialise(s, p_row, inst)
        elif kind == et.NAMED_JOIN:
            b = _named(s, row[et.T_A])
            core.release(s, w, b, True)
            if row[et.T_B]:
                _wait_at(s, w, b)
        elif kind == et.NAMED_DONE:
            _finish(s, _named(s, row[et.T_A]))
        elif kind == et.CLUSTER_ARRIVE:
            core.release(s, w, cluster, True)
        elif kind == et.CLUSTER_DONE:
            _finish(s, cluster)
        elif kind == et.CLUSTER_WAIT:
            if row[et.T_A]:
                core.acquire(s, w, cluster)
                core.warp_sync(s, w)
            else:
                _wait_at(s, w, cluster)
        elif kind == et.FENCE:
            _fence(s, w, row[et.T_MASK], row[et.T_LIVE], marks)
            if marks & sh.I_SC:
                p[sh.P_BUFFER] = sh.STOP_FENCE
                return i
        elif kind == et.ABSENT:
            absent = row[et.T_A] & int64s(p[sh.T_FULL])[w] & ~row[et.T_MASK]
            if absent != 0:
                core.report(s, sh.ABSENT, 0, inst, w, w, 0, sh.BARRIER, np.int64(sh.cta_of(s)[w]), absent)
        elif kind == et.EXIT:
            core.warp_exit(s, w)
        i += 1
    return i
