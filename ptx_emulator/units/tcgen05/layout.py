"""Where the 5th-generation tensor core finds its operands: descriptors decoded from their bits, and index maps.

Pure functions of bits and shapes: nothing here touches memory. Sources: PTX ISA 9.7.16.2-4 (shapes, canonical
layouts, descriptors), 9.7.16.10.5 (data-path layouts). The data-path and fragment figures are absent from the ISA's
text; those maps are the ones of CUTLASS' `mma_traits_sm100_frag.hpp` / `copy_traits_sm100.hpp` and of TVM's tcgen05
documentation, as ptx_sm100.md tells.

Every `decode_*` raises ValueError that names the field, its value, and what is allowed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..swizzle import NO_SWIZZLE, SWIZZLE_32B, SWIZZLE_64B, SWIZZLE_128B, SWIZZLE_128B_ATOM_32B, Swizzle

TMEM_LANES = 128
TMEM_COLUMNS = 512

_F16_TYPES = {0: "f16", 1: "bf16"}
_TF32_TYPES = {2: "tf32"}
F8F6F4_TYPES = {0: "e4m3", 1: "e5m2", 3: "e2m3", 4: "e3m2", 5: "e2m1"}
_KINDS = {  # kind: (operand types, accumulator types, element bytes in shared memory)
    "f16": (_F16_TYPES, {0: "f16", 1: "f32"}, 2),
    "tf32": (_TF32_TYPES, {1: "f32"}, 4),
    "f8f6f4": (F8F6F4_TYPES, {0: "f16", 1: "f32"}, 1),
    "i8": ({0: "u8", 1: "s8"}, {2: "s32"}, 1),
}
# Bits of an element in shared memory where 16 of them share 16 bytes with the padding behind them (9.7.16.10.4.4).
PADDED_BITS = {"e2m3": 6, "e3m2": 6, "e2m1": 4}
K_BYTES = 32  # one MMA step covers 32 bytes of K of a dense operand


class InstructionDescriptor(NamedTuple):
    """What a tcgen05.mma computes. `element_bytes` is the size of an A or B element in shared memory; `k` elements
    are one step. `a_mn_major` / `b_mn_major`: the operand's M or N index is contiguous. `saturate`: of s32."""

    m: int
    n: int
    k: int
    a_type: str
    b_type: str
    d_type: str
    a_negate: bool
    b_negate: bool
    a_mn_major: bool
    b_mn_major: bool
    element_bytes: int
    saturate: bool = False


@lru_cache(maxsize=1024)
def decode_instruction_descriptor(bits: int, kind: str, ws: bool, cta_group: int) -> InstructionDescriptor:
    """Decode the 32-bit instruction descriptor of kind f16, tf32, f8f6f4 or i8 (PTX ISA 9.7.16.4.2, table 42)."""
    if kind not in _KINDS:
        raise ValueError(f"kind::{kind} is not implemented (known: {', '.join(_KINDS)})")
    types, d_types, element_bytes = _KINDS[kind]

    def field(low: int, width: int) -> int:
        return bits >> low & (1 << width) - 1

    integers = kind == "i8"
    for name, low, width in (
        ("sparsity selector", 0, 2),
        ("sparsity", 2, 1),
        ("saturate of floating-point types", 3, 0 if integers else 1),
        ("reserved bit 6", 6, 1),
        ("negation of integers", 13, 2 if integers else 0),
        ("reserved bit 23", 23, 1),
        ("reserved bit 29", 29, 1),
        ("maximum shift of B reuse", 30, 2),
    ):
        if field(low, width):
            raise ValueError(
                f"instruction descriptor {bits:#010x}: field {name!r} is {field(low, width)}, only 0 is implemented"
            )

    def lookup(name: str, low: int, width: int, table: dict[int, str]) -> str:
        if field(low, width) not in table:
            raise ValueError(
                f"instruction descriptor {bits:#010x}: {name} {field(low, width)} is not allowed for "
                f"kind::{kind} (allowed: {table})"
            )
        return table[field(low, width)]

    result = InstructionDescriptor(
        m=field(24, 5) << 4,
        n=field(17, 6) << 3,
        k=K_BYTES // element_bytes,
        a_type=lookup("A type", 7, 3, types),
        b_type=lookup("B type", 10, 3, types),
        d_type=lookup("D type", 4, 2, d_types),
        a_negate=bool(field(13, 1)),
        b_negate=bool(field(14, 1)),
        a_mn_major=bool(field(15, 1)),
        b_mn_major=bool(field(16, 1)),
        element_bytes=element_bytes,
        saturate=integers and bool(field(3, 1)),
    )
    for name, type_, mn_major in (("A", result.a_type, result.a_mn_major), ("B", result.b_type, result.b_mn_major)):
        if mn_major and type_ in PADDED_BITS:
            raise ValueError(f"instruction descriptor {bits:#010x}: matrix {name} of type {type_} cannot be transposed")
    _check_shape(bits, kind, result, ws, cta_group)
    return result


