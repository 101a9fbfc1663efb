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

FRACTION_BITS = 25
ZERO_EXPONENT = np.float32(-1000)  # exponent given to a zero operand: can never be the largest
FLOOR_F32 = np.float32(-133)  # exponent of a zero F32 accumulator
_GROUP = 8  # products summed in an int32 before widening: 8 * 4 * 2**25 = 2**30
# float32 products: none overflows while the largest exponent is below _SAFE_HIGH. One that underflows is lost in the
# alignment anyway (25 bits) unless the largest exponent of its sum is below _SAFE_LOW, which can only be if products
# below _SAFE_LOW exist.
_SAFE_LOW, _SAFE_HIGH = -100, 120


class NumberFormat(NamedTuple):
    """A floating-point encoding in the low bits of a container.

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


# The 4- and 6-bit types occupy 8-bit containers: 6 bits in 5:0, 4 bits in 5:2 (PTX ISA 9.7.16.10.4.3).
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
    )
}


@njit(nogil=True, cache=True)
def _float_from_bits(bits):
    return np.int32(bits).view(np.float32)


@njit(nogil=True, cache=True)
def _bits_from_float(number):
    return np.float32(number).view(np.int32)


@njit(nogil=True, cache=True)
def _power_of_two(exponent):
    """2.0**exponent for a normal float64 exponent."""
    return np.int64((exponent + 1023) << 52).view(np.float64)


@njit(nogil=True, cache=True)
def _decode(raw, exponent_bits, mantissa_bits, bias, shift, negate, value, exponent):
    """Fill `value` and `exponent` (float32) from container bits `raw` (uint32), all 1D.

    A largest exponent field is taken as a number; `_decode_specials` repairs those elements.
    """
    exponent_mask = (1 << exponent_bits) - 1
    mantissa_mask = (1 << mantissa_bits) - 1
    sign_shift = 31 - exponent_bits - mantissa_bits
    subnormal_unit = np.float32(2.0 ** (1 - bias - mantissa_bits))
    for i in range(raw.size):
        bits = np.int32(raw[i] >> shift)
        field = np.int32((bits >> mantissa_bits) & exponent_mask)
        mantissa = np.int32(bits & mantissa_mask)
        normal = _float_from_bits(((field - bias + 127) << 23) | (mantissa << (23 - mantissa_bits)))
        magnitude = np.float32(mantissa) * subnormal_unit if field == 0 else normal
        sign = np.int32(((bits ^ negate) << sign_shift) & 0x80000000)
        value[i] = _float_from_bits(_bits_from_float(magnitude) | sign)
        exponent[i] = ZERO_EXPONENT if magnitude == 0 else np.float32(max(field, 1) - bias)


@njit(nogil=True, cache=True)
def _exponent_range(exponent):
    """(smallest, largest) exponent of the nonzero elements, 1D."""
    low, high = np.int32(500), np.int32(-500)
    for i in range(exponent.size):
        e = np.int32(exponent[i])
        low = np.int32(min(low, 500 if e == -1000 else e))
        high = np.int32(max(high, e))
    return low, high


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
def _largest_exponent(exp_a, exp_b, first, width, largest):
    """largest[n] = max(largest[n], max_k exp_a[k] + exp_b[k, first + n]); K is a multiple of 8."""
    last = first + width
    for k in range(0, exp_a.size, 8):
        a0, a1, a2, a3 = exp_a[k], exp_a[k + 1], exp_a[k + 2], exp_a[k + 3]
        a4, a5, a6, a7 = exp_a[k + 4], exp_a[k + 5], exp_a[k + 6], exp_a[k + 7]
        b0, b1 = exp_b[k, first:last], exp_b[k + 1, first:last]
        b2, b3 = exp_b[k + 2, first:last], exp_b[k + 3, first:last]
        b4, b5 = exp_b[k + 4, first:last], exp_b[k + 5, first:last]
        b6, b7 = exp_b[k + 6, first:last], exp_b[k + 7, first:last]
        for n in range(width):
            low = max(max(a0 + b0[n], a1 + b1[n]), max(a2 + b2[n], a3 + b3[n]))
            high = max(max(a4 + b4[n], a5 + b5[n]), max(a6 + b6[n], a7 + b7[n]))
            largest[n] = max(largest[n], max(low, high))


@njit(nogil=True, cache=True)
def _sum_products(val_a, val_b, first, width, largest, scale, partial):
    """partial[k / 8, n] = sum of trunc(val_a[k] * val_b[k, first + n] * 2**(25 - largest[n])) over 8 products.

    Where no product is nonzero, `largest` may lie below the exponents that a float32 scale can express; the scale is
    clamped there and multiplies zeros only.
    """
    last = first + width
    for n in range(width):
        scale[n] = _float_from_bits(min(FRACTION_BITS + 127 - np.int32(largest[n]), 254) << 23)
    for k in range(0, val_a.size, 8):
        a0, a1, a2, a3 = val_a[k], val_a[k + 1], val_a[k + 2], val_a[k + 3]
        a4, a5, a6, a7 = val_a[k + 4], val_a[k + 5], val_a[k + 6], val_a[k + 7]
        b0, b1 = val_b[k, first:last], val_b[k + 1, first:last]
        b2, b3 = val_b[k + 2, first:last], val_b[k + 3, first:last]
        b4, b5 = val_b[k + 4, first:last], val_b[k + 5, first:last]
        b6, b7 = val_b[k + 6, first:last], val_b[k + 7, first:last]
        out = partial[k // _GROUP]
        for n in range(width):
            s = scale[n]
            total = (
                np.int32(a0 * b0[n] * s)
                + np.int32(a1 * b1[n] * s)
                + np.int32(a2 * b2[n] * s)
                + np.int32(a3 * b3[n] * s)
                + np.int32(a4 * b4[n] * s)
                + np.int32(a5 * b5[n] * s)
                + np.int32(a6 * b6[n] * s)
                + np.int32(a7 * b7[n] * s)
            )
            out[n] = np.int32(total)


@njit(nogil=True, cache=True)
def _sum_products_wide(val_a, val_b, first, width, largest, partial):
    """As `_sum_products` for any finite operands, in float64 (products are exact), several times slower."""
    partial[:] = 0
    for k in range(val_a.size):
        a, b, out = np.float64(val_a[k]), val_b[k, first : first + width], partial[k // _GROUP]
        for n in range(width):
            out[n] += np.int32(a * np.float64(b[n]) * _power_of_two(FRACTION_BITS - np.int64(largest[n])))


@njit(nogil=True, cache=True)
def _load_f32(words, width, value, largest):
    """Accumulator words -> float32 `value` and their exponents; returns whether all are finite."""
    specials = 0
    for n in range(width):
        bits = np.int32(words[n])
        number = _float_from_bits(bits)
        value[n] = number
        largest[n] = FLOOR_F32 if number == 0 else np.float32(max((bits >> 23) & 255, 1) - 127)
        specials |= np.int32((bits & 0x7F800000) == 0x7F800000)
    return specials == 0


@njit(nogil=True, cache=True)
def _round_f32(exact):
    """float64 -> bits of the float32 toward zero; 2**128 and above is infinite; canonical NaN; zero is +0."""
    near = np.float32(exact)
    bits = _bits_from_float(near)
    # The rounding to nearest went away from zero, or to infinity from below 2**128: one step back.
    bits = np.int32(bits - 1) if abs(np.float64(near)) > abs(exact) else bits
    infinity = np.int32(0x7F800000) if exact > 0 else np.int32(-0x800000)
    bits = infinity if abs(exact) >= 2.0**128 else bits
    bits = np.int32(0) if exact == 0 else bits
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
def _finish_f32(accumulator, largest, partial, groups, width, total, words):
    """Add the truncated accumulator to the sums of products, round, and write the words."""
    for n in range(width):
        total[n] = np.trunc(np.float64(accumulator[n]) * _power_of_two(FRACTION_BITS - np.int64(largest[n])))
    for g in range(groups):
        sums = partial[g]
        for n in range(width):
            total[n] += np.float64(sums[n])
    for n in range(width):
        words[n] = _round_f32(total[n] * _power_of_two(np.int64(largest[n]) - FRACTION_BITS))


@njit(nogil=True, cache=True)
def _mma_fast(val_a, exp_a, val_b, exp_b, low, high, memory, segments, column, width, accumulate):
    """F32 accumulators and finite operands; low, high: range of the products' exponents. Stops at the first segment
    whose accumulators hold an infinity or NaN; returns how many segments were done."""
    groups = val_a.shape[1] // _GROUP
    largest, scale = np.empty(width, np.float32), np.empty(width, np.float32)
    accumulator, total = np.zeros(width, np.float32), np.empty(width, np.float64)
    partial = np.empty((groups, width), np.int32)
    for s in range(segments.shape[0]):
        row, lane, first = segments[s, 0], segments[s, 1], segments[s, 2]
        words = memory[lane, column : column + width]
        if accumulate:
            if not _load_f32(words, width, accumulator, largest):
                return s
        else:
            largest[:] = FLOOR_F32
        _largest_exponent(exp_a[row], exp_b, first, width, largest)
        if high <= _SAFE_HIGH and (low >= _SAFE_LOW or largest.min() >= _SAFE_LOW):
            _sum_products(val_a[row], val_b, first, width, largest, scale, partial)
        else:
            _sum_products_wide(val_a[row], val_b, first, width, largest, partial)
        _finish_f32(accumulator, largest, partial, groups, width, total, words)
    return segments.shape[0]


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
def _fused_sum(val_a, exp_a, val_b, exp_b, column, accumulator, largest):
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
    scale = _power_of_two(FRACTION_BITS - largest)
    total = np.trunc(accumulator * scale)
    for k in range(val_a.size):
        total += np.trunc(np.float64(val_a[k]) * np.float64(val_b[k, column]) * scale)
    return total * _power_of_two(largest - FRACTION_BITS)


@njit(nogil=True, cache=True)
def _mma_general(val_a, exp_a, val_b, exp_b, memory, segments, column, width, accumulate, half, scale_log2):
    """Every case, element by element."""
    floor = -21 if half else -133
    for s in range(segments.shape[0]):
        row, lane, first = segments[s, 0], segments[s, 1], segments[s, 2]
        for n in range(width):
            accumulator, largest = 0.0, floor
            if accumulate:
                bits = np.int64(memory[lane, column + n])
                if half:
                    accumulator, exponent = _half_value(bits & 0xFFFF)
                else:
                    accumulator = np.float64(_float_from_bits(np.int32(bits)))
                    exponent = max((bits >> 23) & 255, 1) - 127
                accumulator *= 2.0**-scale_log2
                largest = max(exponent - scale_log2, floor) if accumulator != 0 else floor
            exact = _fused_sum(val_a[row], exp_a[row], val_b, exp_b, first + n, accumulator, largest)
            memory[lane, column + n] = _round_f16(exact) if half else _round_f32(exact)


class Operand(NamedTuple):
    """A decoded multiplicand: `value` and `exponent` float32 arrays of one shape, the range of the exponents of its
    nonzero elements, and whether it holds an infinity or NaN."""

    value: np.ndarray
    exponent: np.ndarray
    low: float
    high: float
    specials: bool


def decode(raw: np.ndarray, fmt: NumberFormat, negate: bool = False) -> Operand:
    """Decode container bits (uint32, 2D). tf32 containers are cut off below their 10 mantissa bits."""
    value = np.empty(raw.shape, np.float32)
    exponent = np.empty(raw.shape, np.float32)
    sign = int(negate) << (fmt.exponent_bits + fmt.mantissa_bits)
    flat = raw.ravel()
    _decode(flat, fmt.exponent_bits, fmt.mantissa_bits, fmt.bias, fmt.shift, sign, value.ravel(), exponent.ravel())
    low, high = _exponent_range(exponent.ravel())
    largest_field = (1 << fmt.exponent_bits) - 1 - fmt.bias
    specials = (
        fmt.special > 0
        and high == largest_field
        and _decode_specials(flat, fmt.exponent_bits, fmt.mantissa_bits, fmt.special, fmt.shift, sign, value.ravel())
    )
    return Operand(value, exponent, low, high, specials)


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
    becomes zero). segments: int [S, 3] of (row of a, lane of memory, first column of b): segment s computes `width`
    results into memory[lane, column : column + width].
    """
    done = 0
    if not (a.specials or b.specials or half or scale_log2):
        done = _mma_fast(
            a.value,
            a.exponent,
            b.value,
            b.exponent,
            a.low + b.low,
            a.high + b.high,
            memory,
            segments,
            column,
            width,
            accumulate,
        )
    if done < len(segments):
        _mma_general(
            a.value,
            a.exponent,
            b.value,
            b.exponent,
            memory,
            segments[done:],
            column,
            width,
            accumulate,
            half,
            scale_log2,
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
