"""Bit-accurate arithmetic of `tcgen05.mma` on floating-point operands.

A dot product over 32 bytes of K is one fused operation of the tensor core. Every product and the accumulator are
aligned to the largest exponent among them, cut off (toward zero) below 25 fraction bits, summed exactly, and the sum
is rounded once: toward zero for an F32 accumulator, to nearest even for an F16 one. The exponent of a product is the
sum of its operands' exponents (its significand lies in [1, 4)); a subnormal keeps the smallest normal exponent; a zero
takes the accumulator format's floor. A NaN result has the canonical pattern, a zero is positive.

Source of these rules: the MMA-Sim measurements of Blackwell (PyPI `mmasim`, which the tests use as the oracle).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ...engine import cache  # noqa: F401  (must run before anything is compiled)
from .block import FRACTION_BITS, WIDTH, dot_8, dot_16, dot_32

ZERO_EXPONENT = np.float32(-1000)  # exponent given to a zero operand: can never be the largest


class NumberFormat(NamedTuple):
    """A floating-point encoding in the low bits of a container; without exponent bits an integer, whose sign bit, if
    the container has one, lies above the `mantissa_bits`.

    `special` says what the largest exponent holds: 2 infinities and NaNs, 1 a NaN in the all-ones mantissa only
    (e4m3), 0 numbers. `shift` is how many low container bits lie below the encoding.
    """

    name: str
    container_bits: int
    exponent_bits: int
    mantissa_bits: int
    bias: int
    special: int
    shift: int = 0


# The 4- and 6-bit types occupy 8-bit containers: 6 bits in 5:0, 4 bits in 5:2.
FORMATS = {
    fmt.name: fmt
    for fmt in (
        NumberFormat("f16", 16, 5, 10, 15, 2),
        NumberFormat("bf16", 16, 8, 7, 127, 2),
        NumberFormat("tf32", 32, 8, 10, 127, 2, 13),
        NumberFormat("e4m3", 8, 4, 3, 7, 1),
        NumberFormat("e5m2", 8, 5, 2, 15, 2),
        NumberFormat("e2m3", 8, 2, 3, 1, 0),
        NumberFormat("e3m2", 8, 3, 2, 3, 0),
        NumberFormat("e2m1", 8, 2, 1, 1, 0, 2),
        NumberFormat("u8", 8, 0, 8, 0, 0),
        NumberFormat("s8", 8, 0, 7, 0, 0),
    )
}


def format_in_tmem(name: str) -> NumberFormat:
    """The format of A in Tensor Memory, where 6-bit elements are in the bits 6:1 of their bytes (4-bit ones in 5:2).

    The ISA's figures (9.7.16.10.4.3) are absent from its text; this is what CUTLASS' `cp_narrow_a_to_tmem_mma.py` says.
    """
    fmt = FORMATS[name]
    return fmt._replace(shift=1) if name in ("e2m3", "e3m2") else fmt


@njit(nogil=True, cache=True)
def float_from_bits(bits):
    return np.int32(bits).view(np.float32)


@njit(nogil=True, cache=True)
def _bits_from_float(number):
    return np.float32(number).view(np.int32)


@njit(nogil=True, cache=True)
def power_of_two(exponent):
    """2.0**exponent for a normal float64 exponent."""
    return np.int64((exponent + 1023) << 52).view(np.float64)


@njit(nogil=True, cache=True)
def decode_into(raw, fmt, value, exponent):
    """Fill `value` and `exponent` (float32) from container bits `raw` (uint32), all 1D; `fmt`: see `layout`.
    Returns whether there were infinities or NaNs."""
    exponent_bits, mantissa_bits, bias, special, shift, negate = fmt
    if exponent_bits == 0:
        for i in range(raw.size):
            value[i] = np.float32(np.int32(raw[i]) - ((np.int32(raw[i]) >> mantissa_bits) << 8))
        return False
    exponent_mask = np.int32((1 << exponent_bits) - 1)
    mantissa_mask = np.int32((1 << mantissa_bits) - 1)
    sign_shift, widen = 31 - exponent_bits - mantissa_bits, 23 - mantissa_bits
    subnormal_unit = np.float32(2.0 ** (1 - bias - mantissa_bits))
    largest = np.int32(0)
    for i in range(raw.size):
        bits = np.int32(raw[i] >> shift)
        field = np.int32((bits >> mantissa_bits) & exponent_mask)
        mantissa = np.int32(bits & mantissa_mask)
        normal = float_from_bits(((field - bias + 127) << 23) | (mantissa << widen))
        magnitude = np.float32(mantissa) * subnormal_unit if field == 0 else normal
        sign = np.int32(((bits ^ negate) << sign_shift) & 0x80000000)
        value[i] = float_from_bits(_bits_from_float(magnitude) | sign)
        exponent[i] = ZERO_EXPONENT if magnitude == 0 else np.float32(max(field, 1) - bias)
        largest = max(largest, field)
    if special == 0 or largest != exponent_mask:
        return False
    return _decode_specials(raw, exponent_bits, mantissa_bits, special, shift, negate, value)


@njit(nogil=True, cache=True)
def _decode_specials(raw, exponent_bits, mantissa_bits, special, shift, negate, value):
    """Write the infinities and NaNs into `value`; returns whether there were any. All 1D."""
    exponent_mask = (1 << exponent_bits) - 1
    mantissa_mask = (1 << mantissa_bits) - 1
    found = False
    for i in range(raw.size):
        bits = np.int64(raw[i] >> shift)
        if (bits >> mantissa_bits) & exponent_mask == exponent_mask:
            mantissa = bits & mantissa_mask
            if special == 2 or mantissa == mantissa_mask:
                infinite = special == 2 and mantissa == 0
                negative = ((bits ^ negate) >> (exponent_bits + mantissa_bits)) & 1
                value[i] = np.float32(np.nan) if not infinite else np.float32(-np.inf if negative else np.inf)
                found = True
    return found


@njit(nogil=True, cache=True)
def round_f32(exact):
    """float64 -> bits of the float32 toward zero; 2**128 and above is infinite; canonical NaN; zero is +0."""
    near = np.float32(exact)
    bits = _bits_from_float(near)
    # The rounding to nearest went away from zero, or to infinity from below 2**128: one step back.
    bits = np.int32(bits - 1) if abs(np.float64(near)) > abs(exact) else bits
    infinity = np.int32(0x7F800000) if exact > 0 else np.int32(-0x800000)
    bits = infinity if abs(exact) >= 2.0**128 else bits
    bits = np.int32(0) if near == 0 or bits == np.int32(-0x80000000) else bits
    bits = np.int32(0x7FFFFFFF) if exact != exact else bits
    return np.uint32(bits)


@njit(nogil=True, cache=True)
def _round_f16(exact):
    """float64 -> bits of the nearest-even float16 (subnormals kept); canonical NaN 0x7FFF; zero is +0."""
    if np.isnan(exact):
        return np.uint32(0x7FFF)
    magnitude = abs(exact)
    sign = np.uint32(0x8000) if exact < 0 else np.uint32(0)
    if magnitude >= 65520.0:
        return np.uint32(sign | np.uint32(0x7C00))
    exponent = -14
    while magnitude >= 2.0 ** (exponent + 1):
        exponent += 1
    steps = np.int64(np.rint(magnitude * 2.0 ** (10 - exponent)))
    if steps == 0:
        return np.uint32(0)
    # A carry out of the mantissa runs into the exponent field, which is the right encoding.
    return np.uint32(sign + np.uint32(((exponent + 14) << 10) + steps))


@njit(nogil=True, cache=True)
def _half_value(bits):
    """The number that float16 bits encode, and its exponent."""
    field = (bits >> 10) & 31
    mantissa = bits & 1023
    number = np.float64(mantissa) * 2.0**-24 if field == 0 else (1024 + mantissa) * 2.0 ** (field - 25)
    if field == 31:
        number = np.inf if mantissa == 0 else np.nan
    return (-number if bits & 0x8000 else number), max(field, 1) - 15


@njit(nogil=True, cache=True)
def fused_sum(val_a, exp_a, val_b, exp_b, column, accumulator, largest):
    """The exact sum before the final rounding, one element, any finite or special operands (float64)."""
    special = not np.isfinite(accumulator)
    plain = accumulator
    for k in range(val_a.size):
        product = np.float64(val_a[k]) * np.float64(val_b[k, column])
        special = special or not np.isfinite(product)
        plain += product
        if product != 0:
            largest = max(largest, np.int64(exp_a[k] + exp_b[k, column]))
    if special:
        return plain
    scale = power_of_two(FRACTION_BITS - largest)
    total = np.trunc(accumulator * scale)
    for k in range(val_a.size):
        total += np.trunc(np.float64(val_a[k]) * np.float64(val_b[k, column]) * scale)
    return total * power_of_two(largest - FRACTION_BITS)


@njit(nogil=True, cache=True)
def _general(val_a, exp_a, val_b, exp_b, first, words, keep, half, scale_log2):
    """Every case, element by element: `words` [n] = (words +) one row of A * columns `first` + n of B."""
    floor = -21 if half else -133
    for n in range(words.size):
        accumulator, largest = 0.0, floor
        if keep:
            bits = np.int64(words[n])
            if half:
                accumulator, exponent = _half_value(bits & 0xFFFF)
            else:
                accumulator = np.float64(float_from_bits(np.int32(bits)))
                exponent = max((bits >> 23) & 255, 1) - 127
            accumulator *= 2.0**-scale_log2
            largest = max(exponent - scale_log2, floor) if accumulator != 0 else floor
        exact = fused_sum(val_a, exp_a, val_b, exp_b, first + n, accumulator, largest)
        words[n] = _round_f16(exact) if half else round_f32(exact)


@njit(nogil=True, cache=True)
def _pack(source, first, block):
    """block[k] = source[k, first : first + WIDTH]"""
    for k in range(source.shape[0]):
        for n in range(WIDTH):
            block[k, n] = source[k, first + n]


def _rows(dot, k_count: int):
    """A compiled loop over segments around one of the `dot` functions."""

    @njit(nogil=True)
    def rows(a_value, a_exponent, value, exponent, words, row_bytes, segments, start, begin, keep):
        """Segments `begin` and on whose first column is `start`, one block of columns. `words` is the host address of
        the block in lane 0. Returns the first segment that needs exact arithmetic, or their number."""
        for s in range(begin, segments.shape[0]):
            if segments[s, 2] == start:
                offset = segments[s, 0] * (4 * k_count)
                place = words + segments[s, 1] * row_bytes
                if not dot(a_value + offset, a_exponent + offset, value, exponent, place, keep):
                    return s
        return segments.shape[0]

    return rows


_rows_8, _rows_16, _rows_32 = _rows(dot_8, 8), _rows(dot_16, 16), _rows(dot_32, 32)


@njit(nogil=True, cache=True)
def _block(val_a, exp_a, value, exponent, words, row_bytes, segments, start, begin, keep):
    a, ea, b, eb = val_a.ctypes.data, exp_a.ctypes.data, value.ctypes.data, exponent.ctypes.data
    k_count = value.shape[0]
    if k_count == 16:
        return _rows_16(a, ea, b, eb, words, row_bytes, segments, start, begin, keep)
    if k_count == 32:
        return _rows_32(a, ea, b, eb, words, row_bytes, segments, start, begin, keep)
    return _rows_8(a, ea, b, eb, words, row_bytes, segments, start, begin, keep)


@njit(nogil=True, cache=True)
def multiply(val_a, exp_a, val_b, exp_b, exact, memory, segments, column, width, keep, half, scale_log2):
    """`mma_into` on decoded arrays. `exact`: whether block.py may be used (finite operands, F32, no scale)."""
    k_count, columns = val_b.shape
    value, exponent = np.empty((k_count, WIDTH), np.float32), np.empty((k_count, WIDTH), np.float32)
    whole = width - width % WIDTH if exact else 0
    for start in range(0, columns, width):
        for offset in range(0, width, WIDTH):
            place, count = column + offset, min(WIDTH, width - offset)
            if offset < whole:
                _pack(val_b, start + offset, value)
                _pack(exp_b, start + offset, exponent)
            s = 0
            while s < segments.shape[0]:
                if offset < whole:
                    words = memory.ctypes.data + 4 * place
                    s = _block(
                        val_a, exp_a, value, exponent, words, memory.strides[0], segments, start, s, -np.int64(keep)
                    )
                if s < segments.shape[0] and segments[s, 2] == start:
                    row, lane = segments[s, 0], segments[s, 1]
                    words = memory[lane, place : place + count]
                    _general(val_a[row], exp_a[row], val_b, exp_b, start + offset, words, keep, half, scale_log2)
                s += 1


class Operand(NamedTuple):
    """A decoded multiplicand: `value` and `exponent` float32 arrays of one shape, and whether it holds an infinity or
    NaN."""

    value: np.ndarray
    exponent: np.ndarray
    specials: bool


def decode(raw: np.ndarray, fmt: NumberFormat, negate: bool = False) -> Operand:
    """Decode container bits (uint32, 2D). tf32 containers are cut off below their 10 mantissa bits."""
    value = np.empty(raw.shape, np.float32)
    exponent = np.empty(raw.shape, np.float32)
    specials = decode_into(raw.ravel(), layout(fmt, negate), value.ravel(), exponent.ravel())
    return Operand(value, exponent, specials)


def layout(fmt: NumberFormat, negate: bool = False) -> tuple[int, ...]:
    """A format as `decode_into` takes it: exponent bits, mantissa bits, bias, special, shift, and the sign bit if
    `negate`."""
    sign = int(negate) << (fmt.exponent_bits + fmt.mantissa_bits)
    return fmt.exponent_bits, fmt.mantissa_bits, fmt.bias, fmt.special, fmt.shift, sign


def mma_into(
    a: Operand,
    b: Operand,
    memory: np.ndarray,
    segments: np.ndarray,
    column: int,
    width: int,
    *,
    accumulate: bool,
    half: bool,
    scale_log2: int = 0,
) -> None:
    """D = A * B (+ D * 2**-scale_log2), in place in `memory`, one K step.

    a: [rows, K] operand; b: [K, N] operand; K is 8, 16 or 32 and covers 32 bytes of the wider operand type.
    memory: uint32 [lanes, columns]; an F32 element is a word, an F16 element the low half of one (the high half
    becomes zero). segments: int [S, 3] of (row of a, lane of memory, first column of b, a multiple of `width`):
    segment s computes `width` results into memory[lane, column : column + width].
    """
    exact = not (a.specials or b.specials or half or scale_log2)
    multiply(
        a.value, a.exponent, b.value, b.exponent, exact, memory, segments, column, width, accumulate, half, scale_log2
    )


def matmul(
    a_raw: np.ndarray, b_raw: np.ndarray, c_raw: np.ndarray | None, a_format: str, b_format: str, d_format: str
) -> np.ndarray:
    """One `tcgen05.mma` on plain matrices of container bits.

    a_raw: [M, K], b_raw: [N, K] unsigned; c_raw: [M, N] bits of d_format ("f32" or "f16") or None for D = A * B.
    Returns uint32 [M, N].
    """
    a = decode(np.ascontiguousarray(a_raw, np.uint32), FORMATS[a_format])
    b = decode(np.ascontiguousarray(b_raw.T, np.uint32), FORMATS[b_format])
    rows, columns = a_raw.shape[0], b_raw.shape[0]
    memory = np.zeros((rows, columns), np.uint32) if c_raw is None else c_raw.astype(np.uint32)
    index = np.arange(rows)
    segments = np.stack([index, index, np.zeros_like(index)], axis=1)
    mma_into(a, b, memory, segments, 0, columns, accumulate=c_raw is not None, half=d_format == "f16")
    return memory
