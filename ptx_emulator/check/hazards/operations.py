"""Asynchronous operations in the shadow: bulk copies, tensor core, Tensor Memory, as their issue and completion.

Python's handlers come here through the Observer, compiled code (engine/native.py) through the trace.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ...engine.common import ENTRY_OPTIONS, OPTIONS, int32s, int64s
from ...units.tcgen05 import mma_native as mm
from ...units.tcgen05.layout import TMEM_COLUMNS
from . import core, history
from . import shadow as sh

NEVER = 1 << 40  # unwritten cells


@njit("int64(int64, int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def new_record(s, w, inst, dim, mode, write, flags):
    """The record of an access by agent `dim` of warp `w`, at the agent's time. `flags`: 0 or shadow.REDUCES."""
    flags |= sh.EARLY if sh.early(s)[w] != 0 else 0
    return core.new_record(s, dim, np.int64(sh.clock(s)[dim]), inst, w, mode, write, flags)


@njit(**OPTIONS)
def barrier_at(s, rank, offset):
    """The row of the mbarrier at an offset in a CTA's shared memory, -1 if there is none."""
    return np.int64(sh.slots(s, rank)[offset >> 3])


# Views: int32[PLANES, D], what the issuer of an operation knows, and hands to a barrier when the operation completes.


@njit("void(int64, int64, int64)", **ENTRY_OPTIONS)
def take_view(s, w, p_view):
    n = int64s(s)[sh.P_DIMS]
    for plane, kind in enumerate((sh.HB, sh.PX, sh.TC)):
        view, known = int32s(p_view + plane * n * 4), sh.knowledge(s, kind, w)
        for i in range(n):
            view[i] = known[i]


@njit("void(int64, int64, int64, int64)", **ENTRY_OPTIONS)
def release_view(s, w, whole, p_view):
    """What warp `w` gives away with a release through memory, by all of its lanes or by one; as core.release. Its clock
    ticks."""
    take_view(s, w, p_view)
    p, clock = int64s(s), sh.clock(s)
    n = p[sh.P_DIMS]
    view, given = int32s(p_view), sh.knowledge(s, sh.TO if whole else sh.TS, w)
    strict = sh.A_STRICT * p[sh.P_WARPS] + w
    view[w] = clock[w]
    view[strict] = clock[w] if whole else max(view[strict], sh.synced(s)[w] - 1)
    tensor = int32s(p_view + 2 * n * 4)
    for i in range(n):
        tensor[i] = given[i]
    sh.knowledge(s, sh.HB, w)[w] = clock[w]
    clock[w] += 1


@njit(**OPTIONS)
def memory_fence(s, w, scope):
    """fence.acq_rel or .sc of a scope; what fence.sc does besides: flags.py."""
    p = int64s(s)
    n = p[sh.P_DIMS]
    hb, clock = sh.knowledge(s, sh.HB, w), sh.clock(s)
    for reach in range(scope + 1):
        core.join(hb, sh.knowledge(s, sh.AQ + reach, w), n)
    if scope >= sh.GPU:
        for i in range(1, p[sh.P_EVENTS]):
            e = sh.event(s, i)
            if e[sh.E_WARP] == w and e[sh.E_TIME] < 0:
                e[sh.E_TIME] = clock[w]
    fe = sh.knowledge(s, sh.FE + scope, w)
    core.join(fe, hb, n)
    strict = sh.A_STRICT * p[sh.P_WARPS] + w
    fe[w] = clock[w]
    fe[strict] = max(fe[strict], sh.synced(s)[w] - 1)
    clock[w] += 1


@njit("void(int64, int64, int64)", **ENTRY_OPTIONS)
def hand_over(s, p_view, barrier):
    """An asynchronous operation that was issued with a view arrives at a barrier."""
    n = int64s(s)[sh.P_DIMS]
    for plane in range(sh.PLANES):
        core.join(sh.joined(s, 0, plane, barrier), int32s(p_view + plane * n * 4), n)


# Copies into shared memory that complete on an mbarrier.


