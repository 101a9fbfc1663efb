"""mbarriers as Python handlers and asynchronous work use them (PTX ISA 9.7.13.15).

A barrier is named by its CTA and the byte offset in that CTA's shared memory. Its state is a row of
`cta.mbarriers` (int64[shared bytes / 8, B_SIZE], engine/state.py), shared with the compiled engine, which also has the
changes that handlers make to it (engine/mbarrier.py); here are their errors in words. The 8 bytes of
shared memory hold a fixed word, so that a program that overwrites a live barrier is found out.
"""

from __future__ import annotations

from ..engine import mbarrier
from ..engine import state as st
from ..errors import BarrierMisuse, Misaligned


def _row(cta, offset: int, inst=None):
    where = {"line": getattr(inst, "line", None), "text": getattr(inst, "text", None)}
    if offset % 8:
        raise Misaligned(f"mbarrier at shared offset {offset:#x}: must be a multiple of 8", **where)
    row = cta.mbarriers[offset >> 3]
    if row[st.B_EXPECTED] == 0:
        raise BarrierMisuse(f"{describe(cta, offset)} is not initialised", **where)
    if int(cta.shared[offset : offset + 8].view("u8")[0]) != st.MBARRIER_WORD:
        raise BarrierMisuse(f"{describe(cta, offset)} was overwritten while in use", **where)
    return row


def _change(cta, row, offset: int, change, amount: int) -> None:
    """Carries out one of engine.mbarrier's changes and tells the observer if the phase ends."""
    ended = change(cta.header.ctypes.data, row.ctypes.data, amount)
    if ended and cta.grid.observer is not None:
        cta.grid.observer.phase_ended(cta, offset, int(row[st.B_PHASE]))


def arrive(cta, offset: int, count: int = 1, inst=None) -> None:
    """arrive-on with `count`. Raises BarrierMisuse if fewer arrivals are pending."""
    row = _row(cta, offset, inst)
    if count > row[st.B_PENDING]:
        raise BarrierMisuse(
            f"{describe(cta, offset)}: arrival of {count}, but only {row[st.B_PENDING]} pending in phase "
            f"{row[st.B_PHASE]}",
            line=getattr(inst, "line", None),
            text=getattr(inst, "text", None),
        )
    _change(cta, row, offset, mbarrier.arrive, count)


def expect_tx(cta, offset: int, nbytes: int, inst=None) -> None:
    """expect-tx: `nbytes` more must complete before the phase can."""
    _change_tx(cta, offset, nbytes, inst)


def complete_tx(cta, offset: int, nbytes: int, inst=None) -> None:
    """complete-tx: `nbytes` of asynchronous transfer are done. May complete the phase."""
    _change_tx(cta, offset, -nbytes, inst)


def _change_tx(cta, offset: int, delta: int, inst) -> None:
    row = _row(cta, offset, inst)
    if not mbarrier.tx_fits(row.ctypes.data, delta):
        tx = int(row[st.B_TX]) + delta
        raise BarrierMisuse(
            f"{describe(cta, offset)}: tx-count {tx} out of range +-{mbarrier.TX_LIMIT}",
            line=getattr(inst, "line", None),
            text=getattr(inst, "text", None),
        )
    _change(cta, row, offset, mbarrier.change_tx, delta)


def phase(cta, offset: int, inst=None) -> int:
    """The number of phases completed so far."""
    return int(_row(cta, offset, inst)[st.B_PHASE])


def describe(cta, offset: int) -> str:
    """A barrier in words, for error messages."""
    row = cta.mbarriers[offset >> 3]
    name = f"mbarrier CTA {cta.rank} shared+{offset:#x}"
    if row[st.B_EXPECTED] == 0:
        return name
    return (
        f"{name} (phase {row[st.B_PHASE]}, {row[st.B_PENDING]} of {row[st.B_EXPECTED]} arrivals pending, "
        f"tx {row[st.B_TX]})"
    )
