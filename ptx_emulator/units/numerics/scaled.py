"""Bit-accurate arithmetic of block-scaled `tcgen05.mma`: kinds mxf8f6f4, mxf4 and mxf4nvf4.

One step is one fused operation. For mxf8f6f4 it is that of dense kinds (floating.py), the exponents of the scale
factors being added to each product's. For 4-bit types the products of 16 elements are first summed exactly; each of the
four sums, times its scale factors, has the sum of the factors' exponents as its exponent whatever its size; these four
and the accumulator are aligned to the largest exponent, cut off below 35 fraction bits, and summed; a group without any
product other than zero takes the exponent -139. The sum is rounded toward zero.

Source of these rules: the MMA-Sim measurements of Blackwell (PyPI `mmasim`, which the tests use as the oracle).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ...engine import cache  # noqa: F401  (must run before anything is compiled)
from .floating import Operand, float_from_bits, fused_sum, power_of_two, round_f32

GROUP = 16  # 4-bit products that are summed before they are scaled
_FRACTION_BITS, _FLOOR, _FLOOR_8 = 35, -139, -133
_NAN = np.uint32(0x7FFFFFFF)


def decode_scales(raw: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(significand float64, exponent int64) of scale factors (uint8) of type "ue8m0" or "ue4m3", whose sign bit does
    not count. The significand of NaN is NaN; a subnormal has the smallest exponent."""
    if name == "ue8m0":
        return np.where(raw == 0xFF, np.nan, 1.0), raw.astype(np.int64) - 127
    bits = raw.astype(np.int64) & 0x7F
    exponent = np.maximum(bits >> 3, 1) - 7
    significand = ((bits & 7) + np.where(bits >> 3, 8, 0)) / 8
    return np.where(bits == 0x7F, np.nan, significand), exponent


@njit(nogil=True, cache=True)
def _accumulator(word, keep):
    """An F32 accumulator's number and exponent; 0 and a very small one if it does not count."""
    number = np.float64(float_from_bits(np.int32(word))) if keep else 0.0
    return number, np.int64(-(1 << 20)) if number == 0 else max(np.int64(word >> 23) & 255, 1) - 127


@njit(nogil=True, cache=True)
def _bytes_element(val_a, exp_a, val_b, exp_b, column, word, keep, scale):
    """One result of mxf8f6f4; `scale`: the exponent of both scale factors. What is to be scaled is left as it is, and
    the rest divided: float64 has room for both."""
    accumulator, exponent = _accumulator(word, keep)
    largest = max(exponent, _FLOOR_8) - scale
    divided = accumulator * power_of_two(-scale)
    return round_f32(fused_sum(val_a, exp_a, val_b, exp_b, column, divided, largest) * power_of_two(scale))


@njit(nogil=True, cache=True)
def _nibbles_element(val_a, val_b, column, word, keep, sig_a, exp_a, sig_b, exp_b):
    """One result of mxf4 and mxf4nvf4. sig_*, exp_*: the scale factors along K."""
    accumulator, largest = _accumulator(word, keep)
    largest = max(largest, _FLOOR)
    if not np.isfinite(accumulator):
        return round_f32(accumulator)
    groups = val_a.size // GROUP
    sums = np.empty(groups)
    exponents = np.empty(groups, np.int64)
    for g in range(groups):
        factor = g * sig_a.size // groups
        total, zero = 0.0, True
        for k in range(g * GROUP, (g + 1) * GROUP):
            product = np.float64(val_a[k]) * np.float64(val_b[k, column])
            zero = zero and product == 0
            total += product
        sums[g] = total * sig_a[factor] * sig_b[factor]
        exponents[g] = exp_a[factor] + exp_b[factor]
        if not zero and sig_a[factor] * sig_b[factor] != 0:
            largest = max(largest, exponents[g])
    result = np.trunc(accumulator * power_of_two(_FRACTION_BITS - largest))
    for g in range(groups):
        result += np.trunc(sums[g] * power_of_two(_FRACTION_BITS + exponents[g] - largest))
    return round_f32(result * power_of_two(largest - _FRACTION_BITS))


@njit(nogil=True, cache=True)
def _multiply(val_a, exp_a, val_b, exp_b, sig_a, scale_a, sig_b, scale_b, memory, segments, column, width, keep):
    nibbles = val_a.shape[1] == 64
    for s in range(segments.shape[0]):
        row, lane, first = segments[s, 0], segments[s, 1], segments[s, 2]
        for n in range(width):
            word = memory[lane, column + n]
            q = lane // 32
            invalid = False
            for f in range(sig_a.shape[1]):
                invalid = invalid or np.isnan(sig_a[s, f] * sig_b[q, n, f])
            if invalid:
                result = _NAN
            elif nibbles:
                result = _nibbles_element(
                    val_a[row], val_b, first + n, word, keep, sig_a[s], scale_a[s], sig_b[q, n], scale_b[q, n]
                )
            else:
                scale = scale_a[s, 0] + scale_b[q, n, 0]
                result = _bytes_element(val_a[row], exp_a[row], val_b, exp_b, first + n, word, keep, scale)
            memory[lane, column + n] = result


def multiply_scaled(
    a: Operand,
    b: Operand,
    scales_a: tuple[np.ndarray, np.ndarray],
    scales_b: tuple[np.ndarray, np.ndarray],
    memory: np.ndarray,
    segments: np.ndarray,
    column: int,
    width: int,
    accumulate: bool,
) -> None:
    """D = (A * scale_A) * (B * scale_B) (+ D), in place in `memory`, one step of K = 32 (mxf8f6f4) or 64 (the others).

    a [rows, K], b [K, N], memory, segments, column, width: as numerics.mma_into. scales_a [S, factors]: of
    decode_scales for each segment; scales_b [4, width, factors]: for each quarter of the lanes and column of a segment.
    """
    _multiply(
        a.value, a.exponent, b.value, b.exponent, *scales_a, *scales_b, memory, segments, column, width, accumulate
    )
