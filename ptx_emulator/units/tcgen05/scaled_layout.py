"""Block-scaled tcgen05.mma: its instruction descriptor, and where its scale factors lie in Tensor Memory.

Pure functions of bits and shapes. Sources: PTX ISA 9.7.16.4.2 (tables 43, 44), 9.7.16.10.7 (scale factors). The ISA's
figures of the scale factors are absent from its text; the layout is that of CUTLASS' `tmem_sf_frg`
(`mma_traits_sm100_frag.hpp`) and of its `2cta_mma_blockscale_m128.py`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .layout import F8F6F4_TYPES, PADDED_BITS

# (kind, scale vector size): factors of a row of A in one step. Without a size mxf4 has blocks of 32 (9.7.16.10.9.1); so
# has mxf8f6f4 here, which has no other and which the ISA's example writes that way.
FACTORS = {
    ("mxf8f6f4", ""): 1,
    ("mxf8f6f4", "scale_vec::1X"): 1,
    ("mxf8f6f4", "block32"): 1,
    ("mxf4", ""): 2,
    ("mxf4", "scale_vec::2X"): 2,
    ("mxf4", "block32"): 2,
    ("mxf4nvf4", "scale_vec::2X"): 2,
    ("mxf4nvf4", "block32"): 2,
    ("mxf4nvf4", "scale_vec::4X"): 4,
    ("mxf4nvf4", "block16"): 4,
}


class ScaledDescriptor(NamedTuple):
    """What a block-scaled tcgen05.mma computes. `k` elements are one step; `factors` scale a row of A, and a column of
    B, in it. scale_type: "ue8m0" or "ue4m3". a_id, b_id: the byte of a Tensor Memory word with the first factor."""

    m: int
    n: int
    k: int
    factors: int
    a_type: str
    b_type: str
    scale_type: str
    a_id: int
    b_id: int
    a_negate: bool
    b_negate: bool
    a_mn_major: bool
    b_mn_major: bool


@lru_cache(maxsize=1024)
def decode_scaled_descriptor(bits: int, kind: str, factors: int, cta_group: int) -> ScaledDescriptor:
    """Decode the 32-bit instruction descriptor of kind mxf8f6f4, mxf4 or mxf4nvf4. Raises ValueError that names the
    field, its value, and what is allowed."""
    small = kind != "mxf8f6f4"
    text = f"instruction descriptor {bits:#010x}"

    def field(low: int, width: int) -> int:
        return bits >> low & (1 << width) - 1

    zeros = [("reserved bits 0-1", 0, 2), ("sparsity", 2, 1), ("reserved bit 3", 3, 1), ("reserved bit 6", 6, 1)]
    zeros += [("reserved bits 24-26", 24, 3), ("K dimension (of sm_103a)" if small else "reserved bit 31", 31, 1)]
    if small:
        # Bit 12 may be anything though it is reserved: CUTLASS' 2cta_mma_blockscale_m128.py encodes B's e2m1 as 5.
        zeros += [("transposition of 4-bit matrices", 15, 2)]
    for name, low, width in zeros:
        if field(low, width):
            raise ValueError(f"{text}: field {name!r} is {field(low, width)}, only 0 is implemented")
    types = {1: "e2m1"} if small else F8F6F4_TYPES
    codes = field(7, 3), field(10, 2 if small else 3)
    for name, code in zip(("A type", "B type"), codes, strict=True):
        if code not in types:
            raise ValueError(f"{text}: {name} {code} is not allowed for kind::{kind} (allowed: {types})")
    scale_type = "ue8m0" if field(23, 1) else "ue4m3"
    if scale_type == "ue4m3" and factors != 4:
        raise ValueError(f"{text}: ue4m3 scale factors are for kind::mxf4nvf4 with blocks of 16")
    allowed_ids = range(0, 4, factors)
    ids = field(29, 2), field(4, 2)
    for name, value in zip(("A", "B"), ids, strict=True):
        if value not in allowed_ids:
            raise ValueError(
                f"{text}: scale factor {name} ID {value} with {factors} factors (allowed: {list(allowed_ids)})"
            )
    a_type, b_type = (types[code] for code in codes)
    mn_major = bool(field(15, 1)), bool(field(16, 1))
    for name, type_, transposed in zip("AB", (a_type, b_type), mn_major, strict=True):
        if transposed and type_ in PADDED_BITS:
            raise ValueError(f"{text}: matrix {name} of type {type_} cannot be transposed")
    m, n = field(27, 2) << 7, field(17, 6) << 3
    allowed_m = (128,) if cta_group == 1 else (128, 256)
    step = 8 * cta_group * (2 if mn_major[1] else 1)
    if m not in allowed_m or n not in range(step, 257, step):
        raise ValueError(
            f"{text}: shape M={m}, N={n} with cta_group::{cta_group}: M must be in {allowed_m}, N a multiple of {step} "
            "up to 256"
        )
    negate = bool(field(13, 1)), bool(field(14, 1))
    k = 64 if small else 32
    return ScaledDescriptor(m, n, k, factors, a_type, b_type, scale_type, *ids, *negate, *mn_major)


def scale_cells(rows: np.ndarray, lanes: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
    """(lane, column) of the words with the scale factors of `rows` of A, or columns of B, for results in `lanes`.

    A column of Tensor Memory has the factors of 32 rows, and every 32 lanes have a copy (9.7.16.10.7): each quarter of
    the data path reads its own. Rows are counted within the CTA's part of A; columns of B from the first one that the
    lanes hold, which is N/2 in the upper lanes of a pair with M = 128.
    """
    return lanes // 32 * 32 + rows % 32, column + rows // 32
