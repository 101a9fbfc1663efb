"""tcgen05.ld as an asynchronous operation: when it reads (PTX ISA 9.7.16.6.1).

Issuing the instruction says where it reads; the cells are read, and the registers written, at a time that the order
policy chooses, and at the latest when

    the warp executes tcgen05.wait::ld, or
    the warp executes an instruction that reads or writes a register that the load writes: a true register dependency is
    respected without a wait, and orders nothing else (9.7.16.6.4.5).

Nobody can tell what the registers hold before that, so nothing else about them is kept. Loads are not ordered with each
other, nor with other work of the warp. In order, a load reads when it is issued.

`mov` to another register, or of two registers into a pair, is no use: an assembler renames registers instead, and
compilers put such moves between a load and its wait. The copies are then made when the load reads.

The decoder finds the uses (front/load_uses.py) and puts a micro-operation in front of them, which costs a test where no
load is pending.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..engine import state as st


@dataclass(frozen=True, slots=True)
class Copies:
    """A run of moves of registers that a load writes, as rows of the register files.

    moves    int64[2, n]: destination and source of `mov.b32`
    packs    int64[3, n]: destination in the r64 file, low and high half of `mov.b64 d, {low, high}`
    unused   sources that nothing reads after the run: their rows may get other values
    """

    moves: np.ndarray
    packs: np.ndarray
    unused: frozenset[int]

    def make(self, warp) -> None:
        words, low, high = warp.r32[self.moves[1]], warp.r32[self.packs[1]], warp.r32[self.packs[2]]
        warp.r32[self.moves[0]] = words
        warp.r64[self.packs[0]] = low | high.astype(np.uint64) << np.uint64(32)


class PendingLoad:
    """A load that has not read. `unused`: rows that it must leave alone, `copies` what to do with what it has read."""

    def __init__(self, warp, inst, read: Callable[[], None]):
        self.warp = warp
        self.inst = inst
        self.unit = ("tcgen05.ld", warp.index, id(inst))
        self.copies: list[Copies] = []
        self.unused: set[int] = set()
        self._read = read

    def add(self, copies: Copies) -> None:
        self.copies.append(copies)
        self.unused = (self.unused | copies.unused) - set(copies.moves[0].tolist())

    def run(self) -> None:
        warp = self.warp
        del warp.loads[id(self.inst)]
        warp.row[st.W_LOADS] -= 1
        rows = sorted(self.unused)
        others = warp.r32[rows]
        self._read()
        for copies in self.copies:
            copies.make(warp)
        warp.r32[rows] = others

    def finish(self) -> None:
        self.warp.cta.grid.asyncs.finish(self.warp.cta, self.unit)


def defer(warp, inst, read: Callable[[], None]) -> None:
    """`read` carries the warp's load `inst` out, once."""
    if id(inst) in warp.loads:
        warp.loads[id(inst)].finish()
    load = warp.loads[id(inst)] = PendingLoad(warp, inst, read)
    warp.row[st.W_LOADS] += 1
    warp.cta.grid.asyncs.submit(warp.cta, load.unit, load.run, f"tcgen05.ld, line {inst.line}")


def settle_all(warp) -> None:
    """The warp's loads read now if they have not."""
    for load in list(warp.loads.values()):
        load.finish()


def settle(warp, inst, mask: int) -> None:
    """In front of an instruction that touches registers of the loads `inst.data`."""
    for load in inst.data:
        if id(load) in warp.loads:
            warp.loads[id(load)].finish()


def follow(warp, inst, mask: int) -> None:
    """In front of moves: `inst.data` is [(load, its Copies)]. Lanes that have diverged wait for the load."""
    for load, copies in inst.data:
        if id(load) in warp.loads:
            if mask == warp.live:
                warp.loads[id(load)].add(copies)
            else:
                warp.loads[id(load)].finish()
