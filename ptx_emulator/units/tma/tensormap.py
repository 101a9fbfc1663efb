"""Tensor maps: what a TMA instruction copies, and the copy itself (PTX ISA 5.5, tiled mode).

NVIDIA's 128-byte tensor map is opaque. The emulator has a record of its own of the same size, so that maps can live
in kernel parameters or global memory; programs only pass its address on. Limits follow the CUDA driver's
`cuTensorMapEncodeTiled`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit

from ..swizzle import NO_SWIZZLE, SWIZZLE_32B, SWIZZLE_64B, SWIZZLE_128B, SWIZZLE_128B_ATOM_32B

TENSOR_MAP_BYTES = 128
MAX_RANK = 5


class Packing(NamedTuple):
    """Elements of less than a byte: how many are copied as one unit, and a unit's bytes in global and shared memory."""

    elements: int
    global_bytes: int
    shared_bytes: int


PACKINGS = {"b4x16": Packing(2, 1, 1), "b4x16_p64": Packing(16, 8, 16), "b6x16_p32": Packing(16, 12, 16)}
_PADDED_BOX = 128  # elements of an innermost row, and what its coordinate is a multiple of, where there is padding
ELEMENT_BYTES = {  # of an element, or of a unit of PACKINGS, in global memory
    "u8": 1,
    "u16": 2,
    "u32": 4,
    "s32": 4,
    "u64": 8,
    "s64": 8,
    "f16": 2,
    "f32": 4,
    "f64": 8,
    "bf16": 2,
    "tf32": 4,
    "b4x16": 1,
    "b4x16_p64": 8,
    "b6x16_p32": 12,
}
# The OOB-NaN is documented only as "a special NaN"; the all-ones quiet NaN stands for it here.
_NAN_FILL = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "tf32": 0x7FFFFFFF, "f64": 0x7FFFFFFFFFFFFFFF}
SWIZZLES = {
    "none": NO_SWIZZLE,
    "32B": SWIZZLE_32B,
    "64B": SWIZZLE_64B,
    "128B": SWIZZLE_128B,
    "128B_atom_32B": SWIZZLE_128B_ATOM_32B,
}
_FILLS = ("zero", "nan")
_TYPES = tuple(ELEMENT_BYTES)
_SWIZZLE_NAMES = tuple(SWIZZLES)
_MAGIC = b"PTXM"
# The record takes the first 64 of the 128 bytes, like NVIDIA's: kernels that change a copy of a map copy no more. Bit
# 21 of the word at byte 8 is always 0 here: after replacing a global_dim, NVIDIA's compiler clears it.
# Name: (first byte, bytes each, how many, what is subtracted from the value).
FIELDS = {
    "elemtype": (4, 1, 1, 0),
    "rank": (5, 1, 1, 0),
    "swizzle_mode": (6, 1, 1, 0),
    "fill_mode": (7, 1, 1, 0),
    "element_stride": (8, 1, MAX_RANK, 0),
    "box_dim": (13, 1, MAX_RANK, 1),
    "global_address": (18, 6, 1, 0),
    "global_dim": (24, 4, MAX_RANK, 1),
    "global_stride": (44, 5, MAX_RANK - 1, 0),
}
_RECORD_BYTES = 64


