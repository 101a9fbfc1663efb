"""The engine's trace: what a checked launch's observer needs to know of compiled code, in the order of execution.

A launch without checks has no trace (H_TRACE is 0) and pays one test per memory access or barrier operation. Rows are
int64[T_SIZE]; Python empties the trace whenever the engine stops, and the engine stops when it is half full.
"""

from __future__ import annotations

from numba import njit

from . import state as st
from .common import OPTIONS, int64s

# Kinds of row; T_A, T_B, T_C mean:
ACCESS = 1  # bytes | write << 16, space; then 32 resolved host addresses
INIT = 2  # barrier address, count
INVAL = 3  # barrier address
ARRIVE = 4  # barrier address, phases completed before, whether this completes one
CHANGE_TX = 5  # as ARRIVE
WAITED = 6  # barrier address, phases completed
NAMED_JOIN = 7  # address of the named barrier's row, whether it waits
NAMED_DONE = 8  # address of the named barrier's row
CLUSTER_ARRIVE = 9
CLUSTER_DONE = 10
CLUSTER_WAIT = 11  # whether it passes at once
FENCE = 12
EXIT = 13
# Of native forms (native.py).
FRAGMENT = 14  # first cell in Tensor Memory, host address of the form's arguments, whether it writes
MULTIPLY = 15  # host address of the plan, addresses of D and of A; then the first CTA, whether D is added
COMMIT = 16  # as ARRIVE
ABSENT = 18  # the lanes that a warp-synchronising instruction names, of which some have exited
COPY = 17  # as ARRIVE; then where to, bytes, host address of the tensor map's row, the box

T_KIND = 0
T_WARP = 1  # in the cluster
T_PC = 2
T_MASK = 3  # lanes
T_LIVE = 4  # lanes of the warp that have not exited
T_A = 5
T_B = 6
T_C = 7
T_LANES = 8
T_SIZE = T_LANES + st.LANES
ROWS = 1 << 14


@njit(**OPTIONS)
def trace_row(p_head, p_warp, kind, pc, mask, a, b, c):
    """Appends a row; returns its host address, or 0 if the trace is full (H_TRACE_LOST)."""
    head = int64s(p_head)
    n = head[st.H_TRACE_COUNT]
    if n >= ROWS:
        head[st.H_TRACE_LOST] += 1
        return 0
    p_row = head[st.H_TRACE] + n * (T_SIZE * 8)
    row = int64s(p_row)
    row[T_KIND], row[T_WARP], row[T_PC], row[T_MASK] = kind, head[st.H_STOP_WARP], pc, mask
    row[T_LIVE] = int64s(p_warp)[st.W_LIVE] if p_warp != 0 else 0
    row[T_A], row[T_B], row[T_C] = a, b, c
    head[st.H_TRACE_COUNT] = n + 1
    return p_row


@njit(**OPTIONS)
def trace_access(p_head, p_warp, access, space, pc, mask, pointers):
    """`pointers`: host address of the lanes' resolved addresses."""
    p_row = trace_row(p_head, p_warp, ACCESS, pc, mask, access, space, 0)
    if p_row != 0:
        row, source = int64s(p_row), int64s(pointers)
        for i in range(32):
            row[T_LANES + i] = source[i]