@njit("int64(int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def issue_copy(s, w, inst, barrier, phases):
    """A copy by warp `w` that completes on an mbarrier of which `phases` phases are complete. Returns its number."""
    core.use_mbarrier(s, w, barrier, phases, inst, 1)
    row = sh.barrier_row(s, barrier)
    row[sh.M_ISSUED] += 1
    return row[sh.M_ISSUED]


@njit("int64(int64, int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def copy_record(s, w, inst, barrier, number, write, flags):
    """The record of what the `number`th copy of a barrier reads or writes."""
    flags |= sh.EARLY if sh.early(s)[w] != 0 else 0
    return core.new_record(s, core.first_copy(s) + barrier, number, inst, w, sh.ASYNC, write, flags)


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def copy_write(s, w, inst, barrier, number, rank, offset, nbytes, flags):
    """What the `number`th copy of a barrier writes: `nbytes` in CTA `rank`."""
    r = copy_record(s, w, inst, barrier, number, 1, flags)
    history.touch_shared(s, rank, s + 8 * sh.P_ZERO, 1, offset, nbytes, r)


# The tensor core. Its operations are carried out in order, so one agent of the issuing warp stands for all.


@njit(**OPTIONS)
def _operand(s, rank, p_plan, runs, start, r):
    plan = int64s(p_plan)
    history.touch_shared(s, rank, plan[runs], plan[runs + 1], start, plan[runs + 2], r)


@njit(**OPTIONS)
def solo(lanes):
    """The flag of what is issued by `lanes`."""
    return np.int64(sh.SOLO if lanes & (lanes - 1) == 0 else 0)


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def multiply(s, w, inst, p_plan, place, a_address, first, accumulate, lanes):
    """tcgen05.mma, issued by `lanes`, with a plan (mma_native.P_*) in the CTAs from `first` on; D and A (if it lies
    there) at Tensor Memory addresses `place` and `a_address`."""
    plan, dim = int64s(p_plan), sh.A_PIPE * int64s(s)[sh.P_WARPS] + w
    core.issues(s, w, lanes)
    read = new_record(s, w, inst, dim, sh.ASYNC, 0, solo(lanes))
    read_tensor = new_record(s, w, inst, dim, sh.TENSOR, 0, 0)
    write = new_record(s, w, inst, dim, sh.TENSOR, 1, 0)
    p_lanes, n = plan[mm.P_D_STARTS], plan[mm.P_SEGMENT_COUNT]
    for rank in range(first, first + plan[mm.P_MEMBERS]):
        if plan[mm.P_A_INDEX] != 0:
            _operand(s, rank, p_plan, mm.P_A_RUNS, plan[mm.P_A_START], read)
        _operand(s, rank, p_plan, mm.P_B_RUNS, plan[mm.P_B_START], read)
        if plan[mm.P_A_INDEX] == 0:
            cell = (a_address >> 16) * TMEM_COLUMNS + (a_address & 0xFFFF)
            words = mm.A_WORDS
            history.touch_tmem(s, rank, p_lanes, n, cell, words, read_tensor, n * words)
        cell = (place >> 16) * TMEM_COLUMNS + (place & 0xFFFF)
        history.touch_tmem(s, rank, p_lanes, n, cell, plan[mm.P_WIDTH], write, 1 if accumulate else NEVER)


@njit("void(int64, int64, int64, int64)", **ENTRY_OPTIONS)
def issuing(s, w, inst, lanes):
    """`lanes` issue a tensor core operation other than multiply, or, with an instruction (not -1), commit."""
    if inst < 0:
        core.issues(s, w, lanes)
    else:
        core.commits(s, w, inst, lanes)


@njit("void(int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def issue_commit(s, w, inst, barrier, phases, rank):
    """tcgen05.commit to an mbarrier in CTA `rank` of which `phases` phases are complete."""
    p = int64s(s)
    core.use_mbarrier(s, w, barrier, phases, inst, 1)
    r = new_record(s, w, inst, sh.A_PIPE * p[sh.P_WARPS] + w, sh.ASYNC, 1, 0)
    # The arrival is complete for who knows that its phase is, not when another commit's is.
    core.outlived(s, rank, r, core.first_copy(s) + p[sh.P_ROWS] + barrier, phases + 1)


@njit("void(int64, int64, int64)", **ENTRY_OPTIONS)
def take_commit_view(s, w, p_view):
    """What an arrival by tcgen05.commit gives away: also all tensor-core operations that the warp has issued."""
    take_view(s, w, p_view)
    p, clock = int64s(s), sh.clock(s)
    dim = sh.A_PIPE * p[sh.P_WARPS] + w
    for plane in range(sh.PLANES):
        int32s(p_view + plane * p[sh.P_DIMS] * 4)[dim] = clock[dim]
    clock[dim] += 1


# Tensor Memory as warps use it.


@njit("void(int64, int64, int64, int64, int64, int64, int64, int64)", **ENTRY_OPTIONS)
def fragment(s, w, inst, p_starts, n, cell, count, write):
    """tcgen05.ld or .st: `count` words from `cell` + each of `n` starts."""
    kind = sh.A_ST if write else sh.A_LD
    r = new_record(s, w, inst, kind * int64s(s)[sh.P_WARPS] + w, sh.TENSOR, write, 0)
    history.touch_tmem(s, np.int64(sh.cta_of(s)[w]), p_starts, n, cell, count, r, NEVER)


@njit("void(int64, int64, int64)", **ENTRY_OPTIONS)
def tensor_wait(s, w, loads):
    """tcgen05.wait: the warp's loads or stores are complete."""
    clock = sh.clock(s)
    dim = (sh.A_LD if loads else sh.A_ST) * int64s(s)[sh.P_WARPS] + w
    sh.knowledge(s, sh.HB, w)[dim] = sh.knowledge(s, sh.TC, w)[dim] = clock[dim]
    clock[dim] += 1


@njit("void(int64, int64, int64, int64)", **ENTRY_OPTIONS)
def tensor_fence(s, w, lanes, before):
    """tcgen05.fence::before_thread_sync or ::after_thread_sync by `lanes` of a warp."""
    n = int64s(s)[sh.P_DIMS]
    if before:
        core.join(sh.knowledge(s, sh.TO, w), sh.knowledge(s, sh.TC, w), n)
        if lanes & (lanes - 1) == 0:
            core.join(sh.knowledge(s, sh.TS, w), sh.knowledge(s, sh.TO, w), n)
    else:
        core.join(sh.knowledge(s, sh.TC, w), sh.knowledge(s, sh.TI, w), n)