def _check_shape(bits: int, kind: str, d: InstructionDescriptor, ws: bool, cta_group: int) -> None:
    """Tables 39 (shapes) and 52 (8-bit transposed B), and the pairs of types that exist."""
    if kind == "f16" and d.d_type == "f16" and (d.a_type, d.b_type) != ("f16", "f16"):
        raise ValueError(
            f"instruction descriptor {bits:#010x}: an f16 accumulator takes f16 operands, not {d.a_type} and {d.b_type}"
        )
    if ws and cta_group != 1:
        raise ValueError("tcgen05.mma.ws exists for cta_group::1 only")
    if ws:
        allowed_m, allowed_n = (32, 64, 128), (64, 128, 256)
    elif cta_group == 1:
        allowed_m, allowed_n = (64, 128), range(8, 257, 8)
    else:
        allowed_m, allowed_n = (128, 256), range(16, 257, 16)
    if kind == "i8" and not ws:
        step = 16 * cta_group
        allowed_n = [n for n in allowed_n if n % step == 0 or (cta_group == 1 and n <= 32)]
    if d.element_bytes == 1 and d.b_mn_major:
        step = 16 * cta_group
        allowed_n = [n for n in allowed_n if n % step == 0]
    if d.m not in allowed_m or d.n not in allowed_n:
        raise ValueError(
            f"instruction descriptor {bits:#010x}: shape M={d.m}, N={d.n} with cta_group::{cta_group}"
            f"{', .ws' if ws else ''}: M must be in {tuple(allowed_m)}, N in "
            f"{', '.join(map(str, allowed_n))}"
        )


_DESCRIPTOR_SWIZZLES = {0: NO_SWIZZLE, 1: SWIZZLE_128B_ATOM_32B, 2: SWIZZLE_128B, 4: SWIZZLE_64B, 6: SWIZZLE_32B}


class SharedDescriptor(NamedTuple):
    """A matrix in shared memory. `start`: byte offset in the CTA's shared memory (18 bits); `lbo`, `sbo`: leading
    and stride dimension byte offsets."""

    start: int
    lbo: int
    sbo: int
    swizzle: Swizzle


def decode_shared_descriptor(bits: int) -> SharedDescriptor:
    """Decode the 64-bit shared memory descriptor (PTX ISA 9.7.16.4.1, table 40)."""
    for name, low, width, allowed in (
        ("constant 0b001 at bit 46", 46, 3, 1),
        ("matrix base offset", 49, 3, 0),
        ("leading dimension stride mode", 52, 1, 0),
        ("constant 0 at bit 53", 53, 8, 0),
    ):
        value = bits >> low & (1 << width) - 1
        if value != allowed:
            raise ValueError(
                f"shared memory descriptor {bits:#018x}: field {name!r} is {value}, only {allowed} is implemented"
            )
    code = bits >> 61
    if code not in _DESCRIPTOR_SWIZZLES:
        raise ValueError(
            f"shared memory descriptor {bits:#018x}: swizzling mode {code} is not allowed "
            f"(allowed: {', '.join(map(str, _DESCRIPTOR_SWIZZLES))})"
        )
    return SharedDescriptor(
        (bits & 0x3FFF) << 4, (bits >> 16 & 0x3FFF) << 4, (bits >> 32 & 0x3FFF) << 4, _DESCRIPTOR_SWIZZLES[code]
    )