@dataclass(frozen=True)
class TensorMap:
    """A tiled tensor map.

    address: global address of element 0, a multiple of 16. dims, box: elements, dimension 0 first (contiguous).
    strides: bytes between neighbours in dimensions 1.., one fewer than dims, multiples of 16. element_strides: step
    of the traversal (5.5.3.2). element_type: a key of ELEMENT_BYTES; loads round a tf32 element to the nearest tf32
    (CUTLASS, `sm90_mma_tma_gmma_ss_warpspecialized.hpp`: "TMA converts f32 input to tf32"); 5.5.1.1 tells of those of
    less than a byte, whose padding stays as it was in shared memory. swizzle: a key of SWIZZLES.
    oob_fill: "zero" or "nan". Raises ValueError for anything else.
    """

    address: int
    element_type: str
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...] = ()
    swizzle: str = "none"
    oob_fill: str = "zero"

    def __post_init__(self):
        for name in ("dims", "strides", "box"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))
        steps = tuple(int(v) for v in self.element_strides) or (1,) * len(self.dims)
        object.__setattr__(self, "element_strides", steps)
        self._check_names()
        self._check_shape()
        self._check_swizzle()

    def _check_names(self) -> None:
        for name, value, allowed in (
            ("element_type", self.element_type, _TYPES),
            ("swizzle", self.swizzle, _SWIZZLE_NAMES),
            ("oob_fill", self.oob_fill, _FILLS),
        ):
            if value not in allowed:
                raise ValueError(f"tensor map: {name}={value!r}, allowed: {', '.join(allowed)}")
        if self.oob_fill == "nan" and self.element_type not in _NAN_FILL:
            raise ValueError(f"tensor map: oob_fill='nan' needs a floating-point type, got {self.element_type}")

    def _check_shape(self) -> None:
        rank = self.rank
        if not 1 <= rank <= MAX_RANK:
            raise ValueError(f"tensor map: dims={self.dims} has rank {rank}, allowed: 1 to {MAX_RANK}")
        for name, value, length in (
            ("strides", self.strides, rank - 1),
            ("box", self.box, rank),
            ("element_strides", self.element_strides, rank),
        ):
            if len(value) != length:
                raise ValueError(f"tensor map: {name}={value} has {len(value)} entries, rank {rank} needs {length}")
        if self.address % 16 or not 0 <= self.address < 1 << 48:
            raise ValueError(f"tensor map: address={self.address:#x} is not a multiple of 16 below 2**48")
        if any(not 1 <= d <= 1 << 32 for d in self.dims):
            raise ValueError(f"tensor map: dims={self.dims}, each must be 1 to 2**32")
        if any(s % 16 or not 0 <= s < 1 << 40 for s in self.strides):
            raise ValueError(f"tensor map: strides={self.strides} bytes, each must be a multiple of 16 below 2**40")
        if any(not 1 <= b <= 256 for b in self.box):
            raise ValueError(f"tensor map: box={self.box}, each must be 1 to 256")
        if self.element_strides[0] != 1 or any(not 1 <= s <= 8 for s in self.element_strides):
            raise ValueError(f"tensor map: element_strides={self.element_strides}, each must be 1 to 8, the first 1")
        unit = self.packing.elements
        if self.dims[0] % unit or self.box[0] % unit:
            raise ValueError(
                f"tensor map: dims[0]={self.dims[0]} and box[0]={self.box[0]} of {self.element_type} must be multiples "
                f"of {unit}"
            )
        if self.is_padded and (self.box[0] != _PADDED_BOX or self.dims[0] % _PADDED_BOX or self.address % 32):
            raise ValueError(
                f"tensor map: {self.element_type} needs box[0]=128, dims[0] in multiples of 128 and a 32-byte aligned "
                f"address, got {self.box[0]}, {self.dims[0]}, {self.address:#x}"
            )
        if self.inner_bytes % 16:
            raise ValueError(
                f"tensor map: box[0]={self.box[0]} of {self.element_type} is {self.inner_bytes} bytes, "
                f"not a multiple of 16"
            )

    def _check_swizzle(self) -> None:
        if self.swizzle == "none":
            return
        span = SWIZZLES[self.swizzle].span
        if self.inner_bytes > span:
            raise ValueError(f"tensor map: box[0] spans {self.inner_bytes} bytes, swizzle {self.swizzle} allows {span}")
        if self.inner_bytes < span and self.box[1:] != (1,) * (self.rank - 1):
            raise ValueError(
                f"tensor map: box[0] spans {self.inner_bytes} bytes, less than the {span} of swizzle "
                f"{self.swizzle}: where the next row then goes is not documented"
            )

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.element_type]

    @property
    def packing(self) -> Packing:
        return PACKINGS.get(self.element_type, Packing(1, self.element_bytes, self.element_bytes))

    @property
    def is_padded(self) -> bool:
        return self.packing.shared_bytes != self.packing.global_bytes

    @property
    def inner_bytes(self) -> int:
        """Bytes of a box's innermost row in shared memory."""
        return self.box[0] // self.packing.elements * self.packing.shared_bytes

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Elements, or units of PACKINGS, copied per dimension: ceil(box / element_stride)."""
        first = self.box[0] // self.packing.elements
        return tuple(-(-b // s) for b, s in zip((first, *self.box[1:]), self.element_strides, strict=True))

    @cached_property
    def box_bytes(self) -> int:
        """Bytes of a whole box in shared memory, out-of-bounds elements included."""
        return int(np.prod(self.counts)) * self.packing.shared_bytes

    @cached_property
    def transaction_bytes(self) -> int:
        """Bytes of a box that an mbarrier counts: without padding, as CUTLASS expects (TmaTransactionBytes of
        `sm100_mma_warpspecialized.hpp`, sizeof_bits of the padded types)."""
        return int(np.prod(self.counts)) * self.packing.global_bytes

    def place(self, coordinates) -> np.ndarray:
        """int64 [5]: where a box starts, dimension 0 in units of PACKINGS. Raises ValueError between two units."""
        result = padded(coordinates)
        step = _PADDED_BOX if self.is_padded else self.packing.elements
        if result[0] % step:
            raise ValueError(f"coordinate {int(result[0])} of {self.element_type}: must be a multiple of {step}")
        result[0] //= self.packing.elements
        return result

    @cached_property
    def table(self) -> np.ndarray:
        """int64 [4, 5]: dims, byte strides, counts, element strides, padded with neutral entries."""
        pad = (1,) * (MAX_RANK - self.rank)
        rows = (
            (self.dims[0] // self.packing.elements,) + self.dims[1:] + pad,
            (self.element_bytes,) + self.strides + (0,) * len(pad),
            self.counts + pad,
            self.element_strides + pad,
        )
        return np.array(rows, np.int64)

    @cached_property
    def fill(self) -> np.ndarray:
        """uint8 [element_bytes]: what an out-of-bounds element becomes."""
        value = _NAN_FILL[self.element_type] if self.oob_fill == "nan" else 0
        return np.frombuffer(value.to_bytes(self.element_bytes, "little"), np.uint8).copy()

    def rows_of(self, box: np.ndarray) -> tuple[np.ndarray, int]:
        """(int64 global addresses, bytes each) of a box's innermost rows, as far as they are in bounds."""
        dims, strides, counts, steps = self.table
        low, high = max(int(box[0]), 0), min(int(box[0]) + int(counts[0]), int(dims[0]))
        if low >= high:
            return np.zeros(0, np.int64), 0
        offsets = np.array([self.address + low * self.element_bytes], np.int64)
        for d in range(1, MAX_RANK):
            place = int(box[d]) + np.arange(int(counts[d])) * int(steps[d])
            place = place[(place >= 0) & (place < int(dims[d]))]
            offsets = (offsets[None, :] + (place * int(strides[d]))[:, None]).reshape(-1)
        return offsets, (high - low) * self.element_bytes

    def to_bytes(self) -> bytes:
        """The 128-byte record."""
        record = np.zeros(TENSOR_MAP_BYTES, np.uint8)
        record[: len(_MAGIC)] = np.frombuffer(_MAGIC, np.uint8)
        values = {
            "elemtype": (_TYPES.index(self.element_type),),
            "rank": (self.rank,),
            "swizzle_mode": (_SWIZZLE_NAMES.index(self.swizzle),),
            "fill_mode": (_FILLS.index(self.oob_fill),),
            "element_stride": self.element_strides,
            "box_dim": self.box,
            "global_address": (self.address,),
            "global_dim": self.dims,
            "global_stride": self.strides,
        }
        for name, given in values.items():
            for ordinal, value in enumerate(given):
                replace_field(record, name, ordinal, value)
        return record.tobytes()

    @staticmethod
    def from_bytes(record: bytes) -> TensorMap:
        """Read a record back. Raises ValueError if the bytes are not one."""
        if len(record) != TENSOR_MAP_BYTES:
            raise ValueError(f"a tensor map has {TENSOR_MAP_BYTES} bytes, not {len(record)}")
        return _from_bytes(bytes(record[:_RECORD_BYTES]))


