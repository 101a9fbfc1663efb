"""The Emitter: what lowerings use to turn PTX instructions into micro-operations."""

from __future__ import annotations

import struct

import numpy as np

from .. import registry
from ..engine import microcode as mc
from ..errors import PtxSyntaxError
from ..ir import Address, Imm, Instruction, Not, Reg, Sink, Symbol, registers
from ..registry import Handler, unsupported
from .parser import Function, Variable

# Special registers that are read anew each time. All count executed micro-operations.
CLOCKS = ("%clock", "%clock64", "%globaltimer", "%globaltimer_lo")
SINK_ROW = -(1 << 30)  # in a vector of destinations: `_`


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
        if table is self.fixed32 and symbol.space in ("global", "const", "param"):
            raise self.error(f"operand {symbol.name}: an address of 64 bits, expected 32")
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
        with registry.reading(inst):
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
            for reg in registers(operand):
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
        self.emit(
            mc.HANDLER,
            len(self.handlers) - 1,
            self.vector(written[0]),
            self.vector(written[1]),
            self.vector(read[0]),
            self.vector(read[1]),
            0,
        )

    def resolve_branches(self) -> None:
        for pc, label in self._branches:
            if label not in self.labels:
                inst = self.instructions[self.origin[pc]]
                name = label.split("@")[0]
                raise PtxSyntaxError(
                    f"label {name} is not declared", line=inst.line, text=inst.text, column=inst.column
                )
            self.code[pc][2] = self.labels[label]


# Operations that may make a group wait or check convergence: a guard becomes a branch around them, so that
# exactly the lanes that execute the instruction form the group.
BRANCH_AROUND: set[str] = set()


def f32_bits(f64_pattern: int) -> int:
    """The fp32 pattern nearest to a double given as its pattern."""
    value = struct.unpack("<d", struct.pack("<Q", f64_pattern))[0]
    with np.errstate(over="ignore"):
        return int(np.float32(value).view(np.uint32))
