"""The types that CuTe DSL 4.8.1 prints in its IR, as far as host functions and kernel arguments use them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import layouts
from .layouts import Basis, Dyn, Layout, Tree
from .text import split_top, strip_angle

ELEMENT_BITS = {
    "i1": 8, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "i128": 128,
    "f16": 16, "bf16": 16, "tf32": 32, "f32": 32, "f64": 64,
    "f8E4M3FN": 8, "f8E5M2": 8, "f8E8M0FNU": 8, "f8E4M3B11FNUZ": 8, "f6E2M3FN": 6, "f6E3M2FN": 6, "f4E2M1FN": 4,
}  # fmt: skip


@dataclass(frozen=True)
class ScalarType:
    """i1, i8, i32, i64, f16, bf16, f32, f64 or index."""

    name: str

    @property
    def is_float(self) -> bool:
        return "f" in self.name

    @property
    def bits(self) -> int:
        return 64 if self.name == "index" else 1 if self.name == "i1" else ELEMENT_BITS[self.name]


@dataclass(frozen=True)
class TreeType:
    """`!cute.shape`, `stride`, `int_tuple`, `coord` and `tile`."""

    tree: Tree


@dataclass(frozen=True)
class LayoutType:
    layout: Layout


@dataclass(frozen=True)
class ComposedLayoutType:
    """`swizzle o offset o layout`; `swizzle` is (bits, base, shift) or None for the identity."""

    swizzle: tuple[int, int, int] | None
    layout: Layout


@dataclass(frozen=True)
class SwizzleType:
    swizzle: tuple[int, int, int]


@dataclass(frozen=True)
class PointerType:
    element: str
    space: str
    align: int


@dataclass(frozen=True)
class MemrefType:
    """A tensor: pointer and layout. `align` is the address's assumed alignment in bytes."""

    element: str
    space: str
    align: int
    layout: Layout


@dataclass(frozen=True)
class CoordTensorType:
    """A tensor whose elements are coordinates: the identity layout that TMA copies are partitioned with."""

    base: Tree
    layout: Layout


@dataclass(frozen=True)
class TmaAtomType:
    """A tensor map: `box` counts elements per TMA dimension, `modes` names the tensor modes that each one walks, the
    fastest first."""

    box: tuple[int, ...]
    modes: tuple[tuple[tuple[int, ...], ...], ...]
    format: str


@dataclass(frozen=True)
class TensorMapType:
    """`!cuda.tensor_map`: a tensor map that the host function encodes by itself."""


@dataclass(frozen=True)
class MmaType:
    """An sm100 MMA atom or tiled MMA: three flags and `words`, of an output-lane mask (a vector) or, if `scaled`, the
    Tensor Memory addresses of both scale factors."""

    words: int
    scaled: bool = False


@dataclass(frozen=True)
class FastDivmodType:
    pass


@dataclass(frozen=True)
class VectorType:
    """`vector<8xi32>`."""

    length: int


@dataclass(frozen=True)
class OpaqueType:
    """A type that carries no run-time state that this package knows of."""

    text: str


Type = (
    ScalarType | TreeType | LayoutType | ComposedLayoutType | SwizzleType | PointerType | MemrefType
    | CoordTensorType | TmaAtomType | TensorMapType | MmaType | FastDivmodType | VectorType | OpaqueType
)  # fmt: skip

_QUOTED = re.compile(r'"([^"]*)"')
_SWIZZLE = re.compile(r"S<(\d+),(\d+),(\d+)>")


def parse_type(text: str, aliases: dict[str, str]) -> Type:
    """Reads one printed type; `aliases` maps `!name` to the type it abbreviates."""
    text = text.strip()
    while text in aliases:
        text = aliases[text]
    if re.fullmatch(r"i\d+|index|f\d+\w*|bf16|tf32", text):
        return ScalarType(text)
    if match := re.fullmatch(r"!cute\.(i\d+)<.*>", text):
        return ScalarType(match.group(1))
    if match := re.fullmatch(r"vector<(\d+)xi32>", text):
        return VectorType(int(match.group(1)))
    if re.fullmatch(r"!llvm\.ptr(<[01]>)?", text):
        return PointerType("i8", "gmem", 1)
    if text == "!cuda.tensor_map":
        return TensorMapType()
    head, inner = strip_angle(text)
    reader = _READERS.get(head)
    if reader is not None and inner is not None:
        return reader(inner, aliases)
    mma = head in ("!cute_nvgpu.sm100.mma", "!cute_nvgpu.sm100.mma_bs")
    if mma or head.startswith("!cute_nvgpu.atom.non_exec_tiled_tma_"):
        return _atom(head, inner or "", aliases)
    if head.startswith("!cute.fast_divmod_divisor"):
        if inner != "32":
            raise ValueError(f"type {text}: only 32-bit divisors are known")
        return FastDivmodType()
    return OpaqueType(text)


def _tree(inner: str, aliases: dict[str, str]) -> Type:
    return TreeType(layouts.parse_tree(_quoted(inner)[0]))


def _tile(inner: str, aliases: dict[str, str]) -> Type:
    return TreeType(layouts.parse_tile(_quoted(inner)[0]))


def _layout(inner: str, aliases: dict[str, str]) -> Type:
    return LayoutType(layouts.parse_layout(_quoted(inner)[0]))


