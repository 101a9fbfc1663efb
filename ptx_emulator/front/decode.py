"""Turns a parsed entry function into micro-code: the decoded Kernel, and Programs that keep them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine import microcode as mc
from ..engine import state as st
from ..ir import Instruction
from ..registry import Handler, reading, unsupported
from ..turns import takes_turns
from . import load_uses
from .emitter import SINK_ROW, Emitter
from .liveness import allocate, intervals
from .parser import Function, Module, Variable, parse


@dataclass(slots=True)
class Kernel:
    """A decoded entry function, ready to launch any number of times.

    code          int32[n, 8] micro-operations; `origin[pc]` is the index in `instructions`
    fixed32/64    what the first rows of the register files hold: (kind, ...) keys, in row order
    rows32/64     rows of the register files
    shared_offsets, local_bytes, static_shared  layout of variables
    """

    name: str
    function: Function
    code: np.ndarray
    aux: np.ndarray
    origin: np.ndarray
    first: np.ndarray  # bool[n]: the micro-op is the first of its instruction
    instructions: list[Instruction]
    handlers: list[tuple[Handler, Instruction]]
    fixed32: list[tuple]
    fixed64: list[tuple]
    rows32: int
    rows64: int
    symbols: dict[str, Variable]
    param_bytes: int
    static_shared: int
    local_bytes: int
    n_virtual: int


class Program:
    """Decoded PTX text. `Program.parse(text)` keeps the last few programs, so relaunching does not decode again."""

    _cache: dict[str, Program] = {}

    def __init__(self, text: str):
        self.module: Module = parse(text)
        self._kernels: dict[str, Kernel] = {}

    @classmethod
    @takes_turns
    def parse(cls, text: str) -> Program:
        program = cls._cache.pop(text, None) or cls(text)
        cls._cache[text] = program
        while len(cls._cache) > 16:
            cls._cache.pop(next(iter(cls._cache)))
        return program

    @takes_turns
    def kernel(self, name: str | None = None) -> Kernel:
        """The decoded entry `name`; None if the module has exactly one. Raises ValueError for no such entry."""
        entries = self.module.entries
        if name is None:
            if len(entries) != 1:
                raise ValueError(f"kernel=None: the module has {len(entries)} entries, name one of {list(entries)}")
            name = next(iter(entries))
        if name not in entries:
            raise ValueError(f"kernel={name!r}: not an entry of the module, which has {list(entries)}")
        if name not in self._kernels:
            self._kernels[name] = _decode(entries[name], self.module)
        return self._kernels[name]


def layout(function: Function, module: Module) -> tuple[dict[str, Variable], int, int, int]:
    """Gives every variable its offset. Returns (symbols, param bytes, static shared end, local bytes)."""
    symbols = {v.name: v for v in [*module.variables, *function.params, *function.variables]}
    ends = {"param": 0, "shared": st.SHARED_START, "local": 0}  # the parameters of calls lie in local memory
    dynamic = []
    for variable in [*function.params, *module.variables, *function.variables]:
        space = "local" if variable.space == "param::func" else variable.space
        if space not in ends:
            continue
        if variable.space == "shared" and variable.extern:
            dynamic.append(variable)
            continue
        offset = -(-ends[space] // variable.align) * variable.align
        variable.offset = offset
        ends[space] = offset + variable.nbytes
    align = max((v.align for v in dynamic), default=1)
    for variable in dynamic:
        variable.offset = -(-ends["shared"] // align) * align
    return symbols, ends["param"], ends["shared"], ends["local"]


def _decode(function: Function, module: Module) -> Kernel:
    symbols, param_bytes, static_shared, local_bytes = layout(function, module)
    emitter = Emitter(function, symbols)
    for item in function.code:
        if isinstance(item, str):
            emitter.labels[item] = len(emitter.code)
        else:
            emitter.instruction(item)
    emitter.emit(mc.EXIT)
    emitter.resolve_branches()
    rows, counts, ends = [], [], []
    for wide in (False, True):
        rows_of, count, last = _assign(emitter, wide)
        rows.append(rows_of)
        counts.append(count)
        ends.append(last)
    load_uses.mark(emitter, rows, ends[0])
    code = _final_code(emitter, rows)
    _attach_native_forms(emitter, code)
    origin = np.array(emitter.origin, np.int32)
    first = np.ones(len(origin), bool)
    first[1:] = origin[1:] != origin[:-1]
    return Kernel(
        function.name,
        function,
        code,
        np.array(emitter.aux + [0], np.int32),
        origin,
        first,
        emitter.instructions,
        emitter.handlers,
        list(emitter.fixed32),
        list(emitter.fixed64),
        counts[0],
        counts[1],
        symbols,
        param_bytes,
        static_shared,
        local_bytes,
        len(emitter.regs32) + len(emitter.regs64),
    )


def _assign(emitter: Emitter, wide: bool) -> tuple[dict[int, int], int, dict[int, int]]:
    """Physical rows of one file, their number, and where each virtual row's life ends; renumbers virtual rows so that
    fixed rows come first."""
    fixed = emitter.fixed64 if wide else emitter.fixed32
    regs = emitter.regs64 if wide else emitter.regs32
    n = len(fixed)
    shifted = _shift(emitter, wide, n)
    pairs = {n + i for i, reg in enumerate(regs) if reg is not None and reg.is128 and reg.row == i}
    spans = intervals(shifted[0], shifted[1], wide)
    mapping, count = allocate(spans, n, pairs)
    for i, reg in enumerate(regs):
        if reg is not None and reg.row == i:
            reg.slot = mapping.get(n + i, 0)
    for reg in emitter.function.specials.values():
        if reg.is64 == wide and ("special", reg.name) in fixed:
            reg.slot = fixed[("special", reg.name)]
    rows = {**{-1 - i: i for i in range(n)}, **{v - n: row for v, row in mapping.items() if v >= n}}
    return rows, max(count, 1), {v - n: end for v, (_, end) in spans.items() if v >= n}


def _shift(emitter: Emitter, wide: bool, n: int) -> tuple[list[list[int]], list[int]]:
    """The code with the rows of one file moved up by `n` and its fixed rows made 0..n-1."""
    scalar, vector = ("DR", "VS") if wide else ("dr", "vs")

    def move(v: int) -> int:
        return v + n if v >= 0 else -1 - v

    code, aux = [], list(emitter.aux)
    for row in emitter.code:
        guard = 0
        if row[1] is not None:
            guard = (move(row[1][0]) + 1) * (-1 if row[1][1] else 1) if not wide else 1
        columns = []
        for letter, value in zip(mc.SIGNATURES[row[0]], row[2:], strict=True):
            if letter in scalar:
                value = move(value)
            elif letter in vector:
                for i in range(value + 1, value + 1 + aux[value]):
                    aux[i] = -1 if emitter.aux[i] == SINK_ROW else move(emitter.aux[i])
            columns.append(value)
        code.append([row[0], guard, *columns])
    return code, aux


def _attach_native_forms(emitter: Emitter, code: np.ndarray) -> None:
    """Gives each HANDLER the offset of its native form's arguments in the auxiliary table, 0 for none."""
    for row in code:
        if row[0] == mc.HANDLER:
            handler, inst = emitter.handlers[row[2]]
            with reading(inst):
                arguments = handler.native(inst, emitter.symbols) if handler.native is not None else None
            if arguments is not None:
                row[7] = len(emitter.aux)
                emitter.aux.extend(arguments)


