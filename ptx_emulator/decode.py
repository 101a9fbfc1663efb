"""Turns a parsed entry function into micro-code: the Emitter that lowerings use, and the decoded Kernel."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from . import microcode as mc
from . import registry
from . import state as st
from .errors import PtxSyntaxError
from .ir import Address, Imm, Instruction, Not, Pair, Reg, Sink, Symbol, Vector
from .liveness import allocate, intervals
from .parser import Function, Module, Variable, parse
from .registry import Handler, unsupported


class Emitter:
    """Collects the micro-operations of one kernel.

    Rows are virtual numbers: constants, special registers and symbols have fixed rows that are filled when a
    CTA starts; registers and temporaries get theirs from `liveness`.
    """

    def __init__(self, function: Function, symbols: dict[str, Variable]):
        self.function = function
        self.symbols = symbols
        self.code: list[list[int]] = []
        self.origin: list[int] = []  # micro-op -> index of its instruction
        self.aux: list[int] = []
        self.instructions: list[Instruction] = []
        self.handlers: list[tuple[Handler, Instruction]] = []
        self.labels: dict[str, int] = {}
        self.fixed32: dict[tuple, int] = {}  # ("const", n) | ("special", name) | ("symbol", name, add)
        self.fixed64: dict[tuple, int] = {}
        self.regs32: list[Reg | None] = []  # None for temporaries
        self.regs64: list[Reg | None] = []
        self.inst: Instruction | None = None
        self._branches: list[tuple[int, str]] = []

    # Rows. Fixed rows are negative (-1 - n) until the end, so that both kinds can grow.

    def _fixed(self, table: dict[tuple, int], key: tuple) -> int:
        return -1 - table.setdefault(key, len(table))

    def const32(self, value: int) -> int:
        return self._fixed(self.fixed32, ("const", value & 0xFFFFFFFF))

    def const64(self, value: int) -> int:
        return self._fixed(self.fixed64, ("const", value & 0xFFFFFFFFFFFFFFFF))

    def special32(self, name: str) -> int:
        return self._fixed(self.fixed32, ("special", name))

    def temp32(self) -> int:
        self.regs32.append(None)
        return len(self.regs32) - 1

    def temp64(self) -> int:
        self.regs64.append(None)
        return len(self.regs64) - 1

    def row(self, reg: Reg) -> int:
        """The row of a register, in the file that its type asks for."""
        if reg.name.startswith("%") and self.function.specials.get(reg.name) is reg:
            if reg.name in CLOCKS:
                t = self.temp64() if reg.is64 else self.temp32()
                self.emit(mc.CLOCK64 if reg.is64 else mc.CLOCK, t)
                return t
            table = self.fixed64 if reg.is64 else self.fixed32
            return self._fixed(table, ("special", reg.name))
        if reg.row < 0:
            file = self.regs64 if reg.is64 or reg.is128 else self.regs32
            reg.row = len(file)
            file.append(reg)
            if reg.is128:
                file.append(reg)
        return reg.row

    def error(self, message: str):
        return unsupported(self.inst, message)

    def r32(self, operand, *, f32: bool = False) -> int:
        """Source row of a 32-bit (or narrower, or predicate) operand."""
        if type(operand) is Reg:
            if operand.is64 or operand.is128:
                raise self.error(f"operand {operand.name} is .{operand.type}, expected at most 32 bits")
            return self.row(operand)
        if type(operand) is Imm:
            if operand.float_bits == 64:
                return self.const32(f32_bits(operand.value))
            if f32 and operand.float_bits == 0:
                return self.const32(struct.unpack("<I", struct.pack("<f", operand.value))[0])
            return self.const32(operand.value)
        if type(operand) is Symbol:
            return self._symbol(operand, self.fixed32)
        if type(operand) is Not:
            t = self.temp32()
            self.emit(mc.XOR, t, self.row(operand.reg), self.const32(1))
            return t
        raise self.error(f"operand {operand!r} cannot be read here")

    def r64(self, operand, *, f64: bool = False) -> int:
        """Source row of a 64-bit operand."""
        if type(operand) is Reg:
            if not operand.is64:
                raise self.error(f"operand {operand.name} is .{operand.type}, expected 64 bits")
            return self.row(operand)
        if type(operand) is Imm:
            if f64 and operand.float_bits == 0:
                return self.const64(struct.unpack("<Q", struct.pack("<d", operand.value))[0])
            return self.const64(operand.value)
        if type(operand) is Symbol:
            return self._symbol(operand, self.fixed64)
        raise self.error(f"operand {operand!r} cannot be read here")

    def _symbol(self, symbol: Symbol, table: dict[tuple, int]) -> int:
        if symbol.space == "label" or symbol.name not in self.symbols:
            raise self.error(f"operand {symbol.name.split('@')[0]}: not a variable")
        return self._fixed(table, ("symbol", symbol.name))

    def d32(self, operand) -> int:
        """Destination row of a 32-bit (or narrower, or predicate) operand."""
        if type(operand) is Sink:
            return self.temp32()
        if type(operand) is not Reg or operand.is64 or operand.is128:
            raise self.error(f"destination {getattr(operand, 'name', operand)!r} must be a register of at most 32 bits")
        return self.row(operand)

    def d64(self, operand) -> int:
        if type(operand) is Sink:
            return self.temp64()
        if type(operand) is not Reg or not operand.is64:
            raise self.error(f"destination {getattr(operand, 'name', operand)!r} must be a 64-bit register")
        return self.row(operand)

    def vector(self, rows: list[int]) -> int:
        """Puts a counted list of rows into the auxiliary table; returns its offset."""
        self.aux.append(len(rows))
        self.aux.extend(rows)
        return len(self.aux) - 1 - len(rows)

    # Operations.

    def emit(self, operation: int, *columns: int, guard: tuple[int, bool] | None = None) -> None:
        if len(columns) != len(mc.SIGNATURES[operation]):
            raise ValueError(f"{mc.NAMES[operation]}: {len(columns)} operands, expected {mc.SIGNATURES[operation]!r}")
        self.code.append([operation, guard, *columns])
        self.origin.append(len(self.instructions) - 1)

    def branch(self, label: str, guard: tuple[int, bool] | None = None) -> None:
        self._branches.append((len(self.code), label))
        self.emit(mc.BRA, 0, guard=guard)

    def instruction(self, inst: Instruction) -> None:
        """Emits one PTX instruction."""
        self.inst = inst
        self.instructions.append(inst)
        entry = registry.find(inst)
        start = len(self.code)
        guard = None if inst.guard is None else (self.row(inst.guard[0]), inst.guard[1])
        around = guard is not None and (isinstance(entry, Handler) or inst.name in BRANCH_AROUND)
        if around:
            self.emit(mc.BRA, 0, guard=(guard[0], not guard[1]))
        if isinstance(entry, Handler):
            self._handler(entry, inst)
        else:
            entry(self, inst)
        if guard is None:
            return
        if not around and self._clobbers(start, guard[0]):
            self.code.insert(start, [mc.BRA, (guard[0], not guard[1]), 0])
            self.origin.insert(start, len(self.instructions) - 1)
            self._branches = [(pc + (pc >= start), label) for pc, label in self._branches]
            around = True
        if around:
            self.code[start][2] = len(self.code)
        else:
            for row in self.code[start:]:
                row[1] = guard

    def _clobbers(self, start: int, guard_row: int) -> bool:
        """Whether an operation before the last writes the guard's own predicate."""
        for row in self.code[start : len(self.code) - 1]:
            if any(s == "d" and v == guard_row for s, v in zip(mc.SIGNATURES[row[0]], row[2:], strict=True)):
                return True
        return False

    def _handler(self, handler: Handler, inst: Instruction) -> None:
        registry.prepare(handler, inst)
        if handler.sync == "aligned":
            self.emit(mc.CONVERGE_ALL)
        elif handler.sync == "mask":
            self.emit(mc.CONVERGE, self.r32(inst.operands[-1]))
        written: tuple[list[int], list[int]] = ([], [])
        read: tuple[list[int], list[int]] = ([], [])
        for number, operand in enumerate(inst.operands):
            for reg in _registers(operand):
                rows = [self.row(reg)]
                if reg.is128:
                    rows.append(rows[0] + 1)
                if rows[0] < 0:
                    continue
                file = int(reg.is64 or reg.is128)
                if number < handler.writes or handler.writes < 0:
                    written[file].extend(rows)
                if number >= handler.writes or type(operand) is Address:
                    read[file].extend(rows)
        self.handlers.append((handler, inst))
        self.emit(mc.HANDLER, len(self.handlers) - 1, self.vector(written[0]), self.vector(written[1]),
                  self.vector(read[0]), self.vector(read[1]), 0)  # fmt: skip

    def resolve_branches(self) -> None:
        for pc, label in self._branches:
            if label not in self.labels:
                inst = self.instructions[self.origin[pc]]
                raise PtxSyntaxError(f"label {label.split('@')[0]} is not declared", line=inst.line, text=inst.text)
            self.code[pc][2] = self.labels[label]


