"""The time of what Python handlers do: bulk and tensor copies, tcgen05.commit and tcgen05.cp.

Each function gets the launch's TimedCluster, the warp, its number in the cluster, the instruction and the lanes, before
the instruction is executed. It sets when the work will be complete, and names the mbarriers that it will signal.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..engine import state as st
from ..ir import Imm
from ..machine.warp import lane_list
from ..units.per_thread import lane_address, lane_word
from ..units.tma.rules import _tensor_map
from ..units.tma.tensormap import MAX_RANK, TensorMap
from . import account, costs, units
from . import constants as c
from . import tables as tb

_OPERATIONS: dict[str, Callable] = {}


def timed(*names: str):
    """Registers the function for opcodes of these registered names."""

    def register(function):
        _OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


def account_for(cluster, warp, w: int, inst, lanes: int) -> None:
    _OPERATIONS[inst.name](cluster, warp, w, inst, lanes)


def _constant(cluster, name: str) -> float:
    return cluster.tables.constants[c.INDEX[name]]


def _signal(cluster, rank: int, offset: int, when: float, by: int) -> None:
    account.touch_barrier(cluster.tables, cluster.header.ctypes.data, rank, offset >> 3, when, by)


def _shared(address: int) -> tuple[int, int]:
    """(CTA, offset) of a shared address, generic or not."""
    if address >= st.SHARED_WINDOW:
        address -= st.SHARED_WINDOW
    return address >> st.RANK_SHIFT, address & st.OFFSET_MASK


def _next_copy(cluster, w: int) -> float:
    """When the thread's next TMA instruction starts; each takes a while of the thread."""
    row = cluster.tables.warps[w]
    start = max(row[tb.FRONT], row[tb.LAST_TMA])
    row[tb.LAST_TMA] = start + _constant(cluster, "tma_issue")
    row[tb.FRONT] = start
    return start


@timed("cp.async.bulk.tensor", "cp.reduce.async.bulk.tensor")
def tensor_copy(cluster, warp, w: int, inst, lanes: int) -> None:
    copy, rank = inst.data, warp.cta.rank
    for lane in lane_list(lanes):
        if copy.destination == "global":
            tensor, _ = _tensor_map(warp, inst.operands[0], lane, inst, copy)
            _store(cluster, w, rank, tensor.box_bytes)
            break  # all lanes of a warp store the same box
        destination, source, mbar = inst.operands[:3]
        tensor, coordinates = cluster.tensor_map(warp, source, lane, inst, copy)
        start = _next_copy(cluster, w)
        nbytes = tensor.box_bytes * (4 if copy.gather else 1)
        new, charged = _touch_box(cluster, tensor, coordinates, copy.gather)
        to, _ = _shared(lane_address(warp, destination, lane))
        holder, offset = _shared(lane_address(warp, mbar, lane))
        targets = [(to, holder)]
        if copy.multicast:
            ranks = [r for r in range(16) if lane_word(warp, copy.mask, lane) >> r & 1]
            targets = [(r, (r & ~1 | holder & 1) if copy.pair else r) for r in ranks]
        for target, barrier in targets:
            done = units.deliver(cluster.tables, target, start, float(nbytes), new, charged)
            units.note(cluster.tables, start, done, target, -2, tb.TRACE_TMA, float(nbytes))
            away = 0.0 if barrier == target else _constant(cluster, "remote") / 2
            _signal(cluster, barrier, offset, done + away, tb.BY_TMA)
            charged = 0.0  # a multicast is read once


def _touch_box(cluster, tensor: TensorMap, coordinates: list[int], gather: bool) -> tuple[float, float]:
    """As units.touch, of a box, or the four rows of a gather."""
    rows = [[coordinates[0], row] for row in coordinates[1:]] if gather else [coordinates]
    new = charged = 0.0
    for at in rows:
        counts = np.ones(MAX_RANK - 1, np.int64)
        counts[: tensor.rank - 1] = tensor.counts[1:]
        strides = np.zeros(MAX_RANK - 1, np.int64)
        strides[: tensor.rank - 1] = tensor.strides
        low, dims = np.zeros(MAX_RANK - 1, np.int64), np.ones(MAX_RANK - 1, np.int64)
        low[: tensor.rank - 1], dims[: tensor.rank - 1] = at[1:], tensor.dims[1:]
        size = tensor.packing.global_bytes / tensor.packing.elements
        first = int(at[0] * size)
        width = min(int(tensor.box[0] * size), int(tensor.dims[0] * size) - first)
        if width > 0:
            place = tensor.address + first + int(np.dot(low, strides))
            more, paid = units.touch_box(cluster.tables, place, counts, strides, low, dims, width)
            new, charged = new + more, charged + paid
    return new, charged


def _store(cluster, w: int, rank: int, nbytes: int) -> None:
    """Shared to global memory: through the port and the SM's way out."""
    tables = cluster.tables
    start = _next_copy(cluster, w)
    out = units.reserve(tables, rank, tb.PORT, start, nbytes / _constant(cluster, "shared_port"))
    out = max(out, units.reserve(tables, rank, tb.BULK_STORE, start, nbytes / _constant(cluster, "bulk_store_rate")))
    units.note(tables, start, out, rank, -2, tb.TRACE_STORE, float(nbytes))
    tables.warps[w, tb.BULK] = max(tables.warps[w, tb.BULK], out + _constant(cluster, "bulk_store_latency"))
    tables.bytes[rank, 2] += nbytes


