"""Tensor maps changed by the kernel: tensormap.replace, tensormap.cp_fenceproxy (PTX ISA 9.7.9.28, 9.7.13.16)."""

from __future__ import annotations

from dataclasses import dataclass

from ...engine import state as st
from ...errors import EmulationError
from ...ir import Imm
from ...machine import memory
from ...machine.warp import lane_list, require
from ...registry import op
from ..per_thread import lane_address, lane_long, lane_word
from .tensormap import ELEMENT_BYTES, FIELDS, SWIZZLES, TENSOR_MAP_BYTES, replace_field

# Table 33: what the immediate means. Values that are missing here are refused.
_ELEMENTS = {0: "u8", 1: "u16", 2: "u32", 3: "s32", 4: "u64", 5: "s64", 6: "f16", 7: "f32", 9: "f64", 10: "bf16",
             11: "tf32", 13: "b4x16", 14: "b4x16_p64", 15: "b6x16_p32"}  # fmt: skip
_NAMES = {
    "elemtype": {code: tuple(ELEMENT_BYTES).index(name) for code, name in _ELEMENTS.items()},
    "swizzle_mode": {code: tuple(SWIZZLES).index(name) for code, name in enumerate(("none", "32B", "64B", "128B"))},
    "swizzle_atomicity": {0: None, 1: tuple(SWIZZLES).index("128B_atom_32B")},
    "fill_mode": {0: 0, 1: 1},
    "interleave_layout": {0: None},
}
_PER_DIMENSION = ("box_dim", "global_dim", "global_stride", "element_stride")
_MAP_ALIGN = 64


@dataclass(frozen=True, slots=True)
class Replacement:
    """A decoded tensormap.replace. `code`: the immediate as this emulator's record has it, None: nothing changes;
    without meaning where `value` is an operand."""

    field: str
    space: str
    ordinal: int = 0
    value: object = None
    code: int | None = None


def _prepare_replace(inst) -> Replacement:
    mods = list(inst.mods)
    fields = [m for m in mods if m in FIELDS or m in _NAMES]
    spaces = [m for m in mods if m in ("global", "shared::cta")]
    require(inst, len(fields) == 1 and len(spaces) < 2, f"{inst.opcode} is not implemented")
    field = fields[0]
    kind = "b64" if field in ("global_address", "global_stride") else "b32"
    expected = ["tile", field, *spaces, "b1024", kind]
    require(inst, mods == expected, f"{inst.opcode} is not implemented (expected .{'.'.join(expected)})")
    space = spaces[0] if spaces else ""
    operands = inst.operands[1:]
    require(inst, len(operands) == 1 + (field in _PER_DIMENSION), f"{inst.name}: {len(inst.operands)} operands")
    if field in _PER_DIMENSION:
        ordinal = operands[0]
        known = type(ordinal) is Imm and 0 <= ordinal.value < FIELDS[field][2]
        require(inst, known, f"{inst.name}.{field}: the ordinal must be an immediate below {FIELDS[field][2]}")
        return Replacement(field, space, ordinal.value, operands[1])
    if field not in _NAMES:
        return Replacement(field, space, 0, operands[0])
    code, names = operands[0], _NAMES[field]
    known = type(code) is Imm and code.value in names
    require(inst, known, f"{inst.name}.{field}: the new value must be one of {', '.join(map(str, names))}")
    return Replacement(field, space, code=names[code.value])


@op("tensormap.replace", prepare=_prepare_replace, writes=0)
def replace(warp, inst, mask: int):
    """Per thread: change one field of a tensor map in shared or global memory."""
    form = inst.data
    for lane in lane_list(mask):
        cta, place, record = _record(warp, lane_address(warp, inst.operands[0], lane), form.space, inst)
        field, value = form.field, form.code
        if form.value is not None:
            read = lane_long if field in ("global_address", "global_stride") else lane_word
            value = read(warp, form.value, lane) + (field == "rank")
        elif value is None:
            continue
        if field == "swizzle_atomicity":
            field = "swizzle_mode"
        try:
            replace_field(record, field, form.ordinal, value)
        except ValueError as error:
            raise EmulationError(str(error), line=inst.line, text=inst.text) from None
        if warp.cta.grid.observer is not None:
            warp.cta.grid.observer.maps.change(warp, inst, lane, cta, place)


def _record(warp, address: int, space: str, inst):
    """(CTA, offset in its shared memory) or (None, global address) of a tensor map, and a uint8 [128] view of it."""
    if space == "shared::cta" or (space == "" and memory.is_shared_window(address)):
        shared = address - (0 if space else st.SHARED_WINDOW)
        target, offset = memory.shared_target(warp.cta, shared, TENSOR_MAP_BYTES, inst, align=_MAP_ALIGN, cluster=False)
        return target, offset, target.shared[offset : offset + TENSOR_MAP_BYTES]
    view = warp.cta.grid.buffers.view(address, TENSOR_MAP_BYTES, inst, align=_MAP_ALIGN, write=True)
    return None, address, view


def _prepare_copy(inst) -> None:
    scopes = ("cta", "cluster", "gpu", "sys")
    known = [["global", "shared::cta", "tensormap::generic", "release", s, "sync", "aligned"] for s in scopes]
    require(inst, list(inst.mods) in known, f"{inst.opcode} is not implemented")
    size = inst.operands[2] if len(inst.operands) == 3 else None
    require(inst, type(size) is Imm and size.value == TENSOR_MAP_BYTES, f"{inst.name}: the size must be 128")


@op("tensormap.cp_fenceproxy", prepare=_prepare_copy, sync="aligned", writes=0)
def copy_and_fence(warp, inst, mask: int):
    """Per warp: a tensor map from shared to global memory. Maps are read from memory at each use, so of the fence only
    checks take note."""
    _, address, target = _record(warp, warp.uniform_address(inst.operands[0], mask, inst), "global", inst)
    _, offset, source = _record(warp, warp.uniform_address(inst.operands[1], mask, inst), "shared::cta", inst)
    target[:] = source
    if warp.cta.grid.observer is not None:
        warp.cta.grid.observer.maps.copy(warp, inst, offset, address)
