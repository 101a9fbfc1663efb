"""Release and acquire through memory (PTX ISA 8.7 to 8.9): what a flag, counter or lock hands from CTA to CTA.

A strong write gives away what a release pattern covers: all that its warp knows, if it is a release itself, else what
it knew at its last fence. A strong read takes that, at once if it is an acquire, else with its warp's next fence. Both
only if their scopes reach each other. Reading and writing in one go (atom, red) passes on what was given before; a
store replaces it. fence.sc orders more: fences that came before a write, whoever executed them, are before those that
come after a read of what it wrote.

What is known of other clusters is kept as events: warp w acquired at its time t that the agents of cluster c have
reached a vector clock. Whoever knows w's time t in turn (by a barrier, say) knows that too; core.py looks it up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from ...engine import state as st
from ...engine import trace as et
from . import core
from . import operations as ops
from . import shadow as sh
from .marks import scope_of


class Knowledge:
    """views: int32[PLANES, D] of the cluster `cluster`; others: cluster -> int32[2, D] (HB, PX) of that cluster."""

    __slots__ = ("cluster", "others", "views")

    def __init__(self, cluster: int, views: np.ndarray, others: dict[int, np.ndarray]):
        self.cluster = cluster
        self.views = views
        self.others = others

    def joined(self, other: Knowledge) -> Knowledge:
        """What both know; both are of one cluster."""
        others = dict(self.others)
        for cluster, known in other.others.items():
            others[cluster] = np.maximum(others[cluster], known) if cluster in others else known
        return Knowledge(self.cluster, np.maximum(self.views, other.views), others)

    def of_others(self) -> dict[int, np.ndarray]:
        """What a warp of another cluster learns."""
        return {**self.others, self.cluster: self.views[:2]}


class Place:
    """What is given at an address: (cluster, CTA, scope) -> Knowledge, and the same of earlier fence.sc. `version`
    counts changes."""

    __slots__ = ("fenced", "given", "version")

    def __init__(self):
        self.given: dict[tuple[int, int, int], Knowledge] = {}
        self.fenced: dict[int, Knowledge] = {}
        self.version = 0


class Flags:
    """The flags of one cluster's observer. `places` are those in global memory, which all clusters share."""

    def __init__(self, observer, places: dict[int, Place]):
        self._observer = observer
        self._places = places
        self._own: dict[int, Place] = {}  # in shared memory
        self._seen: dict[tuple[int, int], int] = {}  # (warp, address) -> version that it has taken
        self.clusters: set[int] = set()  # that something is known of
        self._latest: dict[tuple[int, int, int], np.ndarray] = {}  # (warp, cluster, fence needed) -> what it has learnt
        self._events: list[tuple[int, int, int, np.ndarray]] = []  # rows of T_EVENTS: (row, cluster, warp, vectors)
        self._fences: dict[int, tuple[list[int], list[Knowledge]]] = defaultdict(lambda: ([], []))
        self._awaiting: list[
            tuple[int, int, Knowledge]
        ] = []  # (warp, its time, what its cluster's next fence.sc takes)

    # What warps know.

    def _others(self, view: np.ndarray) -> dict[int, np.ndarray]:
        """What a warp with a view (int32[D]) knows of other clusters."""
        table, found = self._observer.events, {}
        for row, cluster, w, vectors in self._events:
            time = int(table[row, sh.E_TIME])
            if 0 < time <= view[w]:
                found[cluster] = np.maximum(found[cluster], vectors) if cluster in found else vectors
        return found

    def _learn(self, w: int, known: dict[int, np.ndarray], *, fence: bool) -> None:
        """Warp `w` acquires; `fence`: only with its next fence of .gpu or more."""
        observer, cluster = self._observer, int(self._observer.p[sh.P_CLUSTER])
        ticked = False
        for other, vectors in known.items():
            if other == cluster:
                target = observer.views[sh.AQ + sh.GPU if fence else sh.HB, w]
                np.maximum(target, vectors[0], out=target)
                np.maximum(observer.views[sh.PX, w], vectors[1], out=observer.views[sh.PX, w])
                continue
            key = w, other, int(fence)
            before = self._latest.get(key)
            if before is not None and (vectors <= before).all():
                continue
            new = np.array(vectors if before is None else np.maximum(before, vectors), np.int32)
            self._latest[key] = new
            if not ticked:
                observer.clock[w] += 1
                ticked = True
            time = -1 if fence else int(observer.clock[w])
            row = core.add_event(observer.s, other, w, time, new[0].ctypes.data, new[1].ctypes.data)
            if row:
                self._events.append((row, other, w, new))
                self.clusters.add(other)

    # Accesses and fences, as the trace tells of them.

    def access(self, row: np.ndarray) -> None:
        """A strong access by the lanes of a warp."""
        observer, w = self._observer, int(row[et.T_WARP])
        inst = observer.cluster.kernel.instructions[int(observer.tables[sh.T_INST][row[et.T_PC], 0])]
        parts, mask = set(inst.parts), int(row[et.T_MASK])
        places = self._places if row[et.T_C] else self._own
        addresses = {int(row[et.T_LANES + lane]) for lane in range(st.LANES) if mask >> lane & 1}
        reads, writes = inst.name != "st", inst.name not in ("ld", "ldu")
        scope = scope_of(inst)
        for address in addresses if reads else ():
            place = places.get(address)
            if place is not None and self._seen.get((w, address)) != place.version:
                self._seen[w, address] = place.version
                self._take(w, place, scope, acquires=bool(parts & {"acquire", "acq_rel"}))
        if writes:
            whole = mask == int(row[et.T_LIVE]) and len(addresses) == 1
            self._give(w, places, addresses, scope, releases=bool(parts & {"release", "acq_rel"}), whole=whole,
                       replaces=inst.name == "st")  # fmt: skip

    def _take(self, w: int, place: Place, scope: int, *, acquires: bool) -> None:
        observer, cluster = self._observer, int(self._observer.p[sh.P_CLUSTER])
        rank = int(observer.tables[sh.T_CTA][w])
        for (from_cluster, from_rank, given_scope), known in place.given.items():
            needed = sh.GPU if from_cluster != cluster else sh.CLUSTER_SCOPE if from_rank != rank else sh.CTA
            if min(scope, given_scope) < needed:
                continue
            if from_cluster != cluster:
                self._learn(w, known.of_others(), fence=not acquires)
                continue
            target = observer.views[sh.HB if acquires else sh.AQ + needed, w]
            np.maximum(target, known.views[0], out=target)
            for kind, plane in ((sh.PX, 1), (sh.TI, 2)):
                np.maximum(observer.views[kind, w], known.views[plane], out=observer.views[kind, w])
            self._learn(w, known.others, fence=not acquires)
        if scope >= sh.GPU:
            for known in place.fenced.values():
                observer.clock[w] += 1
                self._awaiting.append((w, int(observer.clock[w]), known))

    def _give(
        self, w: int, places: dict[int, Place], addresses: Iterable[int], scope: int, *, releases: bool, whole: bool,
        replaces: bool,
    ) -> None:  # fmt: skip
        observer, cluster = self._observer, int(self._observer.p[sh.P_CLUSTER])
        rank = int(observer.tables[sh.T_CTA][w])
        fenced = self._fenced_before(w)
        given = [(scope, self._released(w, cluster, whole=whole))] if releases else self._fence_gave(w, cluster, scope)
        for address in addresses:
            place = places.get(address)
            if place is None:
                if not given and fenced is None:
                    continue
                place = places[address] = Place()
            if replaces:
                place.given.clear()
                place.fenced.clear()
            elif not given and fenced is None:
                continue
            place.version += 1
            for reach, known in given:
                key = cluster, rank, reach
                place.given[key] = place.given[key].joined(known) if key in place.given else known
            if fenced is not None:
                place.fenced[cluster] = place.fenced[cluster].joined(fenced) if cluster in place.fenced else fenced

    def _released(self, w: int, cluster: int, *, whole: bool) -> Knowledge:
        """All that a warp knows; it ticks."""
        view = np.empty((sh.PLANES, self._observer.views.shape[2]), np.int32)
        ops.release_view(self._observer.s, w, int(whole), view.ctypes.data)
        return Knowledge(cluster, view, self._others(view[0]) if self._events else {})

    def _fence_gave(self, w: int, cluster: int, scope: int) -> list[tuple[int, Knowledge]]:
        """What a relaxed write gives away, by scope: what was known at the warp's last fences."""
        observer, given = self._observer, []
        for reach in (sh.CTA, sh.CLUSTER_SCOPE, sh.GPU):
            known = observer.views[sh.FE + reach, w]
            if known[w]:
                view = np.stack([known, observer.views[sh.PX, w], observer.views[sh.TS, w]])
                given.append((min(reach, scope), Knowledge(cluster, view, self._others(known) if self._events else {})))
        return given

    # fence.sc.

    def fence(self, row: np.ndarray) -> None:
        """A fence.sc of .gpu or more by a warp: what its cluster's reads have seen of earlier ones, it knows."""
        observer, w = self._observer, int(row[et.T_WARP])
        cluster, hb = int(observer.p[sh.P_CLUSTER]), observer.views[sh.HB, w]
        for reader, time, known in self._awaiting:
            if reader == w or hb[reader] >= time:
                if known.cluster == cluster:
                    np.maximum(hb, known.views[0], out=hb)
                    self._learn(w, known.others, fence=False)
                else:
                    self._learn(w, known.of_others(), fence=False)
        times, covered = self._fences[w]
        times.append(int(observer.clock[w]))
        covered.append(self._released(w, cluster, whole=int(row[et.T_MASK]) == int(row[et.T_LIVE])))

    def _fenced_before(self, w: int) -> Knowledge | None:
        """What all fence.sc that a lane of a warp knows of have covered: of its own warp's, those before the lanes last
        synchronised. (What it has fenced itself is in _fence_gave.)"""
        if not self._fences:
            return None
        observer, found = self._observer, None
        for other, (times, covered) in self._fences.items():
            synced = observer.tables[sh.T_SYNCED]
            known = int(synced[w]) - 1 if other == w else int(observer.views[sh.HB, w, other])
            i = bisect_right(times, known)
            if i:
                found = covered[i - 1] if found is None else found.joined(covered[i - 1])
        return found
