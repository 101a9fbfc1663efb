"""A warp as Python handlers see it: registers by operand, lanes by bit mask."""

from __future__ import annotations

import functools

import numpy as np

from ..engine import state as st
from ..errors import ConvergenceError
from ..ir import Address, Imm, Not, Reg, Sink, Symbol
from ..registry import unsupported
from .deferred_loads import PendingLoad


@functools.lru_cache(maxsize=4096)
def lane_mask(mask: int) -> np.ndarray:
    """bool[32] (read-only) with lane l true iff bit l of `mask` is set."""
    lanes = np.array([(mask >> lane) & 1 for lane in range(st.LANES)], dtype=bool)
    lanes.flags.writeable = False
    return lanes


@functools.lru_cache(maxsize=4096)
def lane_list(mask: int) -> tuple[int, ...]:
    """The lanes set in `mask`, ascending."""
    return tuple(lane for lane in range(st.LANES) if (mask >> lane) & 1)


def leader(mask: int) -> int:
    """The lowest lane set in `mask`."""
    return (mask & -mask).bit_length() - 1


class Warp:
    """One warp.

    r32    uint32[n32, 32]: a row per register of up to 32 bits; predicates are 0 or 1, 16-bit values sit in
           the low half with zeros above
    r64    uint64[n64, 32]
    index  number of the warp in its CTA (`%tid.x / 32` for a one-dimensional block)
    loads  its tcgen05.ld that have not read yet (deferred_loads.py)
    """

    def __init__(self, cta, index: int, row: np.ndarray, r32: np.ndarray, r64: np.ndarray):
        self.cta = cta
        self.index = index
        self.row = row
        self.r32 = r32
        self.r64 = r64
        self.loads: dict[int, PendingLoad] = {}

    @property
    def live(self) -> int:
        """Bit mask of the lanes that have not exited."""
        return int(self.row[st.W_LIVE])

    def read_u32(self, operand) -> np.ndarray:
        """uint32[32]: the operand in every lane. Register rows are views: do not write to them."""
        if type(operand) is Reg:
            if operand.is64 or operand.is128:
                raise TypeError(f"operand {operand.name}: a {operand.type} register read as 32 bits")
            return self.r32[operand.slot]
        if type(operand) is Imm:
            return np.full(st.LANES, operand.value & 0xFFFFFFFF, np.uint32)
        if type(operand) is Not:
            return self.r32[operand.reg.slot] ^ np.uint32(1)
        if type(operand) is Symbol:
            return np.full(st.LANES, self.symbol_address(operand) & 0xFFFFFFFF, np.uint32)
        raise TypeError(f"operand {operand!r}: cannot be read as a 32-bit value")

    def read_u64(self, operand) -> np.ndarray:
        """uint64[32]: the operand in every lane; 32-bit registers are zero-extended."""
        if type(operand) is Reg and operand.is64:
            return self.r64[operand.slot]
        if type(operand) is Imm:
            return np.full(st.LANES, operand.value & 0xFFFFFFFFFFFFFFFF, np.uint64)
        if type(operand) is Symbol:
            return np.full(st.LANES, self.symbol_address(operand), np.uint64)
        return self.read_u32(operand).astype(np.uint64)

    def read_b128(self, operand) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) uint64[32] halves of a b128 register."""
        return self.r64[operand.slot], self.r64[operand.slot + 1]

    def write_u32(self, operand, values, mask: int) -> None:
        """Writes uint32[32] (or a scalar) to the lanes of `mask`. A sink `_` takes anything."""
        if type(operand) is Sink:
            return
        if operand.is64:
            raise TypeError(f"operand {operand.name}: a {operand.type} register written as 32 bits")
        row = self.r32[operand.slot]
        if mask == st.FULL_MASK:
            row[:] = values
        else:
            np.copyto(row, values, where=lane_mask(mask), casting="unsafe")

    def uniform(self, operand, mask: int, inst=None) -> int:
        """The operand's value (unsigned), which every lane of `mask` must agree on.

        Raises ConvergenceError otherwise.
        """
        if type(operand) is Imm:
            return operand.value
        values = self.read_u64(operand) if _is64(operand) else self.read_u32(operand)
        value = values[leader(mask)]
        if mask & (mask - 1) and (values[lane_mask(mask)] != value).any():
            raise ConvergenceError(
                f"operand {operand_name(operand)} must be the same in every lane, got "
                f"{[hex(v) for v in values[lane_mask(mask)]]}",
                line=getattr(inst, "line", None),
                text=getattr(inst, "text", None),
            )
        return int(value)

    def address(self, operand: Address) -> np.ndarray:
        """uint64[32]: base + offset in every lane, in the address space of the instruction.

        A 32-bit base wraps at 32 bits. A shared symbol counts from this CTA's window (rank << 24).
        """
        base = operand.base
        if base is None:
            return np.full(st.LANES, operand.offset, np.uint64)
        if type(base) is Symbol:
            return np.full(st.LANES, self.symbol_address(base) + operand.offset, np.uint64)
        if base.is64:
            return self.r64[base.slot] + np.uint64(operand.offset & 0xFFFFFFFFFFFFFFFF)
        return (self.r32[base.slot] + np.uint32(operand.offset & 0xFFFFFFFF)).astype(np.uint64)

    def uniform_address(self, operand: Address, mask: int, inst=None) -> int:
        """The address, which every lane of `mask` must agree on. Raises ConvergenceError otherwise."""
        values = self.address(operand)
        value = values[leader(mask)]
        if mask & (mask - 1) and (values[lane_mask(mask)] != value).any():
            raise ConvergenceError(
                "the address must be the same in every lane",
                line=getattr(inst, "line", None),
                text=getattr(inst, "text", None),
            )
        return int(value)

    def symbol_address(self, symbol: Symbol) -> int:
        """Where the variable lies for this CTA: a shared address with its rank, or a host address."""
        return self.cta.symbol_value(symbol.name)


def _is64(operand) -> bool:
    return type(operand) is Symbol or (type(operand) is Reg and operand.is64)


def operand_name(operand) -> str:
    return getattr(operand, "name", None) or repr(operand)


def require(inst, condition: bool, message: str) -> None:
    """Raises UnsupportedInstruction naming `inst` unless `condition`. For `prepare` functions."""
    if not condition:
        raise unsupported(inst, message)
