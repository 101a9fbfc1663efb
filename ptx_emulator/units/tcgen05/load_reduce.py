"""tcgen05.ld.red: loads from Tensor Memory that also reduce every lane over its columns (PTX ISA 9.7.16.8.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir import Reg, Vector
from ...machine import deferred_loads
from ...machine.warp import require
from ...registry import op
from .layout import fragment_map
from .load_store import Access, first_cell, make_access

_NAN = np.uint32(0x7FFFFFFF)
_REPEATS = {f"x{n}": n for n in (2, 4, 8, 16, 32, 64, 128)}


@dataclass(frozen=True, slots=True)
class Reduction:
    """access: as of a plain load. largest: .max, else .min. kind: f32, u32 or s32."""

    access: Access
    largest: bool
    kind: str
    absolute: bool
    keep_nan: bool


def _prepare(inst) -> Reduction:
    left = [m for m in inst.mods if m not in ("sync", "aligned")]
    require(inst, len(left) == len(inst.mods) - 2, f"{inst.name} needs .sync.aligned")

    def take(*names: str) -> str:
        found = [name for name in names if name in left]
        for name in found[:1]:
            left.remove(name)
        return found[0] if found else ""

    shape, repeat, largest = take("32x32b", "16x32bx2"), take(*_REPEATS), take("min", "max")
    kind, absolute, keep_nan = take("f32", "u32", "s32"), take("abs"), take("NaN")
    # Which columns of a lane the two halves of .16x32bx2 reduce over, together or each its own, is not documented.
    require(inst, shape == "32x32b", f"{inst.name} is implemented for .32x32b")
    require(inst, repeat and largest and kind and not left, f"{inst.opcode} is not implemented")
    require(inst, kind == "f32" or not (absolute or keep_nan), ".abs and .NaN are for .f32")
    require(inst, len(inst.operands) == 3, f"{len(inst.operands)} operands, expected 3")
    registers, result, address = inst.operands
    elements = registers.elements if isinstance(registers, Vector) else ()
    count = _REPEATS[repeat]
    require(inst, len(elements) == count, f"{len(elements)} registers, .{shape}.{repeat} has {count}")
    words = all(type(r) is Reg and not r.is64 for r in (*elements, result))
    require(inst, words, "the data must be 32-bit registers")
    lane, column = fragment_map(shape, count)
    access = make_access(lane, column, height=32, packed=False, registers=elements, address=address)
    return Reduction(access, largest == "max", kind, bool(absolute), bool(keep_nan))


@op("tcgen05.ld.red", prepare=_prepare, sync="aligned", writes=2)
def load_and_reduce(warp, inst, mask: int):
    """Tensor Memory to registers, and each lane's minimum or maximum to one more."""
    form: Reduction = inst.data
    first = first_cell(warp, inst, form.access, mask)
    cells = form.access.cells + first
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.fragment(warp, inst, form.access.runs, first, write=False)

    def read():
        values = warp.cta.tmem.words.reshape(-1)[cells]
        for register, row in zip(form.access.registers, values, strict=True):
            warp.write_u32(register, row, mask)
        warp.write_u32(inst.operands[1], reduced(values, form), mask)

    deferred_loads.defer(warp, inst, read)


def reduced(values: np.ndarray, form: Reduction) -> np.ndarray:
    """uint32 [32] from uint32 [registers, 32]. Without .NaN a NaN counts only where a lane has nothing else."""
    if form.kind != "f32":
        numbers = values.view(np.int32 if form.kind == "s32" else np.uint32)
        return (numbers.max(axis=0) if form.largest else numbers.min(axis=0)).view(np.uint32)
    numbers = values.view(np.float32)
    if form.absolute:
        numbers = np.abs(numbers)
    nans = np.isnan(numbers)
    filled = np.where(nans, np.float32(-np.inf if form.largest else np.inf), numbers)
    # min and max order the zeros by sign, which a comparison of floats does not: compare as ordered integers.
    bits = filled.view(np.int32)
    keys = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
    best = keys.max(axis=0) if form.largest else keys.min(axis=0)
    result = np.where(best < 0, best ^ np.int32(0x7FFFFFFF), best).view(np.uint32)
    no_number = nans.any(axis=0) if form.keep_nan else nans.all(axis=0)
    return np.where(no_number, _NAN, result)
