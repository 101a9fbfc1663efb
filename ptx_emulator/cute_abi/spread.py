"""Arrays with their rows apart: what lies behind the end of a row is then no element of the array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .values import ArrayView, bytes_at, is_array, view_array

ROW_ALIGN = 128  # bytes, a multiple of every alignment that a stride is compiled for


@dataclass(frozen=True)
class SpreadArrays:
    """Arguments of a launch of which some are copies. args, names: as given, with the copies in place of the arrays;
    copies: (the array's elements, the copy), unsigned integers.
    """

    args: list[Any]
    names: dict[str, Any]
    copies: tuple[tuple[np.ndarray, np.ndarray], ...]

    def write_back(self) -> None:
        """What the launch has changed, to the arrays that were given."""
        for elements, copy in self.copies:
            if not np.array_equal(elements, copy):
                elements[...] = copy


def spread_rows(host_args: Sequence[Any], names: Mapping[str, Any], chosen: Sequence[str]) -> SpreadArrays:
    """Copies the arrays called `chosen` so that there is room of at least a row, all ones, behind each row (what lies
    without gaps along the last dimension). Raises ValueError for a name that is none, and for an array without rows.
    """
    replaced, copies = {}, []
    for name in chosen:
        if not is_array(names.get(name)):
            known = ", ".join(key for key, value in names.items() if is_array(value))
            raise ValueError(f"spread: {name!r} is no array of this launch: must be among {known}")
        view = view_array(names[name], name)
        copies.append((_elements(view, name), _room(view, name)))
        copies[-1][1][...] = copies[-1][0]
        replaced[id(names[name])] = copies[-1][1]

    def swapped(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(swapped(one) for one in value)
        return replaced.get(id(value), value)

    return SpreadArrays(
        [swapped(value) for value in host_args], {key: swapped(value) for key, value in names.items()}, tuple(copies)
    )


def _elements(view: ArrayView, name: str) -> np.ndarray:
    """The array's own memory."""
    if len(view.shape) < 2 or 0 in view.shape:
        raise ValueError(f"spread: {name!r} has shape {view.shape}: must have rows, two dimensions or more")
    if view.strides[-1] != 1 and view.shape[-1] > 1:
        raise ValueError(f"spread: {name!r} has strides {view.strides}: the last dimension must be contiguous")
    low, high = view.span()
    strides = [step * view.item_bytes for step in view.strides]
    dtype = np.dtype(f"u{view.item_bytes}")
    return np.ndarray(view.shape, dtype, bytes_at(low, high - low), view.address - low, strides)


def _room(view: ArrayView, name: str) -> np.ndarray:
    """New memory for it. Rows are equally far apart in all of it, the order of dimensions is as it was."""
    outer = sorted(range(len(view.shape) - 1), key=lambda dim: (view.strides[dim], -dim))
    pitch = -(-2 * view.shape[-1] * view.item_bytes // ROW_ALIGN) * ROW_ALIGN
    strides, step = [view.item_bytes] * len(view.shape), pitch
    for dim in outer:
        strides[dim] = step
        step = (view.shape[dim] + 1) * step
    memory = np.full(step + ROW_ALIGN, 0xFF, np.uint8)
    start = -memory.ctypes.data % ROW_ALIGN
    return np.ndarray(view.shape, np.dtype(f"u{view.item_bytes}"), memory, start, strides)
