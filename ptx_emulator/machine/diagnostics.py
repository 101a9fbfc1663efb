"""Errors and reports in words: what the engine's error codes and a stuck cluster's state mean."""

from __future__ import annotations

from ..engine import state as st
from ..errors import (
    BarrierMisuse,
    ConvergenceError,
    Deadlock,
    EmulationError,
    LimitExceeded,
    Misaligned,
    OutOfBounds,
    Trap,
)
from .mbarrier import describe


def instruction_at(cluster, pc: int):
    kernel = cluster.kernel
    return kernel.instructions[kernel.origin[min(pc, len(kernel.origin) - 1)]]


def _barrier(cluster, address: int) -> str:
    rank, offset = address >> st.RANK_SHIFT, address & st.OFFSET_MASK
    return describe(cluster.ctas[rank], offset)


def engine_error(cluster) -> EmulationError:
    """The exception for the error in the cluster's header."""
    head = cluster.header
    error, lane, address, extra = (
        int(head[i]) for i in (st.H_ERROR, st.H_ERROR_LANE, st.H_ERROR_ADDRESS, st.H_ERROR_EXTRA)
    )
    warp = cluster.warps[int(head[st.H_STOP_WARP])]
    inst = instruction_at(cluster, int(head[st.H_STOP_PC]))
    who = f"CTA {warp.cta.ctaid}, warp {warp.index}, lane {lane}: "
    kind, message = _describe(cluster, error, address, extra)
    return kind(who + message, line=inst.line, text=inst.text)


def _describe(cluster, error: int, address: int, extra: int) -> tuple[type[EmulationError], str]:
    ctas = len(cluster.ctas)
    shared_end = int(cluster.header[st.H_SHARED_BYTES])
    if error == st.ERR_OUT_OF_BOUNDS:
        return OutOfBounds, f"{extra} bytes at {address:#x}: {cluster.grid.buffers.describe(address)}"
    if error == st.ERR_MISALIGNED:
        return Misaligned, f"address {address:#x} is not a multiple of {extra}"
    if error == st.ERR_READ_ONLY:
        return OutOfBounds, f"write of {extra} bytes to read-only memory at {address:#x}"
    if error == st.ERR_SHARED_BOUNDS:
        return OutOfBounds, (
            f"{extra} bytes at shared address {address:#x}: shared memory is [{st.SHARED_START:#x}, {shared_end:#x})"
        )
    if error == st.ERR_SHARED_RANK:
        return OutOfBounds, (
            f"shared address {address:#x} names CTA {(address & 0xFFFFFFFF) >> st.RANK_SHIFT} of a cluster of {ctas}, "
            "which this instruction cannot reach"
        )
    if error == st.ERR_LOCAL_BOUNDS:
        return (
            OutOfBounds,
            f"{extra} bytes at local address {address:#x}: {cluster.kernel.local_bytes} bytes are declared",
        )
    if error == st.ERR_MBARRIER_UNINITIALISED:
        return BarrierMisuse, f"{_barrier(cluster, address)} is not initialised"
    if error == st.ERR_MBARRIER_LIVE:
        return BarrierMisuse, f"{_barrier(cluster, address)} is initialised again while in use"
    if error == st.ERR_MBARRIER_OVERWRITTEN:
        return BarrierMisuse, f"{_barrier(cluster, address)} was overwritten while in use"
    if error == st.ERR_MBARRIER_UNDERFLOW:
        return BarrierMisuse, f"{_barrier(cluster, address)}: arrival of {extra} is more than are pending"
    if error == st.ERR_MBARRIER_TX:
        return BarrierMisuse, f"{_barrier(cluster, address)}: changing the tx-count by {extra} exceeds +-(2**20 - 1)"
    if error == st.ERR_MBARRIER_COUNT:
        return BarrierMisuse, f"mbarrier at {address:#x}: count {extra} must be from 1 to 2**20 - 1"
    if error == st.ERR_PHASE:
        return BarrierMisuse, f"{_barrier(cluster, address)}: parity {extra} is not 0 or 1, or .noComplete completes"
    if error == st.ERR_NAMED_ID:
        return BarrierMisuse, f"barrier {address}: there are {st.NAMED_BARRIERS}"
    if error == st.ERR_NAMED_COUNT:
        return BarrierMisuse, (
            f"barrier {address}: thread count {extra} must be a positive multiple of 32 and the same for all"
        )
    if error == st.ERR_NAMED_OVERFLOW:
        return BarrierMisuse, f"barrier {address}: more threads arrive than its count of {extra}"
    if error == st.ERR_CLUSTER_ARRIVE:
        return BarrierMisuse, "a second arrival at the cluster barrier before it is complete"
    if error == st.ERR_CLUSTER_WAIT:
        return BarrierMisuse, "barrier.cluster.wait without an arrival since the last wait"
    if error == st.ERR_NOT_CONVERGED:
        return ConvergenceError, f"lanes {extra:#010x} execute an instruction whose membermask is {address:#010x}"
    return Trap, "trap"


