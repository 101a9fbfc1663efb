"""Kernel arguments as `.param` bytes, laid out as CuTe DSL 4.8.1 does, and the `.param` list of a PTX entry.

The layouts were read from the IR's argument types beside the PTX's sizes, alignments and load offsets.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from ..units.tma.tensormap import TensorMap
from . import layouts
from .layouts import Dyn, Layout, Tree
from .types import (
    ComposedLayoutType,
    CoordTensorType,
    FastDivmodType,
    LayoutType,
    MemrefType,
    MmaType,
    PointerType,
    ScalarType,
    TensorMapType,
    TmaAtomType,
    TreeType,
    Type,
)
from .values import CoordTensor, FastDivmod, Mma, Pointer, Tensor, bf16_bits, host_argument, is_array, scalar


@dataclass(frozen=True)
class Blob:
    """Bytes with an alignment: a field or a whole `.param`."""

    data: bytes = b""
    align: int = 1


def join(fields: list[Blob]) -> Blob:
    """A C struct of the fields; empty fields take no room and do not align anything."""
    data, align = bytearray(), 1
    for item in fields:
        if not item.data:
            continue
        data += bytes(-len(data) % item.align) + item.data
        align = max(align, item.align)
    data += bytes(-len(data) % align)
    return Blob(bytes(data), align)


def _integer(value: int, bits: int) -> Blob:
    size = max(1, bits // 8)
    return Blob((value & ((1 << 8 * size) - 1)).to_bytes(size, "little"), size)


def _dynamic(template: Tree, value: Tree) -> Blob:
    """A struct of the run-time leaves, each at its printed width."""
    pairs = zip(layouts.leaves(template), layouts.leaves(value), strict=True)
    fields = []
    for printed, given in pairs:
        if layouts.is_dynamic(printed):
            leaf: Dyn = printed if isinstance(printed, Dyn) else printed.scale
            fields.append(_integer(given if isinstance(given, int) else given.scale, leaf.bits))
    return join(fields)


def _layout(template: Layout, value: Layout) -> Blob:
    return join([_dynamic(template.shape, value.shape), _dynamic(template.stride, value.stride)])


def _scalar(type_: ScalarType, value: int | float) -> Blob:
    if not type_.is_float:
        return _integer(int(value), 8 if type_.bits == 1 else type_.bits)
    if type_.name == "bf16":
        return Blob(struct.pack("<H", bf16_bits(value)), 2)
    code = {"f16": "<e", "f32": "<f", "f64": "<d"}[type_.name]
    return Blob(struct.pack(code, value), struct.calcsize(code))


def _mma(type_: MmaType, value: Mma) -> Blob:
    given = value.words or (0,) * type_.words
    words = [struct.pack("<I", word & 0xFFFFFFFF) for word in given]
    fields = words if type_.scaled else [b"".join(words)]
    return join([*(_integer(int(flag), 8) for flag in value.flags), *(Blob(field, len(field)) for field in fields)])


def pack_value(type_: Type, value: Any, what: str) -> Blob:
    """The `.param` bytes of one argument.

    `value` is what the host interpreter computed, or a caller's plain value: an array for a tensor, a TensorMap for
    a TMA atom, a shape for a coordinate tensor, an integer for a fast_divmod divisor, None for a default MMA.
    Raises TypeError or ValueError naming `what`.
    """
    if isinstance(type_, MemrefType):
        tensor = host_argument(value, type_, what) if is_array(value) else value
        _expect(tensor, Tensor, what)
        bound = layouts.bind(type_.layout, tensor.layout, what)
        return join([_integer(tensor.pointer.address, 64), _layout(type_.layout, bound)])
    if isinstance(type_, CoordTensorType):
        if not isinstance(value, CoordTensor):
            value = CoordTensor(type_.base, Layout(value, type_.layout.stride))
        bound = layouts.bind(type_.layout, value.layout, what)
        return join([_dynamic(type_.base, value.base), _layout(type_.layout, bound)])
    if isinstance(type_, TmaAtomType | TensorMapType):
        _expect(value, TensorMap, what)
        return Blob(value.to_bytes(), 64)
    if isinstance(type_, MmaType):
        return _mma(type_, Mma() if value is None else value)
    if isinstance(type_, FastDivmodType):
        divisor = value if isinstance(value, FastDivmod) else FastDivmod(value)
        return Blob(struct.pack("<IIBBxx", divisor.divisor, *divisor.magic()), 4)
    if isinstance(type_, PointerType):
        pointer = value if isinstance(value, Pointer) else host_argument(value, type_, what)
        return _integer(pointer.address, 64)
    if isinstance(type_, ScalarType):
        return _scalar(type_, scalar(value, type_, what))
    if isinstance(type_, TreeType):
        return _dynamic(type_.tree, layouts.bind(type_.tree, value, what))
    if isinstance(type_, LayoutType | ComposedLayoutType):
        return _layout(type_.layout, layouts.bind(type_.layout, value, what))
    raise NotImplementedError(f"{what}: kernel arguments of type {type_} are not known")


def _expect(value: Any, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{what}: expected a {kind.__name__}, got {type(value).__name__}")


@dataclass(frozen=True)
class PtxParam:
    """A declared `.param`: bytes, and alignment in bytes where it is printed or implied by a scalar type."""

    name: str
    size: int
    align: int


_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)")
_PARAM = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.[a-z]+(\d+)\s+(?:\.ptr\s+(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?)?([\w$]+)"
    r"\s*(?:\[(\d+)\])?$"
)


def ptx_params(ptx_text: str, kernel: str) -> list[PtxParam]:
    """The `.param` list of one entry; raises ValueError where the PTX has no such entry or an unknown form."""
    entries = {match.group(1): match.group(2) for match in _ENTRY.finditer(ptx_text)}
    if kernel not in entries:
        raise ValueError(f"the PTX has no entry {kernel!r}; it has {sorted(entries)}")
    found = []
    for text in filter(None, (piece.strip() for piece in entries[kernel].split(","))):
        match = _PARAM.match(text)
        if match is None:
            raise ValueError(f"PTX entry {kernel}: cannot read the parameter {text!r}")
        align, bits, name, count = match.groups()
        item = int(bits) // 8
        found.append(PtxParam(name, item * int(count or 1), int(align or item)))
    return found


def check_params(declared: list[PtxParam], packed: list[tuple[str, Blob]]) -> None:
    """Compares packed arguments (text, bytes) with the PTX; raises ValueError naming the first that differs."""
    for index, ((what, blob), param) in enumerate(zip(packed, declared, strict=False)):
        if len(blob.data) != param.size or blob.align != param.align:
            raise ValueError(
                f"{what}: packed to {len(blob.data)} bytes, alignment {blob.align}, but the PTX's .param {index} "
                f"({param.name}) has {param.size} bytes, alignment {param.align}"
            )
    if len(declared) != len(packed):
        raise ValueError(f"the IR's argument types give {len(packed)} parameters, the PTX has {len(declared)}")
