"""Native forms: what a Python handler does, as compiled code that the engine calls without leaving.

A handler stays the one place that knows all of an instruction: its errors, rare forms, orders and checks. Its native
form does the common case, or nothing: it returns 0 before it has changed any state, and the engine then traps to the
handler. Which native forms are used depends on the launch (`H_NATIVE`):

    0           none: the order chooses when their work is done
    IMMEDIATE   those of instructions that are carried out where they are issued, in every order
    IN_ORDER    also those of asynchronous instructions, which an in-order launch carries out at once

A native form is an entry of the micro-code's auxiliary table, `[number, level, arguments...]`, built once per
instruction by `Handler.native` after rows have been assigned. Its function has the signature

    fn(p_head, p_warp, p_arguments, lanes) -> 1 or UNCHANGED if done, 0 if the handler must be called

with host addresses of the cluster's header, the warp's row (state.py) and the arguments (int32). In a launch with
checks it writes to the trace (`trace`) what its handler would tell the observer.
"""

from __future__ import annotations

import numpy as np
from numba import cfunc, njit

from ..ir import Address, Imm, Reg, Symbol
from . import state as st
from . import trace as et
from .common import OPTIONS, UNCHANGED, cell_u64, int32s, int64s, popcount, rows_u32, rows_u64

IMMEDIATE, IN_ORDER = 1, 2
LEVELS = {"in_order": IN_ORDER, "late": IMMEDIATE, "random": IMMEDIATE}  # by order; 0 for others

# The counters of a launch's report that native forms add to, as int64 in this order.
COUNTERS = ("tcgen05_mma", "tcgen05_macs", "tcgen05_shared_bytes", "tma_load_bytes", "tma_loads")

# What native forms know of a CTA: a row of host addresses.
C_TMEM = 0  # Tensor Memory, uint32 [128, 512]; 0: the CTA has none
C_COLUMNS = 1  # uint8 [512]: whether the column is allocated
C_SIZE = 2

_functions: list = []


def native(function):
    """Compiles a native form; its number is the result's `number`."""
    compiled = cfunc("int64(int64, int64, int64, int64)", cache=True, error_model="numpy")(function)
    compiled.number = len(_functions)
    _functions.append(compiled)
    return compiled


def function_table() -> np.ndarray:
    """int64: the host addresses of the native forms by number."""
    return np.array([function.address for function in _functions], np.int64)


@njit(**OPTIONS)
def trace(p_head, p_warp, kind, lanes, a, b, c):
    """Writes a row of the trace (trace.py), if there is one. Returns the host address of the row's further
    columns, or 0."""
    head = int64s(p_head)
    if head[st.H_TRACE] == 0:
        return np.int64(0)
    p_row = et.trace_row(p_head, p_warp, kind, head[st.H_STOP_PC], lanes, a, b, c)
    return p_row + 8 * et.T_LANES if p_row != 0 else np.int64(0)


@native
def nothing(p_head, p_warp, p_arguments, lanes):
    trace(p_head, p_warp, et.FENCE, lanes, 0, 0, 0)
    return UNCHANGED


def nothing_to_do(level: int):
    """A `Handler.native` for instructions that change nothing."""

    def build(inst, symbols) -> list[int]:
        return [nothing.number, level]

    return build


# Operands: two int32, a row and a number to add. Rows of the r64 file are -2 - row; -1 is no register, _OWN_SHARED the
# shared memory of the warp's CTA.
_OWN_SHARED = -(1 << 30)


def operand_code(operand, symbols) -> list[int] | None:
    """An operand that `operand_value` can read: a register, an immediate, or an address from one or from a shared
    variable. `symbols`: the kernel's variables by name."""
    base, offset = (operand.base, operand.offset) if isinstance(operand, Address) else (operand, 0)
    if isinstance(base, Imm):
        base, offset = None, base.value
    if base is None:
        return [-1, offset] if -(1 << 31) <= offset < 1 << 31 else None
    if isinstance(base, Symbol) and base.name in symbols and symbols[base.name].space == "shared":
        return [_OWN_SHARED, symbols[base.name].offset + offset]
    if not isinstance(base, Reg) or base.is128 or not -(1 << 31) <= offset < 1 << 31:
        return None
    return [-2 - base.slot if base.is64 else base.slot, offset]


def operand_codes(symbols, *operands) -> list[int] | None:
    """The codes of several operands in a row, or None if one has none."""
    codes = [operand_code(operand, symbols) for operand in operands]
    return None if None in codes else [word for code in codes for word in code]


@njit(**OPTIONS)
def operand_value(p_warp, p_code, lane):
    """The operand's value in `lane`, as int64. A sum with a 32-bit register wraps at 32 bits."""
    code, warp = int32s(p_code), int64s(p_warp)
    row, number = np.int64(code[0]), np.int64(code[1])
    if row >= 0:
        return (np.int64(rows_u32(warp[st.W_R32])[np.uint64(row)][lane]) + number) & 0xFFFFFFFF
    if row == -1:
        return number
    if row == _OWN_SHARED:
        return warp[st.W_CTA] << st.RANK_SHIFT | number
    return np.int64(rows_u64(warp[st.W_R64])[np.uint64(-2 - row)][lane]) + number


@njit(**OPTIONS)
def leader(lanes):
    """The lowest lane set in `lanes`."""
    return np.int64(popcount(np.int64((lanes & -lanes) - 1)))


@njit(**OPTIONS)
def address_of(p_words):
    """A host address kept as two int32, the low half first."""
    words = int32s(p_words)
    return np.int64(words[1]) << 32 | np.int64(words[0]) & 0xFFFFFFFF


def address_words(array: np.ndarray) -> list[int]:
    """The host address of an array's data, for `address_of`. The caller keeps the array alive."""
    words = np.array([array.ctypes.data], np.int64).view(np.int32)
    return [int(word) for word in words]


@njit(**OPTIONS)
def cta_row(p_head, rank):
    """The `C_*` row of a CTA of the cluster."""
    return int64s(int64s(p_head)[st.H_CTA_TABLE] + rank * (8 * C_SIZE))


@njit(**OPTIONS)
def count(p_head, counter, amount):
    int64s(int64s(p_head)[st.H_COUNTERS])[counter] += amount


@njit(**OPTIONS)
def shared_place(p_head, p_warp, address, nbytes, align, cluster):
    """Host address of [address, address + nbytes) in shared memory (`rank << 24 | offset`), 0 if not allowed."""
    head = int64s(p_head)
    rank, offset = address >> st.RANK_SHIFT, address & st.OFFSET_MASK
    if rank < 0 or rank >= head[st.H_CTAS] or (not cluster and rank != int64s(p_warp)[st.W_CTA]):
        return np.int64(0)
    if offset % align or offset < st.SHARED_START or offset + nbytes > head[st.H_SHARED_BYTES]:
        return np.int64(0)
    return int64s(head[st.H_SHARED_BASES])[rank] + offset


@njit(**OPTIONS)
def live_mbarrier(p_head, p_warp, address):
    """The row (state.B_*) of the initialised, intact mbarrier at a shared address of the cluster, 0 if there is
    none."""
    place = shared_place(p_head, p_warp, address, 8, 8, True)
    if place == 0 or cell_u64(place)[0] != np.uint64(st.MBARRIER_WORD):
        return np.int64(0)
    bases = int64s(int64s(p_head)[st.H_MBAR_BASES])
    row = bases[address >> st.RANK_SHIFT] + ((address & st.OFFSET_MASK) >> 3) * (st.B_SIZE * 8)
    return row if int64s(row)[st.B_EXPECTED] != 0 else np.int64(0)
