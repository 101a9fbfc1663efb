"""Operands of one lane, for instructions that single threads issue (a warp-wide read costs several times as much)."""

from __future__ import annotations

from ..ir import Imm, Reg, Symbol

_MASK_32, _MASK_64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def lane_word(warp, operand, lane: int) -> int:
    """The unsigned 32-bit value of an operand in a lane."""
    if type(operand) is Reg and not operand.is64:
        return int(warp.r32[operand.slot, lane])
    if type(operand) is Imm:
        return operand.value & _MASK_32
    return int(warp.read_u32(operand)[lane])


def lane_long(warp, operand, lane: int) -> int:
    """The unsigned 64-bit value of an operand in a lane; 32-bit registers are zero-extended."""
    if type(operand) is Reg and operand.is64:
        return int(warp.r64[operand.slot, lane])
    if type(operand) is Imm:
        return operand.value & _MASK_64
    return int(warp.read_u64(operand)[lane])


def lane_address(warp, operand, lane: int) -> int:
    """base + offset of an `Address` in a lane; a 32-bit base wraps at 32 bits. As `Warp.address`."""
    base = operand.base
    if type(base) is Reg:
        if base.is64:
            return int(warp.r64[base.slot, lane]) + operand.offset & _MASK_64
        return int(warp.r32[base.slot, lane]) + operand.offset & _MASK_32
    if type(base) is Symbol:
        return warp.symbol_address(base) + operand.offset
    return operand.offset
