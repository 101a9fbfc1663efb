"""Host operations on the host's own memory (`llvm`) and the driver call that encodes a tensor map from it (`cuda`).

Host functions that name tensor maps by themselves (`cutlass.experimental.cuda.create_tensor_map_tiled`) write sizes
and strides to stack arrays and hand these over. Enumerations: CUDA driver API, `CUtensorMapDataType` and
`CUtensorMapSwizzle`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ...units.tma.tensormap import TensorMap
from ..layouts import NotComputable
from ..text import Op
from ..types import Type
from ..values import Pointer
from .interpreter import Host, host_op


@dataclass
class StackArray:
    """What `llvm.alloca` makes: `count` elements of one type; `values` holds those that were stored, by index."""

    element: str
    count: int
    values: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StackPointer:
    array: StackArray
    index: int = 0


def _stack_pointer(host: Host, name: str, op: Op) -> StackPointer:
    pointer = host.value(name)
    if not isinstance(pointer, StackPointer):
        raise NotComputable(f"{op.name} of memory that is not on the host's stack")
    return pointer


@host_op("llvm.alloca")
def _alloca(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    match = re.match(r"(%\w+) x (\S+)", op.body)
    if match is None:
        raise NotComputable(f"stack memory {op.text!r}")
    return (StackPointer(StackArray(match.group(2), host.value(match.group(1)))),)


@host_op("llvm.getelementptr")
def _element(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    match = re.match(r"(?:inbounds )?(%\w+)\[(-?\d+|%\w+)\]", op.body)
    element = op.signature.rsplit(",", 1)[-1].strip()
    if match is None:
        raise NotComputable(f"address {op.text!r}")
    pointer = _stack_pointer(host, match.group(1), op)
    if pointer.array.element != element:
        raise NotComputable(f"a step of {element} in stack memory of {pointer.array.element}")
    step = match.group(2)
    return (StackPointer(pointer.array, pointer.index + (host.value(step) if step[0] == "%" else int(step))),)


@host_op("llvm.store")
def _store(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    value, place = op.operands[:2]
    pointer = _stack_pointer(host, place, op)
    if not 0 <= pointer.index < pointer.array.count:
        raise ValueError(f"host store to element {pointer.index} of {pointer.array.count}: {op.text}")
    pointer.array.values[pointer.index] = host.values[value]
    return ()


@host_op("llvm.load")
def _load(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (_read(_stack_pointer(host, op.operands[0], op), 1, op)[0],)


def _read(pointer: StackPointer, count: int, op: Op) -> tuple[int, ...]:
    """`count` integers from a stack pointer on."""
    found = [pointer.array.values.get(pointer.index + i) for i in range(count)]
    if not all(isinstance(value, int) for value in found):
        raise NotComputable(f"host memory that holds {found} is read by {op.text[:200]}")
    return tuple(found)


_DATA_TYPES = {
    0: "u8", 1: "u16", 2: "u32", 3: "s32", 4: "u64", 5: "s64", 6: "f16", 7: "f32", 8: "f64", 9: "bf16", 11: "tf32",
    13: "b4x16", 14: "b4x16_p64", 15: "b6x16_p32",
}  # fmt: skip
_SWIZZLES = {0: "none", 1: "32B", 2: "64B", 3: "128B", 4: "128B_atom_32B"}
_FILLS = {0: "zero", 1: "nan"}


@host_op("cuda.tensor_map_encode_tiled")
def _encode_tiled(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """(error code, tensor map), as `cuTensorMapEncodeTiled` makes it."""
    given = {name: host.value(value) for name, value in re.findall(r"(\w+) = (%[\w#]+)", op.body)}

    def name_of(field_name: str, names: dict[int, str]) -> str:
        if given[field_name] not in names:
            raise NotComputable(f"a tensor map with {field_name} = {given[field_name]}")
        return names[given[field_name]]

    if given["interleave"]:
        raise NotComputable(f"a tensor map with interleave = {given['interleave']}")
    address, rank = given["global_address"], given["rank"]
    names = {
        "element_type": name_of("data_type", _DATA_TYPES),
        "swizzle": name_of("swizzle", _SWIZZLES),
        "oob_fill": name_of("oob_fill", _FILLS),
    }
    sizes = {
        "dims": _read(given["global_dim"], rank, op),
        "strides": _read(given["global_strides"], rank - 1, op),
        "box": _read(given["box_dim"], rank, op),
        "element_strides": _read(given["element_strides"], rank, op),
    }
    try:
        record = TensorMap(address.address if isinstance(address, Pointer) else address, **names, **sizes)
    except ValueError as error:
        raise ValueError(f"{error}\n    made by: {op.text[:200]}") from None
    return 0, record


@host_op("cuda.result.assert_success")
def _assert_success(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return ()


@host_op("cute.ptrtoint", "llvm.ptrtoint")
def _address(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    return (host.value(op.operands[0]).address,)


@host_op("cuda.cast")
def _cast(host: Host, op: Op, types: list[Type] | None) -> tuple[Any, ...]:
    """Addresses as integers and back, streams, error codes: the same value under another type."""
    return (host.values[op.operands[0]],)
