"""The Observer: what a launch with checks tells the happens-before checker, and the tables that it keeps.

Instructions that Python carries out call it where they issue asynchronous work; it returns the work wrapped, so that it
learns when the work completes. An asynchronous access is judged when it is issued, with what the issuing warp knew
then: until somebody acquires its completion, every conflicting access races with it, whenever either really happens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import engine_trace as et
from .. import state as st
from ..tcgen05_layout import TMEM_COLUMNS, TMEM_LANES
from . import core
from . import shadow as sh
from .marks import instruction_marks
from .trace import consume

NEVER = 1 << 40


class Operation:
    """Asynchronous work that completes on mbarriers: `view` [PLANES, D] is what the issuing warp knew, `copies` are
    (barrier row, sequence number) of writes that the barrier's phase publishes."""

    def __init__(self, view: np.ndarray, barriers: list[int], copies: list[tuple[int, int]]):
        self.view = view
        self.barriers = barriers
        self.copies = copies


class Observer:
    """The checker of one grid. `shared` (checker.Checker) holds what outlives it: records, findings, global memory."""

    def __init__(self, shared, grid, cluster, number: int):
        self.shared = shared
        self.grid = grid
        self.cluster = cluster
        self.overlapped = False
        kernel = cluster.kernel
        self.index = {id(inst): i for i, inst in enumerate(kernel.instructions)}
        ctas, warps = len(cluster.ctas), len(cluster.warps)
        self.warps = warps
        rows = ctas * (sh.MBARRIERS_PER_CTA + st.NAMED_BARRIERS) + 1
        dims = sh.A_KINDS * warps + 2 * rows
        self.first_copy = dims - 2 * rows
        nbytes, words = cluster.ctas[0].shared.nbytes, np.int32
        marks = instruction_marks(kernel.instructions)[kernel.origin]
        self.views = np.zeros((sh.VIEWS, warps, dims), words)
        self.clock = np.ones(dims, words)
        self.early = np.zeros(warps, words)
        self.barriers = np.zeros((rows, sh.M_SIZE), np.int64)
        self.slots = np.full((ctas, nbytes // 8), -1, words)
        self.shared_cells = np.zeros((2, ctas, nbytes), words)
        self.tmem = np.zeros((2, ctas, sh.TMEM_WORDS), words)
        self.recent = np.zeros((warps, 2 * len(kernel.instructions)), words)
        self.ended = np.zeros((ctas, dims + 1), words)
        self.cleared = [
            self.views, self.barriers, self.shared_cells, self.tmem, self.recent, self.ended,
            np.zeros(warps, words), np.zeros((2, sh.PLANES, rows, dims), words), np.zeros((2, ctas, dims), words),
        ]  # fmt: skip
        synced, joined, remote = self.cleared[-3:]
        self.tables = {
            sh.T_VIEWS: self.views, sh.T_CLOCK: self.clock, sh.T_SYNCED: synced, sh.T_EARLY: self.early,
            sh.T_CTA: np.array([w.cta.rank for w in cluster.warps], words), sh.T_JOINED: joined,
            sh.T_BARRIERS: self.barriers, sh.T_SLOTS: self.slots, sh.T_RECENT: self.recent,
            sh.T_SHARED: self.shared_cells, sh.T_LANES: np.zeros((2, ctas, nbytes), np.uint8), sh.T_TMEM: self.tmem,
            sh.T_BASES: np.ascontiguousarray(cluster.host_bases()),
            sh.T_INST: np.stack([kernel.origin, marks], axis=1).astype(words), sh.T_REMOTE: remote,
            sh.T_ENDED: self.ended,
        }  # fmt: skip
        self.p = p = np.zeros(sh.P_SIZE, np.int64)
        self.s = p.ctypes.data
        p[sh.P_WARPS], p[sh.P_DIMS], p[sh.P_LAUNCH], p[sh.P_CTAS], p[sh.P_ROWS] = warps, dims, number, ctas, rows
        p[sh.P_SHARED_BYTES], p[sh.P_INSTRUCTIONS] = nbytes, len(kernel.instructions)
        for slot, table in self.tables.items():
            p[slot] = table.ctypes.data
        self.log = np.zeros((et.ROWS, et.T_SIZE), np.int64)
        self._log_address = self.log.ctypes.data
        cluster.header[st.H_TRACE] = self._log_address

    # One cluster of the grid after another.

    def start(self) -> None:
        """A cluster starts: nothing is known, nothing written."""
        for table in self.cleared:
            table[:] = 0
        self.slots[:] = -1
        self.clock[:] = 1
        self.early[:] = self.overlapped
        self.ended[:, -1] = len(self.cluster.ctas[0].warps)
        self.p[sh.P_MBARRIERS] = 0
        self.p[sh.P_CLUSTER] = self.shared.next_cluster()
        self._gaps: dict[int, set[int]] = {}
        self._locations: dict[int, np.ndarray] = {}
        self.cluster.header[st.H_TRACE_COUNT] = 0
        self.activate()

    def activate(self) -> None:
        """This grid's cluster runs now (grids that overlap take turns)."""
        self.shared.activate(self)

    def end(self) -> None:
        """The cluster has ended: what is left in its barriers."""
        for cta in self.cluster.ctas:
            for slot in np.flatnonzero(self.slots[cta.rank] >= 0).tolist():
                row, barrier = cta.mbarriers[slot], int(self.slots[cta.rank, slot])
                if row[st.B_EXPECTED] and row[st.B_TX]:
                    self._left(sh.TX_LEFT, int(self.barriers[barrier, sh.M_INIT]), cta.rank, slot * 8)
            for number, row in enumerate(cta.named):
                if row[st.N_ARRIVED]:
                    self._left(sh.NAMED_LEFT, 0, cta.rank, number)
        self.shared.collect(self)

    def _left(self, code: int, prior: int, rank: int, cell: int) -> None:
        inst = int(self.shared.records[prior, sh.R_INST]) if prior else -1
        core.report(self.s, code, prior, inst, 0, 0, 0, sh.BARRIER, rank, cell)

    def drain(self) -> None:
        """Reads what the engine has written to the trace."""
        head = self.cluster.header
        n, i = int(head[st.H_TRACE_COUNT]), 0
        if head[st.H_TRACE_LOST]:
            raise RuntimeError(f"{head[st.H_TRACE_LOST]} rows of the trace were lost: more accesses without a branch")
        while n:
            i = consume(self.s, self._log_address, i, n)
            if i == n:
                break
            if self.p[sh.P_BUFFER] >= 0:
                self._write_down_reads(int(self.p[sh.P_BUFFER]))
            else:
                self._atomic(self.log[i])
                i += 1
        head[st.H_TRACE_COUNT] = 0
        if self.p[sh.P_FULL]:
            self.shared.make_room(self)

    # Records and ranges.

    def _at(self, warp) -> int:
        return warp.cta.rank * len(warp.cta.warps) + warp.index

    def _record(self, warp, inst, dim: int, mode: int, write: bool, clock: int | None = None) -> int:
        w = self._at(warp)
        clock = int(self.clock[dim]) if clock is None else clock
        flags = sh.EARLY if self.early[w] else 0
        return core.new_record(self.s, dim, clock, self.index[id(inst)], w, mode, int(write), flags)

    def _shared(self, cta, first: int, count: int, r: int) -> None:
        start = np.array([first], np.int64)
        core.touch_shared(self.s, cta.rank, start.ctypes.data, 1, count, r)

    def _global(self, addresses: np.ndarray, nbytes: int, r: int) -> None:
        """`nbytes` from each of int64 `addresses`, all in one buffer."""
        if not len(addresses):
            return
        table = self.shared.buffers
        i = int(np.searchsorted(table[:, sh.B_START], addresses[0], side="right")) - 1
        if i < 0 or addresses[0] >= table[i, sh.B_END]:
            return
        if not table[i, sh.B_WRITTEN]:
            if not self.shared.records[r, sh.R_WRITE]:
                self.shared.reads[i].append((addresses, nbytes, r))
                return
            self._write_down_reads(i)
        core.touch_memory(self.s, i, addresses.ctypes.data, len(addresses), nbytes, r)

    def _write_down_reads(self, buffer: int) -> None:
        """A buffer is written to for the first time: earlier copies out of it go into the shadow."""
        self.shared.buffers[buffer, sh.B_WRITTEN] = 1
        for addresses, nbytes, r in self.shared.reads.pop(buffer, []):
            core.touch_memory(self.s, buffer, addresses.ctypes.data, len(addresses), nbytes, r)

    def _boxes(self, tensor, boxes, r: int) -> None:
        for box in boxes:
            self._global(*tensor.rows_of(box), r)

    # mbarriers.

    def _barrier(self, cta, offset: int) -> int:
        return int(self.slots[cta.rank, offset >> 3])

    def _use(self, warp, inst, cta, barrier: int, offset: int) -> None:
        phases = int(cta.mbarriers[offset >> 3, st.B_PHASE])
        core.use_mbarrier(self.s, self._at(warp), barrier, phases, self.index[id(inst)], True)

    def phase_ended(self, cta, offset: int, count: int) -> None:
        """An asynchronous operation ended the `count`th phase of an mbarrier."""
        barrier = self._barrier(cta, offset)
        if barrier >= 0:
            core.complete_mbarrier(self.s, barrier, count)

    def _snapshot(self, w: int) -> np.ndarray:
        return self.views[[sh.HB, sh.PX, sh.TC], w]

    def _completing(self, operation: Operation, run):
        def completed():
            for barrier, number in operation.copies:
                row, gaps = self.barriers[barrier], self._gaps.setdefault(barrier, set())
                gaps.add(number)
                while int(row[sh.M_COMPLETE]) + 1 in gaps:
                    row[sh.M_COMPLETE] += 1
                    gaps.remove(int(row[sh.M_COMPLETE]))
            for barrier in operation.barriers:
                core.hand_over(self.s, operation.view.ctypes.data, barrier)
            run()

        return completed

    def matrix(self, warp, inst, offsets: np.ndarray, *, write: bool) -> None:
        """ldmatrix and stmatrix: rows of 16 bytes of the CTA's shared memory."""
        r = self._record(warp, inst, self._at(warp), sh.GENERIC, write)
        core.touch_shared(self.s, warp.cta.rank, offsets.ctypes.data, len(offsets), 16, r)

    # Copies.

    def load(self, warp, inst, targets, nbytes: int, run, *, boxes=None, memory=None, shared=None):
        """A copy into shared memory that completes on mbarriers. `targets`: [(CTA, offset, barrier's CTA, its offset)];
        from `boxes` = (tensor map, boxes), `memory` = (address, bytes) or `shared` = (CTA, offset, bytes)."""
        barriers, copies = [], []
        for target, offset, holder, place in targets:
            barrier = self._barrier(holder, place)
            if barrier < 0:
                return run
            self._use(warp, inst, holder, barrier, place)
            self.barriers[barrier, sh.M_ISSUED] += 1
            number, dim = int(self.barriers[barrier, sh.M_ISSUED]), self.first_copy + barrier
            if not barriers:
                read = self._record(warp, inst, dim, sh.ASYNC, False, number)
                if boxes is not None:
                    self._boxes(*boxes, read)
                if memory is not None:
                    self._global(np.array(memory[:1], np.int64), memory[1], read)
                if shared is not None:
                    self._shared(*shared, read)
            self._shared(target, offset, nbytes, self._record(warp, inst, dim, sh.ASYNC, True, number))
            barriers.append(barrier)
            copies.append((barrier, number))
        return self._completing(Operation(self._snapshot(self._at(warp)), barriers, copies), run)

    def store(self, warp, inst, start: int, nbytes: int, *, boxes=None, memory=None) -> None:
        """A copy from shared to global memory that completes in a bulk group."""
        w = self._at(warp)
        self._shared(
            warp.cta, start, nbytes, self._record(warp, inst, sh.A_BULK_READ * self.warps + w, sh.ASYNC, False)
        )
        r = self._record(warp, inst, sh.A_BULK_WRITE * self.warps + w, sh.ASYNC, True)
        if boxes is not None:
            self._boxes(*boxes, r)
        if memory is not None:
            self._global(np.array(memory[:1], np.int64), memory[1], r)

    def _commit_kinds(self, warp, kinds) -> None:
        for kind in kinds:
            self.clock[kind * self.warps + self._at(warp)] += 1

    def _wait_kinds(self, warp, kinds, allowed: int) -> None:
        """All but the `allowed` latest groups of `kinds` are complete."""
        w = self._at(warp)
        for kind in kinds:
            dim = kind * self.warps + w
            done = int(self.clock[dim]) - 1 - allowed
            self.views[sh.HB, w, dim] = max(int(self.views[sh.HB, w, dim]), done)

    def bulk_commit(self, warp) -> None:
        self._commit_kinds(warp, (sh.A_BULK_READ, sh.A_BULK_WRITE))

    def bulk_wait(self, warp, allowed: int, *, read: bool) -> None:
        self._wait_kinds(warp, (sh.A_BULK_READ,) if read else (sh.A_BULK_READ, sh.A_BULK_WRITE), allowed)

    def cp_async(self, warp, inst, moves) -> None:
        """`moves`: (shared offset, bytes, global address, bytes read) of each lane."""
        dim = sh.A_CP * self.warps + self._at(warp)
        write = self._record(warp, inst, dim, sh.GENERIC, True)
        read = self._record(warp, inst, dim, sh.GENERIC, False)
        for offset, nbytes, address, count in moves:
            self._shared(warp.cta, offset, nbytes, write)
            if count:
                self._global(np.array([address], np.int64), count, read)

    def cp_commit(self, warp) -> None:
        self._commit_kinds(warp, (sh.A_CP,))

    def cp_wait(self, warp, allowed: int) -> None:
        if not allowed:
            self._commit_kinds(warp, (sh.A_CP,))
        self._wait_kinds(warp, (sh.A_CP,), allowed)

    def cp_arrive(self, warp, inst, cta, offset: int) -> None:
        """An arrival that follows the completion of the warp's earlier cp.async."""
        barrier = self._barrier(cta, offset)
        if barrier < 0:
            return
        self._use(warp, inst, cta, barrier, offset)
        w = self._at(warp)
        dim = sh.A_CP * self.warps + w
        view = self._snapshot(w)
        view[0, dim] = self.clock[dim]
        self.clock[dim] += 1
        core.hand_over(self.s, view.ctypes.data, barrier)

    # Tensor Memory and tensor cores.

    def tensor_load(self, warp, inst, cells: np.ndarray) -> None:
        self._fragment(warp, inst, cells, sh.A_LD, False)

    def tensor_store(self, warp, inst, cells: np.ndarray) -> None:
        self._fragment(warp, inst, cells, sh.A_ST, True)

    def _tmem(self, cta, starts: np.ndarray, count: int, r: int, *, unwritten: int = NEVER) -> None:
        """`unwritten`: how many cells that nobody has written are a hazard."""
        core.touch_tmem(self.s, cta.rank, starts.ctypes.data, len(starts), count, r, unwritten)

    def _fragment(self, warp, inst, cells: np.ndarray, kind: int, write: bool) -> None:
        r = self._record(warp, inst, kind * self.warps + self._at(warp), sh.TENSOR, write)
        self._tmem(warp.cta, np.ascontiguousarray(np.ravel(cells), np.int64), 1, r)

    def tensor_wait(self, warp, *, loads: bool) -> None:
        """tcgen05.wait: the warp's loads or stores are complete."""
        w = self._at(warp)
        dim = (sh.A_LD if loads else sh.A_ST) * self.warps + w
        self.views[sh.HB, w, dim] = self.views[sh.TC, w, dim] = self.clock[dim]
        self.clock[dim] += 1

    def tensor_fence(self, warp, mask: int, *, before: bool) -> None:
        w = self._at(warp)
        target, source = (sh.TO, sh.TC) if before else (sh.TC, sh.TI)
        np.maximum(self.views[target, w], self.views[source, w], out=self.views[target, w])
        if before and mask & mask - 1 == 0:
            np.maximum(self.views[sh.TS, w], self.views[sh.TO, w], out=self.views[sh.TS, w])

    def allocated(self, warp, inst, cta, offset: int) -> None:
        """tcgen05.alloc has stored an address."""
        w = self._at(warp)
        self._shared(cta, offset, 4, self._record(warp, inst, w, sh.GENERIC, True))

    def deallocated(self, warp, inst, column: int, columns: int) -> None:
        """Whatever still uses the columns races with their deallocation; they are unwritten again."""
        r = self._record(warp, inst, self._at(warp), sh.TENSOR, True)
        starts = np.arange(TMEM_LANES) * TMEM_COLUMNS + column
        self._tmem(warp.cta, starts, columns, r)
        rows = self.tmem[:, warp.cta.rank].reshape(2, TMEM_LANES, TMEM_COLUMNS)
        rows[:, :, column : column + columns] = 0

    def pipe(self, warp) -> int:
        """The agent of the tensor-core operations that a warp issues."""
        return sh.A_PIPE * self.warps + self._at(warp)

    def mma(self, warp, inst, parts, *, accumulate: bool, scales: Sequence = ()) -> None:
        """`parts`: per CTA (CTA, [(chunk starts, bytes)] of shared operands, (starts, words) of A in Tensor Memory or
        None, (starts, words) of D). `scales`: (starts, words) of scale factors in Tensor Memory, in every CTA."""
        dim = self.pipe(warp)
        read = self._record(warp, inst, dim, sh.ASYNC, False)
        read_tensor = self._record(warp, inst, dim, sh.TENSOR, False)
        write = self._record(warp, inst, dim, sh.TENSOR, True)
        for cta, operands, a, d in parts:
            for starts, nbytes in operands:
                core.touch_shared(self.s, cta.rank, starts.ctypes.data, len(starts), nbytes, read)
            for starts, words in [a, *scales] if a is not None else scales:
                self._tmem(cta, starts, words, read_tensor, unwritten=len(starts) * words)
            self._tmem(cta, *d, write, unwritten=1 if accumulate else NEVER)

    def tensor_copy(self, warp, inst, members, source, destination) -> None:
        """tcgen05.cp: `source` (chunk starts, bytes), `destination` (starts, words), in each of `members`."""
        dim = self.pipe(warp)
        read = self._record(warp, inst, dim, sh.ASYNC, False)
        write = self._record(warp, inst, dim, sh.TENSOR, True)
        for cta in members:
            starts, nbytes = source
            core.touch_shared(self.s, cta.rank, starts.ctypes.data, len(starts), nbytes, read)
            self._tmem(cta, *destination, write)

    def tensor_shift(self, warp, inst, members, rows: np.ndarray, columns: int) -> None:
        r = self._record(warp, inst, self.pipe(warp), sh.TENSOR, True)
        for cta in members:
            self._tmem(cta, rows, columns, r)

    def commit(self, warp, inst, targets, offset: int, run):
        """tcgen05.commit: the arrival follows the completion of what the warp issued before."""
        dim = self.pipe(warp)
        barriers = []
        for cta in targets:
            barrier = self._barrier(cta, offset)
            if barrier < 0:
                return run
            self._use(warp, inst, cta, barrier, offset)
            # The arrival is complete for who knows that its phase is, not when another commit's is.
            counted = self.first_copy + int(self.p[sh.P_ROWS]) + barrier
            record = self._record(warp, inst, dim, sh.ASYNC, True)
            core.outlived(self.s, cta.rank, record, counted, int(cta.mbarriers[offset >> 3, st.B_PHASE]) + 1)
            barriers.append(barrier)
        view = self._snapshot(self._at(warp))
        view[:, dim] = self.clock[dim]
        self.clock[dim] += 1
        return self._completing(Operation(view, barriers, []), run)

    # Grids and atomics.

    def waited_for_grid(self, warp) -> None:
        """griddepcontrol.wait: whatever the grid before did has happened before."""
        self.early[self._at(warp)] = 0

    def _atomic(self, row: np.ndarray) -> None:
        """A strong access: release and acquire patterns (PTX ISA 8.7), address by address."""
        w, inst = int(row[et.T_WARP]), self.cluster.kernel.instructions[int(self.tables[sh.T_INST][row[et.T_PC], 0])]
        mods, views = set(inst.parts), self.views
        for address in {int(row[et.T_LANES + lane]) for lane in range(st.LANES) if row[et.T_MASK] >> lane & 1}:
            place = self._locations.setdefault(address, np.zeros((2, views.shape[2]), np.int32))
            if inst.name != "st":
                self.shared.learn(address)
                target = views[sh.HB if mods & {"acquire", "acq_rel"} else sh.AQ, w]
                np.maximum(target, place[0], out=target)
                np.maximum(views[sh.PX, w], place[1], out=views[sh.PX, w])
            if inst.name not in ("ld", "ldu"):
                given = views[sh.FE, w]
                if mods & {"release", "acq_rel"}:
                    given = views[sh.HB, w]
                    given[w] = self.clock[w]
                    self.clock[w] += 1
                np.maximum(place[0], given, out=place[0])
                np.maximum(place[1], views[sh.PX, w], out=place[1])
                self.shared.publish(address, int(self.p[sh.P_CLUSTER]), int(self.p[sh.P_RECORDS]))
