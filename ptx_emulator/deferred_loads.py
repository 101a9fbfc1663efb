"""tcgen05.ld as an asynchronous operation: when it reads (PTX ISA 9.7.16.6.1).

Issuing the instruction says where it reads; the cells are read, and the registers written, at a time that the order
policy chooses, and at the latest when

    the warp executes tcgen05.wait::ld, or
    the warp executes an instruction that reads or writes a register that the load writes: a true register dependency is
    respected without a wait, and orders nothing else (9.7.16.6.4.5).

Nobody can tell what the registers hold before that, so nothing else about them is kept. Loads are not ordered with each
other, nor with other work of the warp. In order, a load reads when it is issued.

The second case is found when a kernel is decoded: on every path from a load, without a wait::ld on the way, the first
instruction that touches its registers gets a micro-operation SETTLE in front, which costs a test where no load is
pending. Rows of the register file are followed, not PTX registers: a row that a dead register gives up may have another
value before the load has read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from . import microcode as mc
from . import state as st
from .liveness import basic_blocks
from .registry import Handler

LOADS = ("tcgen05.ld", "tcgen05.ld.red")
WAIT = "tcgen05.wait::ld"


# While a kernel runs.


def defer(warp, inst, read: Callable[[], None]) -> None:
    """`read` carries the warp's load `inst` out, once. The load before by the same instruction has been."""
    unit = ("tcgen05.ld", warp.index, id(inst))

    def run():
        del warp.loads[id(inst)]
        warp.row[st.W_LOADS] -= 1
        read()

    warp.loads[id(inst)] = unit
    warp.row[st.W_LOADS] += 1
    warp.cta.grid.asyncs.submit(warp.cta, unit, run, f"tcgen05.ld, line {inst.line}")


def settle_all(warp) -> None:
    """The warp's loads read now if they have not."""
    for unit in list(warp.loads.values()):
        warp.cta.grid.asyncs.finish(warp.cta, unit)


def _settle(warp, inst, mask: int) -> None:
    for load in inst.data:
        if id(load) in warp.loads:
            warp.cta.grid.asyncs.finish(warp.cta, warp.loads[id(load)])


_SETTLE = Handler("settle", _settle, None, None, "none", 0, None)


# When it is decoded.


def insert_settles(emitter, row_of: dict[int, int]) -> None:
    """Puts SETTLE in front of the instructions that may touch the registers of a load that has not read.

    row_of: physical row of each virtual row of the r32 file.
    """
    handlers = [emitter.handlers[row[2]] if row[0] == mc.HANDLER else (None, None) for row in emitter.code]
    loads = [pc for pc, (handler, _) in enumerate(handlers) if handler is not None and handler.name in LOADS]
    if not loads:
        return
    waits = {pc for pc, (handler, _) in enumerate(handlers) if handler is not None and handler.name == WAIT}
    issued = {pc: 1 << i for i, pc in enumerate(loads)}
    writers: dict[int, int] = defaultdict(int)  # physical row -> the loads that write it
    for pc, bit in issued.items():
        start = emitter.code[pc][3]
        for row in emitter.aux[start + 1 : start + 1 + emitter.aux[start]]:
            writers[row_of[row]] |= bit
    touched = [_touched(row, emitter.aux, row_of, writers) for row in emitter.code]
    points = _first_touches(emitter.code, touched, issued, waits)
    instructions = [handlers[pc][1] for pc in loads]
    _insert(emitter, {pc: [instructions[i] for i in _ones(bits)] for pc, bits in points.items()})


def _touched(row: list, aux: list[int], row_of: dict[int, int], writers: dict[int, int]) -> int:
    """The loads that write a row of the r32 file which this micro-operation reads or writes."""
    found = writers.get(row_of[row[1][0]], 0) if row[1] is not None else 0
    for letter, value in zip(mc.SIGNATURES[row[0]], row[2:], strict=True):
        if letter in "dr":
            found |= writers.get(row_of[value], 0)
        elif letter in "vs":
            for element in aux[value + 1 : value + 1 + aux[value]]:
                found |= writers.get(row_of.get(element, -1), 0)
    return found


def _first_touches(code: list, touched: list[int], issued: dict[int, int], waits: set[int]) -> dict[int, int]:
    """Micro-operation -> the loads that may be pending there and are touched."""
    blocks, successors = basic_blocks(code)

    def through(block: tuple[int, int], pending: int, points: dict[int, int] | None = None) -> int:
        for pc in range(*block):
            if points is not None and pending & touched[pc]:
                points[pc] = pending & touched[pc]
            pending = 0 if pc in waits else pending & ~touched[pc] | issued.get(pc, 0)
        return pending

    inside = [0] * len(blocks)
    work = list(range(len(blocks)))
    while work:
        number = work.pop()
        pending = through(blocks[number], inside[number])
        for successor in successors[number]:
            if pending & ~inside[successor]:
                inside[successor] |= pending
                work.append(successor)
    points: dict[int, int] = {}
    for block, pending in zip(blocks, inside, strict=True):
        through(block, pending, points)
    return points


def _ones(bits: int) -> list[int]:
    return [i for i in range(bits.bit_length()) if bits >> i & 1]


def _insert(emitter, points: dict[int, list]) -> None:
    """Inserts SETTLE in front of the instructions of the micro-operations in `points`."""
    wanted: dict[int, list] = defaultdict(list)
    for pc, loads in points.items():
        wanted[emitter.origin[pc]] += loads
    code, origin, moved = [], [], []
    for pc, row in enumerate(emitter.code):
        number = emitter.origin[pc]
        moved.append(len(code))
        if number in wanted and (pc == 0 or emitter.origin[pc - 1] != number):
            loads = wanted[number]
            emitter.handlers.append((_SETTLE, replace(emitter.instructions[number], data=loads)))
            code.append([mc.SETTLE, None, len(emitter.handlers) - 1])
            origin.append(number)
        code.append(row)
        origin.append(number)
    moved.append(len(code))
    for row in code:
        if row[0] == mc.BRA:
            row[2] = moved[row[2]]
    emitter.code, emitter.origin = code, origin
