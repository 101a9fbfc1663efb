"""One cluster of CTAs while it runs: its memory, its warps, and the loop between engine and handlers."""

from __future__ import annotations

import functools

import numpy as np

from . import engine, registry
from . import state as st
from .diagnostics import deadlock, engine_error
from .errors import EmulationError
from .registry import Blocked
from .warp import Warp

SLICE = 256  # micro-operations of a warp's turn: short, so that warps advance evenly as on hardware
SPIN_LIMIT = 50  # times a million micro-operations without any change before a spin is taken for a deadlock
SHARED_PER_CTA = 232448  # bytes a kernel may use on sm_100 (PTX ISA release notes; CUDA programming guide, table 24)


class Cta:
    """One CTA.

    rank       its number in the cluster; `cluster` lists the cluster's CTAs by rank
    ctaid      (x, y, z) in the grid
    shared     uint8[bytes], indexed by shared offset; the first 0x400 bytes are reserved
    mbarriers  int64[bytes / 8, B_SIZE] (barriers.py)
    warps      its Warps
    header     the cluster's header (state.H_*)

    What operations registered with `registry.cta_state` is an attribute too (`tmem`, ...).
    """

    def __init__(self, grid, rank: int, cluster: list[Cta], shared_bytes: int, header: np.ndarray):
        self.grid = grid
        self.rank = rank
        self.cluster = cluster
        self.header = header
        self.ctaid = (0, 0, 0)
        raw = np.empty(shared_bytes + 1024, np.uint8)
        start = -raw.ctypes.data % 1024
        self.shared = raw[start : start + shared_bytes]
        self.mbarriers = np.zeros((shared_bytes // 8, st.B_SIZE), np.int64)
        self.named = np.zeros((st.NAMED_BARRIERS, st.N_SIZE), np.int64)
        self.warps: list[Warp] = []


class Cluster:
    """The memory and state of the CTAs that run together; reused for one cluster of the grid after another."""

    def __init__(self, grid):
        self.grid = grid
        self.kernel = kernel = grid.kernel
        n_ctas = int(np.prod(grid.cluster_dim))
        self.threads = int(np.prod(grid.block))
        self.warps_per_cta = -(-self.threads // st.LANES)
        n_warps = n_ctas * self.warps_per_cta
        shared_bytes = -(-(self._dynamic_start() + grid.shared_bytes) // 1024) * 1024
        if grid.shared_bytes + self._dynamic_start() - st.SHARED_START > SHARED_PER_CTA:
            raise ValueError(
                f"shared_bytes={grid.shared_bytes}: with {self._dynamic_start() - st.SHARED_START} static bytes more "
                f"than the {SHARED_PER_CTA} of an SM"
            )
        self.header = np.zeros(st.H_SIZE, np.int64)
        self.table = np.zeros((n_warps, st.W_SIZE), np.int64)
        self.counts = np.zeros((self.warps_per_cta, len(kernel.code)), np.int64)
        self.ctas: list[Cta] = []
        for rank in range(n_ctas):
            cta = Cta(grid, rank, self.ctas, shared_bytes, self.header)
            cta.symbol_value = functools.partial(self._symbol_value, cta=cta)
            self.ctas.append(cta)
        self._registers32 = np.empty((n_warps, kernel.rows32, st.LANES), np.uint32)
        self._registers64 = np.empty((n_warps, kernel.rows64, st.LANES), np.uint64)
        self._local = np.empty((n_warps, st.LANES, max(kernel.local_bytes, 1)), np.uint8)
        self._scratch = np.zeros(2048, np.uint8)
        self._bases = np.array(
            [[c.shared.ctypes.data for c in self.ctas], [c.mbarriers.ctypes.data for c in self.ctas],
             [c.named.ctypes.data for c in self.ctas]], np.int64)  # fmt: skip
        self.warps = [
            Warp(self.ctas[w // self.warps_per_cta], w % self.warps_per_cta, self.table[w], self._registers32[w],
                 self._registers64[w])
            for w in range(n_warps)
        ]  # fmt: skip
        for cta in self.ctas:
            cta.warps = self.warps[cta.rank * self.warps_per_cta : (cta.rank + 1) * self.warps_per_cta]
        self.blocked: dict[tuple[int, int], str] = {}
        self._fill_header()
        self._fill_constants()

    def _dynamic_start(self) -> int:
        offsets = [v.offset for v in self.kernel.symbols.values() if v.space == "shared" and v.extern]
        return min(offsets, default=self.kernel.static_shared)

    def _fill_header(self) -> None:
        h, kernel, grid = self.header, self.kernel, self.grid
        h[st.H_WARPS] = len(self.warps)
        h[st.H_WARP_TABLE] = self.table.ctypes.data
        h[st.H_CODE] = kernel.code.ctypes.data
        h[st.H_AUX] = kernel.aux.ctypes.data
        h[st.H_BUFFERS] = grid.buffers.table.ctypes.data
        h[st.H_N_BUFFERS] = len(grid.buffers.table)
        h[st.H_CTAS] = len(self.ctas)
        h[st.H_SHARED_BYTES] = self.ctas[0].shared.nbytes
        for slot, bases in zip((st.H_SHARED_BASES, st.H_MBAR_BASES, st.H_NAMED_BASES), self._bases, strict=True):
            h[slot] = bases.ctypes.data
        h[st.H_SCRATCH] = self._scratch.ctypes.data
        h[st.H_SLICE] = SLICE
        if grid.order == "random":
            h[st.H_RANDOM] = grid.rng.getrandbits(62) | 1

    def _fill_constants(self) -> None:
        """The rows of constants never change."""
        for keys, registers, bits in (
            (self.kernel.fixed32, self._registers32, 32), (self.kernel.fixed64, self._registers64, 64)
        ):  # fmt: skip
            for row, key in enumerate(keys):
                if key[0] == "const":
                    registers[:, row] = key[1]

    # Start of a cluster.

    def start(self, clusterid: tuple[int, int, int]) -> None:
        """Poisons memory and registers and sets every thread to the first instruction."""
        kernel, grid, h = self.kernel, self.grid, self.header
        for slot in (st.H_CLUSTER_ARRIVED, st.H_CLUSTER_PHASE, st.H_PROGRESS, st.H_CURSOR, st.H_TIMEOUT, st.H_RETRY,
                     st.H_ERROR, st.H_IDLE_INSTRUCTIONS, st.H_IDLE_PROGRESS, st.H_BUDGET):  # fmt: skip
            h[slot] = 0
        self.blocked.clear()
        self._registers32[:, len(kernel.fixed32) :] = 0xFFFFFFFF
        self._registers64[:, len(kernel.fixed64) :] = 0xFFFFFFFFFFFFFFFF
        self._local[:] = 0xFF
        for cta in self.ctas:
            cx, cy, _ = grid.cluster_dim
            inside = (cta.rank % cx, cta.rank // cx % cy, cta.rank // (cx * cy))
            cta.ctaid = tuple(i * c + k for i, c, k in zip(clusterid, grid.cluster_dim, inside, strict=True))
            cta.shared[:] = 0xFF
            cta.mbarriers[:] = 0
            cta.named[:] = 0
            for attribute, make in registry.cta_states().items():
                setattr(cta, attribute, make(cta))
            specials = self._specials(cta, clusterid, inside)
            for warp in cta.warps:
                self._start_warp(warp, specials)

    def _start_warp(self, warp: Warp, specials: dict) -> None:
        kernel, row, cta = self.kernel, warp.row, warp.cta
        w = cta.rank * self.warps_per_cta + warp.index
        threads = min(self.threads - warp.index * st.LANES, st.LANES)
        live = (1 << threads) - 1
        row[:] = 0
        row[st.W_R32] = warp.r32.ctypes.data
        row[st.W_R64] = warp.r64.ctypes.data
        row[st.W_COUNTS] = self.counts[warp.index].ctypes.data
        row[st.W_CTA] = cta.rank
        row[st.W_LIVE] = live
        row[st.W_LOCAL] = self._local[w].ctypes.data
        row[st.W_LOCAL_BYTES] = kernel.local_bytes
        row[st.W_CLUSTER_PHASE] = -1
        row[st.W_INDEX] = warp.index
        row[st.W_GROUPS] = 1
        row[st.W_GROUP0 + st.G_MASK] = live
        for keys, registers in ((kernel.fixed32, warp.r32), (kernel.fixed64, warp.r64)):
            for slot, key in enumerate(keys):
                if key[0] == "special":
                    value = specials[key[1]]
                    registers[slot] = value(warp.index) if callable(value) else value
                elif key[0] == "symbol":
                    registers[slot] = self._symbol_value(key[1], cta)

    def _symbol_value(self, name: str, cta: Cta) -> int:
        variable = self.kernel.symbols[name]
        if variable.space == "shared":
            return variable.offset | cta.rank << st.RANK_SHIFT
        if variable.space == "local":
            return variable.offset
        return self.grid.addresses[name]

    def _specials(self, cta: Cta, clusterid, inside) -> dict:
        """Special registers of a CTA: name -> value, or function of the warp index (PTX ISA 10)."""
        grid = self.grid
        lanes = np.arange(st.LANES)
        bx, by, _ = grid.block
        values: dict = {}
        for i, axis in enumerate("xyz"):
            values[f"%ntid.{axis}"] = grid.block[i]
            values[f"%nctaid.{axis}"] = grid.dim[i]
            values[f"%ctaid.{axis}"] = cta.ctaid[i]
            values[f"%clusterid.{axis}"] = clusterid[i]
            values[f"%nclusterid.{axis}"] = grid.dim[i] // grid.cluster_dim[i]
            values[f"%cluster_ctaid.{axis}"] = inside[i]
            values[f"%cluster_nctaid.{axis}"] = grid.cluster_dim[i]
        values["%tid.x"] = lambda w: (w * st.LANES + lanes) % bx
        values["%tid.y"] = lambda w: (w * st.LANES + lanes) // bx % by
        values["%tid.z"] = lambda w: (w * st.LANES + lanes) // (bx * by)
        values["%laneid"] = lanes
        values["%warpid"] = lambda w: w
        values["%nwarpid"] = self.warps_per_cta
        linear = cta.ctaid[0] + grid.dim[0] * (cta.ctaid[1] + grid.dim[1] * cta.ctaid[2])
        values["%smid"] = linear % 148
        values["%nsmid"] = 148
        values["%gridid"] = 1
        values["%cluster_ctarank"] = cta.rank
        values["%cluster_nctarank"] = len(self.ctas)
        values["%is_explicit_cluster"] = int(len(self.ctas) > 1)
        values["%dynamic_smem_size"] = grid.shared_bytes
        values["%total_smem_size"] = grid.shared_bytes + self._dynamic_start() - st.SHARED_START
        values["%aggr_smem_size"] = cta.shared.nbytes
        values["%reserved_smem_offset_begin"] = 0
        values["%reserved_smem_offset_end"] = st.SHARED_START
        values["%reserved_smem_offset_cap"] = st.SHARED_START
        one = np.uint64(1)
        bit = one << lanes.astype(np.uint64)
        values["%lanemask_eq"] = bit.astype(np.uint32)
        values["%lanemask_lt"] = (bit - one).astype(np.uint32)
        values["%lanemask_le"] = (2 * bit - one).astype(np.uint32)
        values["%lanemask_gt"] = (0xFFFFFFFF - (2 * bit - one)).astype(np.uint32)
        values["%lanemask_ge"] = (0xFFFFFFFF - (bit - one)).astype(np.uint32)
        return values

    # The loop.

    def run(self) -> None:
        """Runs the cluster to its end. Raises EmulationError."""
        head, address = self.header, self.header.ctypes.data
        idle_progress, timeouts, retried, spins = -1, 0, False, 0
        while True:
            stop = engine.run(address)
            head[st.H_RETRY] = 0
            if stop == st.STOP_HANDLER:
                self._handle()
            elif stop == st.STOP_DONE:
                break
            elif stop == st.STOP_ERROR:
                raise engine_error(self)
            elif stop == st.STOP_SLICE:
                spins = self._slice(spins)
            else:
                progress = int(head[st.H_PROGRESS])
                if progress != idle_progress:
                    idle_progress, timeouts, retried = progress, 0, False
                if self.grid.asyncs.run_one():
                    continue
                statuses = self._statuses()
                if st.PYTHON in statuses and not retried:
                    head[st.H_RETRY], retried = 1, True
                elif (st.MBARRIER in statuses or st.TESTED in statuses) and timeouts < 8 * len(statuses) + 64:
                    head[st.H_TIMEOUT] = 1
                    timeouts += 1
                else:
                    raise deadlock(self)
        for cta in self.ctas:
            for check in registry.cta_exits():
                check(cta)
        self.grid.asyncs.drain()

    def _slice(self, spins: int) -> int:
        """End of a random slice, or of a million micro-operations that changed nothing."""
        head, grid = self.header, self.grid
        if head[st.H_IDLE_INSTRUCTIONS] > 1000000:
            head[st.H_IDLE_INSTRUCTIONS] = 0
            if grid.asyncs.run_one():
                return 0
            if spins >= SPIN_LIMIT:
                raise deadlock(self)
            return spins + 1
        if grid.order == "random":
            for _ in range(grid.rng.randrange(3)):
                grid.asyncs.run_one()
        return 0 if head[st.H_PROGRESS] != head[st.H_IDLE_PROGRESS] else spins

    def _handle(self) -> None:
        """Calls the handler at which the engine stopped."""
        head = self.header
        w, g, pc, mask = (
            int(head[i]) for i in (st.H_STOP_WARP, st.H_STOP_GROUP, st.H_STOP_PC, st.H_STOP_MASK)
        )  # fmt: skip
        warp = self.warps[w]
        handler, inst = self.kernel.handlers[self.kernel.code[pc, 2]]
        try:
            result = handler.execute(warp, inst, mask)
        except EmulationError as error:
            if error.line is None:
                raise type(error)(str(error), line=inst.line, text=inst.text) from error
            raise
        group = warp.row[st.W_GROUP0 + g * st.G_SIZE :]
        if result is None:
            group[st.G_PC] = pc + 1
            self.counts[warp.index, pc] += 1
            head[st.H_PROGRESS] += 1
        elif isinstance(result, Blocked):
            group[st.G_STATUS] = st.PYTHON
            group[st.G_A] = head[st.H_PROGRESS]
            self.blocked[w, pc] = result.reason
        else:
            raise TypeError(f"handler of {inst.name} returned {result!r}: must be None or Blocked")

    def _statuses(self) -> list[int]:
        """The status of every group of every live warp."""
        found = []
        for warp in self.warps:
            if warp.live:
                for g in range(int(warp.row[st.W_GROUPS])):
                    found.append(int(warp.row[st.W_GROUP0 + g * st.G_SIZE + st.G_STATUS]))
        return found

    def instruction_counts(self) -> np.ndarray:
        """int64[warps per CTA, instructions]."""
        kernel = self.kernel
        result = np.zeros((self.warps_per_cta, len(kernel.instructions)), np.int64)
        first = np.flatnonzero(kernel.first)
        result[:, kernel.origin[first]] = self.counts[:, first]
        return result
