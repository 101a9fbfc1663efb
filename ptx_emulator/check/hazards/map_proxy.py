"""Tensor maps that a kernel changes: what the tensormap proxy may see of them (PTX ISA 9.7.13.4, 9.7.13.16, 8.9).

A copy reads its tensor map through the tensormap proxy. After a change of the map by ordinary accesses it needs, on the
path to the copy, a release fence (fence.proxy.tensormap::generic.release or tensormap.cp_fenceproxy) by a warp that
made the change or knows of it, and then an acquire fence of that map by a warp of the copy's CTA.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict

import numpy as np

from ...units.tma.tensormap import TENSOR_MAP_BYTES
from . import core, history
from . import shadow as sh


class _Events:
    """Fences by one warp: when (its clock), and the ordinary accesses that they cover, as a vector clock."""

    def __init__(self):
        self.times: list[int] = []
        self.covered: list[np.ndarray] = []

    def add(self, time: int, covered: np.ndarray) -> None:
        self.times.append(time)
        self.covered.append(covered)

    def until(self, time: int) -> np.ndarray | None:
        """What the last fence up to `time` covers; it covers what those before do."""
        i = bisect_right(self.times, time)
        return self.covered[i - 1] if i else None


class MapProxy:
    """The tensormap proxy of the CTAs of one cluster. `observer`: whose warps' fences and accesses it is told."""

    def __init__(self, observer):
        self._observer = observer
        self._released: dict[int, _Events] = defaultdict(_Events)
        self._acquired: dict[int, dict[int, _Events]] = defaultdict(lambda: defaultdict(_Events))

    def _known(self, w: int, other: int) -> int:
        """How much of warp `other`'s time warp `w` knows."""
        observer = self._observer
        return int(observer.clock[other] if w == other else observer.views[sh.HB, w, other])

    def release(self, warp) -> None:
        """A release fence by a warp."""
        observer, w = self._observer, self._observer.at(warp)
        covered = observer.views[sh.HB, w].copy()
        covered[w] = observer.clock[w]
        self._released[w].add(int(observer.clock[w]), covered)
        observer.clock[w] += 1

    def acquire(self, warp, address: int) -> None:
        """An acquire fence, by a warp, of the map at a global address."""
        observer, w = self._observer, self._observer.at(warp)
        events = self._acquired[address][w]
        covered = np.zeros_like(observer.clock) if not events.covered else events.covered[-1].copy()
        for other, released in self._released.items():
            given = released.until(self._known(w, other))
            if given is not None:
                np.maximum(covered, given, out=covered)
        events.add(int(observer.clock[w]), covered)
        observer.clock[w] += 1

    def _visible(self, w: int, address: int, dim: int, clock: int) -> bool:
        """Whether a copy by warp `w` may use the map after its change by agent `dim` at `clock`."""
        ctas = self._observer.tables[sh.T_CTA]
        for other, events in self._acquired.get(address, {}).items():
            covered = events.until(self._known(w, other)) if ctas[other] == ctas[w] else None
            if covered is not None and covered[dim] >= clock:
                return True
        return False

    def use(self, address: int, copy: int) -> None:
        """A copy whose record is `copy` reads the map at a global address."""
        observer = self._observer
        buffer, records = observer.buffer_at(address), observer.shared.records
        if buffer < 0:
            return
        w, dim, inst = (int(records[copy, column]) for column in (sh.R_WARP, sh.R_DIM, sh.R_INST))
        clock, flags = int(records[copy, sh.R_CLOCK]), int(records[copy, sh.R_FLAGS])
        r = core.new_record(observer.s, dim, clock, inst, w, sh.OBJECT, 0, flags)
        changes = self._changes(buffer, address)
        observer.touch_global(np.array([address], np.int64), TENSOR_MAP_BYTES, r)
        for prior in changes:
            cluster, agent, time = (int(records[prior, column]) for column in (sh.R_CLUSTER, sh.R_DIM, sh.R_CLOCK))
            # Of other clusters only the order is followed, and what is not ordered has been reported as a race.
            ordered = cluster == int(observer.p[sh.P_CLUSTER]) and self._known(w, agent) >= time
            if ordered and not self._visible(w, address, agent, time):
                core.report(observer.s, sh.MAP_FENCE, prior, inst, w, dim, 0, sh.GLOBAL, buffer, address)

    def _changes(self, buffer: int, address: int) -> list[int]:
        """The records of the last writes to the map at an address in a buffer."""
        table = self._observer.shared
        first = int(table.buffers[buffer, sh.B_FIRST]) + address - int(table.buffers[buffer, sh.B_START])
        found = np.unique(table.memory[0, first : first + TENSOR_MAP_BYTES])
        return found[found > sh.FORGOTTEN].tolist()

    def change(self, warp, inst, lane: int, cta, place: int) -> None:
        """tensormap.replace by a lane: a write to a whole map, at an offset in the shared memory of `cta`, or at a
        global address if that is None."""
        record = self._record(warp, inst, write=True)
        if cta is None:
            self._observer.touch_global(np.array([place], np.int64), TENSOR_MAP_BYTES, record)
            return
        self._touch_shared(cta, place, record)
        self._observer.tables[sh.T_LANES][0, cta.rank, place : place + TENSOR_MAP_BYTES] = lane

    def copy(self, warp, inst, offset: int, address: int) -> None:
        """tensormap.cp_fenceproxy: the warp copies a map in its CTA's shared memory to a global address; all of its
        lanes do it together. Releases."""
        self._touch_shared(warp.cta, offset, self._record(warp, inst, write=False))
        reads = self._observer.tables[sh.T_LANES][1, warp.cta.rank]
        reads[offset : offset + TENSOR_MAP_BYTES] = sh.ALL_LANES
        record = self._record(warp, inst, write=True)
        self._observer.touch_global(np.array([address], np.int64), TENSOR_MAP_BYTES, record)
        self.release(warp)

    def _record(self, warp, inst, *, write: bool) -> int:
        observer, w = self._observer, self._observer.at(warp)
        flags = sh.SOLO | (sh.EARLY if observer.early[w] else 0)
        clock = int(observer.clock[w])
        return core.new_record(observer.s, w, clock, observer.index[id(inst)], w, sh.OBJECT, int(write), flags)

    def _touch_shared(self, cta, offset: int, record: int) -> None:
        s = self._observer.s
        history.touch_shared(s, cta.rank, s + 8 * sh.P_ZERO, 1, offset, TENSOR_MAP_BYTES, record)