def linear_offsets(
    rows: int, k: int, element_bytes: int, mn_major: bool, lbo: int, sbo: int, swizzle: Swizzle
) -> np.ndarray:
    """Byte offsets int64 [rows, k] from the matrix start, before swizzling: the canonical layouts of 9.7.16.3.3.

    Raises ValueError for a major-ness that the swizzle mode does not support (table 54).
    """
    row, column = np.arange(rows)[:, None], np.arange(k)[None, :]
    if not mn_major:
        if swizzle is SWIZZLE_128B_ATOM_32B:
            raise ValueError("128B swizzle with 32B atomicity: only implemented for MN-major matrices")
        byte = column * element_bytes
        along_k = byte if swizzle is not NO_SWIZZLE else byte % 16 + byte // 16 * lbo
        return row % 8 * swizzle.span + row // 8 * sbo + along_k
    if (element_bytes == 4) != (swizzle is SWIZZLE_128B_ATOM_32B):
        raise ValueError(
            f"MN-major matrix of {element_bytes}-byte elements: 128B swizzle with 32B atomicity is for "
            f"4-byte elements and they need it"
        )
    per_span = swizzle.span // element_bytes
    inner = row % per_span * element_bytes
    if swizzle is NO_SWIZZLE:
        return inner + row // per_span * sbo + column % 8 * 16 + column // 8 * lbo
    group = swizzle.period // swizzle.span  # k rows of one swizzle atom
    return inner + row // per_span * lbo + column % group * swizzle.span + column // group * sbo


@lru_cache(maxsize=2048)
def _operand_map(
    phase: int,
    rows: int,
    k: int,
    element_bytes: int,
    mn_major: bool,
    lbo: int,
    sbo: int,
    swizzle: Swizzle,
    transposed: bool,
) -> tuple[np.ndarray, int]:
    offsets = linear_offsets(rows, k, element_bytes, mn_major, lbo, sbo, swizzle)
    swizzled = swizzle.apply(offsets + phase) - phase
    extent = int(max(swizzled.max(), offsets.max())) + element_bytes
    index = np.ascontiguousarray((swizzled.T if transposed else swizzled), dtype=np.int32)
    index.flags.writeable = False
    return index, extent


def operand_map(
    descriptor: SharedDescriptor, rows: int, k: int, element_bytes: int, mn_major: bool, *, transposed: bool = False
) -> tuple[np.ndarray, int]:
    """(int32 byte offsets from `descriptor.start`, read-only; bytes from the start that the matrix reaches).

    Offsets are [rows, k], or [k, rows] if `transposed`. The swizzle applies to the absolute address, wherever the
    matrix starts, so the map depends on the start's place in the swizzle pattern. CUTLASS' tutorial GEMMs rely on
    this: their tiles start at any multiple of 128 bytes, with a base offset of 0.
    """
    return _operand_map(
        descriptor.start % descriptor.swizzle.period,
        rows,
        k,
        element_bytes,
        mn_major,
        descriptor.lbo,
        descriptor.sbo,
        descriptor.swizzle,
        transposed,
    )