def replace_field(record: np.ndarray, name: str, ordinal: int, value: int) -> None:
    """Overwrite one field of a record (uint8 [128]) in place; whether the map still makes sense is checked when it is
    used. name: a key of FIELDS; ordinal: which dimension (0 for a field that is there once). Elements, swizzles and
    fills are given by their place in this module's tables. Raises ValueError for bytes that are not a record."""
    if record[: len(_MAGIC)].tobytes() != _MAGIC:
        raise ValueError(f"not a tensor map of this emulator: it starts {record[:8].tobytes()!r}")
    start, size, count, less = FIELDS[name]
    if not 0 <= ordinal < count or not 0 <= value - less < 1 << 8 * size:
        raise ValueError(f"tensor map field {name}[{ordinal}] = {value}: there are {count}, of {size} bytes")
    raw = (value - less).to_bytes(size, "little")
    record[start + ordinal * size : start + (ordinal + 1) * size] = np.frombuffer(raw, np.uint8)


@lru_cache(maxsize=4096)
def _from_bytes(record: bytes) -> TensorMap:
    if record[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"not a tensor map of this emulator: it starts {record[:8]!r}")

    def read(name: str) -> tuple[int, ...]:
        start, size, count, less = FIELDS[name]
        starts = range(start, start + size * count, size)
        return tuple(int.from_bytes(record[i : i + size], "little") + less for i in starts)

    (rank,) = read("rank")
    return TensorMap(
        read("global_address")[0],
        _TYPES[read("elemtype")[0]],
        read("global_dim")[:rank],
        read("global_stride")[: rank - 1],
        read("box_dim")[:rank],
        read("element_stride")[:rank],
        _SWIZZLE_NAMES[read("swizzle_mode")[0]],
        _FILLS[read("fill_mode")[0]],
    )


