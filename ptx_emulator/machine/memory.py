"""Address spaces: the caller's buffers, shared-memory windows, and views of both for Python handlers.

Global, parameter and constant addresses are host addresses of registered buffers. A shared address is
`CTA rank << 24 | offset`; a generic address of shared memory is SHARED_WINDOW plus that (engine/state.py).
"""

from __future__ import annotations

import numpy as np

from ..engine import state as st
from ..errors import Misaligned, OutOfBounds


class Buffers:
    """The host memory that a launch may touch: int64[n, 3] rows of (start, end, writable), sorted by start."""

    def __init__(self):
        self._arrays: list[np.ndarray] = []
        self._names: dict[int, str] = {}
        self.table = np.zeros((0, 3), np.int64)

    def add(self, array: np.ndarray, *, writable: bool = True, name: str = "") -> int:
        """Registers a contiguous array (kept alive here); returns its host address.

        Raises ValueError for an array that is not contiguous or overlaps another.
        """
        raw = as_bytes(array)
        start = raw.ctypes.data
        self._arrays.append(raw)
        if raw.nbytes == 0:
            return start
        rows = [tuple(row) for row in self.table] + [(start, start + raw.nbytes, int(writable))]
        rows.sort()
        for (_, end, _), (start2, _, _) in zip(rows, rows[1:], strict=False):
            if start2 < end:
                raise ValueError(f"buffers overlap: {name or 'a buffer'} at {start:#x}, {raw.nbytes} bytes")
        self.table = np.array(rows, np.int64)
        self._names[start] = name
        return start

    def view(self, address: int, nbytes: int, inst=None, *, align: int = 1, write: bool = False) -> np.ndarray:
        """uint8[nbytes] view of global memory. Raises OutOfBounds or Misaligned, naming `inst`."""
        where = {"line": getattr(inst, "line", None), "text": getattr(inst, "text", None)}
        if address % align:
            raise Misaligned(f"global address {address:#x} is not a multiple of {align}", **where)
        row = int(np.searchsorted(self.table[:, 0], address, side="right")) - 1
        if row < 0 or address + nbytes > self.table[row, 1]:
            raise OutOfBounds(f"{nbytes} bytes at global address {address:#x}: {self.describe(address)}", **where)
        if write and not self.table[row, 2]:
            raise OutOfBounds(f"write to read-only memory at {address:#x}", **where)
        return host_view(address, nbytes)

    def bytes_left(self, address: int) -> int:
        """How many bytes of the buffer that holds `address` lie from there on; at least 1."""
        row = int(np.searchsorted(self.table[:, 0], address, side="right")) - 1
        return max(int(self.table[row, 1]) - address, 1) if row >= 0 else 1

    def describe(self, address: int) -> str:
        """Where `address` lies relative to the registered buffers, in words."""
        if not len(self.table):
            return "no buffer is registered"
        distance = np.minimum(abs(self.table[:, 0] - address), abs(self.table[:, 1] - address))
        start, end, _ = (int(v) for v in self.table[int(np.argmin(distance))])
        name = self._names.get(start) or "buffer"
        side = f"{address - end} bytes past the end of" if address >= end else f"{start - address} bytes before"
        if start <= address < end:
            side = f"{end - address} bytes before the end of"
        return f"outside every buffer, {side} {name} [{start:#x}, {end:#x})"


def as_bytes(array) -> np.ndarray:
    """A uint8 view of a contiguous numpy array or of anything with `data_ptr` and `nbytes` (a torch tensor)."""
    if isinstance(array, np.ndarray):
        if not array.flags.c_contiguous:
            raise ValueError(f"array of shape {array.shape}, strides {array.strides}: must be C-contiguous")
        return array.reshape(-1).view(np.uint8)
    if hasattr(array, "data_ptr"):
        view = host_view(
            array.data_ptr(), array.untyped_storage().nbytes() - array.storage_offset() * array.element_size()
        )
        return view
    raise TypeError(f"buffer of type {type(array).__name__}: must be a numpy array or a tensor")


def host_view(address: int, nbytes: int) -> np.ndarray:
    """uint8[nbytes] view of host memory at `address`. The caller guarantees that it stays alive."""
    import ctypes

    if nbytes == 0:
        return np.zeros(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def is_shared_window(address: int) -> bool:
    return st.SHARED_WINDOW <= address < st.SHARED_WINDOW + st.WINDOW_BYTES


def shared_target(cta, address: int, nbytes: int, inst=None, *, align: int = 1, cluster: bool = True):
    """(target CTA, offset) of the shared address `rank << 24 | offset`, checked for `nbytes`.

    `cluster=False` (`.shared::cta`) only allows the CTA's own window. Raises OutOfBounds or Misaligned.
    """
    where = {"line": getattr(inst, "line", None), "text": getattr(inst, "text", None)}
    rank, offset = address >> st.RANK_SHIFT, address & st.OFFSET_MASK
    if rank >= len(cta.cluster) or (not cluster and rank != cta.rank):
        raise OutOfBounds(
            f"shared address {address:#x} names CTA {rank}; "
            + (f"the cluster has {len(cta.cluster)}" if cluster else f".shared::cta of CTA {cta.rank}"),
            **where,
        )
    target = cta.cluster[rank]
    if offset + nbytes > target.shared.nbytes or offset < st.SHARED_START:
        raise OutOfBounds(
            f"{nbytes} bytes at shared offset {offset:#x}: shared memory is [{st.SHARED_START:#x}, "
            f"{target.shared.nbytes:#x})",
            **where,
        )
    if offset % align:
        raise Misaligned(f"shared offset {offset:#x} is not a multiple of {align}", **where)
    return target, offset
