"""The Observer: what a launch with checks tells the happens-before checker, and the tables that it keeps.

Instructions that Python carries out call it where they issue asynchronous work; it returns the work wrapped, so that it
learns when the work completes. An asynchronous access is judged when it is issued, with what the issuing warp knew
then: until somebody acquires its completion, every conflicting access races with it, whenever either really happens.
"""

from __future__ import annotations

import weakref
from functools import partial

import numpy as np

from ...engine import state as st
from ...engine import trace as et
from ...machine.diagnostics import diverged_warps
from ...units.tcgen05.layout import TMEM_COLUMNS, TMEM_LANES
from ...units.tma import load_native as tma
from ...units.tma.tensormap import MAX_RANK, box_extent
from . import core, history
from . import operations as ops
from . import shadow as sh
from .flags import Flags
from .map_proxy import MapProxy
from .marks import instruction_marks
from .trace import consume

_BULK, _CP = (sh.A_BULK_READ, sh.A_BULK_WRITE), (sh.A_CP,)


def full_lanes(cluster, warp) -> int:
    """The lanes that a warp has at its start."""
    return (1 << min(cluster.threads - warp.index * st.LANES, st.LANES)) - 1


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
        self.events = np.zeros((sh.EVENTS, sh.E_SIZE), np.int64)
        self._heads = np.zeros(sh.CLUSTERS, words)
        self._flags = Flags(None, {})
        self.cleared = [
            self.views, self.barriers, self.shared_cells, self.tmem, self.recent, self.ended,
            np.zeros(warps, words), np.zeros((2, sh.PLANES, rows, dims), words), np.zeros((2, ctas, dims), words),
        ]  # fmt: skip
        synced, joined, remote = self.cleared[-3:]
        self.pipe_lanes = np.zeros(warps, np.int64)
        self._issued, self._open = (
            {},
            {},
        )  # (warp, kinds) -> lanes with copies not waited for, with copies not committed
        self.cleared.append(self.pipe_lanes)
        self.tables = {
            sh.T_VIEWS: self.views, sh.T_CLOCK: self.clock, sh.T_SYNCED: synced, sh.T_EARLY: self.early,
            sh.T_CTA: np.array([w.cta.rank for w in cluster.warps], words), sh.T_JOINED: joined,
            sh.T_BARRIERS: self.barriers, sh.T_SLOTS: self.slots, sh.T_RECENT: self.recent,
            sh.T_SHARED: self.shared_cells, sh.T_LANES: np.zeros((2, ctas, nbytes), np.uint8), sh.T_TMEM: self.tmem,
            sh.T_BASES: np.ascontiguousarray(cluster.host_bases()),
            sh.T_INST: np.stack([kernel.origin, marks], axis=1).astype(words), sh.T_REMOTE: remote,
            sh.T_ENDED: self.ended, sh.T_VIEW: np.zeros((sh.PLANES, dims), words),
            sh.T_HEADS: self._heads, sh.T_EVENTS: self.events, sh.T_PIPE: self.pipe_lanes,
            sh.T_FULL: np.array([full_lanes(cluster, w) for w in cluster.warps], np.int64),
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
        self._issued.clear()
        self._open.clear()
        self.p[sh.P_EVENTS] = 1
        self._heads[list(self._flags.clusters)] = 0
        self.maps = MapProxy(weakref.proxy(self))
        self._flags = Flags(weakref.proxy(self), self.shared.places)
        self.cluster.header[st.H_TRACE_COUNT] = 0
        self.shared.running.append(self)
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
        self.shared.running.remove(self)

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
            stopped = int(self.p[sh.P_BUFFER])
            if stopped == sh.STOP_FULL:
                self.shared.make_room(self)
            elif stopped >= 0:
                self._write_down_reads(stopped)
            else:
                read = {sh.STOP_ATOMIC: self._flags.access, sh.STOP_FENCE: self._flags.fence}.get(
                    stopped, self._read_box
                )
                read(self.log[i])
                i += 1
        head[st.H_TRACE_COUNT] = 0
        if sh.is_full(self.s):
            self.shared.make_room(self)

    # Records and ranges. `lanes`: those that execute the instruction whose handler runs.

    lanes = 0

    @property
    def solo(self) -> int:
        """The flag of what a single lane issues."""
        return 0 if self.lanes & (self.lanes - 1) else sh.SOLO

    def at(self, warp) -> int:
        return warp.cta.rank * len(warp.cta.warps) + warp.index

    def _record(self, warp, inst, dim: int, mode: int, write: bool, flags: int = 0) -> int:
        return ops.new_record(self.s, self.at(warp), self.index[id(inst)], dim, mode, int(write), flags)

    def _shared(self, cta, first: int, count: int, r: int) -> None:
        history.touch_shared(self.s, cta.rank, self.s + 8 * sh.P_ZERO, 1, first, count, r)

    def touch_global(self, addresses: np.ndarray, nbytes: int, r: int) -> None:
        """`nbytes` from each of int64 `addresses`, all in one buffer."""
        if not len(addresses):
            return
        buffer = self.buffer_at(int(addresses[0]))
        if buffer < 0:
            return
        self._check_rows(buffer, addresses, nbytes, r)
        if self._postponed(buffer, r, lambda: (addresses, nbytes)):
            return
        history.touch_memory(self.s, buffer, addresses.ctypes.data, len(addresses), nbytes, r)

    def _check_rows(self, buffer: int, addresses: np.ndarray, nbytes: int, r: int) -> None:
        """Reports a copy that begins or ends between the rows of an array; it may take the rest of the 16 bytes that a
        row ends in, since it takes whole ones, and what lies between rows that it takes together."""
        start, step, length = self.shared.buffers[buffer, sh.B_ROWS : sh.B_ROW_BYTES + 1].tolist()
        if not step:
            return
        begins, ends = (addresses - start) % step, (addresses + nbytes - start) % step
        outside = addresses[(begins >= length) | (ends > min(-(-length // 16) * 16, step))]
        if len(outside):
            self._report_copy(sh.BETWEEN_ROWS, r, buffer, int(outside[0]))

    def _report_copy(self, code: int, r: int, buffer: int, address: int) -> None:
        record = self.shared.records[r]
        inst, w, dim, write = (int(record[i]) for i in (sh.R_INST, sh.R_WARP, sh.R_DIM, sh.R_WRITE))
        core.report(self.s, code, 0, inst, w, dim, write, sh.GLOBAL, buffer, address)

    def buffer_at(self, address: int) -> int:
        """The writable buffer that an address is in, or -1."""
        table = self.shared.buffers
        i = int(np.searchsorted(table[:, sh.B_START], address, side="right")) - 1
        return i if i >= 0 and address < table[i, sh.B_END] else -1

    def _postponed(self, buffer: int, r: int, places) -> bool:
        """Whether access `r` is a read of a buffer that has not been written to: `places()`, the read's addresses and
        bytes from each, are then asked for when it is."""
        if self.shared.buffers[buffer, sh.B_WRITTEN]:
            return False
        if self.shared.records[r, sh.R_WRITE]:
            self._write_down_reads(buffer)
            return False
        self.shared.reads[buffer].append((places, r))
        return True

    def _write_down_reads(self, buffer: int) -> None:
        """A buffer is written to for the first time: earlier copies out of it go into the shadow."""
        self.shared.buffers[buffer, sh.B_WRITTEN] = 1
        for places, r in self.shared.reads.pop(buffer, []):
            addresses, nbytes = places()
            history.touch_memory(self.s, buffer, addresses.ctypes.data, len(addresses), nbytes, r)

    def _boxes(self, tensor, boxes, r: int) -> None:
        for box in boxes:
            low, high = box_extent(box, tensor.table)
            if low >= high:
                self._report_copy(sh.OUTSIDE, r, 0, 0)
            buffer = self.buffer_at(tensor.address + low) if low < high else -1
            if buffer >= 0 and self.shared.buffers[buffer, sh.B_ROW_STEP]:
                self._check_rows(buffer, *tensor.rows_of(box), r)
            if buffer >= 0 and not self._postponed(buffer, r, partial(tensor.rows_of, box)):
                addresses, nbytes = tensor.rows_of(box)
                history.touch_memory(self.s, buffer, addresses.ctypes.data, len(addresses), nbytes, r)

    def _read_box(self, row: np.ndarray) -> None:
        """What the native form of a tensor load has read."""
        more = row[et.T_LANES :]
        box = more[tma.BOX : tma.BOX + MAX_RANK].copy()
        tensor, address = self.grid.tensor_maps.at(int(more[tma.MAP]))
        self._boxes(tensor, [box], int(row[et.T_B]))
        self.maps.use(address, int(row[et.T_B]))

    # mbarriers.

    def _barrier(self, cta, offset: int) -> int:
        return int(self.slots[cta.rank, offset >> 3])

    def _use(self, warp, inst, cta, barrier: int, offset: int) -> None:
        phases = int(cta.mbarriers[offset >> 3, st.B_PHASE])
        core.use_mbarrier(self.s, self.at(warp), barrier, phases, self.index[id(inst)], True)

    def phase_ended(self, cta, offset: int, count: int) -> None:
        """An asynchronous operation ended the `count`th phase of an mbarrier."""
        barrier = self._barrier(cta, offset)
        if barrier >= 0:
            core.complete_mbarrier(self.s, barrier, count)

    def _snapshot(self, w: int) -> np.ndarray:
        view = np.empty((sh.PLANES, self.views.shape[2]), np.int32)
        ops.take_view(self.s, w, view.ctypes.data)
        return view

    def _completing(self, operation: Operation, run):
        def completed():
            for barrier, number in operation.copies:
                row, gaps = self.barriers[barrier], self._gaps.setdefault(barrier, set())
                gaps.add(number)
                while int(row[sh.M_COMPLETE]) + 1 in gaps:
                    row[sh.M_COMPLETE] += 1
                    gaps.remove(int(row[sh.M_COMPLETE]))
            for barrier in operation.barriers:
                ops.hand_over(self.s, operation.view.ctypes.data, barrier)
            run()

        return completed

    def matrix(self, warp, inst, offsets: np.ndarray, *, write: bool) -> None:
        """ldmatrix and stmatrix: rows of 16 bytes of the CTA's shared memory."""
        r = self._record(warp, inst, self.at(warp), sh.GENERIC, write)
        history.touch_shared(self.s, warp.cta.rank, offsets.ctypes.data, len(offsets), 0, 16, r)

    # Copies.

    def load(self, warp, inst, targets, nbytes: int, run, *, boxes=None, memory=None, shared=None, reduces=False):
        """A copy into shared memory that completes on mbarriers. `targets`: [(CTA, offset, barrier's CTA, its offset)];
        from `boxes` = (tensor map, boxes, the map's address), `memory` = (address, bytes) or `shared` = (CTA, offset,
        bytes). `reduces`: it is an atomic reduction there."""
        barriers, copies, w, index = [], [], self.at(warp), self.index[id(inst)]
        for target, offset, holder, place in targets:
            barrier = self._barrier(holder, place)
            if barrier < 0:
                return run
            phases = int(holder.mbarriers[place >> 3, st.B_PHASE])
            number = ops.issue_copy(self.s, w, index, barrier, phases)
            if not barriers:
                read = ops.copy_record(self.s, w, index, barrier, number, 0, self.solo)
                if boxes is not None:
                    self._boxes(*boxes[:2], read)
                    self.maps.use(boxes[2], read)
                if memory is not None:
                    self.touch_global(np.array(memory[:1], np.int64), memory[1], read)
                if shared is not None:
                    self._shared(*shared, read)
            flags = self.solo | (sh.REDUCES if reduces else 0)
            ops.copy_write(self.s, w, index, barrier, number, target.rank, offset, nbytes, flags)
            barriers.append(barrier)
            copies.append((barrier, number))
        return self._completing(Operation(self._snapshot(w), barriers, copies), run)

    def store(self, warp, inst, start: int, nbytes: int, *, boxes=None, memory=None, reduces=False) -> None:
        """A copy from shared to global memory that completes in a bulk group; see `load`."""
        w = self.at(warp)
        self._issue(w, _BULK)
        read = self._record(warp, inst, sh.A_BULK_READ * self.warps + w, sh.ASYNC, False, self.solo)
        self._shared(warp.cta, start, nbytes, read)
        flags = sh.REDUCES if reduces else 0
        r = self._record(warp, inst, sh.A_BULK_WRITE * self.warps + w, sh.ASYNC, True, flags)
        if boxes is not None:
            self._boxes(*boxes[:2], r)
            self.maps.use(boxes[2], read)
        if memory is not None:
            self.touch_global(np.array(memory[:1], np.int64), memory[1], r)

    # Groups are of a thread: those of other lanes of its warp it neither commits nor waits for.

    def _issue(self, w: int, kinds) -> None:
        for table in (self._issued, self._open):
            table[w, kinds] = table.get((w, kinds), 0) | self.lanes

    def _other_lane(self, w: int, inst) -> None:
        core.report(self.s, sh.OTHER_LANE, 0, self.index[id(inst)], w, w, 0, sh.BARRIER, 0, 0)

    def _commit_kinds(self, warp, inst, kinds) -> None:
        w = self.at(warp)
        lanes = self._open.pop((w, kinds), 0)
        if lanes & ~self.lanes:
            self._open[w, kinds] = lanes & ~self.lanes
            if not lanes & self.lanes:
                self._other_lane(w, inst)
            return
        for kind in kinds:
            self.clock[kind * self.warps + w] += 1

    def _wait_kinds(self, warp, inst, kinds, allowed: int, *, of: tuple = ()) -> None:
        """All but the `allowed` latest groups of `kinds` (of copies of the kinds `of`) are complete."""
        w, of = self.at(warp), of or kinds
        lanes = self._issued.get((w, of), 0)
        if not allowed and kinds == of:
            self._issued[w, of] = lanes & ~self.lanes
        if lanes & ~self.lanes:
            if not lanes & self.lanes:
                self._other_lane(w, inst)
            return
        for kind in kinds:
            dim = kind * self.warps + w
            done = int(self.clock[dim]) - 1 - allowed
            self.views[sh.HB, w, dim] = max(int(self.views[sh.HB, w, dim]), done)

    def bulk_commit(self, warp, inst) -> None:
        self._commit_kinds(warp, inst, _BULK)

    def bulk_wait(self, warp, inst, allowed: int, *, read: bool) -> None:
        self._wait_kinds(warp, inst, _BULK[:1] if read else _BULK, allowed, of=_BULK)

    def cp_async(self, warp, inst, moves) -> None:
        """`moves`: (shared offset, bytes, global address, bytes read) of each lane."""
        self._issue(self.at(warp), _CP)
        dim = sh.A_CP * self.warps + self.at(warp)
        write = self._record(warp, inst, dim, sh.GENERIC, True)
        read = self._record(warp, inst, dim, sh.GENERIC, False)
        for offset, nbytes, address, count in moves:
            self._shared(warp.cta, offset, nbytes, write)
            if count:
                self.touch_global(np.array([address], np.int64), count, read)

    def cp_commit(self, warp, inst) -> None:
        self._commit_kinds(warp, inst, _CP)

    def cp_wait(self, warp, inst, allowed: int) -> None:
        if not allowed and not self._open.get((self.at(warp), _CP), 0) & ~self.lanes:
            self._commit_kinds(warp, inst, _CP)
        self._wait_kinds(warp, inst, _CP, allowed)

    def cp_arrive(self, warp, inst, cta, offset: int) -> None:
        """An arrival that follows the completion of the warp's earlier cp.async."""
        barrier = self._barrier(cta, offset)
        if barrier < 0:
            return
        self._use(warp, inst, cta, barrier, offset)
        w = self.at(warp)
        dim = sh.A_CP * self.warps + w
        view = self._snapshot(w)
        view[0, dim] = self.clock[dim]
        self.clock[dim] += 1
        ops.hand_over(self.s, view.ctypes.data, barrier)

    # Tensor Memory and tensor cores.

    def _tmem(self, cta, starts: np.ndarray, count: int, r: int, *, unwritten: int = ops.NEVER) -> None:
        """`unwritten`: how many cells that nobody has written are a hazard."""
        history.touch_tmem(self.s, cta.rank, starts.ctypes.data, len(starts), 0, count, r, unwritten)

    def fragment(self, warp, inst, runs: tuple[np.ndarray, int], cell: int, *, write: bool) -> None:
        """tcgen05.ld or .st. `runs`: first cells, from `cell` on, and how many from each."""
        starts, count = runs
        w, index = self.at(warp), self.index[id(inst)]
        ops.fragment(self.s, w, index, starts.ctypes.data, len(starts), cell, count, int(write))

    def tensor_wait(self, warp, *, loads: bool) -> None:
        ops.tensor_wait(self.s, self.at(warp), int(loads))

    def tensor_fence(self, warp, mask: int, *, before: bool) -> None:
        ops.tensor_fence(self.s, self.at(warp), mask, int(before))

    def allocated(self, warp, inst, cta, offset: int) -> None:
        """tcgen05.alloc has stored an address."""
        w = self.at(warp)
        self._shared(cta, offset, 4, self._record(warp, inst, w, sh.GENERIC, True))

    def deallocated(self, warp, inst, column: int, columns: int) -> None:
        """Whatever still uses the columns races with their deallocation; they are unwritten again."""
        r = self._record(warp, inst, self.at(warp), sh.TENSOR, True)
        starts = np.arange(TMEM_LANES) * TMEM_COLUMNS + column
        self._tmem(warp.cta, starts, columns, r)
        rows = self.tmem[:, warp.cta.rank].reshape(2, TMEM_LANES, TMEM_COLUMNS)
        rows[:, :, column : column + columns] = 0

    def pipe(self, warp) -> int:
        """The agent of the tensor-core operations that a warp issues, for one that it issues now."""
        ops.issuing(self.s, self.at(warp), -1, self.lanes)
        return sh.A_PIPE * self.warps + self.at(warp)

    def mma(self, warp, inst, plan: np.ndarray, place: int, a_address: int, first, *, accumulate: bool) -> None:
        """tcgen05.mma with a plan (mma_native.P_*) in the CTAs from `first` on; see operations.multiply."""
        w, index = self.at(warp), self.index[id(inst)]
        keep = int(accumulate)
        ops.multiply(self.s, w, index, plan.ctypes.data, place, a_address, first.rank, keep, self.lanes)

    def scaled_mma(self, warp, inst, parts, *, accumulate: bool) -> None:
        """A block-scaled tcgen05.mma. `parts`: per CTA (CTA, its shared operands (`start`, `runs`), [(starts, words)]
        of scale factors and A in Tensor Memory, (starts, words) of D)."""
        dim = self.pipe(warp)
        read = self._record(warp, inst, dim, sh.ASYNC, False, self.solo)
        read_tensor = self._record(warp, inst, dim, sh.TENSOR, False)
        write = self._record(warp, inst, dim, sh.TENSOR, True)
        for cta, operands, held, d in parts:
            for operand in operands:
                starts, nbytes = operand.runs
                history.touch_shared(self.s, cta.rank, starts.ctypes.data, len(starts), operand.start, nbytes, read)
            for starts, words in held:
                self._tmem(cta, starts, words, read_tensor, unwritten=len(starts) * words)
            self._tmem(cta, *d, write, unwritten=1 if accumulate else ops.NEVER)

    def tensor_copy(self, warp, inst, members, source, destination) -> None:
        """tcgen05.cp: `source` (its `start` and `runs`), `destination` (starts, words), in each of `members`."""
        dim = self.pipe(warp)
        read = self._record(warp, inst, dim, sh.ASYNC, False, self.solo)
        write = self._record(warp, inst, dim, sh.TENSOR, True)
        for cta in members:
            starts, nbytes = source.runs
            history.touch_shared(self.s, cta.rank, starts.ctypes.data, len(starts), source.start, nbytes, read)
            self._tmem(cta, *destination, write)

    def tensor_shift(self, warp, inst, members, rows: np.ndarray, columns: int) -> None:
        r = self._record(warp, inst, self.pipe(warp), sh.TENSOR, True)
        for cta in members:
            self._tmem(cta, rows, columns, r)

    def commit(self, warp, inst, targets, offset: int, run):
        """tcgen05.commit: the arrival follows the completion of what the warp issued before."""
        w, index, barriers = self.at(warp), self.index[id(inst)], []
        ops.issuing(self.s, w, index, self.lanes)
        for cta in targets:
            barrier = self._barrier(cta, offset)
            if barrier < 0:
                return run
            phases = int(cta.mbarriers[offset >> 3, st.B_PHASE])
            ops.issue_commit(self.s, w, index, barrier, phases, cta.rank)
            barriers.append(barrier)
        view = np.empty((sh.PLANES, self.views.shape[2]), np.int32)
        ops.take_commit_view(self.s, w, view.ctypes.data)
        return self._completing(Operation(view, barriers, []), run)

    def deadlocked(self) -> None:
        """Reports what no lane will ever leave for a reason that only its own warp's branches are."""
        for w, warp, groups in diverged_warps(self.cluster):
            for lanes, pc in groups:
                core.report(
                    self.s,
                    sh.DIVERGED,
                    0,
                    int(self.cluster.kernel.origin[pc]),
                    w,
                    w,
                    0,
                    sh.BARRIER,
                    warp.cta.rank,
                    lanes,
                )

    # Grids and atomics.

    def waited_for_grid(self, warp) -> None:
        """griddepcontrol.wait: whatever the grid before did has happened before."""
        self.early[self.at(warp)] = 0