def zero_columns(bits: int, m: int, n: int) -> np.ndarray:
    """bool [n]: the columns of B that count as zero, from the zero-column mask descriptor of a tcgen05.mma.ws (PTX ISA
    9.7.16.4.3, table 45).

    The table describes the two spans the other way round than its own examples and CUTLASS' `mma_sm100_desc.hpp`
    (MaskAndShiftB), which are followed here: Use Span counts columns where B is used, Skip Span those that are zero.
    Raises ValueError for a column shift: how it combines with the mask is not documented.
    """
    if bits >> 56 & 0x3F or bits >> 36 & 7 or bits >> 62:
        raise ValueError(f"zero-column mask descriptor {bits:#018x}: a column shift is not implemented")
    parts = 128 // m
    mask = np.zeros((parts, n // parts), bool)
    if not bits >> 39 & 1:
        return mask.ravel()
    skip, use = (bits >> 40 & 0xFF) + 1, (bits >> 48 & 0xFF) + 1
    for part in range(parts):
        place = np.arange(n // parts) + (bits >> 8 * part & 0xFF)
        first_is_zero = bits >> 32 + part & 1
        mask[part] = place % (skip + use) < skip if first_is_zero else place % (skip + use) >= use
    return mask.ravel()


class DataPath(NamedTuple):
    """Where one CTA's part of D lies in its Tensor Memory.

    segments: int64 [S, 3] rows of (row of this CTA's A, lane, first column of B); a segment is `width` consecutive
    columns. `a_rows`: rows of A in this CTA's shared memory. `lane_step`: the lane of the address may be 0 or this.
    A in Tensor Memory is read at the lane of the D row it contributes to, hence duplicated where `chunks` > 1.
    """

    segments: np.ndarray
    width: int
    a_rows: int
    lane_step: int


@lru_cache(maxsize=256)
def data_path(m: int, n: int, ws: bool, cta_group: int) -> DataPath:
    """Data-path layouts A to G for dense A (PTX ISA 9.7.16.10.5)."""
    rows = m // cta_group
    chunks = TMEM_LANES // rows if ws or (cta_group == 2 and m == 128) else 1
    row = np.arange(rows)
    half_used = chunks == 1 and rows == 64  # layout F: lanes 0-15 or 16-31 of each quarter
    lane = 32 * (row // 16) + row % 16 if half_used else row
    width = n // chunks
    segments = np.concatenate(
        [np.stack([row, lane + rows * c, np.full(rows, width * c)], axis=1) for c in range(chunks)]
    ).astype(np.int64)
    segments.flags.writeable = False
    return DataPath(segments, width, rows, 16 if half_used else 0)


def equal_runs(places: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """The places [p, p + size) of all `places`, which do not overlap, as runs of one length: (int64 starts, length)."""
    ordered = np.unique(places).astype(np.int64)
    ends = np.flatnonzero(np.diff(ordered, append=-1) != size) + 1
    run = int(np.gcd.reduce(np.diff(ends, prepend=0)))
    return np.ascontiguousarray(ordered[::run]), run * size


# Shapes of tcgen05.ld / tcgen05.st: 32-bit registers per repetition (table 49) and lanes that one access covers.
LOAD_SHAPES = {"32x32b": (1, 32), "16x64b": (1, 16), "16x128b": (2, 16), "16x256b": (4, 16), "16x32bx2": (1, 16)}


@lru_cache(maxsize=256)
def fragment_map(shape: str, repeat: int, split: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(lane, column) int64 [registers, 32]: the Tensor Memory cell of register r of thread t, from the address.

    `split` is immHalfSplitoff of shape 16x32bx2, in columns. PTX ISA 9.7.16.2.3.1.
    """
    registers = LOAD_SHAPES[shape][0] * repeat
    if not 1 <= registers <= 128:
        raise ValueError(f"shape .{shape}.x{repeat}: {registers} registers, at most 128 are allowed")
    r, t = np.arange(registers)[:, None], np.arange(32)[None, :]
    if shape == "32x32b":
        lane, column = t, r
    elif shape == "16x64b":
        lane, column = t // 4 + 8 * (t % 2), t // 2 % 2 + 2 * r
    elif shape == "16x128b":
        lane, column = t // 4 + 8 * (r % 2), t % 4 + 4 * (r // 2)
    elif shape == "16x256b":
        lane, column = t // 4 + 8 * (r // 2 % 2), r % 2 + 2 * (t % 4) + 8 * (r // 4)
    else:
        lane, column = t % 16, r + np.where(t >= 16, split, 0)
    cells = tuple(np.ascontiguousarray(np.broadcast_to(x, (registers, 32))) for x in (lane, column))
    for cell in cells:
        cell.flags.writeable = False
    return cells


# Shapes of tcgen05.cp: (rows and bytes of the source, lane offsets at which each block of its rows lands). 4x256b has a
# row for every quarter of the lanes (CUTLASS' SM100_UTCCP_4dp256bit).
COPY_SHAPES = {
    ("4x256b", ""): (4, 32, ((0,), (32,), (64,), (96,))),
    ("128x256b", ""): (128, 32, ((0,), (32,), (64,), (96,))),
    ("128x128b", ""): (128, 16, ((0,), (32,), (64,), (96,))),
    ("64x128b", "warpx2::02_13"): (64, 16, ((0, 64), (32, 96))),
    ("64x128b", "warpx2::01_23"): (64, 16, ((0, 32), (64, 96))),
    ("32x128b", "warpx4"): (32, 16, ((0, 32, 64, 96),)),
}
