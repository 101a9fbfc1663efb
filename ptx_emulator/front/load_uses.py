"""Where the registers of a tcgen05.ld are used first: a pass of the decoder (machine/deferred_loads.py says what for).

On every path from a load, without a tcgen05.wait::ld on the way, the first instruction that touches a register of the
load gets a SETTLE in front; runs of moves of its registers are recorded instead, and what they write is followed as the
load's too. Touches are those of physical rows: a row that a dead register gives up may have another value before the
load has read.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from ..engine import microcode as mc
from ..machine import deferred_loads
from ..registry import Handler
from .liveness import basic_blocks

LOADS = ("tcgen05.ld", "tcgen05.ld.red")
WAIT = "tcgen05.wait::ld"
_MOVES = (mc.MOV, mc.PACK64)
_SETTLE = Handler("settle", deferred_loads.settle, None, None, "none", 0, None, True)
_FOLLOW = Handler("follow", deferred_loads.follow, None, None, "none", 0, None, True)


@dataclass(slots=True)
class Found:
    """uses: micro-operation -> the loads that must have read. moves: micro-operation -> the load that it copies from,
    its sources that nothing reads later, as virtual rows."""

    uses: dict[int, set[int]] = field(default_factory=dict)
    moves: dict[int, tuple[int, list[int]]] = field(default_factory=dict)


class _Analysis:
    """What may be pending at each micro-operation, as bits: one per load and register that holds what it reads.

    A register is (wide, virtual row). row_of: physical rows of both files; last: micro-operation after which the row of
    a virtual row of the r32 file is free.
    """

    def __init__(self, emitter, row_of: list[dict[int, int]], last: dict[int, int]):
        self.code, self.aux, self.row_of, self.last = emitter.code, emitter.aux, row_of, last
        handlers = [emitter.handlers[row[2]][0].name if row[0] == mc.HANDLER else "" for row in emitter.code]
        self.loads = [pc for pc, name in enumerate(handlers) if name in LOADS]
        self.waits = {pc for pc, name in enumerate(handlers) if name == WAIT}
        self._bits: dict[tuple, int] = {}
        self._owner: list[int] = []  # of a bit: the load
        self._of_load = [0] * len(self.loads)
        self._of_row: dict[tuple[int, int], int] = defaultdict(int)
        single = [a != b for a, b in pairwise([-1, *emitter.origin])]
        self._alone = [a and b for a, b in zip(single, [*single[1:], True], strict=True)]
        self.issued = {}
        for number, pc in enumerate(self.loads):
            start = self.code[pc][3]
            rows = self.aux[start + 1 : start + 1 + self.aux[start]]
            self.issued[pc] = number, sum(self._bit(number, (0, row)) for row in set(rows))

    def _bit(self, load: int, register: tuple[int, int]) -> int:
        key = load, register
        if key not in self._bits:
            bit = self._bits[key] = 1 << len(self._owner)
            self._owner.append(load)
            self._of_load[load] |= bit
            self._of_row[register[0], self.row_of[register[0]][register[1]]] |= bit
        return self._bits[key]

    def _touched(self, pc: int) -> int:
        """The bits whose physical rows a micro-operation reads or writes."""
        row, found = self.code[pc], 0
        places = [] if row[1] is None else [(0, row[1][0])]
        for letter, value in zip(mc.SIGNATURES[row[0]], row[2:], strict=True):
            wide = int(letter in "DRVS")
            if letter in "drDR":
                places.append((wide, value))
            elif letter in "vsVS":
                places += [(wide, element) for element in self.aux[value + 1 : value + 1 + self.aux[value]]]
        for wide, value in places:
            found |= self._of_row.get((wide, self.row_of[wide].get(value, -1)), 0)
        return found

    def _owners(self, bits: int) -> set[int]:
        return {self._owner[i] for i in range(bits.bit_length()) if bits >> i & 1}

    def _move(self, pc: int, pending: int, touched: int) -> tuple[int, list[int]] | None:
        """(load, its registers that are of no use after) if the micro-operation only copies registers of one load."""
        row = self.code[pc]
        if row[0] not in _MOVES or row[1] is not None or not self._alone[pc]:
            return None
        owners = self._owners(touched)
        load = min(owners)
        wide = int(row[0] == mc.PACK64)
        target = self._of_row.get((wide, self.row_of[wide][row[2]]), 0)
        held = all(pending & self._bits.get((load, (0, source)), 0) for source in row[3:])
        if len(owners) > 1 or pending & target or not held:
            return None
        return load, [source for source in set(row[3:]) if self.last.get(source, pc + 1) <= pc]

    def through(self, block: tuple[int, int], pending: int, found: Found | None = None) -> int:
        """What is pending at the end of a block; `found` is filled."""
        for pc in range(*block):
            if pending:
                if pc in self.waits:
                    pending = 0
                touched = pending & self._touched(pc)
                move = self._move(pc, pending, touched) if touched else None
                if move is not None:
                    load, unused = move
                    for source in unused:
                        pending &= ~self._bits[load, (0, source)]
                    pending |= self._bit(load, (int(self.code[pc][0] == mc.PACK64), self.code[pc][2]))
                    if found is not None:
                        found.moves[pc] = move
                elif touched:
                    owners = self._owners(touched)
                    for load in owners:
                        pending &= ~self._of_load[load]
                    if found is not None:
                        found.uses[pc] = owners
            if pc in self.issued:
                load, bits = self.issued[pc]
                pending = pending & ~self._of_load[load] | bits
        return pending

    def run(self) -> tuple[Found, set[int]]:
        """What was found, and the first micro-operations of blocks."""
        blocks, successors = basic_blocks(self.code)
        inside = [0] * len(blocks)
        work = list(range(len(blocks)))
        while work:
            number = work.pop()
            pending = self.through(blocks[number], inside[number])
            for successor in successors[number]:
                if pending & ~inside[successor]:
                    inside[successor] |= pending
                    work.append(successor)
        found = Found()
        for block, pending in zip(blocks, inside, strict=True):
            self.through(block, pending, found)
        return found, {start for start, _ in blocks}


def mark(emitter, row_of: list[dict[int, int]], last: dict[int, int]) -> None:
    """Inserts a SETTLE for the uses of what loads read, and one for runs of moves of it.

    row_of: physical rows of the virtual rows of the r32 and r64 files. last: see _Analysis.
    """
    analysis = _Analysis(emitter, row_of, last)
    if not analysis.loads:
        return
    found, leaders = analysis.run()
    instructions = [emitter.handlers[emitter.code[pc][2]][1] for pc in analysis.loads]
    first = {}
    for pc, number in enumerate(emitter.origin):
        first.setdefault(number, pc)
    inserted: dict[int, list[tuple[Handler, list]]] = defaultdict(list)
    settled: dict[int, set[int]] = defaultdict(set)
    for pc, loads in found.uses.items():
        settled[first[emitter.origin[pc]]] |= loads
    for pc, loads in settled.items():
        inserted[pc].append((_SETTLE, [instructions[load] for load in sorted(loads)]))
    for start, run in _runs(emitter.code, found.moves, leaders):
        copies = [(instructions[load], _copies(emitter.code, pcs, found.moves, row_of)) for load, pcs in run.items()]
        inserted[start].append((_FOLLOW, copies))
    _insert(emitter, inserted)


def _runs(code: list, moves: dict[int, tuple[int, list[int]]], leaders: set[int]):
    """Yields (first micro-operation, {load: its moves}) of moves in a row, none of which reads what another wrote."""
    start, run, written = -1, {}, set()
    for pc in sorted(moves):
        load, _ = moves[pc]
        row = code[pc]
        if run and (pc - 1 not in moves or pc in leaders or written & set(row[3:])):
            yield start, run
            run = {}
        if not run:
            start, written = pc, set()
        if row[0] == mc.MOV:
            written.add(row[2])
        run.setdefault(load, []).append(pc)
    if run:
        yield start, run


def _copies(code: list, pcs: list[int], moves: dict, row_of: list[dict[int, int]]) -> deferred_loads.Copies:
    narrow, wide = row_of
    words = [(narrow[row[2]], narrow[row[3]]) for row in (code[pc] for pc in pcs) if row[0] == mc.MOV]
    pairs = [(wide[row[2]], narrow[row[3]], narrow[row[4]]) for row in (code[pc] for pc in pcs) if row[0] == mc.PACK64]
    return deferred_loads.Copies(
        np.array(words, np.int64).reshape(-1, 2).T,
        np.array(pairs, np.int64).reshape(-1, 3).T,
        frozenset(narrow[source] for pc in pcs for source in moves[pc][1]),
    )


def _insert(emitter, inserted: dict[int, list[tuple[Handler, list]]]) -> None:
    """Puts micro-operations SETTLE in front of others; branches to those go to them."""
    code, origin, moved = [], [], []
    for pc, row in enumerate(emitter.code):
        moved.append(len(code))
        for handler, data in inserted.get(pc, ()):
            emitter.handlers.append((handler, replace(emitter.instructions[emitter.origin[pc]], data=data)))
            code.append([mc.SETTLE, None, len(emitter.handlers) - 1])
            origin.append(emitter.origin[pc])
        code.append(row)
        origin.append(emitter.origin[pc])
    moved.append(len(code))
    for row in code:
        if row[0] == mc.BRA:
            row[2] = moved[row[2]]
    emitter.code, emitter.origin = code, origin