# Operations that may make a group wait or check convergence: a guard becomes a branch around them, so that
# exactly the lanes that execute the instruction form the group.
BRANCH_AROUND: set[str] = set()


def _registers(operand):
    if type(operand) is Reg:
        yield operand
    elif type(operand) is Not:
        yield operand.reg
    elif type(operand) is Vector:
        for element in operand.elements:
            yield from _registers(element)
    elif type(operand) is Pair:
        yield from _registers(operand.first)
        yield from _registers(operand.second)
    elif type(operand) is Address:
        yield from _registers(operand.base)
        for element in operand.extra:
            yield from _registers(element)


def f32_bits(f64_pattern: int) -> int:
    """The fp32 pattern nearest to a double given as its pattern."""
    value = struct.unpack("<d", struct.pack("<Q", f64_pattern))[0]
    with np.errstate(over="ignore"):
        return int(np.float32(value).view(np.uint32))


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
    def parse(cls, text: str) -> Program:
        program = cls._cache.pop(text, None) or cls(text)
        cls._cache[text] = program
        while len(cls._cache) > 16:
            cls._cache.pop(next(iter(cls._cache)))
        return program

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


def _layout(function: Function, module: Module) -> tuple[dict[str, Variable], int, int, int]:
    """Gives every variable its offset. Returns (symbols, param bytes, static shared end, local bytes)."""
    symbols = {v.name: v for v in [*module.variables, *function.params, *function.variables]}
    ends = {"param": 0, "shared": st.SHARED_START, "local": 0}
    dynamic = []
    for variable in [*function.params, *module.variables, *function.variables]:
        if variable.space not in ends:
            continue
        if variable.space == "shared" and variable.extern:
            dynamic.append(variable)
            continue
        offset = -(-ends[variable.space] // variable.align) * variable.align
        variable.offset = offset
        ends[variable.space] = offset + variable.nbytes
    align = max((v.align for v in dynamic), default=1)
    for variable in dynamic:
        variable.offset = -(-ends["shared"] // align) * align
    return symbols, ends["param"], ends["shared"], ends["local"]


def _decode(function: Function, module: Module) -> Kernel:
    symbols, param_bytes, static_shared, local_bytes = _layout(function, module)
    emitter = Emitter(function, symbols)
    for item in function.code:
        if isinstance(item, str):
            emitter.labels[item] = len(emitter.code)
        else:
            emitter.instruction(item)
    emitter.emit(mc.EXIT)
    emitter.resolve_branches()
    rows, counts = [], []
    for wide in (False, True):
        rows_of, count = _assign(emitter, wide)
        rows.append(rows_of)
        counts.append(count)
    code = _final_code(emitter, rows)
    origin = np.array(emitter.origin, np.int32)
    first = np.ones(len(origin), bool)
    first[1:] = origin[1:] != origin[:-1]
    return Kernel(
        function.name, function, code, np.array(emitter.aux + [0], np.int32), origin, first, emitter.instructions,
        emitter.handlers, list(emitter.fixed32), list(emitter.fixed64), counts[0], counts[1], symbols, param_bytes,
        static_shared, local_bytes, len(emitter.regs32) + len(emitter.regs64),
    )  # fmt: skip


def _assign(emitter: Emitter, wide: bool) -> tuple[dict[int, int], int]:
    """Physical rows of one file; renumbers virtual rows so that fixed rows come first."""
    fixed = emitter.fixed64 if wide else emitter.fixed32
    regs = emitter.regs64 if wide else emitter.regs32
    n = len(fixed)
    shifted = _shift(emitter, wide, n)
    pairs = {n + i for i, reg in enumerate(regs) if reg is not None and reg.is128 and reg.row == i}
    mapping, count = allocate(intervals(shifted[0], shifted[1], wide), n, pairs)
    for i, reg in enumerate(regs):
        if reg is not None and reg.row == i:
            reg.slot = mapping.get(n + i, 0)
    for reg in emitter.function.specials.values():
        if reg.is64 == wide and ("special", reg.name) in fixed:
            reg.slot = fixed[("special", reg.name)]
    return {**{-1 - i: i for i in range(n)}, **{v - n: row for v, row in mapping.items() if v >= n}}, max(count, 1)


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


# Special registers that are read anew each time. All count executed micro-operations.
CLOCKS = ("%clock", "%clock64", "%globaltimer", "%globaltimer_lo")
SINK_ROW = -(1 << 30)  # in a vector of destinations: `_`


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
            code[pc, column] = value
    emitter.aux = aux
    return code
