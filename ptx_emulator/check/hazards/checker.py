"""The Checker: the happens-before checker of one or several launches, and the hazards that it found."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from . import shadow as sh
from .flags import Place
from .names import NamedArray
from .observer import Observer
from .report import Hazard, describe
from .suppressions import Suppressions

CELLS = 1 << 32  # bytes of writable memory that can be followed
_COUNTERS = [sh.P_RECORDS, sh.P_NODES, sh.P_FINDINGS]


class Checker:
    """Follows the memory accesses of launches. Give it to `launch(checks=...)`; launches that share one are ordered.

    `hazards` lists what was found; see report.Hazard and docs/emulator-hazards.md. `suppress`: a file of hazards that
    are known and accepted (suppressions.py); they are in `suppressed`, and `hazards` is without them.
    """

    def __init__(self, suppress: Suppressions | str | Path | None = None):
        self.suppressions = suppress if isinstance(suppress, Suppressions | None) else Suppressions.read(suppress)
        self.names: list[list[NamedArray]] = []  # of each launch's arrays
        self.records = np.zeros((sh.RECORDS, sh.R_SIZE), np.int32)
        self.findings = np.zeros((sh.FINDINGS, sh.F_SIZE), np.int64)
        self.reads: dict[int, list] = defaultdict(list)
        self.places: dict[int, Place] = {}  # in global memory
        self.kernels: list = []
        self.buffers = np.zeros((0, 5), np.int64)
        self.memory = np.zeros((2, 0), np.int32)
        self._buffers_of: list[tuple] = []
        self._p = np.zeros(sh.P_SIZE, np.int64)
        self._p[sh.P_RECORDS] = sh.FORGOTTEN + 1
        self.records[: sh.FORGOTTEN + 1, sh.R_LAUNCH] = -8
        self._clusters = 0
        self._active: Observer | None = None
        self.running: list[Observer] = []
        self._new_sets()

    def _new_sets(self) -> None:
        self.nodes = np.zeros((sh.NODES, 2), np.int32)
        self.set_keys = np.zeros(sh.HASH, np.int64)
        self.set_values = np.zeros(sh.HASH, np.int32)
        self._p[sh.P_NODES] = 1

    def _connect(self, observer: Observer) -> None:
        """Gives an observer the tables and counters that all share."""
        p = observer.p
        for slot, table in (
            (sh.T_RECORDS, self.records),
            (sh.T_FINDINGS, self.findings),
            (sh.T_BUFFERS, self.buffers),
            (sh.T_MEMORY, self.memory),
            (sh.T_NODES, self.nodes),
            (sh.T_SET_KEYS, self.set_keys),
            (sh.T_SET_VALUES, self.set_values),
        ):
            p[slot] = table.ctypes.data
        p[_COUNTERS] = self._p[_COUNTERS]
        p[sh.P_BUFFERS], p[sh.P_CELLS] = len(self.buffers), self.memory.shape[1]
        p[sh.P_FULL] = p[sh.P_PAIR] = 0

    def next_launch(self, grid) -> int:
        """The number of a grid that is about to start."""
        self.kernels.append(grid.kernel)
        self.names.append(grid.names)
        self.places.clear()
        self._place_buffers(grid.buffers.table)
        self._place_rows(grid.names)
        return len(self.kernels) - 1

    def observer(self, grid, cluster, number: int) -> Observer:
        """An observer of the clusters of launch `number` that `cluster` runs, one after the other."""
        return Observer(self, grid, cluster, number)

    def _place_buffers(self, table: np.ndarray) -> None:
        """Gives every writable buffer its cells; history is kept if they are those of the launch before."""
        places = [tuple(row) for row in table.tolist()]
        writable = [row for row in places if row[2]]
        if writable == self._buffers_of:
            return
        self._buffers_of = writable
        self.buffers = np.zeros((len(writable), sh.BUFFER_SIZE), np.int64)
        cells = 0
        for i, (start, end, _) in enumerate(writable):
            self.buffers[i, :3] = start, end, cells
            cells += end - start
        if cells > CELLS:
            raise ValueError(f"checks: {cells} bytes of buffers, at most {CELLS} can be followed")
        self.memory = np.zeros((2, cells), np.int32)
        self.reads.clear()

    def _place_rows(self, arrays: list[NamedArray]) -> None:
        """Where rows lie in buffers that hold one array which has gaps between them."""
        for row in self.buffers:
            inside = [array for array in arrays if row[sh.B_START] <= array.address < row[sh.B_END]]
            gaps = inside[0].rows() if len(inside) == 1 else None
            row[sh.B_ROWS : sh.B_ROW_BYTES + 1] = gaps or 0

    def next_cluster(self) -> int:
        self._clusters = min(self._clusters + 1, sh.CLUSTERS - 1)
        return self._clusters

    # The counters that all observers share live in the active one's table.

    def activate(self, observer: Observer) -> None:
        if self._active is not observer:
            if self._active is not None:
                self.collect(self._active)
            self._active = observer
            self._connect(observer)

    def rest(self) -> None:
        """Lets go of the observers: no launch runs, and their tables are large."""
        if self._active is not None:
            self.collect(self._active)
        self._active = None
        self.running.clear()

    def collect(self, observer: Observer) -> None:
        self._p[_COUNTERS] = observer.p[_COUNTERS]

    def make_room(self, observer: Observer) -> None:
        """Drops sets of reads that no cell names any more. If that leaves most of them, all reads are forgotten, and if
        the records are full, all accesses: later hazards with them are missed."""
        self.collect(observer)
        everything = observer.p[sh.P_FULL] == 2
        cells = [cells for other in self.running for cells in (other.shared_cells, other.tmem)]
        touched = self.buffers[self.buffers[:, sh.B_TOUCHED] != 0]
        cells += [self.memory[:, first : first + end - start] for start, end, first, *_ in touched.tolist()]
        if everything:
            for writes, _ in cells:
                np.minimum(writes, sh.FORGOTTEN, out=writes)
            self._p[sh.P_RECORDS] = self._forget(observer)
            for other in self.running:
                other.recent[:] = 0
            self.reads.clear()
        if everything or not self._keep_sets([reads for _, reads in cells]):
            for _, reads in cells:
                reads[:] = 0
            self._new_sets()
        self._connect(observer)

    def _keep_sets(self, cells: list[np.ndarray]) -> bool:
        """Numbers the nodes of the sets that `cells` name anew. False, and nothing changed, if they are too many to go
        on with."""
        nodes, named = self.nodes, np.zeros(sh.NODES, bool)
        for reads in cells:
            named[reads] = True
        rest = np.flatnonzero(named)
        while len(rest):
            rest = np.unique(nodes[rest, 1])
            rest = rest[~named[rest]]
            named[rest] = True
        named[0] = True
        kept = np.flatnonzero(named)
        if 2 * len(kept) > sh.ENOUGH:
            return False
        number = np.zeros(sh.NODES, np.int32)
        number[kept] = np.arange(len(kept))
        for reads in cells:
            reads[:] = number[reads]
        self._new_sets()
        self.nodes[: len(kept), 0], self.nodes[: len(kept), 1] = nodes[kept, 0], number[nodes[kept, 1]]
        self._p[sh.P_NODES] = len(kept)
        return True

    def _forget(self, observer: Observer) -> int:
        """Keeps the records that findings and barriers name, at the front; returns the first free one."""
        kept = sh.FORGOTTEN + 1
        findings = self.findings[: int(observer.p[sh.P_FINDINGS])]
        barriers = [(other.barriers, sh.M_INIT) for other in self.running]
        for table, column in ((findings, sh.F_PRIOR), *barriers):
            rows = np.flatnonzero(table[:, column] > sh.FORGOTTEN)
            records = self.records[table[rows, column]].copy()
            self.records[kept : kept + len(rows)] = records
            table[rows, column] = np.arange(kept, kept + len(rows))
            kept += len(rows)
        return kept

    @property
    def hazards(self) -> list[Hazard]:
        """What was found so far that is wrong, errors first."""
        return [h for h in self.found if h.severity != "note" and not self._is_suppressed(h)]

    @property
    def suppressed(self) -> list[Hazard]:
        """What was found that a rule of the suppressions accepts."""
        return [h for h in self.found if h.severity != "note" and self._is_suppressed(h)]

    def _is_suppressed(self, hazard: Hazard) -> bool:
        return self.suppressions is not None and self.suppressions.suppresses(hazard)

    @property
    def notes(self) -> list[Hazard]:
        """What is right, but hardly meant."""
        return [hazard for hazard in self.found if hazard.severity == "note"]

    @property
    def found(self) -> list[Hazard]:
        """Hazards and notes."""
        if self._active is not None:
            self.collect(self._active)
        rows = self.findings[: self._p[sh.P_FINDINGS]].tolist()
        # A commit that arrives in a CTA that may have exited is an error already.
        wrong = {(row[sh.F_LAUNCH], row[sh.F_INST]) for row in rows if row[sh.F_CODE] in (sh.EXITED, sh.EXITED_WORK)}
        found = [
            describe(self, row)
            for row in rows
            if row[sh.F_CODE] != sh.EXITED_COMMIT or (row[sh.F_LAUNCH], row[sh.F_INST]) not in wrong
        ]
        return sorted(found, key=lambda hazard: (hazard.severity != "error", hazard.launch, hazard.line or 0))
