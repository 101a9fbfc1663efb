"""mma.sync: matrix products whose operands lie in the registers of a warp (PTX ISA 9.7.14.5.6-10 and .14).

Shapes m16n8k4 to m16n8k32 of f16, bf16, tf32, 8-bit floats and integers. Sums are those of numerics/floating.py for
one step of K, as MMA-Sim measured them on Blackwell (8-bit floats: on RTX Blackwell, and taken to be the same).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine import state as st
from ..errors import ConvergenceError
from ..ir import Vector
from ..machine.warp import require
from ..registry import op
from .numerics.floating import FORMATS, decode, mma_into
from .numerics.integer import multiply_integers
from .tcgen05.load_store import at

M, N = 16, 8
_FLOATS_8, _INTEGERS = ("e4m3", "e5m2"), ("s8", "u8")
# Element types that go together: sizes of K, accumulators.
_FORMS = {
    ("f16",): ((8, 16), ("f16", "f32")),
    ("bf16",): ((8, 16), ("f32",)),
    ("tf32",): ((4, 8), ("f32",)),
    _FLOATS_8: ((16, 32), ("f16", "f32")),
    _INTEGERS: ((16, 32), ("s32",)),
}
_GROUP, _THREAD = np.arange(st.LANES) // 4, np.arange(st.LANES) % 4
_SEGMENTS = np.stack([np.arange(M), np.arange(M), np.zeros(M, int)], axis=1)


@dataclass(frozen=True, slots=True)
class WarpMma:
    """A decoded mma.sync. d, a, b, c: the registers of each fragment."""

    k: int
    a_type: str
    b_type: str
    d_type: str
    saturate: bool
    d: tuple
    a: tuple
    b: tuple
    c: tuple


def a_cells(k: int, per_register: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of A, int [registers, 32, elements], that each thread's registers hold; 32-bit registers."""
    register = np.arange(2 * max(k // (4 * per_register), 1))[:, None, None]
    element = np.arange(per_register)
    row = _GROUP[:, None] + 8 * (register % 2)
    column = _THREAD[:, None] * per_register + element + register // 2 * 4 * per_register
    return np.broadcast_arrays(row, column)


def b_cells(k: int, per_register: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of B [K, N], as `a_cells`."""
    register = np.arange(max(k // (4 * per_register), 1))[:, None, None]
    row = _THREAD[:, None] * per_register + np.arange(per_register) + register * 4 * per_register
    return np.broadcast_arrays(row, _GROUP[:, None])


def d_cells(per_register: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of C and D, as `a_cells`; `per_register` is 2 for f16, else 1."""
    place = np.arange(4).reshape(-1, 1, per_register)
    return np.broadcast_arrays(_GROUP[:, None] + place // 2 * 8, _THREAD[:, None] * 2 + place % 2)


def _prepare(inst) -> WarpMma:
    mods = list(inst.mods)
    saturate = "satfinite" in mods
    if saturate:
        mods.remove("satfinite")
    known = {f"m16n8k{k}": k for k in (4, 8, 16, 32)}
    right = len(mods) == 8 and mods[0] == "aligned" and mods[1] in known and mods[2:4] == ["row", "col"]
    require(inst, right and mods[4] == mods[7], f"{inst.opcode} is not implemented")
    k, (d_type, a_type, b_type) = known[mods[1]], mods[4:7]
    sizes, accumulators = next((form for types, form in _FORMS.items() if {a_type, b_type} <= set(types)), ((), ()))
    require(
        inst,
        k in sizes and d_type in accumulators and (not saturate or d_type == "s32"),
        f"{inst.opcode} is not implemented (K of .{a_type} with .{b_type}: {sizes}, accumulators: {accumulators})",
    )
    bits = FORMATS[a_type].container_bits
    counts = (2 if d_type == "f16" else 4, M * k * bits // 1024, N * k * bits // 1024)
    fragments = [o.elements if isinstance(o, Vector) else (o,) for o in inst.operands]
    found = [len(fragment) for fragment in fragments]
    expected = [counts[0], counts[1], counts[2], counts[0]]
    require(inst, found == expected, f"fragments of {found} registers, expected {expected}")
    return WarpMma(k, a_type, b_type, d_type, saturate, *fragments)


def _matrix(warp, registers: tuple, cells, shape: tuple[int, int], bits: int) -> np.ndarray:
    """uint32 [shape]: the elements of a fragment."""
    words = np.stack([warp.read_u32(register) for register in registers])
    result = np.empty(shape, np.uint32)
    result[cells] = words.view(f"u{bits // 8}").reshape(len(registers), st.LANES, -1)
    return result


@op("mma.sync", prepare=_prepare, sync="aligned", writes=1)
def warp_mma(warp, inst, mask: int):
    form: WarpMma = inst.data
    if mask != st.FULL_MASK:
        raise ConvergenceError(f"mma.sync needs all lanes of the warp, {mask:#010x} are there", **at(inst))
    bits, half = FORMATS[form.a_type].container_bits, form.d_type == "f16"
    a = _matrix(warp, form.a, a_cells(form.k, 32 // bits), (M, form.k), bits)
    b = _matrix(warp, form.b, b_cells(form.k, 32 // bits), (form.k, N), bits)
    cells = d_cells(2 if half else 1)
    d = _matrix(warp, form.c, cells, (M, N), 16 if half else 32)
    left, right = decode(a, FORMATS[form.a_type]), decode(b, FORMATS[form.b_type])
    if form.d_type == "s32":
        multiply_integers(left.value, right.value, d, _SEGMENTS, 0, N, True, form.saturate)
    else:
        mma_into(left, right, d, _SEGMENTS, 0, N, accumulate=True, half=half)
    words = np.ascontiguousarray(d[cells].astype("u2" if half else "u4")).view(np.uint32)[..., 0]
    for register, word in zip(form.d, words, strict=True):
        warp.write_u32(register, word, mask)
