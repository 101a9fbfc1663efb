"""How an mbarrier's state changes (PTX ISA 9.7.13.15): the only place, for the engine's operations, for native forms,
and for Python (machine/mbarrier.py), which has the checks in words.

`p_row` is the host address of the barrier's row, int64[B_SIZE] (state.py), `p_head` that of its cluster's header.
"""

from __future__ import annotations

from numba import njit

from . import state as st
from .common import ENTRY_OPTIONS, OPTIONS, int64s

COUNT_LIMIT = (1 << 20) - 1  # of pending and expected arrivals
TX_LIMIT = (1 << 20) - 1  # of the tx-count, in bytes, either way


@njit(**OPTIONS)
def _complete(p_head, p_row):
    """Ends the phase if nothing is pending any more. Returns whether it did."""
    row = int64s(p_row)
    int64s(p_head)[st.H_PROGRESS] += 1
    if row[st.B_PENDING] != 0 or row[st.B_TX] != 0:
        return False
    row[st.B_PHASE] += 1
    row[st.B_PENDING] = row[st.B_EXPECTED]
    return True


@njit(**ENTRY_OPTIONS)
def arrive(p_head, p_row, count):
    """`count` arrivals, which are pending. Returns whether they end the phase."""
    int64s(p_row)[st.B_PENDING] -= count
    return _complete(p_head, p_row)


@njit(**ENTRY_OPTIONS)
def tx_fits(p_row, delta):
    """Whether the tx-count may change by `delta`."""
    return abs(int64s(p_row)[st.B_TX] + delta) <= TX_LIMIT


@njit(**ENTRY_OPTIONS)
def change_tx(p_head, p_row, delta):
    """`delta` bytes more to come (expect-tx), or fewer (complete-tx), where that fits. Returns whether that ends the
    phase."""
    int64s(p_row)[st.B_TX] += delta
    return _complete(p_head, p_row)
