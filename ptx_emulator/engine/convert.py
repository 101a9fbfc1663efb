"""Conversions between number formats that have no vector form, one lane at a time (cvt, PTX ISA 9.7.9.21)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from . import microcode as mc
from .common import OPTIONS, bits_of_f64, f64_of_bits, round_f32
from .floating import rint
from .formats import (
    decode,
    e4m3_to_f64,
    e5m2_to_f64,
    f64_to_bf16,
    f64_to_e2m1,
    f64_to_e4m3,
    f64_to_e5m2,
    f64_to_f16,
    f64_to_tf32,
    f64_to_ue8m0,
)

SATFINITE = 8  # flag beside the rounding mode in the immediate of F32_F16, F32_BF16, F32_TF32


@njit(**OPTIONS)
def _to_integer(x, low, high, nan, mode):
    """A double as int64 (or the bits of uint64), rounded and clamped; bounds are exact doubles."""
    if x != x:
        return nan
    y = rint(x, mode)
    if y <= low:
        return np.int64(low)
    if y >= 9223372036854775808.0:
        if high > 9223372036854775808.0:
            return (
                np.int64(-1)
                if y >= 18446744073709551616.0
                else np.int64(y - 9223372036854775808.0) ^ np.int64(-9223372036854775808)
            )
        return np.int64(9223372036854775807) if high >= 9223372036854775807.0 else np.int64(high)
    if y >= high:
        return np.int64(high)
    return np.int64(y)


@njit(**OPTIONS)
def _integer_from(op, x, mode):
    """float-to-integer conversion `op` of a double; NaN gives 0, or 1 << (width - 1) when a 64-bit type is in."""
    if op == mc.S32_F32 or op == mc.S32_F64:
        return np.int64(0)
    minimum = np.int64(-9223372036854775808)
    if op == mc.F32_S32:
        return _to_integer(x, -2147483648.0, 2147483647.0, np.int64(0), mode)
    if op == mc.F32_U32:
        return _to_integer(x, 0.0, 4294967295.0, np.int64(0), mode)
    if op == mc.F64_S32:
        return _to_integer(x, -2147483648.0, 2147483647.0, np.int64(-2147483648), mode)
    if op == mc.F64_U32:
        return _to_integer(x, 0.0, 4294967295.0, np.int64(2147483648), mode)
    if op == mc.F32_S64 or op == mc.F64_S64:
        return _to_integer(x, -9223372036854775808.0, 9223372036854775807.0, minimum, mode)
    return _to_integer(x, 0.0, 18446744073709551615.0, minimum, mode)


@njit(**OPTIONS)
def _f32_of_i64(value, unsigned, mode):
    """A 64-bit integer rounded once to fp32."""
    negative = not unsigned and np.int64(value) < 0
    magnitude = np.uint64(0) - np.uint64(value) if negative else np.uint64(value)
    shift = 0
    sticky = False
    while magnitude >> np.uint64(53) != 0:
        sticky = sticky or (magnitude & np.uint64(1)) != 0
        magnitude >>= np.uint64(1)
        shift += 1
    if sticky:
        magnitude |= np.uint64(1)
    x = math.ldexp(np.float64(magnitude), shift)
    return round_f32(-x if negative else x, mode)


@njit(**OPTIONS)
def _f16(x, flags):
    h = f64_to_f16(np.float64(x), flags & 7)
    if flags & SATFINITE and (h & np.uint32(0x7FFF)) == np.uint32(0x7C00):
        h -= np.uint32(1)
    return h


@njit(**OPTIONS)
def _bf16(x, flags):
    h = f64_to_bf16(np.float64(x), flags & 7)
    if flags & SATFINITE and (h & np.uint32(0x7FFF)) == np.uint32(0x7F80):
        h -= np.uint32(1)
    return h


@njit(**OPTIONS)
def _small_format(op, bits, x, flags):
    """Formats narrower than 16 bits, and tf32. `bits` is the source pattern, `x` the same as fp32."""
    if op == mc.F32_TF32:
        r = f64_to_tf32(np.float64(x), flags & 7)
        if flags & SATFINITE and (r & np.uint32(0x7FFFFFFF)) == np.uint32(0x7F800000):
            r -= np.uint32(0x2000)
        return r
    if op == mc.F32_E4M3:
        return f64_to_e4m3(np.float64(x))
    if op == mc.F32_E5M2:
        return f64_to_e5m2(np.float64(x))
    if op == mc.F32_E2M1:
        return f64_to_e2m1(np.float64(x))
    if op == mc.F32_UE8M0:
        return f64_to_ue8m0(np.float64(x), flags & 7)
    if op == mc.UE8M0_BF16:
        # 2**(e - 127) is the bf16 with exponent field e; e = 0 is the subnormal 2**-127.
        if bits == np.uint32(255):
            return np.uint32(0x7FFF)
        return bits << np.uint32(7) if bits else np.uint32(0x40)
    if op == mc.E2M1_F16:
        return f64_to_f16(decode(bits & np.uint32(15), 2, 1, 1), 0)
    value = e4m3_to_f64(bits) if op == mc.E4M3_F16 else e5m2_to_f64(bits)
    return f64_to_f16(value, 0)


@njit(**OPTIONS)
def convert32_lane(op, bits, x, wide, flags):
    """A conversion with a 32-bit result. The source is `bits` (`x` the same as fp32), or 64-bit `wide`."""
    if op == mc.F32_S32 or op == mc.F32_U32:
        return np.uint32(_integer_from(op, np.float64(x), flags) & np.int64(0xFFFFFFFF))
    if op == mc.F64_S32 or op == mc.F64_U32:
        return np.uint32(_integer_from(op, f64_of_bits(np.int64(wide)), flags) & np.int64(0xFFFFFFFF))
    if op == mc.S32_F32:
        return np.float32(round_f32(np.float64(np.int32(bits)), flags)).view(np.uint32)
    if op == mc.U32_F32:
        return np.float32(round_f32(np.float64(bits), flags)).view(np.uint32)
    if op == mc.S64_F32 or op == mc.U64_F32:
        return np.float32(_f32_of_i64(wide, op == mc.U64_F32, flags)).view(np.uint32)
    if op == mc.F64_F32:
        return np.float32(round_f32(f64_of_bits(np.int64(wide)), flags)).view(np.uint32)
    if op == mc.F64_F16:
        return f64_to_f16(f64_of_bits(np.int64(wide)), flags)
    if op == mc.F64_BF16:
        return f64_to_bf16(f64_of_bits(np.int64(wide)), flags)
    if op == mc.F32_F16:
        return _f16(x, flags)
    if op == mc.F32_BF16:
        return _bf16(x, flags)
    return _small_format(op, bits, x, flags)


@njit(**OPTIONS)
def convert64_lane(op, x, wide, low, high, flags):
    """A conversion with a 64-bit result: from fp32 `x`, or from 64-bit `wide` (bounds `low`, `high` to clamp)."""
    if op == mc.F32_S64 or op == mc.F32_U64:
        return np.uint64(_integer_from(op, np.float64(x), flags))
    if op == mc.F64_S64 or op == mc.F64_U64:
        return np.uint64(_integer_from(op, f64_of_bits(np.int64(wide)), flags))
    if op == mc.S64_F64:
        return np.uint64(bits_of_f64(np.float64(np.int64(wide))))
    if op == mc.U64_F64:
        return np.uint64(bits_of_f64(np.float64(np.uint64(wide))))
    if op == mc.XCLAMP_U:
        return min(wide, low)
    return np.uint64(min(max(np.int64(wide), np.int64(low)), np.int64(high)))
