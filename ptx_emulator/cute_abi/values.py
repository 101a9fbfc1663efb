"""What a host function's values are here, and how the caller's arguments become such values.

Integers and floats are Python numbers, tuples are trees, layouts are `Layout`; the rest is below.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .layouts import Layout, Tree, bind, map_leaves
from .types import ELEMENT_BITS, MemrefType, PointerType, ScalarType, TreeType, Type


@dataclass(frozen=True)
class Pointer:
    """A byte address in the caller's memory and the element type it points to."""

    address: int
    element: str

    def offset(self, elements: int) -> Pointer:
        bits = elements * ELEMENT_BITS[self.element]
        return Pointer(self.address + bits // 8, self.element)


@dataclass(frozen=True)
class Tensor:
    pointer: Pointer
    layout: Layout


@dataclass(frozen=True)
class CoordTensor:
    base: Tree
    layout: Layout


@dataclass(frozen=True)
class FastDivmod:
    """A divisor in 1..2^31-1 for division by multiplication."""

    divisor: int

    def __post_init__(self):
        if not 1 <= self.divisor < 1 << 31:
            raise ValueError(f"fast_divmod divisor {self.divisor}: must be in 1..2^31-1")

    def magic(self) -> tuple[int, int, int]:
        """(multiplier, shift1, shift2): with hi = mulhi(multiplier, n), n // divisor is
        (((n - hi) >> shift1) + hi) >> shift2 for every n below 2^32 (Granlund and Montgomery 1994, figure 4.1)."""
        bits = (self.divisor - 1).bit_length()
        multiplier = ((1 << 32) * ((1 << bits) - self.divisor)) // self.divisor + 1
        return multiplier, min(bits, 1), max(bits - 1, 0)


@dataclass(frozen=True)
class Mma:
    """The state of an MMA atom: accumulate, negate A, negate B, and the words that a types.MmaType tells."""

    flags: tuple[bool, bool, bool] = (False, False, False)
    words: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class ArrayView:
    """Memory of a numpy array or (duck-typed) torch CPU tensor; strides count elements."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item_bytes: int
    dtype: str

    def span(self) -> tuple[int, int]:
        """[first, last) byte addresses that its elements occupy; empty where it has no element."""
        if 0 in self.shape:
            return self.address, self.address
        reach = [(n - 1) * d * self.item_bytes for n, d in zip(self.shape, self.strides, strict=True)]
        low = sum(step for step in reach if step < 0)
        high = sum(step for step in reach if step > 0)
        return self.address + low, self.address + high + self.item_bytes


def is_array(value: Any) -> bool:
    return hasattr(value, "data_ptr") or isinstance(value, np.ndarray)


def view_array(array: Any, what: str) -> ArrayView:
    """Raises TypeError for something that is neither, or lies on another device."""
    if isinstance(array, np.ndarray):
        if any(stride % array.itemsize for stride in array.strides):
            raise ValueError(f"{what}: strides {array.strides} are no multiple of the item size {array.itemsize}")
        strides = tuple(stride // array.itemsize for stride in array.strides)
        return ArrayView(array.ctypes.data, array.shape, strides, array.itemsize, array.dtype.name)
    if not hasattr(array, "data_ptr"):
        raise TypeError(f"{what}: expected a numpy array or a torch CPU tensor, got {type(array).__name__}")
    if getattr(array.device, "type", "cpu") != "cpu":
        raise TypeError(f"{what}: must be a CPU tensor, got one on {array.device}")
    dtype = str(array.dtype).removeprefix("torch.")
    return ArrayView(array.data_ptr(), tuple(array.shape), tuple(array.stride()), array.element_size(), dtype)


# An unsigned integer array may stand for any element type of its width: numpy has no bfloat16 and no float8.
_ELEMENTS_OF = {
    "float16": {"f16"}, "bfloat16": {"bf16"}, "float32": {"f32", "tf32"}, "float64": {"f64"},
    "float8_e4m3fn": {"f8E4M3FN"}, "float8_e5m2": {"f8E5M2"}, "float8_e8m0fnu": {"f8E8M0FNU"},
    "bool": {"i1", "i8"}, "int8": {"i8"}, "int16": {"i16"}, "int32": {"i32"}, "int64": {"i64"},
}  # fmt: skip


def _check_element(view: ArrayView, element: str, what: str) -> None:
    raw = view.dtype.startswith("uint") and view.item_bytes * 8 == ELEMENT_BITS[element]
    if not raw and element not in _ELEMENTS_OF.get(view.dtype, ()):
        raise TypeError(f"{what}: compiled for elements of type {element}, got an array of {view.dtype}")


def host_argument(value: Any, type_: Type, what: str) -> Any:
    """The interpreter's value of one caller's argument; raises TypeError or ValueError naming `what`.

    `value` is an array, an address or a number after the type; for a tuple type the list of its leaves.
    """
    if isinstance(type_, MemrefType):
        view = view_array(value, what)
        _check_element(view, type_.element, what)
        _check_alignment(view.address, type_.align, what)
        layout = Layout(view.shape, view.strides)
        if not isinstance(type_.layout.shape, tuple) and len(view.shape) == 1:
            layout = Layout(view.shape[0], view.strides[0])
        return Tensor(Pointer(view.address, type_.element), bind(type_.layout, layout, what))
    if isinstance(type_, PointerType):
        address = view_array(value, what).address if is_array(value) else value
        if not isinstance(address, int):
            raise TypeError(f"{what}: expected an address or an array, got {type(value).__name__}")
        _check_alignment(address, type_.align, what)
        return Pointer(address, type_.element)
    if isinstance(type_, ScalarType):
        return scalar(value, type_, what)
    if isinstance(type_, TreeType):
        numbers = iter(scalar(number, ScalarType("i64"), what) for number in value)
        return bind(type_.tree, map_leaves(lambda leaf: next(numbers), type_.tree), what)
    raise NotImplementedError(f"{what}: no host argument of type {type_} is known")


def _check_alignment(address: int, align: int, what: str) -> None:
    if address % align:
        raise ValueError(f"{what}: compiled for an address that is a multiple of {align}, got {address:#x}")


def scalar(value: Any, type_: ScalarType, what: str) -> int | float:
    """A Python number of an integer or float type, rounded to it; DSL numbers (with `.value`) are unwrapped."""
    value = getattr(value, "value", value)
    if hasattr(value, "item") and callable(value.item):
        value = value.item()
    if type_.is_float:
        if not isinstance(value, int | float):
            raise TypeError(f"{what}: expected a number for {type_.name}, got {type(value).__name__}")
        return round_float(float(value), type_)
    if not isinstance(value, int):
        raise TypeError(f"{what}: expected an integer for {type_.name}, got {type(value).__name__}")
    value, bits = int(value), type_.bits
    if bits == 1:
        return int(bool(value))
    if not -(1 << (bits - 1)) <= value < 1 << bits:
        raise ValueError(f"{what}: {value} does not fit {type_.name}")
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


def round_float(value: float, type_: ScalarType) -> float:
    """The nearest value of a float type."""
    if type_.name == "f64":
        return value
    if type_.name == "f32":
        return float(np.float32(value))
    if type_.name == "f16":
        return float(np.float16(value))
    if type_.name == "bf16":
        return float(np.uint32(bf16_bits(value) << 16).view(np.float32))
    raise NotImplementedError(f"scalars of type {type_.name}")


def bf16_bits(value: float) -> int:
    """A float's bfloat16 bit pattern, rounded to nearest even from float32."""
    bits = int(np.float32(value).view(np.uint32))
    if np.isnan(value):
        return 0x7FFF
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def flatten_arguments(values: Iterable[Any]) -> Iterator[Any]:
    """The DSL's flattening: tuples and lists in order; None is an argument that was absent at compile time."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from flatten_arguments(value)
        elif value is not None:
            yield value


def buffers_of(values: Iterable[Any]) -> list[np.ndarray]:
    """One byte array per region that the arrays among `values` occupy; overlapping ones are joined."""
    spans = sorted(view_array(value, "argument").span() for value in values if is_array(value))
    regions: list[list[int]] = []
    for low, high in spans:
        if low == high:
            continue
        if regions and low < regions[-1][1]:
            regions[-1][1] = max(regions[-1][1], high)
        else:
            regions.append([low, high])
    return [bytes_at(low, high - low) for low, high in regions]


def bytes_at(address: int, length: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * length).from_address(address), dtype=np.uint8)
