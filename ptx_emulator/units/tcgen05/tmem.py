"""Tensor Memory of a CTA: cells, allocation, and the checks that every access makes (PTX ISA 9.7.16.1, 9.7.16.7)."""

from __future__ import annotations

import numpy as np

from ...errors import TmemError
from .layout import TMEM_COLUMNS, TMEM_LANES

SHIFT_COLUMNS = 8  # 32 bytes
POISON = 0xFFFFFFFF  # a NaN as f32, and as two f16 or bf16


class TensorMemory:
    """words: uint32 [128 lanes, 512 columns], poisoned where nothing was written since allocation. columns: uint8
    [512], 1 where allocated."""

    def __init__(self, rank: int):
        self.rank = rank
        self.words = np.full((TMEM_LANES, TMEM_COLUMNS), POISON, np.uint32)
        self.allocations: dict[int, int] = {}  # first column -> columns
        self.relinquished = False
        self.requests: dict[str, object] = {}  # what this CTA's warp waits to do together with its pair
        self.pending_stores: dict[int, int] = {}  # warp index -> tcgen05.st not carried out yet
        self.columns = np.zeros(TMEM_COLUMNS, np.uint8)
        self._last_columns = TMEM_COLUMNS

    def check_request(self, columns: int, where: dict) -> None:
        """Raises TmemError for a number of columns that tcgen05.alloc does not take."""
        if columns not in (32, 64, 128, 256, 512):
            raise TmemError(f"{columns} columns: must be a power of two from 32 to 512", **where)
        if self.relinquished:
            raise TmemError(f"CTA {self.rank} allocates after tcgen05.relinquish_alloc_permit", **where)
        if columns > self._last_columns:
            raise TmemError(
                f"allocation of {columns} columns after one of {self._last_columns}: the number must not increase",
                **where,
            )

    def find(self, columns: int) -> int | None:
        """First column of a free, aligned run of `columns`, or None."""
        for first in range(0, TMEM_COLUMNS - columns + 1, columns):
            if not self.columns[first : first + columns].any():
                return first
        return None

    def allocate(self, first: int, columns: int) -> None:
        self.allocations[first] = columns
        self.columns[first : first + columns] = 1
        self._last_columns = columns

    def free(self, first: int, columns: int, where: dict) -> None:
        """Give an allocation back, all of it. Raises TmemError if it is not one."""
        if self.allocations.get(first) != columns:
            raise TmemError(
                f"dealloc of {columns} columns at column {first}: allocated are {self.describe_allocations()}", **where
            )
        del self.allocations[first]
        self.columns[first : first + columns] = 0
        self.words[:, first : first + columns] = POISON

    def shift_rows(self, first: int, column: int) -> None:
        """Each of the lanes first .. first + 30 takes the next lane's 32 bytes from `column`; lane first + 31 keeps its
        own (9.7.16.9.3). `first` is a multiple of 32."""
        cells = self.words[first : first + 32, column : column + SHIFT_COLUMNS]
        cells[:-1] = cells[1:].copy()

    def check_columns(self, column: int, columns: int, where: dict) -> None:
        """Raises TmemError unless all of `columns` from `column` are allocated."""
        if column + columns > TMEM_COLUMNS or not self.columns[column : column + columns].all():
            raise TmemError(
                f"columns {column} to {column + columns - 1} of CTA {self.rank}: allocated are "
                f"{self.describe_allocations()}",
                **where,
            )

    def describe_allocations(self) -> str:
        ranges = (f"{first} to {first + count - 1}" for first, count in sorted(self.allocations.items()))
        return ", ".join(ranges) or "none"


def split_address(address: int) -> tuple[int, int]:
    """(lane, column) of a Tensor Memory address."""
    return address >> 16, address & 0xFFFF
