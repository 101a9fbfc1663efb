"""Timed launches: clusters of a grid that stand for all of them, executed with time, and their kernels' durations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import cute_abi
from ..cute_abi.values import buffers_of, flatten_arguments
from ..grid import Grid, prepare_launch
from . import tables as tb
from .cluster import TimedCluster
from .constants import Constants
from .residency import Footprint, footprint_of, resident
from .traffic import ALIKE, Traffic

PORT_BUCKETS = 8
SAMPLES = 6  # clusters executed where the caller names none


@dataclass(frozen=True)
class CtaTiming:
    """One executed cluster.

    cycles  from its start to its end
    busy    cycles of each unit of its SMs, the most of any SM: name -> cycles
    waits   (warp in the cluster, shared offset of the mbarrier, what completed it) -> cycles
    blocked (warp, "named" or "cluster" or "code") -> cycles at barriers of threads, or until its code was there
    bytes   through TMA, of these from HBM, by ld/st of global memory, of all CTAs
    ended   each warp's end
    prologue  cycles until its first warp came to griddepcontrol.wait, 0 without one
    trace   float64 rows of tables.TRACE_COLUMNS
    port    float64 rows (cycle, CTA, share of the shared-memory port), where there is a trace
    """

    number: int
    cycles: float
    busy: dict[str, float]
    waits: dict[tuple[int, int, str], float]
    blocked: dict[tuple[int, str], float]
    bytes: tuple[float, float, float]
    ended: tuple[float, ...]
    prologue: float = 0.0
    trace: np.ndarray = field(repr=False, default=None)
    port: np.ndarray = field(repr=False, default=None)


@dataclass(frozen=True)
class LaunchTiming:
    """One kernel. cycles: of the whole launch, without what starting it costs. clusters: those executed. resident: CTAs
    of it on an SM. early: of these, how many started beside the kernel before (programmatic dependent launch).
    triggers: it lets a dependent kernel start before its end."""

    kernel: str
    cycles: float
    grid: tuple[int, int, int]
    dependent: bool
    clusters: tuple[CtaTiming, ...]
    seconds: float
    footprint: Footprint
    resident: int
    early: int = 0
    triggers: bool = False


def time_launch(
    grid: Grid,
    constants: Constants,
    *,
    clusters: Sequence[int] | None = None,
    busy_sms: int | None = None,
    registers: int | None = None,
    code_bytes: int | None = None,
    before: LaunchTiming | None = None,
    cached: bool = False,
    traffic: Traffic | None = None,
    trace_rows: int = 0,
    progress: Callable[[str], None] | None = None,
) -> LaunchTiming:
    """Times a prepared launch (`grid.prepare_launch`, order in_order).

    clusters  numbers of the clusters to execute; SAMPLES of them, first and last included, unless given
    busy_sms  SMs that share HBM; as many as have a CTA, unless given
    cached    all of global memory is in the L2 cache, as what the kernel before has just written
    traffic   what each cluster reads of HBM; unless given, as those that are executed, which are then executed twice where
              they differ and all clusters of the grid run at the same time
    registers of a thread, as ptxas allotted them; they limit the CTAs that an SM holds. See residency.footprint_of
    code_bytes  of the assembled kernel, over which its instructions are spread in the instruction cache
    before    the launch that this one follows
    """
    began = time.perf_counter()
    total = int(np.prod(grid.dim)) // int(np.prod(grid.cluster_dim))
    members = int(np.prod(grid.cluster_dim))
    sms = int(constants["sms"])
    if clusters is None:
        clusters = sorted({round(i * (total - 1) / max(SAMPLES - 1, 1)) for i in range(SAMPLES)})
    busy = busy_sms or min(total * members, sms)
    cta = footprint_of(grid, registers)
    held = resident(cta)
    early = _early(grid, cta, before, sms)
    slots = max(1, held * (sms // members))
    nx, ny = grid.dim[0] // grid.cluster_dim[0], grid.dim[1] // grid.cluster_dim[1]

    def execute(traffic: Traffic) -> list[CtaTiming]:
        timed = TimedCluster(grid, constants, busy, trace_rows, code_bytes, traffic)
        found = []
        for number in clusters:
            timed.start((number % nx, number // nx % ny, number // (nx * ny)))
            if cached:
                timed.tables.lines[:] = 0xF
            timed.run()
            found.append(_result(timed, number))
            if progress is not None:
                progress(f"{grid.kernel.name[:40]}: cluster {number} of {total}")
        return found

    found = execute(traffic or ALIKE)
    if traffic is None and total <= slots:
        uneven = Traffic.of_executed(total, [(one.number, one.bytes[1]) for one in found])
        found = execute(uneven) if uneven != ALIKE else found
    cycles = _compose(total, slots, found, early * (sms // members))
    return LaunchTiming(
        grid.kernel.name, cycles, grid.dim, grid.dependent, tuple(found), time.perf_counter() - began, cta, held, early,
        any(inst.name == "griddepcontrol" and "launch_dependents" in inst.mods for inst in grid.kernel.instructions),
    )  # fmt: skip


def chain_seconds(launches: Sequence[LaunchTiming], constants: Constants) -> float:
    """Kernels one behind the other, from the start of the first to the end of the last, with what starting them costs."""
    seconds = constants["launch"] + constants.microseconds(sum(launch.cycles for launch in launches)) * 1e-6
    for launch in launches[1:]:
        seconds += constants["next_launch_pdl" if launch.dependent else "next_launch"]
    return seconds


def _early(grid: Grid, cta: Footprint, before: LaunchTiming | None, sms: int) -> int:
    """CTAs per SM that start beside the launch before: if the two are so attributed, and an SM has room for them, which
    nobody knows without their registers."""
    if before is None or not (grid.dependent and before.triggers and cta.registers and before.footprint.registers):
        return 0
    held = min(before.resident, -(-int(np.prod(before.grid)) // sms))
    return min(resident(cta, before.footprint, held), resident(cta))


def _compose(total: int, slots: int, found: list[CtaTiming], early: int = 0) -> float:
    """The launch's duration: its clusters, in order, each take the first free slot; one that was not executed takes
    as long as its neighbours that were, interpolated. The first `early` ones are past their prologue already."""
    numbers = np.array([r.number for r in found], float)
    durations = np.interp(np.arange(total), numbers, [r.cycles for r in found])
    if early:
        durations[:early] -= np.interp(np.arange(total), numbers, [r.prologue for r in found])[:early]
    if total <= slots:
        return float(max(durations.max(), max(r.cycles - r.prologue * (r.number < early) for r in found)))
    free = np.zeros(slots)
    for duration in durations:
        first = int(free.argmin())
        free[first] += duration
    return float(free.max())


def _result(timed: TimedCluster, number: int) -> CtaTiming:
    tables = timed.tables
    names = (*tb.UNIT_NAMES, "tensor core")
    busy = {name: float(tables.busy[:, i].max()) for i, name in enumerate(names)}
    waits = {
        (int(w), int(slot) * 8, tb.COMPLETERS[by]): float(tables.waits[w, slot, by])
        for w, slot, by in zip(*np.nonzero(tables.waits), strict=True)
    }
    blocked = {
        (int(w), tb.BLOCKERS[k]): float(tables.blocked[w, k]) for w, k in zip(*np.nonzero(tables.blocked), strict=True)
    }
    trace = tables.trace[: tables.misc[tb.TRACED]].copy()
    total = tuple(float(v) for v in tables.bytes.sum(axis=0))
    ended = tuple(tables.warps[:, tb.ENDED])
    port = _port(timed) if len(tables.trace) else None
    came = tables.warps[:, tb.WAITED]
    prologue = float(came[came > 0].min()) if came.any() else 0.0
    return CtaTiming(number, timed.cycles, busy, waits, blocked, total, ended, prologue, trace, port)


def _port(timed: TimedCluster) -> np.ndarray:
    """How busy the shared-memory ports were, averaged over PORT_BUCKETS, as far back as the ring reaches."""
    tables, found = timed.tables, []
    for cta in range(len(timed.ctas)):
        row = cta * tb.UNITS + tb.PORT
        order = np.argsort(tables.epochs[row])
        order = order[tables.epochs[row][order] >= 0]
        numbers, used = tables.epochs[row][order], tables.used[row][order]
        groups = numbers // PORT_BUCKETS
        for group in np.unique(groups):
            share = used[groups == group].sum() / (PORT_BUCKETS * tb.BUCKET)
            found.append((group * PORT_BUCKETS * tb.BUCKET, cta, share))
    return np.array(found).reshape(-1, 3)


def time_host_function(
    ir_text: str,
    ptx_text: str,
    host_args: Sequence[Any],
    constants: Constants,
    *,
    buffers: Sequence[Any] = (),
    options: Sequence[dict[str, Any]] = (),
    launches: Sequence[int] | None = None,
    registers: Mapping[str, int] | None = None,
    code_bytes: Mapping[str, int] | None = None,
    step_limit: int | None = None,
    time_limit: float | None = None,
) -> list[LaunchTiming]:
    """Times the launches of a CuTe DSL host function (`cute_abi.launch`); `options[i]` go to `time_launch` of the i-th,
    `launches` picks some of them, `registers` are those of a thread by kernel (`cubin.register_counts`), `code_bytes` the
    kernels' sizes (`cubin.code_sizes`). Limits are those of `launch`, for the clusters of a launch that are executed."""
    memory = buffers_of([*flatten_arguments(host_args), *buffers])
    timings: list[LaunchTiming] = []
    for number, item in enumerate(cute_abi.plan(ir_text, host_args)):
        if launches is not None and number not in launches:
            continue
        grid = prepare_launch(
            ptx_text,
            item.spec.name,
            grid=item.grid,
            block=item.block,
            cluster=item.cluster,
            shared_bytes=item.shared_bytes,
            params=cute_abi.pack(item.spec, item.values, ptx_text),
            buffers=memory,
            dependent=item.dependent,
            step_limit=step_limit,
            time_limit=time_limit,
        )
        extra = options[number] if number < len(options) else {}
        counts, size = ((known or {}).get(item.spec.name) for known in (registers, code_bytes))
        before = timings[-1] if timings else None
        timings.append(time_launch(grid, constants, registers=counts, code_bytes=size, before=before, **extra))
    return timings