def _composed(inner: str, aliases: dict[str, str]) -> Type:
    parts = _quoted(inner)[0].split(" o ")
    if len(parts) != 3:
        raise ValueError(f"composed layout {inner}: expected three parts")
    return ComposedLayoutType(_swizzle_of(parts[0]), layouts.parse_layout(parts[2]))


def _swizzle(inner: str, aliases: dict[str, str]) -> Type:
    swizzle = _swizzle_of(_quoted(inner)[0])
    if swizzle is None:
        raise ValueError(f"swizzle {inner}: not S<bits,base,shift>")
    return SwizzleType(swizzle)


def _pointer(inner: str, aliases: dict[str, str]) -> Type:
    element, space, align, _ = _memory(inner)
    return PointerType(element, space, align)


def _memref(inner: str, aliases: dict[str, str]) -> Type:
    element, space, align, layout = _memory(inner)
    if layout is None:
        raise ValueError(f"memref {inner}: no layout")
    return MemrefType(element, space, align, layout)


def _memory(inner: str) -> tuple[str, str, int, Layout | None]:
    element, space, *rest = split_top(inner)
    align, layout = max(1, ELEMENT_BITS.get(element, 8) // 8), None
    for word in rest:
        if match := re.fullmatch(r"align<(\d+)>", word):
            align = int(match.group(1))
        elif word.startswith('"'):
            layout = layouts.parse_layout(word.strip('"'))
    return element, space, align, layout


def _coord_tensor(inner: str, aliases: dict[str, str]) -> Type:
    base, layout = _quoted(inner)
    return CoordTensorType(layouts.parse_tree(base), layouts.parse_layout(layout))


def _tiled_mma(inner: str, aliases: dict[str, str]) -> Type:
    return parse_type(split_top(inner)[0], aliases)


def _atom(head: str, inner: str, aliases: dict[str, str]) -> Type:
    if head == "!cute_nvgpu.sm100.mma_bs":
        return MmaType(2, scaled=True)
    if head == "!cute_nvgpu.sm100.mma":
        match = re.search(r"num_cta = (\d+)", inner)
        if match is None or "scale" in inner.replace("c_scale_exp", ""):
            raise ValueError(f"MMA atom {inner}: only the dense, unscaled sm100 atoms are known")
        return MmaType(4 * int(match.group(1)))
    basis = re.search(r'tma_gbasis = <"([^"]*)">', inner)
    form = re.search(r"tma_format = (\w+)", inner)
    if basis is None or form is None:
        raise ValueError(f"TMA atom {inner}: tma_gbasis or tma_format is missing")
    layout = layouts.parse_layout(basis.group(1))
    walks = [layouts.leaves(mode) for mode in layout.stride]
    if not all(isinstance(step, Basis) and step.scale == 1 for walk in walks for step in walk):
        raise ValueError(f"TMA atom with tma_gbasis {basis.group(1)}: only unit steps along whole modes are known")
    box = tuple(layouts.product(extent) for extent in layout.shape)
    return TmaAtomType(box, tuple(tuple(step.path for step in walk) for walk in walks), form.group(1))


_READERS = {
    "!cute.shape": _tree,
    "!cute.stride": _tree,
    "!cute.int_tuple": _tree,
    "!cute.coord": _tree,
    "!cute.tile": _tile,
    "!cute.layout": _layout,
    "!cute.composed_layout": _composed,
    "!cute.swizzle": _swizzle,
    "!cute.ptr": _pointer,
    "!cute.memref": _memref,
    "!cute.coord_tensor": _coord_tensor,
    "!cute.tiled_mma": _tiled_mma,
}


def _quoted(text: str) -> list[str]:
    return _QUOTED.findall(text)


def _swizzle_of(text: str) -> tuple[int, int, int] | None:
    match = _SWIZZLE.fullmatch(text.strip())
    return tuple(int(word) for word in match.groups()) if match else None


def is_static(type_: Type) -> bool:
    """True iff every value of this type is the same, so that nothing of it is passed or computed at run time."""
    if isinstance(type_, TreeType):
        return layouts.is_static(type_.tree)
    if isinstance(type_, LayoutType | ComposedLayoutType):
        return layouts.is_static(type_.layout)
    return isinstance(type_, SwizzleType)


def carries_state(type_: Type) -> bool:
    """True iff a kernel argument of this type occupies a `.param`."""
    if isinstance(type_, CoordTensorType):
        return not (layouts.is_static(type_.base) and layouts.is_static(type_.layout))
    return not is_static(type_) and not isinstance(type_, OpaqueType)


def static_value(type_: Type) -> Tree:
    """The one value of a static type."""
    if isinstance(type_, TreeType):
        return type_.tree
    if isinstance(type_, LayoutType | ComposedLayoutType):
        return type_.layout
    return type_


def dynamic_leaves(type_: Type) -> list[Dyn]:
    """The run-time integers of a tuple-like type, in printed order."""
    if isinstance(type_, TreeType):
        found = layouts.leaves(type_.tree)
    elif isinstance(type_, LayoutType | ComposedLayoutType | MemrefType):
        found = layouts.leaves(type_.layout)
    else:
        found = []
    return [leaf.scale if isinstance(leaf, Basis) else leaf for leaf in found if layouts.is_dynamic(leaf)]