@njit(nogil=True, cache=True)
def _inside(coordinates, table):
    """Per dimension the range [first, last) of box indices inside the tensor, int64 [2, 5]."""
    ranges = np.empty((2, MAX_RANK), np.int64)
    for d in range(MAX_RANK):
        step = table[3, d]
        ranges[0, d] = max(0, -(coordinates[d] // step))  # ceil(-coordinate / step)
        ranges[1, d] = min(table[2, d], -((coordinates[d] - table[0, d]) // step))
    return ranges


@njit(nogil=True, cache=True)
def box_extent(coordinates, table):
    """(lowest, one past the highest) byte that the box's in-bounds elements touch, from the tensor's address;
    (0, 0) if no element is in bounds. coordinates: int64 [5]."""
    ranges = _inside(coordinates, table)
    low, high = 0, 0
    for d in range(MAX_RANK):
        if ranges[0, d] >= ranges[1, d]:
            return 0, 0
        low += (coordinates[d] + ranges[0, d] * table[3, d]) * table[1, d]
        high += (coordinates[d] + (ranges[1, d] - 1) * table[3, d]) * table[1, d]
    return low, high + table[1, 0]


@njit(nogil=True, cache=True)
def copy_box(memory, origin, shared, start, coordinates, table, bits, source, target, fill, store):
    """Copy a box between global and shared memory.

    memory: uint8, holds every in-bounds element; origin: index in it of the tensor's element 0 (may be negative).
    shared: uint8; start: the box's absolute offset in it. bits, source, target: the swizzle. fill: uint8 pattern of
    an element out of bounds; when `store`, such an element is not written.
    """
    ranges = _inside(coordinates, table)
    size = fill.size
    first, last = ranges[0, 0], ranges[1, 0]
    mask = (1 << bits) - 1
    inner = table[2, 0] * size
    row = start
    for i4 in range(table[2, 4]):
        for i3 in range(table[2, 3]):
            for i2 in range(table[2, 2]):
                for i1 in range(table[2, 1]):
                    inside = (
                        ranges[0, 1] <= i1 < ranges[1, 1]
                        and ranges[0, 2] <= i2 < ranges[1, 2]
                        and ranges[0, 3] <= i3 < ranges[1, 3]
                        and ranges[0, 4] <= i4 < ranges[1, 4]
                    )
                    place = origin + coordinates[0] * size
                    place += (coordinates[1] + i1 * table[3, 1]) * table[1, 1]
                    place += (coordinates[2] + i2 * table[3, 2]) * table[1, 2]
                    place += (coordinates[3] + i3 * table[3, 3]) * table[1, 3]
                    place += (coordinates[4] + i4 * table[3, 4]) * table[1, 4]
                    low = first * size if inside else inner
                    high = last * size if inside else inner
                    for chunk in range(0, inner, 16):
                        address = row + chunk
                        address ^= ((address >> source) & mask) << target
                        if chunk >= low and chunk + 16 <= high:
                            here, there = shared[address : address + 16], memory[place + chunk : place + chunk + 16]
                            for j in range(16):
                                if store:
                                    there[j] = here[j]
                                else:
                                    here[j] = there[j]
                        else:
                            for j in range(16):
                                inbound = low <= chunk + j < high
                                if store and inbound:
                                    memory[place + chunk + j] = shared[address + j]
                                elif not store:
                                    shared[address + j] = memory[place + chunk + j] if inbound else fill[j % size]
                    row += inner


def spread(packed: np.ndarray, tensor: TensorMap, shared: np.ndarray, start: int) -> None:
    """Writes a box without its padding (uint8) to shared memory, with the swizzle and the padding of a padded type; the
    bytes of the padding stay as they are."""
    packing, swizzle = tensor.packing, SWIZZLES[tensor.swizzle]
    units = packed.reshape(-1, packing.global_bytes)
    places = swizzle.apply(start + np.arange(len(units)) * packing.shared_bytes)
    shared[places[:, None] + np.arange(packing.global_bytes)] = units


def round_tf32(words: np.ndarray) -> np.ndarray:
    """uint32 float32 patterns with the 13 bits that tf32 lacks rounded away, to nearest even; NaN, Inf as they are."""
    rounded = words + np.uint32(0xFFF) + (words >> np.uint32(13) & np.uint32(1)) & np.uint32(0xFFFFE000)
    return np.where(words & np.uint32(0x7F800000) == 0x7F800000, words, rounded)


def padded(coordinates) -> np.ndarray:
    """int64 [5] from up to five coordinates."""
    result = np.zeros(MAX_RANK, np.int64)
    result[: len(coordinates)] = coordinates
    return result
