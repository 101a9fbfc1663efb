"""Tensor Memory instructions of warps: alloc, dealloc, ld, st, wait, fence (PTX ISA 9.7.16.7, .8, .11).

tcgen05.ld reads at a time that the launch's order policy chooses (machine/deferred_loads.py). tcgen05.st takes its
registers when issued and writes at such a time, at the latest before tcgen05.wait::st goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...engine import native
from ...engine import state as st
from ...errors import OutOfBounds, TmemError
from ...ir import Reg, Vector
from ...machine import deferred_loads, memory
from ...machine.warp import require
from ...registry import Blocked, cta_exit, cta_state, op, unsupported
from . import load_store_native
from .layout import LOAD_SHAPES, TMEM_COLUMNS, equal_runs, fragment_map
from .tmem import TensorMemory, split_address

_GROUPS = {"cta_group::1": 1, "cta_group::2": 2}
_ALIGNED = {"sync", "aligned", "b32", "shared::cta", *_GROUPS}


@cta_state("tmem")
def make_tmem(cta) -> TensorMemory:
    tmem = TensorMemory(cta.rank)
    cta.addresses[native.C_TMEM] = tmem.words.ctypes.data
    cta.addresses[native.C_COLUMNS] = tmem.columns.ctypes.data
    return tmem


@cta_exit
def check_leaks(cta) -> None:
    """All Tensor Memory must be deallocated before the kernel exits (9.7.16.7)."""
    if cta.tmem.allocations:
        raise TmemError(
            f"CTA {cta.ctaid} exited with Tensor Memory columns {cta.tmem.describe_allocations()} still allocated"
        )


def at(inst) -> dict:
    """Keyword arguments that make an error name `inst`."""
    return {"line": inst.line, "text": inst.text}


def cta_group(inst, modifiers: tuple[str, ...] | None = None) -> int:
    """1 or 2. Raises UnsupportedInstruction if the modifiers (the instruction's own unless given) do not say."""
    groups = [_GROUPS[m] for m in modifiers or inst.mods if m in _GROUPS]
    require(inst, len(groups) == 1, f"{inst.name} needs .cta_group::1 or .cta_group::2")
    return groups[0]


def peer(cta, inst):
    """The other CTA of the pair. Raises OutOfBounds if the cluster has none."""
    rank = cta.rank ^ 1
    if rank >= len(cta.cluster):
        raise OutOfBounds(
            f".cta_group::2 in a cluster of {len(cta.cluster)} CTA: CTA {cta.rank} has no peer", **at(inst)
        )
    return cta.cluster[rank]


def members_of(cta, group: int, inst) -> tuple:
    """The CTAs that .cta_group::`group` acts on, in the order of their ranks."""
    return (cta,) if group == 1 else tuple(sorted((cta, peer(cta, inst)), key=lambda member: member.rank))


def shared_address(cta, address: int, nbytes: int, inst, *, generic: bool, align: int, cluster: bool):
    """(CTA, offset) of a shared address that may be given generically."""
    if generic:
        if not memory.is_shared_window(address):
            raise OutOfBounds(f"generic address {address:#x} is not in the window of shared memory", **at(inst))
        address -= st.SHARED_WINDOW
    return memory.shared_target(cta, address, nbytes, inst, align=align, cluster=cluster)


def _prepare_alloc(inst) -> int:
    wrong = [m for m in inst.mods if m not in _ALIGNED]
    if wrong:
        raise unsupported(inst, f"modifier .{wrong[0]} of {inst.name} is not implemented")
    return cta_group(inst)


@op("tcgen05.alloc", prepare=_prepare_alloc, sync="aligned", writes=0)
def alloc(warp, inst, mask: int):
    """Allocate columns and store their address. Blocks while they are not free; with .cta_group::2 until the peer's
    warp allocates too: both then get the same columns."""
    cta, tmem, where = warp.cta, warp.cta.tmem, at(inst)
    columns = warp.uniform(inst.operands[1], mask, inst)
    address = warp.uniform_address(inst.operands[0], mask, inst)
    _, offset = shared_address(cta, address, 4, inst, generic="shared::cta" not in inst.mods, align=4, cluster=False)
    tmem.check_request(columns, where)
    if inst.data == 1:
        first = tmem.find(columns)
        if first is None:
            return Blocked(f"tcgen05.alloc of {columns} columns; allocated are {tmem.describe_allocations()}")
        tmem.allocate(first, columns)
        _store_address(warp, inst, cta, offset, first)
        return None
    return _alloc_pair(warp, inst, peer(cta, inst), columns, offset)


def _alloc_pair(warp, inst, other, columns: int, offset: int):
    cta, where = warp.cta, at(inst)
    if cta.tmem.requests.get("alloc") == "granted":
        del cta.tmem.requests["alloc"]
        return None
    cta.tmem.requests["alloc"] = (columns, offset)
    theirs = other.tmem.requests.get("alloc")
    if theirs is None or theirs == "granted":
        return Blocked(f"tcgen05.alloc.cta_group::2 of {columns} columns: CTA {other.rank} has not joined")
    if theirs[0] != columns:
        raise TmemError(f"tcgen05.alloc.cta_group::2: {columns} columns here, {theirs[0]} in CTA {other.rank}", **where)
    first = cta.tmem.find(columns)
    if first is None or first != other.tmem.find(columns):
        return Blocked(
            f"tcgen05.alloc.cta_group::2 of {columns} columns; allocated are "
            f"{cta.tmem.describe_allocations()} here, {other.tmem.describe_allocations()} in the peer"
        )
    for member, place in ((cta, offset), (other, theirs[1])):
        member.tmem.allocate(first, columns)
        _store_address(warp, inst, member, place, first)
    del cta.tmem.requests["alloc"]
    other.tmem.requests["alloc"] = "granted"
    cta.header[st.H_PROGRESS] += 1
    return None


def _store_address(warp, inst, cta, offset: int, column: int) -> None:
    if cta.grid.observer is not None:
        # Each CTA's own warp stores its address.
        cta.grid.observer.allocated(cta.warps[warp.index], inst, cta, offset)
    cta.shared[offset : offset + 4] = np.array([column], np.uint32).view(np.uint8)


@op("tcgen05.dealloc", prepare=_prepare_alloc, sync="aligned", writes=0)
def dealloc(warp, inst, mask: int):
    """Give columns back. With .cta_group::2 each CTA gives back its own, without waiting for the other."""
    lane, column = split_address(warp.uniform(inst.operands[0], mask, inst))
    if lane:
        raise TmemError(f"dealloc at lane {lane}: an allocation starts at lane 0", **at(inst))
    if inst.data == 2:
        peer(warp.cta, inst)
    columns = warp.uniform(inst.operands[1], mask, inst)
    warp.cta.tmem.free(column, columns, at(inst))
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.deallocated(warp, inst, column, columns)
    warp.cta.header[st.H_PROGRESS] += 1


@op("tcgen05.relinquish_alloc_permit", prepare=_prepare_alloc, sync="aligned", writes=0)
def relinquish(warp, inst, mask: int):
    """The CTA may not allocate any more."""
    warp.cta.tmem.relinquished = True


@dataclass(slots=True)
class Access:
    """A decoded tcgen05.ld or .st. cells: flat indices int64 [registers, 32] from the address; with packing, those of
    the low halves, the high halves lie one column on. columns: how many are touched. height: lanes, 16 or 32. runs: the
    cells as (int64 starts, cells from each)."""

    cells: np.ndarray
    columns: int
    height: int
    packed: bool
    registers: tuple
    address: object
    by_lane: np.ndarray  # the cells as int32 [32, registers]
    runs: tuple[np.ndarray, int]
    slots: np.ndarray | None = field(default=None)


def make_access(lane, column, *, height: int, packed: bool, registers: tuple, address) -> Access:
    """An Access of the cells at int64 [registers, 32] lanes and columns from the address."""
    cells = lane * TMEM_COLUMNS + column
    by_lane = np.ascontiguousarray(cells.T, np.int32)
    runs = equal_runs(np.stack([cells, cells + 1]) if packed else cells, 1)
    return Access(cells, int(column.max()) + 1 + packed, height, packed, registers, address, by_lane, runs)


def _prepare_access(inst) -> Access:
    load = inst.name == "tcgen05.ld"
    packing = "pack::16b" if load else "unpack::16b"
    mods = list(inst.mods)
    for name in ("sync", "aligned", "b32"):
        require(inst, name in mods, f"{inst.name} needs .{name}")
        mods.remove(name)
    packed = packing in mods
    if packed:
        mods.remove(packing)
    shapes = [m for m in mods if m in LOAD_SHAPES]
    repeats = [m for m in mods if m[:1] == "x" and m[1:] in ("1", "2", "4", "8", "16", "32", "64", "128")]
    require(
        inst,
        len(shapes) == 1 and len(repeats) == 1 and len(mods) == 2,
        f"modifiers .{'.'.join(inst.mods)} of {inst.name}: implemented are .sync.aligned, one shape of "
        f"{', '.join('.' + s for s in LOAD_SHAPES)}, one of .x1 to .x128, .{packing} and .b32",
    )
    shape = shapes[0]
    split_form = shape == "16x32bx2"
    require(inst, len(inst.operands) == 2 + split_form, f"{len(inst.operands)} operands, expected {2 + split_form}")
    split = inst.operands[2 if load else 1].value if split_form else 0
    try:
        lane, column = fragment_map(shape, int(repeats[0][1:]), 0)
    except ValueError as error:
        raise unsupported(inst, str(error)) from None
    if packed:
        column = column * 2
    if split_form:
        column = column + np.where(np.arange(32) >= 16, split, 0)
    registers = inst.operands[0 if load else -1]
    registers = registers.elements if isinstance(registers, Vector) else (registers,)
    require(inst, all(type(r) is Reg and not r.is64 for r in registers), "the data must be 32-bit registers")
    require(inst, len(registers) == len(lane), f"{len(registers)} registers, .{shape}.{repeats[0]} has {len(lane)}")
    address = inst.operands[1 if load else 0]
    return make_access(lane, column, height=LOAD_SHAPES[shape][1], packed=packed, registers=registers, address=address)


def first_cell(warp, inst, access: Access, mask: int) -> int:
    """Flat index of the address, after the checks of 9.7.16.8.1.

    A warp reaches its own quarter of the lanes only, so hardware does not need the quarter in the address: kernels that
    leave it 0 in every warp run on it (FlashMLA's sm100 kernels; CUTLASS' 1cta_mma_a_from_tmem.py).
    """
    lane, column = split_address(warp.uniform_address(access.address, mask, inst))
    quarter = 32 * (warp.index % 4)
    within = lane % 32
    if lane - within not in (0, quarter) or within % access.height:
        allowed = (quarter,) if access.height == 32 else (quarter, quarter + 16)
        raise TmemError(
            f"lane {lane} in the address: warp {warp.index} may use {' or '.join(map(str, allowed))}, without the "
            f"{quarter} if it likes",
            **at(inst),
        )
    warp.cta.tmem.check_columns(column, access.columns, at(inst))
    return (quarter + within) * TMEM_COLUMNS + column


def _slots(access: Access) -> np.ndarray:
    if access.slots is None:
        access.slots = np.array([register.slot for register in access.registers])
    return access.slots


def _native_load(inst, symbols):
    return load_store_native.access_arguments(load_store_native.load, native.IN_ORDER, inst, symbols)


def _native_store(inst, symbols):
    return load_store_native.access_arguments(load_store_native.store, native.IN_ORDER, inst, symbols)


@op("tcgen05.ld", prepare=_prepare_access, sync="aligned", writes=1, native=_native_load)
def load(warp, inst, mask: int):
    """Tensor Memory to registers."""
    access = inst.data
    first = first_cell(warp, inst, access, mask)
    cells = access.cells + first
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.fragment(warp, inst, access.runs, first, write=False)
    words, slots = warp.cta.tmem.words.reshape(-1), _slots(access)

    def read():
        values = words[cells]
        if access.packed:
            values = values & np.uint32(0xFFFF) | words[cells + 1] << np.uint32(16)
        warp.r32[slots] = values

    deferred_loads.defer(warp, inst, read)


@op("tcgen05.st", prepare=_prepare_access, sync="aligned", writes=0, native=_native_store)
def store(warp, inst, mask: int):
    """Registers to Tensor Memory."""
    access, tmem, index = inst.data, warp.cta.tmem, warp.index
    first = first_cell(warp, inst, access, mask)
    cells = access.cells + first
    values = warp.r32[_slots(access)]
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.fragment(warp, inst, access.runs, first, write=True)
    tmem.pending_stores[index] = tmem.pending_stores.get(index, 0) + 1

    def run():
        words = tmem.words.reshape(-1)
        if access.packed:
            words[cells], words[cells + 1] = values & 0xFFFF, values >> np.uint32(16)
        else:
            words[cells] = values
        tmem.pending_stores[index] -= 1

    warp.cta.grid.asyncs.submit(warp.cta, ("tcgen05.st", warp.cta.rank, index), run, f"tcgen05.st, line {inst.line}")


@op(
    "tcgen05.wait::ld",
    modifiers={"sync", "aligned"},
    sync="aligned",
    writes=0,
    native=native.nothing_to_do(native.IN_ORDER),
    changes=False,
)
def wait_load(warp, inst, mask: int):
    """The warp's loads are complete."""
    deferred_loads.settle_all(warp)
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.tensor_wait(warp, loads=True)


@op(
    "tcgen05.wait::st",
    modifiers={"sync", "aligned"},
    sync="aligned",
    writes=0,
    native=native.nothing_to_do(native.IN_ORDER),
    changes=False,
)
def wait_store(warp, inst, mask: int):
    """Wait for the warp's stores."""
    pending = warp.cta.tmem.pending_stores.get(warp.index, 0)
    if pending:
        return Blocked(f"tcgen05.wait::st: {pending} stores are on their way")
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.tensor_wait(warp, loads=False)
    return None


@op(
    "tcgen05.fence::before_thread_sync",
    "tcgen05.fence::after_thread_sync",
    modifiers=set(),
    writes=0,
    native=native.nothing_to_do(native.IMMEDIATE),
    changes=False,
)
def fence(warp, inst, mask: int):
    """Orders tcgen05 operations with thread synchronisation; the emulator's threads are sequentially consistent."""
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.tensor_fence(warp, mask, before=inst.name.endswith("before_thread_sync"))
