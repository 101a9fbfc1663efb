"""Number formats: decoding to fp64 and rounding from fp64, one value at a time (PTX ISA 5.2.3, 9.7.9.21).

Bit patterns travel as uint32. Rounding modes: 0 nearest even, 1 toward zero, 2 down, 3 up, 4 nearest away.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .common import OPTIONS, bits_of_f64, f64_of_bits


@njit(**OPTIONS)
def decode(bits, exponent_bits, fraction_bits, bias):
    """The finite value of a sign-exponent-fraction pattern, as fp64 (specials are the caller's)."""
    sign = -1.0 if (bits >> np.uint32(exponent_bits + fraction_bits)) & np.uint32(1) else 1.0
    exponent = np.int64(bits >> np.uint32(fraction_bits)) & ((1 << exponent_bits) - 1)
    fraction = np.int64(bits) & ((1 << fraction_bits) - 1)
    if exponent == 0:
        return sign * math.ldexp(np.float64(fraction), 1 - bias - fraction_bits)
    return sign * math.ldexp(np.float64(fraction + (1 << fraction_bits)), exponent - bias - fraction_bits)


@njit(**OPTIONS)
def encode(x, exponent_bits, fraction_bits, bias, mode):
    """The finite fp64 x rounded to a pattern without sign; beyond the largest exponent it keeps counting up,
    so that the caller sees overflow as a pattern above its largest."""
    magnitude = abs(x)
    if magnitude == 0.0:
        return np.int64(0)
    bits = bits_of_f64(magnitude)
    exponent = max((bits >> 52) - 1023, 1 - bias)
    scaled = math.ldexp(magnitude, fraction_bits - exponent)
    whole = math.floor(scaled)
    rest = scaled - whole
    n = np.int64(whole)
    if mode == 0:
        up = rest > 0.5 or (rest == 0.5 and n & 1 == 1)
    elif mode == 4:
        up = rest >= 0.5
    else:
        up = rest > 0.0 and ((mode == 3 and x > 0.0) or (mode == 2 and x < 0.0))
    if up:
        n += 1
    # `n` carries its implicit one into the exponent field.
    return n + ((exponent + bias - 1) << fraction_bits)


@njit(**OPTIONS)
def f16_to_f64(bits):
    if (bits & np.uint32(0x7C00)) == np.uint32(0x7C00):
        if bits & np.uint32(0x3FF):
            return np.nan
        return -np.inf if bits & np.uint32(0x8000) else np.inf
    return decode(bits & np.uint32(0xFFFF), 5, 10, 15)


@njit(**OPTIONS)
def bf16_to_f64(bits):
    wide = np.uint32((bits & np.uint32(0xFFFF)) << np.uint32(16))
    return np.float64(np.uint32(wide).view(np.float32))


@njit(**OPTIONS)
def _overflow(x, infinity, mode):
    """The pattern above the largest finite one: infinity, or the largest when rounding toward zero."""
    toward_zero = mode == 1 or (mode == 2 and x > 0.0) or (mode == 3 and x < 0.0)
    return infinity - 1 if toward_zero else infinity


def _narrowing(width, exponent_bits, fraction_bits, bias, low_zeros=0):
    """A function from (fp64, rounding mode) to the pattern, uint32, of a format of `width` bits with infinities, whose
    last `low_zeros` are always zero. NaN gives all ones but for the sign."""
    negative, nan = np.uint32(1 << (width - 1)), np.uint32((1 << (width - 1)) - 1)
    infinity = ((1 << exponent_bits) - 1) << fraction_bits

    @njit(**OPTIONS)
    def narrow(x, mode):
        if x != x:
            return nan
        sign = negative if math.copysign(1.0, x) < 0 else np.uint32(0)
        if math.isinf(x):
            return sign | np.uint32(infinity << low_zeros)
        n = encode(x, exponent_bits, fraction_bits, bias, mode)
        if n >= infinity:
            n = _overflow(x, np.int64(infinity), mode)
        return sign | np.uint32(n << low_zeros)

    return narrow


f64_to_f16 = _narrowing(16, 5, 10, 15)
f64_to_bf16 = _narrowing(16, 8, 7, 127)
f64_to_tf32 = _narrowing(32, 8, 10, 127, low_zeros=13)


@njit(**OPTIONS)
def e4m3_to_f64(bits):
    if (bits & np.uint32(0x7F)) == np.uint32(0x7F):
        return np.nan
    return decode(bits & np.uint32(0xFF), 4, 3, 7)


@njit(**OPTIONS)
def e5m2_to_f64(bits):
    if (bits & np.uint32(0x7C)) == np.uint32(0x7C):
        if bits & np.uint32(3):
            return np.nan
        return -np.inf if bits & np.uint32(0x80) else np.inf
    return decode(bits & np.uint32(0xFF), 5, 2, 15)


@njit(**OPTIONS)
def f64_to_e4m3(x):
    """satfinite: clamped to +-448; NaN gives 0x7F."""
    if x != x:
        return np.uint32(0x7F)
    sign = np.uint32(0x80) if math.copysign(1.0, x) < 0 else np.uint32(0)
    n = encode(min(abs(x), 448.0), 4, 3, 7, 0)
    return sign | np.uint32(n)


@njit(**OPTIONS)
def f64_to_e5m2(x):
    """satfinite: clamped to +-57344; NaN gives 0x7F."""
    if x != x:
        return np.uint32(0x7F)
    sign = np.uint32(0x80) if math.copysign(1.0, x) < 0 else np.uint32(0)
    n = encode(min(abs(x), 57344.0), 5, 2, 15, 0)
    return sign | np.uint32(n)


@njit(**OPTIONS)
def f64_to_e2m1(x):
    """satfinite: clamped to +-6; NaN gives the largest positive value, 7."""
    if x != x:
        return np.uint32(7)
    sign = np.uint32(8) if math.copysign(1.0, x) < 0 else np.uint32(0)
    return sign | np.uint32(encode(min(abs(x), 6.0), 2, 1, 1, 0))


@njit(**OPTIONS)
def f64_to_ue8m0(x, mode):
    """Unsigned power-of-two exponent, bias 127, satfinite. NaN gives 0xFF; modes 1 toward zero, 3 up."""
    if x != x:
        return np.uint32(0xFF)
    x = abs(x)
    if x <= f64_of_bits(np.int64(1023 - 127) << 52):
        return np.uint32(0)
    if math.isinf(x):
        return np.uint32(0xFE)
    bits = bits_of_f64(x)
    exponent = (bits >> 52) - 1023 + 127
    if mode == 3 and bits & ((np.int64(1) << 52) - 1):
        exponent += 1
    return np.uint32(min(exponent, 254))
