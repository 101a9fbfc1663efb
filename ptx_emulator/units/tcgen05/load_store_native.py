"""Native forms of tcgen05.ld and tcgen05.st (see load_store.py, which has the rules)."""

from __future__ import annotations

import numpy as np
from numba import njit

from ...engine import native as nat
from ...engine import state as st
from ...engine import trace as et
from ...engine.common import OPTIONS, cell_u8, cell_u32, int32s, int64s, rows_u32
from .layout import TMEM_COLUMNS

# Arguments: number, level, address (2), cells (2), runs of cells (2), how many, their length, registers, columns,
# height, packed, row of each register.
_ADDRESS, _CELLS, RUNS, RUN_COUNT, RUN_LENGTH = 2, 4, 6, 8, 9
_REGISTERS, _COLUMNS, _HEIGHT, _PACKED, _ROWS = 10, 11, 12, 13, 14


def access_arguments(function, level: int, inst, symbols) -> list[int] | None:
    """The arguments for an instruction whose `data` is an ops.tcgen05.Access."""
    access = inst.data
    address = nat.operand_code(access.address, symbols)
    if address is None:
        return None
    rows = [register.slot for register in access.registers]
    starts, length = access.runs
    places = [*nat.address_words(access.by_lane), *nat.address_words(starts), len(starts), length]
    shape = [len(rows), access.columns, access.height, int(access.packed)]
    return [function.number, level, *address, *places, *shape, *rows]


@njit(**OPTIONS)
def allocated(p_columns, column, columns):
    """Whether all of `columns` from `column` are allocated."""
    if column + columns > TMEM_COLUMNS:
        return False
    flags = cell_u8(p_columns + column)
    missing = np.int64(0)
    for i in range(columns):
        missing |= np.int64(flags[i] == 0)
    return missing == 0


@njit(**OPTIONS)
def _first_cell(p_head, p_warp, p_arguments, lanes):
    """Host address of the cell at the instruction's address, 0 if an access there is not allowed."""
    arguments, warp = int32s(p_arguments), int64s(p_warp)
    cta = nat.cta_row(p_head, warp[st.W_CTA])
    address = nat.operand_value(p_warp, p_arguments + 4 * _ADDRESS, nat.leader(lanes))
    for lane in range(32):
        if lanes >> lane & 1 and nat.operand_value(p_warp, p_arguments + 4 * _ADDRESS, lane) != address:
            return np.int64(0)
    lane, column = address >> 16, address & 0xFFFF
    quarter = 32 * (warp[st.W_INDEX] % 4)
    if lane != quarter and not (arguments[_HEIGHT] == 16 and lane == quarter + 16):
        return np.int64(0)
    if cta[nat.C_TMEM] == 0 or not allocated(cta[nat.C_COLUMNS], column, np.int64(arguments[_COLUMNS])):
        return np.int64(0)
    return cta[nat.C_TMEM] + 4 * (lane * TMEM_COLUMNS + column)


@njit(**OPTIONS)
def _move(p_head, p_warp, p_arguments, lanes, storing):
    """Registers to Tensor Memory, or back. Returns 0 if the access is not allowed."""
    first = _first_cell(p_head, p_warp, p_arguments, lanes)
    if first == 0:
        return 0
    arguments = int32s(p_arguments)
    cells, words = int32s(nat.address_of(p_arguments + 4 * _CELLS)), cell_u32(first)
    registers = rows_u32(int64s(p_warp)[st.W_R32])
    count, packed = np.int64(arguments[_REGISTERS]), arguments[_PACKED] != 0
    low, half = np.uint32(0xFFFF), np.uint32(16)
    for lane in range(32):
        for i in range(count):
            cell, row = cells[lane * count + i], registers[np.uint64(arguments[_ROWS + i])]
            if not storing:
                row[lane] = words[cell] & low | words[cell + 1] << half if packed else words[cell]
            elif packed:
                words[cell] = row[lane] & low
                words[cell + 1] = row[lane] >> half
            else:
                words[cell] = row[lane]
    tmem = nat.cta_row(p_head, int64s(p_warp)[st.W_CTA])[nat.C_TMEM]
    nat.trace(p_head, p_warp, et.FRAGMENT, lanes, first - tmem >> 2, p_arguments, storing)
    return 1


@nat.native
def load(p_head, p_warp, p_arguments, lanes):
    return _move(p_head, p_warp, p_arguments, lanes, False)


@nat.native
def store(p_head, p_warp, p_arguments, lanes):
    return _move(p_head, p_warp, p_arguments, lanes, True)
