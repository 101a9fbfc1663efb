"""One cluster of CTAs while it runs: its memory, its warps, and the loop between engine and handlers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from .. import registry
from ..engine import loop, native
from ..engine import state as st
from ..errors import EmulationError
from ..registry import Blocked
from . import asyncs, remote
from .diagnostics import engine_error
from .spins import Spins
from .warp import Warp

SLICE = 256  # micro-operations of a warp's turn: short, so that warps advance evenly as on hardware
STARVE_FOR = 64  # adversarial turns that the same warps are held back, on average
MOST_STARVED = 4
STALL_EVERY = 16  # random turns between two choices of warps to hold back, on average
SHARE_EVERY = 256  # adversarial turns between two switches to another cluster, on average
SHORT_SPIN = 1 << 13  # micro-operations without any change after which another cluster may run, if it is known to spin
LONG_SPIN = 1 << 16  # ... if it is not
SOME_SPINS = 8  # times that, after which others get a turn
MOST_SPINS = 800  # ... after which warps that are not known to go round in circles are taken to spin
SHARED_PER_CTA = 232448  # bytes a kernel may use on sm_100 (PTX ISA release notes; CUDA programming guide, table 24)


MOVING_SPECIALS = ("%ctaid", "%clusterid", "%smid")
SMS = 148  # of a B200


class Outcome(Enum):
    """Why a cluster has stopped to run. STUCK: it needs others, if there are any. SWITCH: others may have a turn."""

    DONE = auto()
    STUCK = auto()
    SWITCH = auto()


class Patience(Enum):
    """How long a cluster spins without any change until it counts as stuck: NONE, if it was stuck before; SOME, while
    there are others to run; until that is CERTAIN."""

    NONE = auto()
    SOME = auto()
    CERTAIN = auto()


@dataclass(slots=True)
class _Idle:
    """What was tried since something last changed."""

    progress: int = -1
    timeouts: int = 0
    retried: bool = False
    spin_progress: int = -1
    spins: int = 0
    spin_timeouts: int = 0


def _coordinates(rank: int, dim: tuple[int, int, int]) -> tuple[int, int, int]:
    return rank % dim[0], rank // dim[0] % dim[1], rank // (dim[0] * dim[1])


def _register_file(warps: int, rows: int, dtype: type) -> np.ndarray:
    """[warps, rows, 32], aligned to cache lines."""
    nbytes = warps * rows * st.LANES * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes].view(dtype).reshape(warps, rows, st.LANES)


class Cta:
    """One CTA.

    rank       its number in the cluster; `cluster` lists the cluster's CTAs by rank
    ctaid      (x, y, z) in the grid
    shared     uint8[bytes], indexed by shared offset; the first 0x400 bytes are reserved
    mbarriers  int64[bytes / 8, B_SIZE] (mbarrier.py)
    warps      its Warps
    header     the cluster's header (state.H_*)
    addresses  int64[native.C_SIZE]: host addresses for native forms

    What operations registered with `registry.cta_state` is an attribute too (`tmem`, ...).
    """

    def __init__(
        self, grid, rank: int, cluster: list[Cta], shared_bytes: int, header: np.ndarray, addresses: np.ndarray
    ):
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
        self.addresses = addresses


class Cluster:
    """The memory and state of the CTAs that run together; reused for one cluster of the grid after another.

    asyncs    its asynchronous work
    observer  the hazard checker of a launch with checks (check/hazards/observer.py), or None
    """

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
        self.asyncs = asyncs.AsyncQueue(grid.order, grid.rng)
        self.observer = None
        self.header = np.zeros(st.H_SIZE, np.int64)
        self.table = np.zeros((n_warps, st.W_SIZE), np.int64)
        self.counts = np.zeros((self.warps_per_cta, len(kernel.code)), np.int64)
        self.ctas: list[Cta] = []
        self._cta_table = np.zeros((n_ctas, native.C_SIZE), np.int64)
        for rank in range(n_ctas):
            cta = Cta(grid, rank, self.ctas, shared_bytes, self.header, self._cta_table[rank])
            cta.symbol_value = functools.partial(self._symbol_value, cta=cta)
            self.ctas.append(cta)
        self._registers32 = _register_file(n_warps, kernel.rows32, np.uint32)
        self._registers64 = _register_file(n_warps, kernel.rows64, np.uint64)
        self._local = np.empty((n_warps, st.LANES, max(kernel.local_bytes, 1)), np.uint8)
        self._scratch = np.zeros(2048, np.uint8)
        self._natives = native.function_table()
        self._bases = np.array(
            [
                [c.shared.ctypes.data for c in self.ctas],
                [c.mbarriers.ctypes.data for c in self.ctas],
                [c.named.ctypes.data for c in self.ctas],
            ],
            np.int64,
        )
        self.warps = [
            Warp(
                self.ctas[w // self.warps_per_cta],
                w % self.warps_per_cta,
                self.table[w],
                self._registers32[w],
                self._registers64[w],
            )
            for w in range(n_warps)
        ]
        for cta in self.ctas:
            cta.warps = self.warps[cta.rank * self.warps_per_cta : (cta.rank + 1) * self.warps_per_cta]
        self._addresses = [a.ctypes.data for a in (self._registers32, self._registers64, self.counts, self._local)]
        self._stop = self.header[st.H_STOP_WARP : st.H_STOP_MASK + 1]
        self._starved: list[Warp] = []
        self._remote = remote.RemoteOperations(self)
        self._spins = Spins(self)
        self._idle = _Idle()
        self.blocked: dict[tuple[int, int], str] = {}
        self._fill_header()
        self._fill_fixed_rows()

    def _dynamic_start(self) -> int:
        offsets = [v.offset for v in self.kernel.symbols.values() if v.space == "shared" and v.extern]
        return min(offsets, default=self.kernel.static_shared)

    def host_bases(self) -> np.ndarray:
        """int64[2, CTAs]: host addresses of shared memory and of the tables of named barriers."""
        return self._bases[[0, 2]]

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
        h[st.H_PAUSE], h[st.H_IDLE_LIMIT] = 1 << 62, LONG_SPIN
        h[st.H_SPURIOUS] = grid.spurious_timeouts
        h[st.H_NATIVE] = native.LEVELS.get(grid.order, 0)
        h[st.H_NATIVE_TABLE] = self._natives.ctypes.data
        h[st.H_CTA_TABLE] = self._cta_table.ctypes.data
        h[st.H_TENSOR_MAPS] = grid.tensor_maps.rows.ctypes.data
        h[st.H_PLANS] = grid.plans.rows.ctypes.data
        h[st.H_COUNTERS] = grid.native_counters.ctypes.data
        if grid.order != "in_order" and len(self.ctas) > 1:
            h[st.H_REMOTE] = self._remote.log.ctypes.data
        if grid.order in asyncs.SEEDED:
            h[st.H_RANDOM] = grid.rng.getrandbits(62) | 1

    def _fill_fixed_rows(self) -> None:
        """Constants, symbols, and the special registers that are the same for every cluster."""
        self._moving: list[tuple[np.ndarray, int, str]] = []
        for keys, registers in ((self.kernel.fixed32, self._registers32), (self.kernel.fixed64, self._registers64)):
            for row, (kind, value) in enumerate(keys):
                if kind == "const":
                    registers[:, row] = value
                elif kind == "special" and value.partition(".")[0] in MOVING_SPECIALS:
                    self._moving.append((registers, row, value))
                else:
                    for w, warp in enumerate(self.warps):
                        fill = self._symbol_value(value, warp.cta) if kind == "symbol" else self._special(value, warp)
                        registers[w, row] = fill

    # Start of a cluster.

    def start(self, clusterid: tuple[int, int, int]) -> None:
        """Poisons memory and registers and sets every thread to the first instruction."""
        kernel, grid, h = self.kernel, self.grid, self.header
        for slot in (
            st.H_CLUSTER_ARRIVED,
            st.H_CLUSTER_PHASE,
            st.H_PROGRESS,
            st.H_CURSOR,
            st.H_TIMEOUT,
            st.H_RETRY,
            st.H_ERROR,
            st.H_IDLE_INSTRUCTIONS,
            st.H_IDLE_PROGRESS,
            st.H_BUDGET,
        ):
            h[slot] = 0
        grid.enter(self)
        self.blocked.clear()
        self._remote.start()
        self._spins.forget()
        self._registers32[:, len(kernel.fixed32) :] = 0xFFFFFFFF
        self._registers64[:, len(kernel.fixed64) :] = 0xFFFFFFFFFFFFFFFF
        self._local[:] = 0xFF
        for cta in self.ctas:
            inside = _coordinates(cta.rank, grid.cluster_dim)
            cta.ctaid = tuple(i * c + k for i, c, k in zip(clusterid, grid.cluster_dim, inside, strict=True))
            cta.shared[:] = 0xFF
            cta.mbarriers[:] = 0
            cta.named[:] = 0
            for attribute, make in registry.cta_states().items():
                setattr(cta, attribute, make(cta))
            self._set_position(cta, clusterid)
        for warp in self.warps:
            self._start_warp(warp)
        if self.observer is not None:
            self.observer.start()

    def _set_position(self, cta: Cta, clusterid: tuple[int, int, int]) -> None:
        """Special registers that tell where in the grid a CTA is."""
        grid = self.grid
        first = cta.rank * self.warps_per_cta
        linear = cta.ctaid[0] + grid.dim[0] * (cta.ctaid[1] + grid.dim[1] * cta.ctaid[2])
        for registers, row, name in self._moving:
            base, _, axis = name.partition(".")
            if base == "%smid":
                value = linear % SMS
            else:
                value = (cta.ctaid if base == "%ctaid" else clusterid)["xyz".index(axis)]
            registers[first : first + self.warps_per_cta, row] = value

    def _start_warp(self, warp: Warp) -> None:
        kernel, row, cta = self.kernel, warp.row, warp.cta
        w = cta.rank * self.warps_per_cta + warp.index
        threads = min(self.threads - warp.index * st.LANES, st.LANES)
        live = (1 << threads) - 1
        row[:] = 0
        row[st.W_R32] = self._addresses[0] + w * self._registers32.strides[0]
        row[st.W_R64] = self._addresses[1] + w * self._registers64.strides[0]
        row[st.W_COUNTS] = self._addresses[2] + warp.index * self.counts.strides[0]
        row[st.W_CTA] = cta.rank
        row[st.W_LIVE] = live
        row[st.W_LOCAL] = self._addresses[3] + w * self._local.strides[0]
        row[st.W_LOCAL_BYTES] = kernel.local_bytes
        row[st.W_CLUSTER_PHASE] = -1
        row[st.W_INDEX] = warp.index
        row[st.W_GROUPS] = 1
        row[st.W_GROUP0 + st.G_MASK] = live

    def _symbol_value(self, name: str, cta: Cta) -> int:
        variable = self.kernel.symbols[name]
        if variable.space == "shared":
            return variable.offset | cta.rank << st.RANK_SHIFT
        if variable.space in ("local", "param::func"):
            return variable.offset
        return self.grid.addresses[name]

    def _special(self, name: str, warp: Warp) -> int | np.ndarray:
        """A special register that does not change from cluster to cluster (PTX ISA 10), as a row."""
        grid, cta = self.grid, warp.cta
        base, _, axis = name.partition(".")
        lanes = np.arange(st.LANES)
        if axis:
            i = "xyz".index(axis)
            cluster = grid.cluster_dim
            thread = warp.index * st.LANES + lanes
            bx, by, _ = grid.block
            return {
                "%tid": lambda: (thread % bx, thread // bx % by, thread // (bx * by)),
                "%ntid": lambda: grid.block,
                "%nctaid": lambda: grid.dim,
                "%nclusterid": lambda: tuple(g // c for g, c in zip(grid.dim, cluster, strict=True)),
                "%cluster_ctaid": lambda: _coordinates(cta.rank, cluster),
                "%cluster_nctaid": lambda: cluster,
            }[base]()[i]
        bit = 1 << lanes.astype(np.uint64)
        return {
            "%laneid": lanes,
            "%warpid": warp.index,
            "%nwarpid": self.warps_per_cta,
            "%nsmid": SMS,
            "%gridid": 1,
            "%cluster_ctarank": cta.rank,
            "%cluster_nctarank": len(self.ctas),
            "%is_explicit_cluster": int(len(self.ctas) > 1),
            "%dynamic_smem_size": grid.shared_bytes,
            "%total_smem_size": grid.shared_bytes + self._dynamic_start() - st.SHARED_START,
            "%aggr_smem_size": cta.shared.nbytes,
            "%reserved_smem_offset_begin": 0,
            "%reserved_smem_offset_end": st.SHARED_START,
            "%reserved_smem_offset_cap": st.SHARED_START,
            "%lanemask_eq": bit,
            "%lanemask_lt": bit - 1,
            "%lanemask_le": 2 * bit - 1,
            "%lanemask_gt": st.FULL_MASK + 1 - 2 * bit,
            "%lanemask_ge": st.FULL_MASK + 1 - bit,
        }[name]

    # The loop.

    @property
    def steps(self) -> int:
        """Micro-operations that it has executed."""
        return int(self.header[st.H_CLOCK])

    def pause_at(self, steps: int) -> None:
        """Compiled code is to return when `steps` have been executed."""
        self.header[st.H_PAUSE] = steps

    def run(self, patience: Patience = Patience.CERTAIN) -> Outcome:
        """Runs the cluster to its end, or until it can only go on if somebody else does something, or until the order
        wants another cluster to run; the next call goes on. Raises EmulationError."""
        head, address, grid, observer = self.header, self.header.ctypes.data, self.grid, self.observer
        grid.enter(self)
        head[st.H_RETRY] = 1  # what others have done may be what a handler waits for
        head[st.H_IDLE_LIMIT] = SHORT_SPIN if patience is Patience.NONE else LONG_SPIN
        head[st.H_IDLE_INSTRUCTIONS] = 0
        self._idle = _Idle()
        grid.watchdog.arm(self)
        while True:
            stop = loop.run(address)
            head[st.H_RETRY] = 0
            if observer is not None:
                observer.drain()
            self._remote.collect()
            outcome = None
            if stop == st.STOP_HANDLER:
                self._handle()
            elif stop == st.STOP_DONE:
                break
            elif stop == st.STOP_ERROR and head[st.H_ERROR] == st.ERR_REMOTE:
                head[st.H_ERROR] = st.ERR_NONE
                self._remote.flush(int(head[st.H_STOP_WARP]), int(head[st.H_ERROR_EXTRA]))
            elif stop == st.STOP_ERROR:
                raise engine_error(self)
            elif stop == st.STOP_SLICE:
                outcome = self._slice(patience)
            elif stop == st.STOP_IDLE:
                outcome = self._stand_still()
            if head[st.H_CLOCK] >= head[st.H_PAUSE]:
                grid.watchdog.check(self)
                grid.watchdog.arm(self)
            if outcome is not None:
                grid.watchdog.check(self)
                return outcome
        for cta in self.ctas:
            for check in registry.cta_exits():
                check(cta)
        self.asyncs.drain()
        if observer is not None:
            observer.end()
        grid.watchdog.check(self)
        return Outcome.DONE

    def _stand_still(self) -> Outcome | None:
        """No group can run: does asynchronous work, lets waits time out; STUCK if neither helps."""
        head, idle = self.header, self._idle
        if head[st.H_PROGRESS] != idle.progress:
            idle.progress, idle.timeouts, idle.retried = int(head[st.H_PROGRESS]), 0, False
        if self.asyncs.run_one(idle=True) or self._wake():
            return None
        statuses = self._statuses()
        if st.PYTHON in statuses and not idle.retried:
            head[st.H_RETRY], idle.retried = 1, True
        elif (st.MBARRIER in statuses or st.TESTED in statuses) and idle.timeouts < 8 * len(statuses) + 64:
            head[st.H_TIMEOUT] = 1
            idle.timeouts += 1
        else:
            return Outcome.STUCK
        return None

    def _slice(self, patience: Patience) -> Outcome | None:
        """End of a random slice, or of many micro-operations that changed nothing."""
        head, grid = self.header, self.grid
        if head[st.H_IDLE_INSTRUCTIONS] > head[st.H_IDLE_LIMIT]:
            head[st.H_IDLE_INSTRUCTIONS] = 0
            return self._spin(patience)
        if grid.order in asyncs.SEEDED:
            for _ in range(grid.rng.randrange(3)):
                self.asyncs.run_one()
            if grid.order == "adversarial":
                self._starve()
                if grid.shares_time and grid.rng.randrange(SHARE_EVERY) == 0:
                    return Outcome.SWITCH
            elif grid.rng.randrange(STALL_EVERY) == 0:
                self._stall()
        return None

    def _spin(self, patience: Patience) -> Outcome | None:
        """Warps run and nothing changes: as _stand_still; STUCK if all that run go round in circles, or have changed
        nothing for as long as `patience` allows."""
        head, idle = self.header, self._idle
        if self.asyncs.run_one(idle=True) or self._wake():
            return None
        if patience is Patience.NONE:
            return Outcome.STUCK
        if head[st.H_PROGRESS] != idle.spin_progress:
            idle.spin_progress, idle.spins, idle.spin_timeouts = int(head[st.H_PROGRESS]), 0, 0
        idle.spins += 1
        statuses = self._statuses()
        if (st.MBARRIER in statuses or st.TESTED in statuses) and idle.spin_timeouts < len(statuses):
            head[st.H_TIMEOUT] = 1
            idle.spin_timeouts += 1
        elif self._spins.closed() or idle.spins >= (SOME_SPINS if patience is Patience.SOME else MOST_SPINS):
            return Outcome.STUCK
        return None

    def _stall(self) -> None:
        """Holds back a few warps until nothing else can run: many races show only if one side is very late."""
        rng, count = self.grid.rng, 1
        while count < len(self.warps) and rng.random() < 0.5:
            count += 1
        for warp in rng.sample(self.warps, count):
            warp.row[st.W_STALLED] = 1

    def _starve(self) -> None:
        """Keeps the same few warps back, for long, and lets turns be of any length."""
        rng = self.grid.rng
        if rng.randrange(STARVE_FOR) == 0:
            self._starved = rng.sample(self.warps, rng.randrange(min(len(self.warps), MOST_STARVED + 1)))
        for warp in self._starved:
            warp.row[st.W_STALLED] = 1
        self.header[st.H_SLICE] = 1 << rng.randrange(12)

    def _wake(self) -> bool:
        """Lets the warps held back run again; False if there are none."""
        stalled = self.table[:, st.W_STALLED]
        found = bool(stalled.any())
        stalled[:] = 0
        return found

    def _handle(self) -> None:
        """Calls the handler at which the engine stopped."""
        head = self.header
        w, g, pc, mask = self._stop.tolist()
        warp = self.warps[w]
        handler, inst = self.kernel.handlers[self.kernel.code[pc, 2]]
        if self.observer is not None:
            self.observer.lanes = mask
        try:
            result = handler.execute(warp, inst, mask)
        except EmulationError as error:
            if error.line is None:
                raise type(error)(str(error), line=inst.line, text=inst.text) from error
            raise
        except registry.MISFITS as error:
            raise registry.misfit(inst, error) from error
        row, group = warp.row, st.W_GROUP0 + g * st.G_SIZE
        if result is None:
            row[group + st.G_PC] = pc + 1
            self.counts[warp.index, pc] += 1
            head[st.H_PROGRESS] += handler.changes
        elif isinstance(result, Blocked):
            row[group + st.G_STATUS] = st.PYTHON
            row[group + st.G_A] = head[st.H_PROGRESS]
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
