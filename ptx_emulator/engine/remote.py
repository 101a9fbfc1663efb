"""What the engine does with stores and mbarrier operations in another CTA when they are not done at once
(machine/remote.py).

It notes them in a log, int64[ROWS, R_SIZE], that Python empties whenever the engine stops; where one must be done
before the warp may go on it stops, and executes the micro-operation again afterwards.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from . import state as st
from .common import OPTIONS, int64s

R_KIND = 0  # STORE, or the micro-operation
R_WARP = 1  # in the cluster
R_PC = 2
R_ADDRESS = 3  # rank << 24 | offset
R_COUNT = 4  # arrivals or bytes
R_FLAGS = 5  # of the micro-operation
R_DATA = 6  # of a store: up to 32 bytes
R_SIZE = 10
ROWS = 1 << 12

STORE = -1
DROP = 4  # in R_FLAGS: the arrival is a mbarrier.arrive_drop

# What must be done first.
ROOM_FIRST, STORES_FIRST, ALL_FIRST = range(3)


@njit(**OPTIONS)
def suspend(p_head, first):
    """Stops the engine at the running micro-operation until Python has done what must come first."""
    head = int64s(p_head)
    head[st.H_ERROR] = st.ERR_REMOTE
    head[st.H_ERROR_EXTRA] = first


@njit(**OPTIONS)
def has_room(p_head):
    """Whether the lanes of one instruction find room in the log."""
    return int64s(p_head)[st.H_REMOTE_COUNT] <= ROWS - 32


@njit(**OPTIONS)
def note(p_head, p_warp, kind, pc, address, count, flags):
    """Adds an operation to the log; returns the host address of its data."""
    head, warp = int64s(p_head), int64s(p_warp)
    p_row = head[st.H_REMOTE] + head[st.H_REMOTE_COUNT] * (R_SIZE * 8)
    row = int64s(p_row)
    row[R_KIND], row[R_WARP], row[R_PC] = kind, head[st.H_STOP_WARP], pc
    row[R_ADDRESS], row[R_COUNT], row[R_FLAGS] = address, count, flags
    head[st.H_REMOTE_COUNT] += 1
    warp[st.W_REMOTE] += 1
    if kind == STORE:
        warp[st.W_REMOTE_STORES] += 1
    return p_row + R_DATA * 8


@njit(**OPTIONS)
def remote_place(p_head, p_warp, place):
    """`rank << 24 | offset` of a host address in another CTA's shared memory, -1 for any other."""
    head = int64s(p_head)
    bases = int64s(head[st.H_SHARED_BASES])
    for rank in range(head[st.H_CTAS]):
        offset = place - bases[rank]
        if 0 <= offset < head[st.H_SHARED_BYTES]:
            return np.int64(-1) if rank == int64s(p_warp)[st.W_CTA] else rank << st.RANK_SHIFT | offset
    return np.int64(-1)


@njit(**OPTIONS)
def remote_lanes(p_head, p_warp, m, pointers):
    """Lanes of `m` whose resolved addresses (int64[32] at host address `pointers`) lie in another CTA."""
    places, found = int64s(pointers), np.int64(0)
    for lane in range(32):
        if m >> lane & 1 and remote_place(p_head, p_warp, places[lane]) >= 0:
            found |= np.int64(1) << lane
    return found


@njit(**OPTIONS)
def note_stores(p_head, p_warp, pc, lanes, nbytes, pointers):
    """Notes a store of `lanes` and lets their pointers lead to the log, where the store then puts its data."""
    places = int64s(pointers)
    for lane in range(32):
        if lanes >> lane & 1:
            address = remote_place(p_head, p_warp, places[lane])
            places[lane] = note(p_head, p_warp, STORE, pc, address, nbytes, 0)