def _final_code(emitter: Emitter, rows: list[dict[int, int]]) -> np.ndarray:
    code = np.zeros((len(emitter.code) + 1, mc.COLUMNS), np.int32)
    code[-1, 0] = mc.EXIT
    aux = list(emitter.aux)
    for pc, row in enumerate(emitter.code):
        code[pc, 0] = row[0]
        if row[1] is not None:
            code[pc, 1] = (rows[0][row[1][0]] + 1) * (-1 if row[1][1] else 1)
        for column, (letter, value) in enumerate(zip(mc.SIGNATURES[row[0]], row[2:], strict=True), start=2):
            if letter in "drDR":
                value = rows[letter in "DR"][value]
            elif letter in "vsVS":
                table = rows[letter in "VS"]
                for i in range(value + 1, value + 1 + aux[value]):
                    aux[i] = -1 if emitter.aux[i] == SINK_ROW else table[emitter.aux[i]]
            if letter == "i" and row[0] >> mc.FAMILY_SHIFT <= mc.CONVERT and row[0] >> mc.FAMILY_SHIFT != mc.CONTROL:
                column = mc.COLUMNS - 1
            try:
                code[pc, column] = value
            except OverflowError:
                inst = emitter.instructions[emitter.origin[pc]]
                raise unsupported(inst, f"{inst.name}: {value} does not fit 32 bits") from None
    emitter.aux = aux
    return code
