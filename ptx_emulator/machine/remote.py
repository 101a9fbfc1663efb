"""Stores to other CTAs' shared memory and operations on their mbarriers, as asynchronous operations.

In order they take effect where they are executed. In the other orders the engine notes them (engine/remote.py), and
they take effect at a time that the order policy chooses: those of one warp to one CTA in the order executed, in any
order with those of other warps and to other CTAs. What the memory consistency model (PTX ISA 8.9.5) guarantees bounds
that time:

    a remote arrival (release)      follows what the warp stored before to any CTA
    a local mbarrier arrival        what the warp stored remotely before takes effect first: whoever waits for it may
                                    release on. Its own remote arrivals may still be on their way
    bar and barrier                 stores and arrivals of the warp take effect first
    barrier.cluster.arrive          the same, unless .relaxed
    fence (not .mbarrier_init), membar, .release stores and atomics
                                    the same
    loads, atomics and reductions   in another CTA's shared memory: the same, as program order to one place is kept;
                                    they themselves take effect at once

Nothing else makes them complete: not an access to other memory, nor the warp's exit.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ..engine import microcode as mc
from ..engine import remote as er
from ..engine import state as st
from ..errors import BarrierMisuse
from . import mbarrier


class RemoteOperations:
    """Those of a cluster that have been noted and are not done.

    log: int64[er.ROWS, er.R_SIZE], which the engine writes.
    """

    def __init__(self, cluster):
        self.cluster = cluster
        self.log = np.zeros((er.ROWS, er.R_SIZE), np.int64)
        self._bytes = self.log.view(np.uint8).reshape(er.ROWS, -1)[:, 8 * er.R_DATA :]
        self._queues: dict[tuple[int, int], deque] = {}  # (warp of the cluster, CTA) -> (is a store, what to do)

    def start(self) -> None:
        self._queues.clear()
        self.cluster.header[st.H_REMOTE_COUNT] = 0

    def collect(self) -> None:
        """Hands what the engine has noted to the asynchronous work."""
        head = self.cluster.header
        count = int(head[st.H_REMOTE_COUNT])
        head[st.H_REMOTE_COUNT] = 0
        for i in range(count):
            self._submit(self.log[i].tolist(), self._bytes[i])

    def _submit(self, row: list[int], data: np.ndarray) -> None:
        cluster, w = self.cluster, row[er.R_WARP]
        kernel, warp = cluster.kernel, cluster.warps[w]
        inst = kernel.instructions[kernel.origin[row[er.R_PC]]]
        rank, offset = row[er.R_ADDRESS] >> st.RANK_SHIFT, row[er.R_ADDRESS] & st.OFFSET_MASK
        target = cluster.ctas[rank]
        storing = row[er.R_KIND] == er.STORE
        if storing:
            value = data[: row[er.R_COUNT]].copy()

            def run():
                target.shared[offset : offset + value.size] = value
        else:
            for other in range(len(cluster.ctas)):
                if other != rank:
                    self._finish(w, other, stores=True)

            def run():
                _update(target, offset, row, inst)

        queue = self._queues.setdefault((w, rank), deque())
        queue.append((storing, run))
        unit = ("remote", warp.index, rank)
        cluster.asyncs.submit(warp.cta, unit, lambda: self._next(w, rank), f"{inst.name}, line {inst.line}")

    def _next(self, w: int, rank: int) -> None:
        """Does the oldest operation of a warp on a CTA, if one is left."""
        queue, row = self._queues[w, rank], self.cluster.warps[w].row
        if queue:
            storing, run = queue.popleft()
            row[st.W_REMOTE] -= 1
            row[st.W_REMOTE_STORES] -= storing
            run()

    def _finish(self, w: int, rank: int, *, stores: bool) -> None:
        """Does all operations of a warp on a CTA, or all up to its last store."""
        queue = self._queues.get((w, rank), ())
        while any(storing for storing, _ in queue) if stores else queue:
            self._next(w, rank)

    def flush(self, w: int, what: int) -> None:
        """`what` er.*_FIRST of warp `w` must be done before it goes on."""
        self.collect()
        if what != er.ROOM_FIRST:
            for rank in range(len(self.cluster.ctas)):
                self._finish(w, rank, stores=what == er.STORES_FIRST)


def _update(cta, offset: int, row: list[int], inst) -> None:
    count = row[er.R_COUNT]
    if row[er.R_KIND] == mc.MB_EXPECT:
        mbarrier.expect_tx(cta, offset, count, inst)
    elif row[er.R_KIND] == mc.MB_COMPLETE:
        mbarrier.complete_tx(cta, offset, count, inst)
    else:
        if row[er.R_FLAGS] & er.DROP:
            barrier = cta.mbarriers[offset >> 3]
            if count > barrier[st.B_EXPECTED]:
                raise BarrierMisuse(f"{mbarrier.describe(cta, offset)}: {count} participants leave")
            barrier[st.B_EXPECTED] -= count
        mbarrier.arrive(cta, offset, count, inst)