@timed("cp.async.bulk", "cp.reduce.async.bulk")
def bulk_copy(cluster, warp, w: int, inst, lanes: int) -> None:
    copy, rank, tables = inst.data, warp.cta.rank, cluster.tables
    for lane in lane_list(lanes):
        nbytes = lane_word(warp, inst.operands[2], lane)
        if copy.destination == "global":
            _store(cluster, w, rank, nbytes)
            continue
        start = _next_copy(cluster, w)
        to, _ = _shared(lane_address(warp, inst.operands[0], lane))
        holder, offset = _shared(lane_address(warp, inst.operands[3], lane))
        if copy.source == "global":
            new, charged = units.touch(tables, lane_address(warp, inst.operands[1], lane), nbytes)
            done = units.deliver(tables, to, start, float(nbytes), new, charged)
        else:
            port = nbytes / _constant(cluster, "shared_port")
            done = units.reserve(tables, rank, tb.PORT, start, port)
            done = max(done, units.reserve(tables, to, tb.LINK, start, nbytes / _constant(cluster, "l2_bytes")))
            done += _constant(cluster, "remote")
        _signal(cluster, holder, offset, done, tb.BY_TMA)


@timed("cp.async.bulk.wait_group")
def wait_group(cluster, warp, w: int, inst, lanes: int) -> None:
    """Waits for all of the thread's groups, which is right for 0 and too long for more. `.read`: not for the writes."""
    row = cluster.tables.warps[w]
    if not (isinstance(inst.operands[0], Imm) and inst.operands[0].value > 0):
        latency = _constant(cluster, "bulk_store_latency") if "read" in inst.mods else 0.0
        row[tb.FRONT] = max(row[tb.FRONT], row[tb.BULK] - latency)


@timed("cp.async")
def copy_async(cluster, warp, w: int, inst, lanes: int) -> None:
    """A load of each thread that goes to shared memory instead of registers."""
    tables = cluster.tables
    nbytes, start = inst.data[0], tables.warps[w, tb.FRONT]
    new = 0.0
    for lane in lane_list(lanes):
        new += units.touch(tables, lane_address(warp, inst.operands[1], lane), nbytes)[0]
    wire = max(len(lane_list(lanes)) * nbytes, 32) / _constant(cluster, "l2_bytes")
    end = units.reserve(tables, warp.cta.rank, tb.LINK, start, wire)
    latency = _constant(cluster, "hbm_latency" if new else "l2_latency")
    row = tables.warps[w]
    row[tb.COPIED] = max(row[tb.COPIED], end + latency)


@timed("cp.async.wait_group", "cp.async.wait_all")
def wait_copies(cluster, warp, w: int, inst, lanes: int) -> None:
    row = cluster.tables.warps[w]
    row[tb.FRONT] = max(row[tb.FRONT], row[tb.COPIED])


@timed("cp.async.mbarrier.arrive")
def arrive_behind_copies(cluster, warp, w: int, inst, lanes: int) -> None:
    row = cluster.tables.warps[w]
    when = max(row[tb.FRONT], row[tb.COPIED]) + _constant(cluster, "arrive")
    for address in sorted({lane_address(warp, inst.operands[0], lane) for lane in lane_list(lanes)}):
        rank, offset = _shared(address)
        _signal(cluster, rank if address >> st.RANK_SHIFT else warp.cta.rank, offset, when, tb.BY_ARRIVAL)


@timed("tcgen05.commit")
def commit(cluster, warp, w: int, inst, lanes: int) -> None:
    tables = cluster.tables
    for lane in lane_list(lanes):
        address = lane_address(warp, inst.operands[0], lane)
        rank, offset = _shared(address)
        ranks = [rank]
        if "multicast::cluster" in inst.mods:
            ranks = [r for r in range(16) if lane_word(warp, inst.operands[1], lane) >> r & 1]
        done = max(tables.ctas[warp.cta.rank, tb.TENSOR_DONE], tables.warps[w, tb.FRONT])
        for target in ranks:
            _signal(cluster, target, offset, done, tb.BY_MMA)


@timed("tcgen05.cp")
def copy_to_tmem(cluster, warp, w: int, inst, lanes: int) -> None:
    tables, nbytes = cluster.tables, costs.copy_bytes(inst)
    members = [warp.cta.rank] if inst.data.group == 1 else [warp.cta.rank & ~1, warp.cta.rank | 1]
    cycles = nbytes / _constant(cluster, "cp_bytes")
    start = max(tables.warps[w, tb.FRONT], *(tables.ctas[m, tb.TENSOR_FREE] for m in members))
    end = start + cycles
    for member in members:
        port = nbytes / _constant(cluster, "shared_port")
        end = max(end, units.reserve(tables, member, tb.PORT, start, port))
    for member in members:
        tables.ctas[member, tb.TENSOR_FREE] = end
        tables.ctas[member, tb.TENSOR_DONE] = max(
            tables.ctas[member, tb.TENSOR_DONE], end + _constant(cluster, "mma_latency")
        )
