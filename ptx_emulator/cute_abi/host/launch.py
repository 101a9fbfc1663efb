"""Host operations that end in a launch: MMA and TMA atoms, and the `cuda` dialect."""

from __future__ import annotations

import re
from typing import Any

from ...units.tma.tensormap import ELEMENT_BYTES, PACKINGS, TensorMap
from .. import layouts
from ..layouts import Layout, NotComputable
from ..text import Op, closing, split_top
from ..types import (
    ELEMENT_BITS,
    ComposedLayoutType,
    CoordTensorType,
    LayoutType,
    MmaType,
    TmaAtomType,
    Type,
    carries_state,
)
from ..values import CoordTensor, Mma, Pointer
from .interpreter import Host, HostLaunch, LaunchConfig, host_op, one_type


@host_op("cute.make_atom")
def _make_atom(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    type_ = one_type(types, op)
    if not isinstance(type_, MmaType):
        if op.operands:
            raise NotComputable(f"an atom with state of type {type_}")
        return (type_,)
    flags, rest = host.operand_values(op)[:3], host.operand_values(op)[3:]
    words = [item.address for item in rest] if all(isinstance(item, Pointer) for item in rest) else rest[0]
    if len(flags) != 3 or len(words) != type_.words:
        raise NotComputable("an sm100 MMA atom is made of three flags and a mask, or the addresses of scale factors")
    return (Mma(tuple(bool(flag) for flag in flags), tuple(words)),)


# CuTe's printed tma_format -> ptx_emulator.tensormap element type.
_TMA_FORMATS = {
    "U8": "u8", "U16": "u16", "U32": "u32", "S32": "s32", "U64": "u64", "S64": "s64",
    "F16_RN": "f16", "BF16_RN": "bf16", "F32_RN": "f32", "F64_RN": "f64", "TF32_RN": "tf32",
    "U4": "b4x16", "U4_UNPACK_U8": "b4x16_p64", "U6_UNPACK_U8": "b6x16_p32",
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
    modes = [_joined(tensor.layout, paths) for paths in atom.modes]
    format_, bits = _TMA_FORMATS[atom.format], ELEMENT_BITS[tensor.pointer.element]
    if modes[0].stride != 1 and modes[0].shape != 1:
        raise ValueError(f"{op.text[:200]!r}: the first dimension of the box has stride {modes[0].stride}, not 1")
    # The tensor map's elements may be larger than the tensor's.
    inner = modes[0].shape if format_ in PACKINGS else modes[0].shape * bits // (8 * ELEMENT_BYTES[format_])
    swizzle = _swizzle_of(host.operand_types(op)[1])
    multicast = re.search(r"num_multicast = (\d+)", op.text)
    box = _multicast_share(atom.box, int(multicast.group(1))) if multicast else atom.box
    try:
        record = TensorMap(
            address=tensor.pointer.address,
            element_type=format_,
            dims=(inner, *(mode.shape for mode in modes[1:])),
            strides=tuple(mode.stride * bits // 8 for mode in modes[1:]),
            box=box,
            swizzle=swizzle,
        )
    except ValueError as error:
        raise ValueError(f"{error}\n    made by: {op.text[:200]}") from None
    return record, CoordTensor(coords.base, Layout(tensor.layout.shape, coords.layout.stride))


def _joined(layout: Layout, paths: tuple[tuple[int, ...], ...]) -> Layout:
    """The modes at `paths` as one, which they must be: each goes on where the one before it ends."""
    first, *rest = (layouts.get_mode(layout, path) for path in paths)
    for mode in (first, *rest):
        if not isinstance(mode.shape, int):
            raise NotComputable("a tensor map dimension over a nested mode")
    size = first.shape
    for mode in rest:
        if mode.shape != 1 and mode.stride != first.stride * size:
            raise NotComputable(f"a tensor map dimension over modes {paths} of {layouts.show(layout)}")
        size *= mode.shape
    return Layout(size, first.stride)


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


@host_op("cuda.return_if_error", "cuda.launch_cfg.preferred_cluster_dim")
def _no_effect(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """Streams, error codes, and launch hints that only allow hardware to choose larger clusters."""
    return (None,) * len(op.results)


@host_op("cuda.launch_cfg.programmatic_stream_serialization_allowed")
def _dependent(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """The launch may start before the one before it has ended."""
    config, allowed = host.operand_values(op)
    config.dependent = bool(allowed)
    return ()


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
