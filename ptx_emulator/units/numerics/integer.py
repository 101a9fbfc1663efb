"""Integer arithmetic of `tcgen05.mma.kind::i8` (PTX ISA 9.7.16.10.9): exact products, 32-bit accumulators."""

from __future__ import annotations

import numpy as np
from numba import njit

from ...engine import cache  # noqa: F401  (must run before anything is compiled)


@njit(nogil=True, cache=True)
def multiply_integers(val_a, val_b, memory, segments, column, width, keep, saturate):
    """D = A * B (+ D) of integer operands (float32 [rows, K] and [K, N]), in place; memory and segments are those of
    numerics.mma_into. A sum beyond 32 bits wraps around, or stops at the nearest s32 if `saturate`; the ISA does not
    say whether hardware clamps inside a K step, so here one step is summed exactly and clamped once."""
    low, high = np.int64(-(1 << 31)), np.int64((1 << 31) - 1)
    for s in range(segments.shape[0]):
        row, lane, first = segments[s, 0], segments[s, 1], segments[s, 2]
        for n in range(width):
            total = np.int64(0)
            for k in range(val_b.shape[0]):
                total += np.int64(val_a[row, k] * val_b[k, first + n])
            if keep:
                total += np.int64(np.int32(memory[lane, column + n]))
            if saturate:
                total = min(max(total, low), high)
            memory[lane, column + n] = np.uint32(total & 0xFFFFFFFF)
