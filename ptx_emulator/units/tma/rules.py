"""Bulk and tensor copies: cp.async.bulk*, cp.reduce.async.bulk*, prefetches, bulk groups (PTX ISA 9.7.9.25-27).

A copy is carried out as a whole, at a time that the launch's order policy chooses; its completion (mbarrier tx-count
or bulk group) follows in the same step. Cache hints and prefetches have no effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ...errors import EmulationError, OutOfBounds, UnsupportedInstruction
from ...ir import Address, Vector
from ...machine import mbarrier, memory
from ...machine.warp import lane_list, require
from ...registry import Blocked, cta_exit, cta_state, op, unsupported
from ..per_thread import lane_address, lane_word
from . import load_native
from .reduction import REDUCTION_TYPES, REDUCTIONS, check_type, reduce
from .tensormap import SWIZZLES, TENSOR_MAP_BYTES, TensorMap, box_extent, copy_box, padded, round_tf32, spread

_COMPLETE_TX = "mbarrier::complete_tx::bytes"
_TENSOR_ALIGN = 128
_BULK_ALIGN = 16
_SIGN = 1 << 31
_DIMENSIONS = {f"{d}d": d for d in range(1, 6)}


class BulkGroups:
    """The bulk async-groups of one thread: `open` operations not committed yet, then `groups`, oldest first."""

    def __init__(self):
        self.open: list[Transfer] = []
        self.groups: list[list[Transfer]] = []

    def pending(self) -> int:
        """Groups that are not complete; complete ones at the front are dropped."""
        while self.groups and all(t.done for t in self.groups[0]):
            self.groups.pop(0)
        return len(self.groups)


class Transfer:
    """One copy from shared to global memory, followed by its bulk group."""

    def __init__(self):
        self.done = False


@cta_state("bulk_groups")
def make_bulk_groups(cta) -> dict:
    """(warp index, lane) -> BulkGroups."""
    return {}


@cta_exit
def check_bulk_groups(cta) -> None:
    """Shared memory must not be given up while a bulk store still reads it (9.7.9.25.1)."""
    for (warp, lane), groups in cta.bulk_groups.items():
        if groups.open or groups.pending():
            raise EmulationError(
                f"warp {warp} lane {lane} of CTA {cta.rank} exited without cp.async.bulk.wait_group for its stores"
            )


def _groups(warp, lane: int) -> BulkGroups:
    return warp.cta.bulk_groups.setdefault((warp.index, lane), BulkGroups())


def _at(inst) -> dict:
    return {"line": inst.line, "text": inst.text}


@dataclass(frozen=True, slots=True)
class Copy:
    """A decoded instruction. `source`/`destination`: "global", "shared::cta" or "shared::cluster". `rank` is 0 for a
    copy without tensor map. `gather`: four rows (gather4, scatter4). `mask`: the ctaMask operand of a multicast."""

    source: str
    destination: str
    rank: int = 0
    gather: bool = False
    multicast: bool = False
    pair: bool = False
    reduction: str = ""
    type: str = ""
    mask: object = None


def _prepare(inst) -> Copy:
    """Sort the modifiers, whose order varies between ISA versions, and check the operands."""
    left = list(inst.mods)

    def take(*names: str) -> str:
        for name in names:
            if name in left:
                left.remove(name)
                return name
        return ""

    rank = _DIMENSIONS.get(take(*_DIMENSIONS), 0)
    require(inst, (rank > 0) == ("tensor" in inst.name.split(".")), f"{inst.name} needs a dimension .1d to .5d")
    spaces = [m for m in left if m in ("global", "shared::cta", "shared::cluster")]
    require(inst, len(spaces) == 2, f"{inst.name} needs a destination and a source state space")
    destination, source = spaces
    left.remove(destination)
    left.remove(source)
    allowed = (("shared::cluster", "global"), ("shared::cta", "global"), ("global", "shared::cta"))
    if not rank:
        allowed += (("shared::cluster", "shared::cta"),)
    require(inst, (destination, source) in allowed, f"direction .{destination}.{source} does not exist")
    mode = take("tile::gather4", "tile::scatter4", "tile")
    multicast, group = bool(take("multicast::cluster")), take("cta_group::1", "cta_group::2")
    hint = bool(take("L2::cache_hint"))
    reduction = take(*REDUCTIONS) if "reduce" in inst.name else ""
    type_ = ""
    if reduction and not rank:
        take("noftz")
        type_ = take(*REDUCTION_TYPES[reduction])
        require(inst, bool(type_), f".{reduction} needs one of the types {REDUCTION_TYPES[reduction]}")
    completion = take(_COMPLETE_TX, "bulk_group")
    to_global = destination == "global"
    require(
        inst,
        completion == ("bulk_group" if to_global else _COMPLETE_TX),
        f"copies to .{destination} need .{'bulk_group' if to_global else _COMPLETE_TX}",
    )
    require(inst, not left, f"modifier .{'.'.join(left)} of {inst.name} is not implemented")
    exact = reduction and not rank and "f" not in type_ and (destination, source) == allowed[-1]
    require(inst, not reduction or to_global or exact, "reductions into shared memory take integers from .shared::cta")
    require(inst, ("reduce" in inst.name) == bool(reduction), f"{inst.name} needs one of .{', .'.join(REDUCTIONS)}")
    require(inst, not (multicast or group) or not to_global, "copies to .global take no .multicast or .cta_group")
    require(inst, not multicast or destination == "shared::cluster", ".multicast::cluster needs .shared::cluster")
    four_rows = mode in ("tile::gather4", "tile::scatter4")
    right_way = rank == 2 and not reduction and to_global == (mode == "tile::scatter4")
    require(inst, not four_rows or right_way, f".{mode} is for two-dimensional {'stores' if 'sc' in mode else 'loads'}")
    common = (2 if to_global else 3) + (0 if rank else 1)
    expected = common + multicast + hint
    require(inst, len(inst.operands) == expected, f"{len(inst.operands)} operands, expected {expected}")
    copy = Copy(
        source,
        destination,
        rank,
        four_rows,
        multicast,
        group == "cta_group::2",
        reduction,
        type_,
        inst.operands[common] if multicast else None,
    )
    if rank:
        _check_coordinates(inst, inst.operands[0 if to_global else 1], 5 if copy.gather else rank)
    return copy


def _check_coordinates(inst, operand, count: int) -> None:
    good = (
        isinstance(operand, Address)
        and len(operand.extra) == 1
        and isinstance(operand.extra[0], Vector)
        and len(operand.extra[0].elements) == count
    )
    require(inst, good, f"the tensor operand must be [map, {{{count} coordinates}}]")


def _tensor_map(warp, operand: Address, lane: int, inst, copy: Copy) -> tuple[TensorMap, list[int]]:
    grid, address = warp.cta.grid, lane_address(warp, operand, lane)
    record = grid.buffers.view(address, TENSOR_MAP_BYTES, inst, align=64).tobytes()
    try:
        tensor = TensorMap.from_bytes(record)
    except ValueError as error:
        raise EmulationError(str(error), **_at(inst)) from None
    grid.tensor_maps.add(address, record, tensor)
    if tensor.rank != copy.rank:
        raise EmulationError(f"a .{copy.rank}d copy with a tensor map of rank {tensor.rank}", **_at(inst))
    words = (lane_word(warp, element, lane) for element in operand.extra[0].elements)
    return tensor, [(word ^ _SIGN) - _SIGN for word in words]


def _boxes(tensor: TensorMap, coordinates: list[int], gather: bool, inst) -> list[np.ndarray]:
    """The boxes that a copy takes, in the order in which they lie in shared memory."""
    try:
        first = tensor.place(coordinates[:1] if gather else coordinates)
    except ValueError as error:
        raise EmulationError(str(error), **_at(inst)) from None
    if not gather:
        return [first]
    if tensor.box[1] != 1:
        raise EmulationError(f"four rows need a box of one row, the map has box={tensor.box}", **_at(inst))
    return [padded((first[0], row)) for row in coordinates[1:]]


def _global_window(grid, tensor: TensorMap, box: np.ndarray, inst, write: bool) -> tuple[np.ndarray, int]:
    """(bytes that hold the in-bounds part of the box, index in them of the tensor's element 0)."""
    low, high = box_extent(box, tensor.table)
    if low == high:
        return np.empty(0, np.uint8), 0
    return grid.buffers.view(tensor.address + int(low), int(high - low), inst, write=write), -int(low)


def _run_boxes(grid, tensor: TensorMap, boxes, shared, start: int, inst, store: bool) -> None:
    swizzle = SWIZZLES[tensor.swizzle]
    for i, box in enumerate(boxes):
        window, origin = _global_window(grid, tensor, box, inst, store)
        if tensor.element_type == "tf32" and not store:
            window = round_tf32(window.view(np.uint32)).view(np.uint8)
        place, target = start + i * tensor.box_bytes, shared
        if tensor.is_padded:
            place, swizzle = 0, SWIZZLES["none"]
            target = np.empty(int(np.prod(tensor.counts)) * tensor.element_bytes, np.uint8)
        copy_box(
            window,
            origin,
            target,
            place,
            box,
            tensor.table,
            swizzle.bits,
            swizzle.source,
            swizzle.target,
            tensor.fill,
            store,
        )
        if tensor.is_padded:
            spread(target, tensor, shared, start + i * tensor.box_bytes)


def _targets(cta, copy: Copy, warp, lane: int, destination: int, mbar: int, nbytes: int, align: int, inst) -> list:
    """[(CTA, data offset, barrier CTA, barrier offset)] for a copy into shared memory."""
    in_cluster = copy.destination == "shared::cluster"
    target, offset = memory.shared_target(cta, destination, nbytes, inst, align=align, cluster=in_cluster)
    holder, barrier = memory.shared_target(cta, mbar, 8, inst, align=8)
    if not copy.multicast:
        same = holder.rank == target.rank or (copy.pair and holder.rank ^ 1 == target.rank)
        if not same:
            raise OutOfBounds(
                f"mbarrier in CTA {holder.rank} for data in CTA {target.rank}: must be "
                f"{'the same CTA or its pair' if copy.pair else 'the same CTA'}",
                **_at(inst),
            )
        return [(target, offset, holder, barrier)]
    mask = lane_word(warp, copy.mask, lane) & 0xFFFF
    ranks = [r for r in range(16) if mask >> r & 1]
    if not ranks or ranks[-1] >= len(cta.cluster):
        raise OutOfBounds(f"ctaMask {mask:#06x} in a cluster of {len(cta.cluster)}", **_at(inst))
    holders = [r & ~1 | holder.rank & 1 if copy.pair else r for r in ranks]
    return [(cta.cluster[r], offset, cta.cluster[h], barrier) for r, h in zip(ranks, holders, strict=True)]


@op(
    "cp.async.bulk.tensor",
    "cp.reduce.async.bulk.tensor",
    prepare=_prepare,
    writes=0,
    native=load_native.load_arguments,
)
def tensor_copy(warp, inst, mask: int):
    """Per thread: one box (or four rows) between global and shared memory."""
    stored: dict[tuple, Transfer] = {}
    for lane in lane_list(mask):
        if inst.data.destination == "global":
            _tensor_store(warp, inst, lane, stored)
        else:
            _tensor_load(warp, inst, lane)


def _tensor_load(warp, inst, lane: int) -> None:
    cta, copy = warp.cta, inst.data
    destination, source, mbar = inst.operands[:3]
    tensor, coordinates = _tensor_map(warp, source, lane, inst, copy)
    boxes = _boxes(tensor, coordinates, copy.gather, inst)
    nbytes = tensor.box_bytes * len(boxes)
    targets = _targets(
        cta,
        copy,
        warp,
        lane,
        lane_address(warp, destination, lane),
        lane_address(warp, mbar, lane),
        nbytes,
        _TENSOR_ALIGN,
        inst,
    )
    grid = cta.grid

    def fetch(shared, offset):
        _run_boxes(grid, tensor, boxes, shared, offset, inst, store=False)

    counted = tensor.transaction_bytes * len(boxes)

    def signal():
        for _, _, holder, barrier in targets:
            mbarrier.complete_tx(holder, barrier, counted, inst)

    if grid.observer is not None:
        place = lane_address(warp, source, lane)
        signal = grid.observer.load(warp, inst, targets, nbytes, signal, boxes=(tensor, boxes, place))
    grid.counters["tma_load_bytes"] += counted
    grid.counters["tma_loads"] += 1
    grid.asyncs.submit(
        cta,
        object(),
        [*_load_steps(grid, targets, nbytes, fetch, whole=not tensor.is_padded), signal],
        f"TMA load, line {inst.line}",
    )


def _load_steps(grid, targets, nbytes: int, fetch, whole: bool) -> list:
    """The steps that move a box into shared memory. `fetch(shared, offset)` writes it at an offset of an array, which
    its swizzle only knows modulo 1024; `whole`: every byte of it."""
    if grid.order != "adversarial" or nbytes % _TENSOR_ALIGN or not whole:
        # A swizzle moves a part of a row anywhere within the row.
        def move():
            for target, offset, _, _ in targets:
                fetch(target.shared, offset)

        return [move]
    first = targets[0][1] % 1024
    stage = np.empty(first + nbytes, np.uint8)

    def write(target, offset):
        target.shared[offset : offset + nbytes] = stage[first:]

    writes = [partial(write, target, offset) for target, offset, _, _ in targets]
    return [partial(fetch, stage, first), *writes]


def _tensor_store(warp, inst, lane: int, stored: dict[tuple, Transfer]) -> None:
    """`stored`: the stores of the lanes before this one. CuTe DSL lets all lanes of a warp store the same box; it is
    written once. Reductions are not idempotent and are done for every lane."""
    cta, copy = warp.cta, inst.data
    tensor, coordinates = _tensor_map(warp, inst.operands[0], lane, inst, copy)
    place = lane_address(warp, inst.operands[1], lane)
    key = (tensor, *coordinates, place)
    if key in stored and not copy.reduction:
        _groups(warp, lane).open.append(stored[key])
        return
    if tensor.is_padded:
        raise UnsupportedInstruction(f"stores through a tensor map of {tensor.element_type}", **_at(inst))
    boxes = _boxes(tensor, coordinates, copy.gather, inst)
    nbytes = tensor.box_bytes * len(boxes)
    _, start = memory.shared_target(cta, place, nbytes, inst, align=_TENSOR_ALIGN, cluster=False)
    if copy.reduction:
        try:
            check_type(copy.reduction, tensor.element_type)
        except ValueError as error:
            raise UnsupportedInstruction(str(error), **_at(inst)) from None
    grid = cta.grid
    transfer = stored[key] = Transfer()

    source = cta.shared

    def read():
        nonlocal source
        source = cta.shared.copy()

    def run():
        values = source
        if copy.reduction:
            # The old values take the box's place in a copy of shared memory, so both sides have one layout.
            values = source.copy()
            _run_boxes(grid, tensor, boxes, values, start, inst, store=False)
            part = slice(start & ~1023, start + tensor.box_bytes + 1023 & ~1023)
            values[part] = reduce(values[part], source[part], copy.reduction, tensor.element_type)
        _run_boxes(grid, tensor, boxes, values, start, inst, store=True)
        transfer.done = True

    if grid.observer is not None:
        source_map = lane_address(warp, inst.operands[0], lane)
        grid.observer.store(warp, inst, start, nbytes, boxes=(tensor, boxes, source_map), reduces=bool(copy.reduction))
    grid.counters["tma_store_bytes"] += nbytes
    _groups(warp, lane).open.append(transfer)
    steps = [read, run] if grid.order == "adversarial" else run
    grid.asyncs.submit(cta, object(), steps, f"TMA store, line {inst.line}")


@op("cp.async.bulk", "cp.reduce.async.bulk", prepare=_prepare, writes=0)
def bulk_copy(warp, inst, mask: int):
    """Per thread: `size` contiguous bytes."""
    for lane in lane_list(mask):
        _bulk_copy(warp, inst, lane)


def _bulk_copy(warp, inst, lane: int) -> None:
    cta, copy, grid = warp.cta, inst.data, warp.cta.grid
    destination, source = (lane_address(warp, operand, lane) for operand in inst.operands[:2])
    nbytes = lane_word(warp, inst.operands[2], lane)
    if nbytes % _BULK_ALIGN:
        raise EmulationError(f"size {nbytes} is not a multiple of 16", **_at(inst))
    if copy.destination == "global":
        _, start = memory.shared_target(cta, source, nbytes, inst, align=_BULK_ALIGN, cluster=False)
        view = grid.buffers.view(destination, nbytes, inst, align=_BULK_ALIGN, write=True)
        transfer = Transfer()

        def store():
            new = cta.shared[start : start + nbytes]
            view[:] = reduce(view, new, copy.reduction, copy.type) if copy.reduction else new
            transfer.done = True

        if grid.observer is not None:
            reduces = bool(copy.reduction)
            grid.observer.store(warp, inst, start, nbytes, memory=(destination, nbytes), reduces=reduces)
        _groups(warp, lane).open.append(transfer)
        grid.counters["bulk_store_bytes"] += nbytes
        grid.asyncs.submit(cta, object(), store, f"bulk store, line {inst.line}")
        return
    origin = {}
    if copy.source == "global":
        view = grid.buffers.view(source, nbytes, inst, align=_BULK_ALIGN)
        origin["memory"] = (source, nbytes)
    else:
        _, start = memory.shared_target(cta, source, nbytes, inst, align=_BULK_ALIGN, cluster=False)
        view = cta.shared[start : start + nbytes]
        origin["shared"] = (cta, start, nbytes)
    mbar = lane_address(warp, inst.operands[3], lane)
    targets = _targets(cta, copy, warp, lane, destination, mbar, nbytes, _BULK_ALIGN, inst)

    def load():
        for target, offset, _, _ in targets:
            there = target.shared[offset : offset + nbytes]
            there[:] = reduce(there, view, copy.reduction, copy.type) if copy.reduction else view

    def signal():
        for _, _, holder, barrier in targets:
            mbarrier.complete_tx(holder, barrier, nbytes, inst)

    if grid.observer is not None:
        signal = grid.observer.load(warp, inst, targets, nbytes, signal, **origin, reduces=bool(copy.reduction))
    grid.counters["bulk_load_bytes"] += nbytes
    grid.asyncs.submit(cta, object(), [load, signal], f"bulk copy, line {inst.line}")


@op("cp.async.bulk.commit_group", modifiers=set(), writes=0)
def commit_group(warp, inst, mask: int):
    """Batch the thread's open operations into a group."""
    for lane in lane_list(mask):
        groups = _groups(warp, lane)
        groups.groups.append(groups.open)
        groups.open = []
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.bulk_commit(warp, inst)


@op("cp.async.bulk.wait_group", modifiers={"read"}, writes=0)
def wait_group(warp, inst, mask: int):
    """Wait until at most N groups are pending. A copy reads and writes in one step, so `.read` waits as long."""
    allowed = warp.uniform(inst.operands[0], mask, inst)
    for lane in lane_list(mask):
        groups = warp.cta.bulk_groups.get((warp.index, lane))
        if groups is not None and groups.pending() > allowed:
            return Blocked(f"cp.async.bulk.wait_group {allowed}: lane {lane} has {groups.pending()} groups pending")
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.bulk_wait(warp, inst, allowed, read="read" in inst.mods)
    return None


def _prepare_prefetch(inst) -> None:
    known = {"L2", "global", "tile", "tile::gather4", "L2::cache_hint", *_DIMENSIONS}
    wrong = [m for m in inst.mods if m not in known]
    if wrong:
        raise unsupported(inst, f"modifier .{wrong[0]} of {inst.name} is not implemented")


@op(
    "cp.async.bulk.prefetch",
    "cp.async.bulk.prefetch.tensor",
    "prefetch.tensormap",
    "prefetch.param.tensormap",
    prepare=_prepare_prefetch,
    writes=0,
)
def prefetch(warp, inst, mask: int):
    """A hint about caches: nothing to do."""


@op("fence.proxy.tensormap::generic", modifiers={"acquire", "release", "cta", "cluster", "gpu", "sys"}, writes=0)
def fence_tensormap(warp, inst, mask: int):
    """Tensor maps are read from memory at each use, so they are always current; only checks take note."""
    observer = warp.cta.grid.observer
    if observer is None:
        return
    if "release" in inst.mods:
        observer.maps.release(warp)
    else:
        for address in {lane_address(warp, inst.operands[0], lane) for lane in lane_list(mask)}:
            observer.maps.acquire(warp, address)
