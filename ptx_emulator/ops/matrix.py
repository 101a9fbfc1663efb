"""ldmatrix and stmatrix of 8x8 16-bit matrices (PTX ISA 9.7.14.5.15-16)."""

from __future__ import annotations

import numpy as np

from .. import memory
from .. import state as st
from ..ir import Vector
from ..registry import op
from ..warp import require

LANES = np.arange(st.LANES)


def _prepare(inst):
    mods = list(inst.mods)
    transposed = "trans" in mods
    if transposed:
        mods.remove("trans")
    generic = not any(m in mods for m in ("shared", "shared::cta"))
    mods = [m for m in mods if m not in ("shared", "shared::cta")]
    known = [["sync", "aligned", "m8n8", x, "b16"] for x in ("x1", "x2", "x4")]
    require(inst, mods in known, f"{inst.opcode} is not implemented")
    count = int(mods[3][1:])
    registers = inst.operands[0] if inst.name == "ldmatrix" else inst.operands[1]
    elements = registers.elements if type(registers) is Vector else (registers,)
    require(inst, len(elements) == count, f"{inst.name}: {len(elements)} registers, expected {count}")
    return count, transposed, generic, elements


def _rows(warp, inst, address_operand, count: int, generic: bool) -> list[np.ndarray]:
    """A uint16[8] view of each row; lane l gives the address of row l."""
    addresses = warp.address(address_operand)
    views = []
    for lane in range(8 * count):
        address = int(addresses[lane]) - (st.SHARED_WINDOW if generic else 0)
        target, offset = memory.shared_target(warp.cta, address, 16, inst, align=16, cluster=False)
        views.append(target.shared[offset : offset + 16].view(np.uint16))
    return views


@op("ldmatrix", prepare=_prepare, sync="aligned", writes=1)
def ldmatrix(warp, inst, mask):
    count, transposed, generic, elements = inst.data
    rows = np.stack(_rows(warp, inst, inst.operands[1], count, generic)).reshape(count, 8, 8)
    if transposed:
        rows = rows.transpose(0, 2, 1)
    for matrix, register in zip(rows, elements, strict=True):
        pairs = np.ascontiguousarray(matrix).view(np.uint32)
        warp.write_u32(register, pairs[LANES // 4, LANES % 4], mask)


@op("stmatrix", prepare=_prepare, sync="aligned", writes=0)
def stmatrix(warp, inst, mask):
    count, transposed, generic, elements = inst.data
    rows = _rows(warp, inst, inst.operands[0], count, generic)
    for i, register in enumerate(elements):
        matrix = warp.read_u32(register).reshape(8, 4).copy().view(np.uint16)
        if transposed:
            matrix = matrix.T
        for r in range(8):
            rows[8 * i + r][:] = matrix[r]
