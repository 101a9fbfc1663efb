"""Models of tensor copies in plain Python, from the ISA's tables, that results are compared with."""

from __future__ import annotations

import itertools

import numpy as np

# PTX ISA 5.5.7: which 16-byte chunk of a 128-byte row is stored at each place, per row.
SWIZZLE_TABLES = {
    "none": ["01234567"],
    "32B": ["01234567", "10325476"],
    "64B": ["01234567", "10325476", "23016745", "32107654"],
    "128B": ["01234567", "10325476", "23016745", "32107654", "45670123", "54761032", "67452301", "76543210"],
    "128B_atom_32B": ["01234567", "23016745", "45670123", "67452301"],
}


def swizzled(linear: int, swizzle: str) -> int:
    """Where byte `linear` of shared memory (absolute) is stored, from the ISA's table."""
    row, chunk = linear // 128, linear // 16 % 8
    table = SWIZZLE_TABLES[swizzle]
    return row * 128 + table[row % len(table)].index(str(chunk)) * 16 + linear % 16


def expected_box(data, tensor, coordinates, start, size, base=0):
    """uint8 [size] of shared memory from `base` on, 0xFF where nothing is written, element by element.

    data: flat uint8 buffer in which the tensor's element 0 has index 0. start: absolute offset of the box.
    """
    shared = np.full(size, 0xFF, np.uint8)
    item = tensor.element_bytes
    strides = (item,) + tensor.strides
    counts = [-(-b // s) for b, s in zip(tensor.box, tensor.element_strides, strict=True)]
    fill = {"zero": 0, "nan": 0x7FFF if item == 2 else 0x7FFFFFFF}[tensor.oob_fill].to_bytes(item, "little")
    for number, index in enumerate(itertools.product(*(range(c) for c in reversed(counts)))):
        where = [c + i * s for c, i, s in zip(coordinates, reversed(index), tensor.element_strides, strict=True)]
        target = swizzled(start + number * item, tensor.swizzle) - base
        if all(0 <= w < d for w, d in zip(where, tensor.dims, strict=True)):
            source = sum(w * s for w, s in zip(where, strides, strict=True))
            shared[target : target + item] = data[source : source + item]
        else:
            shared[target : target + item] = np.frombuffer(fill, np.uint8)
    return shared
