"""Shared-memory swizzles, common to TMA and to the matrix descriptors of the tensor core (PTX ISA 5.5.7)."""

from __future__ import annotations

from typing import NamedTuple


class Swizzle(NamedTuple):
    """`span` contiguous bytes are one row of the pattern; `bits` address bits from `source` up are XORed into those
    from `target` up. `period` is the size of the repeating pattern in bytes."""

    span: int
    bits: int
    source: int
    target: int
    period: int

    def apply(self, address):
        """Swizzled address(es), int or array; `address` is absolute: it counts from the start of shared memory."""
        return address ^ ((address >> self.source) & ((1 << self.bits) - 1)) << self.target


NO_SWIZZLE = Swizzle(16, 0, 7, 4, 128)
SWIZZLE_32B = Swizzle(32, 1, 7, 4, 256)
SWIZZLE_64B = Swizzle(64, 2, 7, 4, 512)
SWIZZLE_128B = Swizzle(128, 3, 7, 4, 1024)
SWIZZLE_128B_ATOM_32B = Swizzle(128, 2, 7, 5, 512)
