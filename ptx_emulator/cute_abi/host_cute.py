"""Host operations of the `cute`, `cute_nvgpu` and `cuda` dialects."""

from __future__ import annotations

import re
from typing import Any

from ..tensormap import TensorMap
from . import layouts
from .host import Host, HostLaunch, LaunchConfig, host_op, template_layout
from .layouts import Basis, Layout, NotComputable, Tree
from .text import Op, closing, split_top
from .types import (
    ELEMENT_BITS,
    ComposedLayoutType,
    CoordTensorType,
    LayoutType,
    MmaType,
    PointerType,
    TmaAtomType,
    TreeType,
    Type,
    carries_state,
    dynamic_leaves,
    is_static,
)
from .values import CoordTensor, FastDivmod, Mma, Pointer, Tensor


def _layout_of(value: Any) -> Layout:
    if isinstance(value, Tensor | CoordTensor):
        return value.layout
    if isinstance(value, Layout):
        return value
    raise NotComputable(f"{type(value).__name__} has no layout")


def _shape_of(value: Any) -> Tree:
    return value if isinstance(value, int | tuple) else _layout_of(value).shape


def _attribute(op: Op, name: str) -> tuple[int, ...]:
    """An integer-list attribute, e.g. `mode` of `<{mode = [1]}>`; () where absent."""
    match = re.search(rf"\b{name} = \[([\d, ]*)\]", op.body)
    return tuple(int(word) for word in match.group(1).split(",") if word.strip()) if match else ()


def _one(types: list[Type] | None, op: Op) -> Type:
    if types is None:
        raise NotComputable(f"{op.name} without a printed result type")
    return types[0]


