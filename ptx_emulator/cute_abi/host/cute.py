"""Host operations on CuTe tuples, layouts, pointers and tensors (`cute`)."""

from __future__ import annotations

import re
from typing import Any

from .. import layouts
from ..layouts import Layout, NotComputable, Tree
from ..text import Op
from ..types import CoordTensorType, PointerType, TreeType, Type, dynamic_leaves, is_static
from ..values import CoordTensor, FastDivmod, Pointer, Tensor
from .interpreter import Host, host_op, one_type, template_layout


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


@host_op("cute.make_shape", "cute.make_stride", "cute.make_int_tuple", "cute.make_coord", "cute.make_tile")
def _make_tree(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """The printed tree with its `?` leaves taken, in order, from the operands' `?` leaves."""
    template = one_type(types, op)
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


@host_op(
    "builtin.unrealized_conversion_cast", "cute.to_int_tuple", "cute.assume", "cute.derefine", "cute.make_tiled_mma"
)
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


@host_op("cute.make_ordered_layout")
def _make_ordered_layout(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (layouts.ordered_layout(*host.operand_values(op)),)


@host_op("cute.tile_to_shape")
def _tile_to_shape(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """A block repeated, in an order of the modes, until it covers a shape."""
    block, shape, order = host.operand_values(op)
    block = _layout_of(block)
    modes = [layouts.get_mode(block, (i,)) if i < len(block.shape) else Layout(1, 0) for i in range(len(shape))]
    counts = tuple(-(-s // layouts.product(mode.shape)) for s, mode in zip(shape, modes, strict=True))
    repeated, size = layouts.ordered_layout(counts, order), layouts.cosize(block)
    rest = [Layout(n, 0 if n == 1 else d * size) for n, d in zip(counts, repeated.stride, strict=True)]
    return (layouts.join([layouts.join([mode, more]) for mode, more in zip(modes, rest, strict=True)]),)


@host_op("cute.make_identity_layout")
def _make_identity_layout(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (Layout(host.value(op.operands[0]), template_layout(one_type(types, op)).stride),)


@host_op("cute.make_identity_tensor")
def _make_identity_tensor(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    type_ = one_type(types, op)
    if not isinstance(type_, CoordTensorType) or not layouts.is_static(type_.base):
        raise NotComputable(f"identity tensor of type {type_}")
    return (CoordTensor(type_.base, Layout(host.value(op.operands[0]), type_.layout.stride)),)


@host_op("cute.make_view")
def _make_view(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    pointer, *layout = host.operand_values(op)
    if not isinstance(pointer, Pointer):
        raise NotComputable("a view over something that is not a pointer")
    return (Tensor(pointer, layout[0] if layout else template_layout(one_type(types, op))),)


@host_op("cute.recast_iter")
def _recast_iter(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    type_ = one_type(types, op)
    if not isinstance(type_, PointerType):
        raise NotComputable(f"recast to {type_}")
    return (Pointer(host.value(op.operands[0]).address, type_.element),)


@host_op("cute.inttoptr")
def _pointer(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    type_ = one_type(types, op)
    if not isinstance(type_, PointerType):
        raise NotComputable(f"a pointer of type {type_}")
    return (Pointer(host.value(op.operands[0]), type_.element),)


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
    if offset:
        raise NotComputable(f"an offset into {type(value).__name__}")
    return CoordTensor(value.base, layout) if isinstance(value, CoordTensor) else layout


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
