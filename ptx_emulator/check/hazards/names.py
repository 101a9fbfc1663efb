"""What memory is called in reports: arrays with the index of an element, variables and mbarriers of shared memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...engine import state as st


@dataclass(frozen=True, slots=True)
class NamedArray:
    """An array in host memory. strides: bytes; last: of its last byte."""

    name: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item_bytes: int

    @property
    def last(self) -> int:
        steps = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        return self.address + self.item_bytes - 1 + steps

    def index(self, address: int) -> tuple[int, ...] | None:
        """Which element a byte belongs to; None for a byte between elements."""
        rest, found = address - self.address, {}
        for i in sorted(range(len(self.shape)), key=lambda i: -self.strides[i]):
            stride = self.strides[i]
            found[i] = min(rest // stride, self.shape[i] - 1) if stride > 0 else 0
            rest -= found[i] * stride
        if not 0 <= rest < self.item_bytes:
            return None
        return tuple(found[i] for i in range(len(self.shape)))

    def rows(self) -> tuple[int, int, int] | None:
        """(address of the first, bytes from one to the next, bytes of one) of what lies without gaps; None if all does,
        or if rows are not at regular distances."""
        length = self.item_bytes
        steps = sorted((step, n) for step, n in zip(self.strides, self.shape, strict=True) if n > 1)
        for i, (step, n) in enumerate(steps):
            if step > length:
                return (self.address, step, length) if all(outer % step == 0 for outer, _ in steps[i:]) else None
            if step < length:
                return None
            length = step * n
        return None

    def describe(self, address: int) -> str:
        index = self.index(address)
        if index is None:
            return f"{self.name}, byte {address - self.address}, between its rows"
        return f"{self.name}[{', '.join(map(str, index))}]" if index else self.name


def named(name: str, array: Any) -> NamedArray | None:
    """A numpy array or a tensor by name; None for what is neither, or empty."""
    if hasattr(array, "data_ptr"):
        item = array.element_size()
        address, strides = array.data_ptr(), tuple(step * item for step in array.stride())
    elif hasattr(array, "__array_interface__"):
        address, item, strides = array.__array_interface__["data"][0], array.itemsize, array.strides
    else:
        return None
    shape = tuple(array.shape)
    if math.prod(shape) == 0 or any(step < 0 for step in strides):
        return None
    return NamedArray(name, address, shape, strides, item)


def named_arrays(arrays: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> list[NamedArray]:
    """All of `arrays` that have elements."""
    items = arrays.items() if isinstance(arrays, Mapping) else arrays
    return [one for one in (named(name, array) for name, array in items) if one is not None]


def global_place(arrays: Iterable[NamedArray], address: int) -> str:
    """What lies at an address: the smallest of the arrays that span it."""
    spanning = [array for array in arrays if array.address <= address <= array.last]
    if not spanning:
        return f"global memory at {address:#x}"
    return min(spanning, key=lambda array: array.last - array.address).describe(address)


def shared_place(symbols: Mapping[str, Any], offset: int) -> str:
    """What lies at an offset in shared memory: the variable there, and how far behind its start."""
    offset &= st.OFFSET_MASK
    before = [v for v in symbols.values() if v.space == "shared" and 0 <= v.offset <= offset]
    inside = [v for v in before if v.extern or offset < v.offset + v.nbytes]
    if not inside:
        return f"shared memory at {offset:#x}"
    variable = max(inside, key=lambda v: v.offset)
    return f"{variable.name}+{offset - variable.offset:#x}"