MOST_LINES = 200  # of a message


def deadlock(*clusters, never: int = 0) -> Deadlock:
    """A Deadlock that says what every group of lanes of the resident clusters waits for. `never`: clusters that have
    not started."""
    lines = [line for cluster in clusters for line in _standing(cluster, "spins without anything changing")]
    for cluster in clusters:
        for _, warp, groups in diverged_warps(cluster):
            places = ", ".join(f"line {instruction_at(cluster, pc).line}" for _, pc in groups)
            lines.append(
                f"CTA {warp.cta.ctaid} warp {warp.index} has diverged: {places} each need the whole warp, and parts of it "
                "wait there for one another"
            )
    if never:
        lines.append(
            f"{never} clusters have not started: {len(clusters)} are resident, as many as resident_clusters lets"
        )
    return Deadlock("no warp can run:\n    " + "\n    ".join(_shortened(lines)))


def diverged_warps(cluster) -> list[tuple[int, object, list[tuple[int, int]]]]:
    """(number in the cluster, warp, [(lanes, pc)]) of warps whose live lanes all stand at instructions for the whole
    warp, or lanes of it, and wait for lanes that stand at another one: they never meet."""
    found = []
    for w, warp in enumerate(cluster.warps):
        rows = warp.row[st.W_GROUP0 :].reshape(-1, st.G_SIZE)[: int(warp.row[st.W_GROUPS])]
        if warp.live and len(rows) > 1 and (rows[:, st.G_STATUS] == st.PARKED).all():
            found.append((w, warp, [(int(row[st.G_MASK]), int(row[st.G_PC])) for row in rows]))
    return found


def limit_exceeded(cluster, message: str) -> LimitExceeded:
    """A LimitExceeded for the warp that ran last, which says where the others of its cluster stand."""
    warp = cluster.warps[int(cluster.header[st.H_STOP_WARP])]
    groups = warp.row[st.W_GROUP0 :].reshape(-1, st.G_SIZE)[: max(int(warp.row[st.W_GROUPS]), 1)]
    inst = instruction_at(cluster, max(int(groups[:, st.G_PC].min()), 0))
    who = f"CTA {warp.cta.ctaid}, warp {warp.index} runs here"
    lines = _shortened(_standing(cluster, "runs"))
    return LimitExceeded(f"{message}; {who}\n    " + "\n    ".join(lines), line=inst.line, text=inst.text)


def _shortened(lines: list[str]) -> list[str]:
    left_out = len(lines) - MOST_LINES
    return lines if left_out <= 0 else [*lines[:MOST_LINES], f"and {left_out} more"]


def _standing(cluster, running: str) -> list[str]:
    """Where every group of lanes stands; `running`: what one does that waits for nothing."""
    lines = []
    for w, warp in enumerate(cluster.warps):
        if not warp.live:
            continue
        for g in range(int(warp.row[st.W_GROUPS])):
            start = st.W_GROUP0 + g * st.G_SIZE
            lines.append(_waiting(cluster, w, warp, [int(v) for v in warp.row[start : start + st.G_SIZE]], running))
    pending = cluster.asyncs.descriptions()
    if pending:
        lines.append("asynchronous work pending: " + "; ".join(pending))
    return lines


def _waiting(cluster, w: int, warp, group: list[int], running: str) -> str:
    mask, pc, status = group[st.G_MASK], group[st.G_PC], group[st.G_STATUS]
    a, b, c = group[st.G_A], group[st.G_B], group[st.G_C]
    before = pc - 1 if status in (st.CLUSTER, st.TESTED) or (status == st.NAMED and c != st.REDUCING) else pc
    inst = instruction_at(cluster, before)
    if status in (st.MBARRIER, st.TESTED):
        phase = f"parity {c}" if c < 2 else f"phase {c - 2}"
        reason = f"waits for {phase} of {describe(cluster.ctas[a], b * 8)}"
    elif status == st.NAMED:
        row = warp.cta.named[a]
        expected = "all" if row[st.N_EXPECTED] == -1 else str(row[st.N_EXPECTED])
        reason = f"waits at barrier {a}, {row[st.N_ARRIVED]} of {expected} threads arrived"
    elif status == st.CLUSTER:
        reason = f"waits at the cluster barrier, {cluster.header[st.H_CLUSTER_ARRIVED]} threads arrived"
    elif status == st.PARKED:
        reason = f"waits for lanes {a & ~mask:#010x} of its warp to arrive"
    elif status == st.PYTHON:
        reason = f"waits: {cluster.blocked.get((w, pc), '')}"
    else:
        reason = running
    return (
        f"CTA {warp.cta.ctaid} rank {warp.cta.rank} warp {warp.index} lanes {mask:#010x}, line {inst.line}: "
        f"{inst.text}\n        {reason}"
    )
