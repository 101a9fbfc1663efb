"""Per-thread asynchronous copies and stores: cp.async, st.async, red.async (PTX ISA 9.7.9.25.3, 9.7.9.12, 9.7.13.7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine import state as st
from ..errors import BarrierMisuse
from ..ir import Address, Imm, Not, Reg, Vector, type_bytes
from ..machine import mbarrier, memory
from ..machine.warp import lane_list, require
from ..registry import Blocked, cta_state, op

HINTS = {"L2::cache_hint", "L2::64B", "L2::128B", "L2::256B"}


class Copy:
    """One cp.async instruction of some lanes; `then` runs when it is done."""

    def __init__(self):
        self.done = False
        self.then: list = []

    def finish(self) -> None:
        self.done = True
        for callback in self.then:
            callback()


class ThreadCopies:
    """The cp.async operations of one thread: `open` not committed yet, then `groups`, oldest first."""

    def __init__(self):
        self.open: list[Copy] = []
        self.groups: list[list[Copy]] = []

    def unfinished(self) -> list[Copy]:
        return [c for group in [*self.groups, self.open] for c in group if not c.done]

    def pending_groups(self) -> int:
        while self.groups and all(c.done for c in self.groups[0]):
            self.groups.pop(0)
        return len(self.groups)


@cta_state("thread_copies")
def _make_thread_copies(cta) -> dict:
    """(warp, lane) -> ThreadCopies."""
    return {}


def _thread(warp, lane: int) -> ThreadCopies:
    return warp.cta.thread_copies.setdefault((warp.index, lane), ThreadCopies())


def _prepare_copy(inst):
    mods = [m for m in inst.mods if m not in HINTS]
    require(
        inst,
        mods
        in (
            ["ca", "shared", "global"],
            ["cg", "shared", "global"],
            ["ca", "shared::cta", "global"],
            ["cg", "shared::cta", "global"],
        ),
        f"cp.async.{'.'.join(mods)} is not implemented",
    )
    operands = list(inst.operands)
    if "L2::cache_hint" in inst.mods:
        operands.pop()
    require(
        inst,
        3 <= len(operands) <= 4 and type(operands[2]) is Imm,
        "cp.async: expected [dst], [src], size{, src-size}",
    )
    size = operands[2].value
    require(inst, size in ((4, 8, 16) if mods[0] == "ca" else (16,)), f"cp.async.{mods[0]}: size {size}")
    fourth = operands[3] if len(operands) == 4 else None
    ignore = fourth is not None and (type(fourth) is Not or (type(fourth) is Reg and fourth.type == "pred"))
    return size, fourth, ignore


@op("cp.async", prepare=_prepare_copy, writes=0)
def cp_async(warp, inst, mask):
    size, fourth, ignore = inst.data
    cta, grid = warp.cta, warp.cta.grid
    targets, sources = warp.address(inst.operands[0]), warp.address(inst.operands[1])
    sizes = warp.read_u32(fourth) if fourth is not None else None
    if ignore:  # a predicate: nothing is read and everything is zero where it is true
        sizes = np.where(sizes != 0, 0, size)
    moves, places = [], []
    for lane in lane_list(mask):
        n = size if sizes is None else int(sizes[lane])
        if n > size:
            raise memory.OutOfBounds(f"src-size {n} exceeds cp-size {size}", line=inst.line, text=inst.text)
        target, offset = memory.shared_target(cta, int(targets[lane]), size, inst, align=size, cluster=False)
        view = grid.buffers.view(int(sources[lane]), n, inst, align=size) if n else None
        moves.append((target.shared[offset : offset + size], view, n))
        places.append((offset, size, int(sources[lane]), n))
    copy = Copy()
    for lane in lane_list(mask):
        _thread(warp, lane).open.append(copy)

    def run():
        for destination, view, n in moves:
            if n:
                destination[:n] = view
            destination[n:] = 0
        copy.finish()

    if grid.observer is not None:
        grid.observer.cp_async(warp, inst, places)
    grid.counters["cp_async_bytes"] += size * len(moves)
    grid.asyncs.submit(cta, copy, run, f"cp.async, line {inst.line}")


@op("cp.async.commit_group", modifiers=set(), writes=0)
def commit_group(warp, inst, mask):
    for lane in lane_list(mask):
        copies = _thread(warp, lane)
        copies.groups.append(copies.open)
        copies.open = []
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.cp_commit(warp, inst)


def _wait(warp, inst, mask: int, allowed: int):
    for lane in lane_list(mask):
        pending = _thread(warp, lane).pending_groups()
        if pending > allowed:
            return Blocked(f"cp.async groups: {pending} pending, {allowed} allowed")
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.cp_wait(warp, inst, allowed)
    return None


def _prepare_wait(inst):
    require(inst, len(inst.operands) == 1 and type(inst.operands[0]) is Imm, "cp.async.wait_group: expected a number")
    return inst.operands[0].value


@op("cp.async.wait_group", modifiers=set(), prepare=_prepare_wait, writes=0)
def wait_group(warp, inst, mask):
    return _wait(warp, inst, mask, inst.data)


@op("cp.async.wait_all", modifiers=set(), writes=0)
def wait_all(warp, inst, mask):
    for lane in lane_list(mask):
        if _thread(warp, lane).unfinished():
            return Blocked("cp.async.wait_all: copies are unfinished")
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.cp_commit(warp, inst)
        warp.cta.grid.observer.cp_wait(warp, inst, 0)
    return None


def _prepare_arrive(inst):
    mods = [m for m in inst.mods if m != "noinc"]
    require(
        inst,
        mods in (["shared", "b64"], ["shared::cta", "b64"], ["b64"]),
        f"cp.async.mbarrier.arrive.{'.'.join(mods)} is not implemented",
    )
    return "noinc" in inst.mods, mods == ["b64"]


@op("cp.async.mbarrier.arrive", prepare=_prepare_arrive, writes=0)
def mbarrier_arrive(warp, inst, mask):
    """Each thread arrives once its own earlier cp.asyncs are done. Without .noinc the pending count is raised
    by one first, so that the arrival changes nothing in the end."""
    no_increment, generic = inst.data
    addresses = warp.address(inst.operands[0])
    arrivals: dict[tuple[int, int], list[int]] = {}
    for lane in lane_list(mask):
        address = int(addresses[lane]) - (st.SHARED_WINDOW if generic else 0)
        target, offset = memory.shared_target(warp.cta, address, 8, inst, align=8, cluster=False)
        if not no_increment:
            row = target.mbarriers[offset >> 3]
            if row[st.B_EXPECTED] == 0:
                raise BarrierMisuse(f"{mbarrier.describe(target, offset)} is not initialised")
            row[st.B_PENDING] += 1
        arrivals.setdefault((target.rank, offset), []).append(lane)
    for (rank, offset), lanes in arrivals.items():
        target = warp.cta.cluster[rank]
        if target.grid.observer is not None:
            target.grid.observer.cp_arrive(warp, inst, target, offset)
        ready = 0
        for lane in lanes:
            unfinished = _thread(warp, lane).unfinished()
            if not unfinished:
                ready += 1
                continue
            _arrive_after(unfinished, target, offset, inst)
        if ready:
            mbarrier.arrive(target, offset, ready, inst)


def _arrive_after(copies: list[Copy], cta, offset: int, inst) -> None:
    left = len(copies)

    def one_done():
        nonlocal left
        left -= 1
        if left == 0:
            mbarrier.arrive(cta, offset, 1, inst)

    for copy in copies:
        copy.then.append(one_done)


_REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@dataclass(frozen=True, slots=True)
class AsyncStore:
    """A decoded st.async or red.async. `reduce` is "" for a store."""

    elements: tuple
    nbytes: int
    kind: str
    reduce: str


def _prepare_store(inst):
    mods = list(inst.mods)
    for word in ("weak", "relaxed", "cluster", "shared::cluster"):
        if word in mods:
            mods.remove(word)
    require(inst, "mbarrier::complete_tx::bytes" in mods, f"{inst.name} without .mbarrier::complete_tx::bytes")
    mods.remove("mbarrier::complete_tx::bytes")
    kind = mods.pop()
    count = int(mods.pop(0)[1:]) if mods and mods[0] in ("v2", "v4") else 1
    reduce = mods.pop(0) if inst.name == "red.async" and mods else ""
    require(
        inst,
        not mods and kind in ("b32", "b64", "u32", "s32", "u64", "s64", "f32", "f64"),
        f"{inst.opcode} is not implemented",
    )
    require(
        inst,
        inst.name == "st.async" or reduce in _REDUCTIONS or (reduce in ("inc", "dec") and kind == "u32"),
        f"{inst.opcode} is not implemented",
    )
    require(
        inst,
        len(inst.operands) == 3 and type(inst.operands[2]) is Address,
        f"{inst.name}: expected [address], value, [mbarrier]",
    )
    value = inst.operands[1]
    elements = value.elements if type(value) is Vector else (value,)
    require(inst, len(elements) == count, f"{inst.name}: a vector of {len(elements)}, expected {count}")
    return AsyncStore(elements, count * type_bytes(kind), kind, reduce)


@op("st.async", "red.async", prepare=_prepare_store, writes=0)
def st_async(warp, inst, mask):
    store: AsyncStore = inst.data
    cta = warp.cta
    addresses, barrier_addresses = warp.address(inst.operands[0]), warp.address(inst.operands[2])
    wide = type_bytes(store.kind) == 8
    columns = [warp.read_u64(e) if wide else warp.read_u32(e) for e in store.elements]
    values = np.stack(columns, axis=1).copy()
    for lane in lane_list(mask):
        target, offset = memory.shared_target(cta, int(addresses[lane]), store.nbytes, inst, align=store.nbytes)
        holder, barrier = memory.shared_target(cta, int(barrier_addresses[lane]), 8, inst, align=8)

        def run(target=target, offset=offset, holder=holder, barrier=barrier, value=values[lane]):
            view = target.shared[offset : offset + store.nbytes]
            if store.reduce:
                _reduce(view, value, store)
            else:
                view[:] = value.view(np.uint8)
            mbarrier.complete_tx(holder, barrier, store.nbytes, inst)

        observer = cta.grid.observer
        if observer is not None:
            place = [(target, offset, holder, barrier)]
            run = observer.load(warp, inst, place, store.nbytes, run, reduces=bool(store.reduce))
        cta.grid.asyncs.submit(cta, object(), run, f"{inst.name}, line {inst.line}")


def _reduce(view: np.ndarray, value: np.ndarray, store: AsyncStore) -> None:
    dtype = {
        "u32": np.uint32,
        "s32": np.int32,
        "u64": np.uint64,
        "s64": np.int64,
        "b32": np.uint32,
        "b64": np.uint64,
        "f32": np.float32,
        "f64": np.float64,
    }[store.kind]
    old, new = view.view(dtype), value.view(dtype)
    if store.reduce == "inc":
        old[:] = np.where(old >= new, 0, old + 1)
    elif store.reduce == "dec":
        old[:] = np.where((old == 0) | (old > new), new, old - 1)
    else:
        old[:] = _REDUCTIONS[store.reduce](old, new)
