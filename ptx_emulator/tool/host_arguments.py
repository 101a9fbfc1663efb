"""What a script calls a compiled CuTe DSL function with, as `cute_abi.launch` takes it: arrays by name, no streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..cute_abi import stream_arguments
from ..cute_abi.values import bytes_at, is_array


def host_arguments(ir: str, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """(the host function's arguments, arrays by name). `given`: by the names of its signature.

    Raises TypeError for arrays that are not in CPU memory.
    """
    leaves = [leaf for name, value in given.items() for leaf in _leaves(value, name)]
    streams = stream_arguments(ir, len(leaves))
    kept = [leaf for i, leaf in enumerate(leaves) if i not in streams]
    return [value for _, value in kept], {name: value for name, value in kept if is_array(value)}


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Tuples and dataclasses in order, as the DSL flattens them; None is nothing."""
    if value is None:
        return
    if isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{name}[{i}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "dtype"):
        for item in dataclasses.fields(value):
            yield from _leaves(getattr(value, item.name), f"{name}.{item.name}")
    else:
        yield name, _plain(value, name)


def _plain(value: Any, name: str) -> Any:
    """A runtime tensor of the DSL (`from_dlpack`) as an array of unsigned integers on its memory, a runtime pointer
    (`make_ptr`) as its address; anything else as it is."""
    if hasattr(value, "_pointer") and hasattr(value, "memspace"):
        return int(value._pointer)
    if not hasattr(value, "_dlpack_data") and not hasattr(value, "load_dltensor"):
        return value
    if "gmem" in str(value.memspace):
        raise TypeError(f"{name}: must be in CPU memory, is on a GPU")
    bits = value.element_type.width
    if bits % 8:
        raise TypeError(f"{name}: elements of {bits} bits: give the bytes, as an array of uint8")
    shape, strides = tuple(value.shape), tuple(int(step) * bits // 8 for step in value.stride)
    if 0 in shape:
        return np.empty(shape, f"u{bits // 8}")
    reach = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
    low, high = sum(min(step, 0) for step in reach), sum(max(step, 0) for step in reach) + bits // 8
    memory = bytes_at(value.data_ptr + low, high - low)
    return np.ndarray(shape, f"u{bits // 8}", memory, -low, strides)