@host_op("cute.make_shape", "cute.make_stride", "cute.make_int_tuple", "cute.make_coord", "cute.make_tile")
def _make_tree(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """The printed tree with its `?` leaves taken, in order, from the operands' `?` leaves."""
    template = _one(types, op)
    values: list[int] = []
    for name, type_ in zip(op.operands, host.operand_types(op), strict=True):
        if is_static(type_):
            continue
        value = host.value(name)
        printed = layouts.leaves(type_.tree) if isinstance(type_, TreeType) else [layouts.Dyn()]
        given = layouts.leaves(value)
        values += [v for v, leaf in zip(given, printed, strict=True) if layouts.is_dynamic(leaf)]
    if len(values) != len(dynamic_leaves(template)):
        raise NotComputable(f"{op.name}: {len(values)} run-time leaves for {template}")
    return (layouts.fill(template.tree, iter(values)),)


@host_op("cute.to_int_tuple", "cute.assume", "cute.derefine", "cute.make_tiled_mma")
def _same(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (host.value(op.operands[0]),)


@host_op("cute.get_leaves")
def _get_leaves(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return tuple(layouts.leaves(host.value(op.operands[0])))


@host_op("cute.get_scalars")
def _get_scalars(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    found = layouts.leaves(host.value(op.operands[0]))
    if len(found) == len(op.results):
        return tuple(found)
    printed = host.operand_types(op)[0]
    if not isinstance(printed, TreeType):
        raise NotComputable(f"{op.name} of {printed}")
    pairs = zip(found, layouts.leaves(printed.tree), strict=True)
    return tuple(value for value, leaf in pairs if layouts.is_dynamic(leaf))


@host_op("cute.get_layout")
def _get_layout(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (_layout_of(host.value(op.operands[0])),)


@host_op("cute.get_iter")
def _get_iter(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    value = host.value(op.operands[0])
    return (value.pointer if isinstance(value, Tensor) else value.base,)


@host_op("cute.get_shape")
def _get_shape(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (layouts.get_mode(_shape_of(host.value(op.operands[0])), _attribute(op, "mode")),)


@host_op("cute.get_stride")
def _get_stride(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (layouts.get_mode(_layout_of(host.value(op.operands[0])).stride, _attribute(op, "mode")),)


@host_op("cute.get")
def _get(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (layouts.get_mode(host.value(op.operands[0]), _attribute(op, "mode")),)


@host_op("cute.select")
def _select(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    match = re.match(r"<\[([\d, ]+)\]>", op.body)
    if match is None:
        raise NotComputable(f"{op.name} without modes")
    return (layouts.select(host.value(op.operands[0]), [int(word) for word in match.group(1).split(",")]),)


@host_op("cute.size")
def _size(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    shape = _shape_of(host.value(op.operands[0]))
    return (layouts.product(layouts.get_mode(shape, _attribute(op, "mode"))),)


@host_op("cute.cosize")
def _cosize(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (layouts.cosize(layouts.get_mode(_layout_of(host.value(op.operands[0])), _attribute(op, "mode"))),)


def _divide(a: int, b: int) -> int:
    if b == 0 or (a % b and (a < 0) != (b < 0)):
        raise ValueError(f"host integer division {a} / {b}: not defined here (zero, or a negative inexact quotient)")
    return a // b


_TUPLE_OPS = {
    "cute.tuple_add": lambda a, b: a + b,
    "cute.tuple_sub": lambda a, b: a - b,
    "cute.tuple_mul": lambda a, b: a * b,
    "cute.tuple_div": _divide,
    "cute.tuple_mod": lambda a, b: a - b * _divide(a, b),
}


@host_op(*_TUPLE_OPS)
def _tuple_arithmetic(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (layouts.map_leaves(_TUPLE_OPS[op.name], *host.operand_values(op)),)


@host_op("cute.ceil_div")
def _ceil_div(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    shape, tile = host.operand_values(op)
    tiles = tile if isinstance(tile, tuple) else (tile,)
    extents = shape if isinstance(shape, tuple) else (shape,)
    result = []
    for index, extent in enumerate(extents):
        piece = tiles[index] if index < len(tiles) else None
        size = layouts.product(piece.shape) if isinstance(piece, Layout) else 1 if piece is None else piece
        result.append(-(-layouts.product(extent) // size))
    return (tuple(result) if isinstance(shape, tuple) else result[0],)


@host_op("cute.make_layout")
def _make_layout(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    shape, *stride = host.operand_values(op)
    if stride:
        return (Layout(shape, stride[0]),)
    return (Layout(shape, layouts.compact_strides(shape)),)


@host_op("cute.make_identity_layout")
def _make_identity_layout(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (Layout(host.value(op.operands[0]), template_layout(_one(types, op)).stride),)


@host_op("cute.make_identity_tensor")
def _make_identity_tensor(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    type_ = _one(types, op)
    if not isinstance(type_, CoordTensorType) or not layouts.is_static(type_.base):
        raise NotComputable(f"identity tensor of type {type_}")
    return (CoordTensor(type_.base, Layout(host.value(op.operands[0]), type_.layout.stride)),)


@host_op("cute.make_view")
def _make_view(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    pointer, *layout = host.operand_values(op)
    if not isinstance(pointer, Pointer):
        raise NotComputable("a view over something that is not a pointer")
    return (Tensor(pointer, layout[0] if layout else template_layout(_one(types, op))),)


@host_op("cute.recast_iter")
def _recast_iter(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    type_ = _one(types, op)
    if not isinstance(type_, PointerType):
        raise NotComputable(f"recast to {type_}")
    return (Pointer(host.value(op.operands[0]).address, type_.element),)


@host_op("cute.add_offset")
def _add_offset(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    pointer, offset = host.operand_values(op)
    if isinstance(pointer, Pointer):
        return (pointer.offset(offset),)
    return (layouts.map_leaves(lambda a, b: a + b, pointer, offset),)


@host_op("cute.crd2idx")
def _crd2idx(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    coord, layout = host.operand_values(op)
    return (layouts.crd2idx(coord, _layout_of(layout)),)


def _with_layout(value: Any, layout: Layout, offset: int = 0) -> Any:
    if isinstance(value, Tensor):
        return Tensor(value.pointer.offset(offset), layout)
    if offset or isinstance(value, CoordTensor):
        raise NotComputable(f"an offset into {type(value).__name__}")
    return layout


@host_op("cute.slice")
def _slice(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    value, coord = host.operand_values(op)
    if isinstance(value, tuple):
        kept, _ = layouts.slice_layout(coord, Layout(value, layouts.map_leaves(lambda _: 0, value)))
        return (kept.shape,)
    layout, offset = layouts.slice_layout(coord, _layout_of(value))
    return (_with_layout(value, layout, offset) if isinstance(value, Tensor) else layout,)


@host_op("cute.logical_divide", "cute.zipped_divide", "cute.tiled_divide", "cute.flat_divide")
def _tile_divide(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    value, tile = host.operand_values(op)
    layout = _layout_of(value)
    inner, rest = layouts.tile_modes(layout, tile)
    if op.name == "cute.logical_divide":
        modes = [r if i is None else layouts.join([i, r]) for i, r in zip(inner, rest, strict=True)]
        result = layouts.join(modes) if isinstance(layout.shape, tuple) else modes[0]
        return (_with_layout(value, result),)
    tiles = [item for item in inner if item is not None]
    if op.name == "cute.flat_divide":
        return (_with_layout(value, layouts.join(tiles + rest)),)
    if op.name == "cute.tiled_divide":
        return (_with_layout(value, layouts.join([layouts.join(tiles), *rest])),)
    if not isinstance(layout.shape, tuple):
        return (_with_layout(value, layouts.join(tiles + rest)),)
    return (_with_layout(value, layouts.join([layouts.join(tiles), layouts.join(rest)])),)


@host_op("cute.composition")
def _composition(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    value, tile = host.operand_values(op)
    inner, rest = layouts.tile_modes(_layout_of(value), tile)
    modes = [r if i is None else i for i, r in zip(inner, rest, strict=True)]
    return (_with_layout(value, layouts.join(modes[: len(tile)] if isinstance(tile, tuple) else modes)),)


@host_op("cute.local_tile")
def _local_tile(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    value, tile, coord = host.operand_values(op)
    inner, rest = layouts.tile_modes(_layout_of(value), tile)
    tiles = [item for item in inner if item is not None]
    coords = coord if isinstance(coord, tuple) else (coord,)
    kept, offset = layouts.slice_layout(coords, layouts.join(rest))
    kept_modes = [Layout(s, d) for s, d in zip(kept.shape, kept.stride, strict=True)]
    return (_with_layout(value, layouts.join(tiles + kept_modes), offset),)


@host_op("cute.fast_divmod.create_divisor")
def _fast_divmod(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (FastDivmod(host.value(op.operands[0])),)


@host_op("cute.make_atom")
def _make_atom(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    type_ = _one(types, op)
    if not isinstance(type_, MmaType):
        if op.operands:
            raise NotComputable(f"an atom with state of type {type_}")
        return (type_,)
    *flags, mask = host.operand_values(op)
    if len(flags) != 3 or len(mask) != type_.mask_words:
        raise NotComputable("an sm100 MMA atom is made of three flags and a mask per output lane")
    return (Mma(tuple(bool(flag) for flag in flags), tuple(mask)),)


# CuTe's printed tma_format -> ptx_emulator.tensormap element type.
_TMA_FORMATS = {
    "U8": "u8", "U16": "u16", "U32": "u32", "S32": "s32", "U64": "u64", "S64": "s64",
    "F16_RN": "f16", "BF16_RN": "bf16", "F32_RN": "f32", "F64_RN": "f64",
}  # fmt: skip


# CuTe's swizzle of byte addresses (bits, base, shift) -> the tensor map's name for it.
_TMA_SWIZZLES = {
    (0, 4, 3): "none", (1, 4, 3): "32B", (2, 4, 3): "64B", (3, 4, 3): "128B", (2, 5, 2): "128B_atom_32B",
}  # fmt: skip


def _swizzle_of(type_: Type) -> str:
    """The tensor map's name for the swizzle of a shared-memory layout."""
    if isinstance(type_, LayoutType):
        return "none"
    if not isinstance(type_, ComposedLayoutType) or type_.swizzle not in _TMA_SWIZZLES:
        raise NotComputable(f"a tensor map over a shared-memory layout of type {type_}")
    return _TMA_SWIZZLES[type_.swizzle]


def _multicast_share(box: tuple[int, ...], participants: int) -> tuple[int, ...]:
    """The part of a tile's box that one of the CTAs loads that multicast it to each other.

    The tile is cut along its outermost dimensions first (CuTe's `copy_traits_sm90_tma.hpp`, make_tma_copy_desc).
    """
    share = list(box)
    for i in reversed(range(len(box))):
        share[i], participants = -(-box[i] // participants), -(-participants // box[i])
    return tuple(share)


@host_op(*(f"cute_nvgpu.atom.make_non_exec_tiled_tma_{kind}" for kind in ("load", "store", "reduce")))
def _make_tma(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """The tensor map of a global view and the tensor of its coordinates."""
    if types is None or not isinstance(types[0], TmaAtomType) or not isinstance(types[1], CoordTensorType):
        raise NotComputable("a TMA atom of an unknown type")
    atom, coords = types
    tensor = host.value(op.operands[0])
    if atom.format not in _TMA_FORMATS:
        raise NotComputable(f"tma_format {atom.format}")
    modes = [layouts.get_mode(tensor.layout, path) for path in atom.modes]
    if any(not isinstance(mode.shape, int) for mode in modes):
        raise NotComputable("a tensor map dimension over a nested mode")
    item = ELEMENT_BITS[tensor.pointer.element] // 8
    if modes[0].stride != 1 and modes[0].shape != 1:
        raise ValueError(f"{op.text[:200]!r}: the first dimension of the box has stride {modes[0].stride}, not 1")
    swizzle = _swizzle_of(host.operand_types(op)[1])
    multicast = re.search(r"num_multicast = (\d+)", op.text)
    box = _multicast_share(atom.box, int(multicast.group(1))) if multicast else atom.box
    try:
        record = TensorMap(
            address=tensor.pointer.address,
            element_type=_TMA_FORMATS[atom.format],
            dims=tuple(mode.shape for mode in modes),
            strides=tuple(mode.stride * item for mode in modes[1:]),
            box=box,
            swizzle=swizzle,
        )
    except ValueError as error:
        raise ValueError(f"{error}\n    made by: {op.text[:200]}") from None
    return record, CoordTensor(coords.base, Layout(tensor.layout.shape, coords.layout.stride))


@host_op("cute.kernel_smem_size")
def _kernel_smem_size(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (host.shared_bytes_of(_symbol(op.body)),)


def _symbol(text: str) -> str:
    match = re.search(r'@kernels::@(?:"([^"]+)"|([\w$.]+))', text)
    if match is None:
        raise NotComputable(f"no kernel symbol in {text[:120]!r}")
    return match.group(1) or match.group(2)


@host_op("cute.print")
def _print(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """The DSL prints where a launch would fail; a user's own print has no effect on the launches."""
    text = op.body
    if "Error" in text:
        given = ", ".join(str(host.values[name]) for name in op.operands)
        raise ValueError(f"the host function reports: {text} with ({given})")
    return ()


@host_op("cuda.cast", "cuda.return_if_error", "cuda.launch_cfg.programmatic_stream_serialization_allowed",
         "cuda.launch_cfg.preferred_cluster_dim")  # fmt: skip
def _no_effect(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """Streams, error codes, and launch hints that only allow hardware to overlap or to choose larger clusters."""
    return (None,) * len(op.results)


@host_op("cuda.launch_cfg.cooperative")
def _cooperative(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    if host.value(op.operands[-1]):
        raise NotComputable("a cooperative launch (synchronisation across the grid)")
    return ()


def _triple(host: Host, text: str) -> tuple[int, int, int]:
    x, y, z = (host.value(name) for name in split_top(text))
    return x, y, z


@host_op("cuda.launch_cfg.create")
def _launch_config(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    block = re.search(r"blockDim = \(([^)]*)\)", op.body)
    grid = re.search(r"gridDim = \(([^)]*)\)", op.body)
    shared = re.search(r"dynamicSmemBytes = (%[\w#]+)", op.body)
    if block is None or grid is None or shared is None:
        raise NotComputable(f"launch configuration {op.body[:200]!r}")
    sizes = _triple(host, grid.group(1)), _triple(host, block.group(1))
    return (LaunchConfig(*sizes, host.value(shared.group(1))),)


@host_op("cuda.launch_cfg.cluster_dim")
def _cluster_dim(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    config, *cluster = host.operand_values(op)
    config.cluster = tuple(cluster)
    return ()


@host_op("cuda.launch_ex")
def _launch(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    angle = op.body.index("<")
    config = host.value(op.body[angle + 1 : closing(op.body, angle)].strip())
    start = op.body.index("(", closing(op.body, angle))
    names = split_top(op.body[start + 1 : closing(op.body, start)])
    _config_type, argument_types = op.type_texts()[0]
    printed = [host.type(text) for text in split_top(argument_types[1:-1])]
    pairs = zip(names, printed, strict=True)
    values = tuple(host.value(name) if carries_state(type_) else None for name, type_ in pairs)
    host.launches.append(HostLaunch(_symbol(op.body), config, values))
    return (None,) * len(op.results)
