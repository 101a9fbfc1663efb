"""Launches: grids of clusters of CTAs. Which cluster runs when: machine/residents.py."""

from __future__ import annotations

import operator
import os
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import units  # noqa: F401  (registers instructions)
from .engine import native
from .errors import EmulationError
from .front import ops  # noqa: F401  (registers instructions)
from .front.decode import Kernel, Program
from .front.parser import Variable
from .machine.asyncs import ORDERS, AsyncQueue
from .machine.cluster import Cluster
from .machine.memory import Buffers
from .machine.residents import CLUSTER_ORDERS, Residents, Waiting
from .machine.watchdog import Limits, Watchdog
from .report import Report
from .turns import takes_turns
from .units.tcgen05.mma_native import PLANS
from .units.tma.load_native import TensorMaps

if TYPE_CHECKING:
    from .check.hazards import Checker

Dim3 = tuple[int, int, int]
MOST_CTAS = (2**31 - 1, 65535, 65535)  # of a grid, per dimension (CUDA programming guide, table of technical limits)


class Grid:
    """One launch.

    buffers   the host memory that the kernel may touch
    asyncs, observer  of the cluster that runs now (machine/cluster.py)
    counters  totals for the report; those of native forms are added at the end
    tensor_maps  the tensor maps it has used, for native forms
    plans     those of matrix products that launches have used, likewise
    rng       random.Random(seed)
    waiting   the clusters that have not started, as (x, y, z)
    watchdog  its limits
    resident_clusters, cluster_order  as in `launch`
    shares_time  clusters take turns although none is stuck
    spurious_timeouts  as in `launch`
    prerequisite_done  False while the grid that this one depends on has not ended
    dependent  it may start early; overlaps: and the grid before it lets it
    """

    def __init__(
        self, kernel: Kernel, grid: Dim3, block: Dim3, cluster: Dim3, shared_bytes: int, order: str, seed: int
    ):
        self.kernel = kernel
        self.dim = grid
        self.block = block
        self.cluster_dim = cluster
        self.shared_bytes = shared_bytes
        self.order = order
        self.seed = seed
        self.rng = random.Random(seed)
        self.asyncs = AsyncQueue(order, self.rng)
        self.buffers = Buffers()
        self.counters: Counter = Counter()
        self.tensor_maps = TensorMaps()
        self.plans = PLANS
        self.native_counters = np.zeros(len(native.COUNTERS), np.int64)
        self.addresses: dict[str, int] = {}  # of param, global and const symbols
        self.waiting = Waiting((0, 0, 0), "ascending", self.rng)
        self.resident_clusters: int | None = None
        self.cluster_order = "random" if order == "adversarial" else "ascending"
        self.watchdog = Watchdog(Limits())
        self.shares_time = False
        self.spurious_timeouts = False
        self.checker = None
        self.names: list = []
        self.observer = None
        self.prerequisite_done = True
        self.dependent = self.overlaps = False
        self._residents: Residents | None = None

    def place(self, variable: Variable, data: np.ndarray, offset: int = 0) -> None:
        self.addresses[variable.name] = data.ctypes.data + offset

    def load_symbols(self, params: bytes) -> None:
        """Puts the parameters and the module's global and const variables into registered memory."""
        memory = aligned_bytes(max(len(params), 1), 128)
        memory[: len(params)] = np.frombuffer(params, np.uint8)
        self.buffers.add(memory, writable=False, name="kernel parameters")
        self.tensor_maps.add_all(memory)
        for variable in self.kernel.symbols.values():
            if variable.space == "param":
                self.place(variable, memory, variable.offset)
            elif variable.space in ("global", "const"):
                data = aligned_bytes(max(variable.nbytes, 1), max(variable.align, 16))
                data[:] = 0
                if variable.initial:
                    data[: len(variable.initial)] = np.frombuffer(variable.initial, np.uint8)
                self.buffers.add(data, writable=variable.space == "global", name=variable.name)
                self.place(variable, data)

    def begin(self) -> None:
        """Makes the first cluster that runs the grid, and its observer."""
        clusters = tuple(g // c for g, c in zip(self.dim, self.cluster_dim, strict=True))
        self.waiting = Waiting(clusters, self.cluster_order, self.rng)
        number = None if self.checker is None else self.checker.next_launch(self)

        def make() -> Cluster:
            cluster = Cluster(self)
            if self.checker is not None:
                cluster.observer = self.checker.observer(self, cluster, number)
                cluster.observer.overlapped = self.overlaps
            return cluster

        self._residents = Residents(self, make, self.resident_clusters)

    def enter(self, cluster: Cluster) -> None:
        """From now on `cluster` runs."""
        self.asyncs, self.observer = cluster.asyncs, cluster.observer
        if self.observer is not None:
            self.observer.activate()

    def run_early(self) -> None:
        """Runs the first cluster as far as it gets before the grid that this one depends on has done anything."""
        self.prerequisite_done = False
        self._residents.run_one()
        self.prerequisite_done = True

    def run(self) -> Report:
        """Runs the grid, or what run_early has left of it."""
        started = time.perf_counter()
        residents = self._residents
        residents.run_all()
        return Report(
            self.kernel.name,
            sum(cluster.instruction_counts() for cluster in residents.clusters),
            self.kernel.instructions,
            self.total_counters(),
            time.perf_counter() - started,
            int(np.prod(self.dim)),
            [] if self.checker is None else self.checker.hazards,
            [residents.counters[number] for number in sorted(residents.counters)],
            [] if self.checker is None else self.checker.notes,
        )

    def end(self) -> None:
        """Lets go of the clusters and observers, whose cycles would keep their tables until Python looks for them."""
        for cluster in self._residents.clusters if self._residents is not None else ():
            cluster.observer = None
        self._residents = self.observer = None
        if self.checker is not None:
            self.checker.rest()

    def total_counters(self) -> Counter:
        """Those of the handlers and those of native forms, without zeros."""
        total = Counter(self.counters)
        for name, amount in zip(native.COUNTERS, self.native_counters, strict=True):
            if amount:
                total[name] += int(amount)
        return total


def aligned_bytes(nbytes: int, align: int) -> np.ndarray:
    """uint8[nbytes] whose address is a multiple of `align`."""
    raw = np.empty(nbytes + align, np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + nbytes]


@takes_turns
def launch(
    ptx: str | Program,
    kernel: str | None = None,
    *,
    grid: Sequence[int],
    block: Sequence[int],
    cluster: Sequence[int] = (1, 1, 1),
    shared_bytes: int = 0,
    params: Sequence[bytes] = (),
    buffers: Sequence | Mapping[str, Any] = (),
    order: str = "in_order",
    seed: int = 0,
    checks: bool | Checker = False,
    suppress: str | os.PathLike | None = None,
    step_limit: int | None = None,
    time_limit: float | None = None,
    resident_clusters: int | None = None,
    cluster_order: str | None = None,
    spurious_timeouts: bool = False,
) -> Report:
    """Runs entry `kernel` of PTX text on the CPU.

    grid, block, cluster  dimensions, grid in CTAs, block in threads, cluster in CTAs
    shared_bytes          dynamic shared memory per CTA
    params                the bytes of each `.param`, in order, of exactly the declared sizes
    buffers               numpy arrays (contiguous) or CPU tensors whose memory the kernel may read and write, or a
                          mapping of names to them, which reports then use
    checks                True, or a hazards.Checker: follow memory accesses and report what is not ordered (hazards of
                          the Report)
    suppress              a file of hazards that are known and accepted (check/hazards/suppressions.py)
    order                 when asynchronous work is done and which warp runs: "in_order", "late", "random" or
                          "adversarial" (machine/asyncs.py); the last two choose by `seed`
    step_limit            micro-operations (about one per warp and PTX instruction) that the launch may take
    time_limit            seconds that it may take
    resident_clusters     clusters that may be resident together, which is what clusters that wait for each other need;
                          as many as have an SM of a B200 to themselves, unless given
    cluster_order         in which order they start: "ascending", "descending" or "random"; "random" unless given if the
                          order is "adversarial", else "ascending"
    spurious_timeouts     mbarrier.try_wait times out now and then although it could wait, as hardware may at any time

    Beyond a limit the launch ends with a LimitExceeded that says where every warp stands. Ctrl-C works at any time.
    Raises ValueError for arguments that do not fit the kernel, EmulationError for what goes wrong in it.
    """
    options = {
        "params": params, "buffers": buffers, "order": order, "seed": seed, "checks": checks, "suppress": suppress,
        "step_limit": step_limit,
        "time_limit": time_limit, "resident_clusters": resident_clusters, "cluster_order": cluster_order,
        "spurious_timeouts": spurious_timeouts,
    }  # fmt: skip
    prepared = prepare_launch(
        ptx, kernel, grid=grid, block=block, cluster=cluster, shared_bytes=shared_bytes, **options
    )
    return run_grids([prepared])[0]


def prepare_launch(
    ptx: str | Program,
    kernel: str | None,
    *,
    grid: Sequence[int],
    block: Sequence[int],
    cluster: Sequence[int],
    shared_bytes: int,
    params: Sequence[bytes],
    buffers: Sequence | Mapping[str, Any],
    names: Mapping[str, Any] | None = None,
    order: str = "in_order",
    seed: int = 0,
    checks: bool | Checker = False,
    suppress: str | os.PathLike | None = None,
    dependent: bool = False,
    step_limit: int | None = None,
    time_limit: float | None = None,
    resident_clusters: int | None = None,
    cluster_order: str | None = None,
    spurious_timeouts: bool = False,
) -> Grid:
    """A launch that has not run; arguments as `launch`. `dependent`: a programmatic dependent launch. `names`: of
    arrays that lie in the buffers."""
    program = ptx if isinstance(ptx, Program) else Program.parse(ptx)
    decoded = program.kernel(kernel)
    dims = [_dim3(name, value) for name, value in (("grid", grid), ("block", block), ("cluster", cluster))]
    _check_dims(decoded, *dims)
    if order not in ORDERS:
        raise ValueError(f"order={order!r}: must be one of {', '.join(ORDERS)}")
    if cluster_order not in (None, *CLUSTER_ORDERS):
        raise ValueError(f"cluster_order={cluster_order!r}: must be one of {', '.join(CLUSTER_ORDERS)}")
    launched = Grid(decoded, *dims, _whole("shared_bytes", shared_bytes, 0), order, seed)
    launched.watchdog = Watchdog(Limits(step_limit, time_limit))
    launched.cluster_order = cluster_order or launched.cluster_order
    launched.spurious_timeouts = bool(spurious_timeouts)
    if resident_clusters is not None:
        launched.resident_clusters = _whole("resident_clusters", resident_clusters, 1)
    known = buffers if isinstance(buffers, Mapping) else {f"buffers[{i}]": b for i, b in enumerate(buffers)}
    for name, buffer in known.items():
        launched.buffers.add(buffer, name=name)
    launched.load_symbols(_param_bytes(decoded, params))
    if suppress is not None and checks is not True:
        raise ValueError(f"suppress={str(suppress)!r}: needs checks=True (a Checker has its own)")
    if checks:
        from .check.hazards import Checker  # compiled code that launches without checks do not load
        from .check.hazards.names import named_arrays

        if not isinstance(checks, bool | Checker):
            raise TypeError(f"checks={checks!r}: must be a bool or a hazards.Checker")
        launched.checker = Checker(suppress) if checks is True else checks
        launched.names = named_arrays(known if names is None else names)
    launched.dependent = dependent
    return launched


def run_grids(grids: list[Grid]) -> list[Report]:
    """Runs launches one after the other. A dependent one starts before its predecessor if the order is adversarial:
    what it does before griddepcontrol.wait may see none of the predecessor's effects."""
    for before, after in zip(grids, grids[1:], strict=False):
        after.overlaps = after.dependent and any(
            inst.name == "griddepcontrol" and "launch_dependents" in inst.mods for inst in before.kernel.instructions
        )
    for grid in grids:
        grid.begin()
    reports = []
    try:
        for number, grid in enumerate(grids):
            if number + 1 < len(grids) and grids[number + 1].overlaps and grid.order == "adversarial":
                grids[number + 1].run_early()
            reports.append(grid.run())
    except EmulationError as error:
        if grid.checker is not None:
            error.hazards = tuple(grid.checker.hazards)
        raise
    finally:
        for grid in grids:
            grid.end()
    return reports


def _whole(name: str, value: int, least: int) -> int:
    """`value` as a whole number of at least `least`. Raises ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: must be a whole number of at least {least}")
    return number


def _dim3(name: str, value: Sequence[int]) -> Dim3:
    dims = tuple(int(v) for v in value) + (1,) * (3 - len(value))
    if len(dims) != 3 or min(dims) < 1:
        raise ValueError(f"{name}={tuple(value)}: must be one to three positive integers")
    return dims


def _check_dims(kernel: Kernel, grid: Dim3, block: Dim3, cluster: Dim3) -> None:
    function = kernel.function
    if function.required_block and block != function.required_block:
        raise ValueError(f"block={block}: the kernel requires .reqntid {function.required_block}")
    if function.max_block and np.prod(block) > np.prod(function.max_block):
        raise ValueError(f"block={block}: the kernel allows at most .maxntid {function.max_block}")
    if function.required_cluster and cluster != function.required_cluster:
        raise ValueError(f"cluster={cluster}: the kernel requires .reqnctapercluster {function.required_cluster}")
    if any(g > most for g, most in zip(grid, MOST_CTAS, strict=True)):
        raise ValueError(f"grid={grid}: at most {MOST_CTAS} CTAs")
    if np.prod(block) > 1024:
        raise ValueError(f"block={block}: more than 1024 threads")
    if np.prod(cluster) > 16:
        raise ValueError(f"cluster={cluster}: more than 16 CTAs")
    if any(g % c for g, c in zip(grid, cluster, strict=True)):
        raise ValueError(f"grid={grid}: must be a multiple of cluster={cluster}")


def _param_bytes(kernel: Kernel, params: Sequence[bytes]) -> bytes:
    declared = kernel.function.params
    if len(params) != len(declared):
        raise ValueError(f"params: {len(params)} given, the kernel declares {len(declared)}")
    block = bytearray(kernel.param_bytes)
    for i, (given, variable) in enumerate(zip(params, declared, strict=True)):
        given = bytes(given)
        if len(given) != variable.nbytes:
            raise ValueError(f"params[{i}]: {len(given)} bytes, {variable.name} has {variable.nbytes}")
        block[variable.offset : variable.offset + variable.nbytes] = given
    return bytes(block)
