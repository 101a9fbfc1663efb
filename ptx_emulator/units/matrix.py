"""ldmatrix and stmatrix: 8x8 matrices of 16-bit, 16x16 and 16x8 ones of 8-bit elements (PTX ISA 9.7.14.5.15-16).

The figures of the 8-bit fragments are absent from the ISA's text. stmatrix is as in CUTLASS' `copy_traits_sm100.hpp`
(SM100_U8x4_STSM_T). ldmatrix is as the ISA's words say, a register for 4 columns of one row, and as CUTLASS'
`ldmatrix_stmatrix.py` expects; the SM100_U8x8_LDSM_T of `copy_traits_sm100.hpp` would put 2 columns of 2 rows into one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine import state as st
from ..ir import Vector
from ..machine import memory
from ..machine.warp import require
from ..registry import op

LANES = np.arange(st.LANES)
# Byte e of lane l's registers, as the row (that an address gives) and the byte in it.
_BYTE, _LANE = np.arange(4), LANES[:, None]
_LOADED = 4 * (_LANE % 4) + _BYTE, _LANE // 4 + 8 * np.arange(2)[:, None, None]  # 16x16: register, lane, byte
_STORED = 2 * (_LANE % 4) + _BYTE % 2, _LANE // 4 + _BYTE // 2 * 8  # 16x8: lane, byte


@dataclass(frozen=True, slots=True)
class Form:
    """matrices; rows: addresses of one matrix; registers: of one matrix."""

    matrices: int
    rows: int
    registers: int
    bytewise: bool
    transposed: bool
    generic: bool
    elements: tuple


def _prepare(inst) -> Form:
    mods = [m for m in inst.mods if m not in ("shared", "shared::cta")]
    generic = len(mods) == len(inst.mods)
    transposed = "trans" in mods
    rest = [m for m in mods if m != "trans"]
    load = inst.name == "ldmatrix"
    known = {("m8n8", f"x{n}", "b16"): (n, 8, 1) for n in (1, 2, 4)}
    if transposed and load:
        known |= {("m16n16", f"x{n}", "b8"): (n, 16, 2) for n in (1, 2)}
    elif transposed:
        known |= {("m16n8", f"x{n}", "b8"): (n, 8, 1) for n in (1, 2, 4)}
    shape = tuple(rest[2:])
    require(inst, rest[:2] == ["sync", "aligned"] and shape in known, f"{inst.opcode} is not implemented")
    matrices, rows, registers = known[shape]
    operand = inst.operands[0 if load else 1]
    elements = operand.elements if type(operand) is Vector else (operand,)
    count = matrices * registers
    require(inst, len(elements) == count, f"{inst.name}: {len(elements)} registers, expected {count}")
    return Form(matrices, rows, registers, shape[2] == "b8", transposed, generic, elements)


def _rows(warp, inst, address_operand, form: Form) -> list[np.ndarray]:
    """A uint8[16] view of each row; lane l gives the address of row l."""
    addresses = warp.address(address_operand)
    views, offsets = [], []
    for lane in range(form.rows * form.matrices):
        address = int(addresses[lane]) - (st.SHARED_WINDOW if form.generic else 0)
        target, offset = memory.shared_target(warp.cta, address, 16, inst, align=16, cluster=False)
        views.append(target.shared[offset : offset + 16])
        offsets.append(offset)
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.matrix(warp, inst, np.array(offsets, np.int64), write=inst.name == "stmatrix")
    return views


@op("ldmatrix", prepare=_prepare, sync="aligned", writes=1)
def ldmatrix(warp, inst, mask):
    form: Form = inst.data
    rows = np.stack(_rows(warp, inst, inst.operands[1], form)).reshape(form.matrices, form.rows, 16)
    values = []
    for matrix in rows:
        if form.bytewise:
            values += list(matrix[_LOADED].view(np.uint32)[..., 0])
            continue
        words = matrix.view(np.uint16)
        pairs = np.ascontiguousarray(words.T if form.transposed else words).view(np.uint32)
        values.append(pairs[LANES // 4, LANES % 4])
    for register, value in zip(form.elements, values, strict=True):
        warp.write_u32(register, value, mask)


@op("stmatrix", prepare=_prepare, sync="aligned", writes=0)
def stmatrix(warp, inst, mask):
    form: Form = inst.data
    rows = _rows(warp, inst, inst.operands[0], form)
    for i, register in enumerate(form.elements):
        value = warp.read_u32(register).copy()
        if form.bytewise:
            matrix = np.empty((8, 16), np.uint8)
            matrix[_STORED] = value.view(np.uint8).reshape(st.LANES, 4)
        else:
            words = value.reshape(8, 4).view(np.uint16)
            matrix = np.ascontiguousarray(words.T if form.transposed else words).view(np.uint8)
        for r in range(8):
            rows[8 * i + r][:] = matrix[r]
