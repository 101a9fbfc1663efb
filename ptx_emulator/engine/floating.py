"""Floating-point micro-operations that have no vector form, one lane at a time (PTX ISA 9.7.3, 9.7.4, 9.7.5).

Half-precision results are computed in fp64, made to round like the exact result (round to odd), then rounded once.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from . import microcode as mc
from .common import OPTIONS, bits_of_f64, exact_sum, fma64, round_f32, round_to_odd
from .formats import bf16_to_f64, f16_to_f64, f64_to_bf16, f64_to_f16


@njit(**OPTIONS)
def approx_lane(op, x):
    """lg2, sin, cos, tanh of one fp32 value, rounded once from fp64."""
    y = np.float64(x)
    if op == mc.LG2:
        if y == 0.0:
            return np.float32(-np.inf)
        return np.float32(math.log2(y)) if y > 0.0 else np.float32(np.nan)
    if math.isinf(y) and op != mc.TANH:
        return np.float32(np.nan)
    if op == mc.SIN:
        return np.float32(math.sin(y))
    if op == mc.COS:
        return np.float32(math.cos(y))
    return np.float32(math.tanh(y))


@njit(**OPTIONS)
def rint(x, mode):
    """Rounded to an integral value; mode 0 nearest even, 1 toward zero, 2 down, 3 up."""
    if mode == 0:
        return np.rint(x)
    if mode == 1:
        return np.trunc(x)
    return np.floor(x) if mode == 2 else np.ceil(x)


@njit(**OPTIONS)
def directed_lane(op, a, b, c, mode):
    """add, mul, fma, rcp, sqrt, div of fp32 in a rounding mode other than nearest, via the exact result."""
    x, y, z = np.float64(a), np.float64(b), np.float64(c)
    if op == mc.FMUL_R:
        return round_f32(x * y, mode)
    if op == mc.FADD_R:
        s, e = exact_sum(x, y)
        zero = x + y == 0.0
    elif op == mc.FFMA_R:
        s, e = exact_sum(x * y, z)
        zero = s == 0.0
    else:
        if op == mc.SQRT_R:
            if x < 0.0:
                return np.float32(np.nan)
            s = math.sqrt(x)
            e = -fma64(s, s, -x)
        else:
            n, d = (1.0, x) if op == mc.RCP_R else (x, y)
            s = n / d
            e = -fma64(s, d, -n)
            if d < 0.0:
                e = -e
        if not math.isfinite(e) or not math.isfinite(s):
            e = 0.0
        return round_f32(round_to_odd(s, e), mode)
    if zero and mode == 2 and math.isfinite(s) and not (math.copysign(1.0, s) > 0 and x == 0.0 and y == 0.0):
        # An exact zero sum of terms of opposite sign is -0 when rounding down.
        return np.float32(-0.0)
    if not math.isfinite(e):
        e = 0.0
    return round_f32(round_to_odd(s, e), mode)


@njit(**OPTIONS)
def packed_directed_lane(op, a, b, c, mode):
    if op == mc.FADD2_R:
        return directed_lane(mc.FADD_R, a, b, c, mode)
    if op == mc.FMUL2_R:
        return directed_lane(mc.FMUL_R, a, b, c, mode)
    return directed_lane(mc.FFMA_R, a, b, c, mode)


@njit(**OPTIONS)
def min_max64(x, y, want_max):
    if x != x:
        return y
    if y != y:
        return x
    if x == y:
        above = bits_of_f64(x) >= 0
    else:
        above = x > y
    return x if above == want_max else y


@njit(**OPTIONS)
def half_lane(op, a, b, c, kind):
    """One half-precision operation; `kind` bit 0: bf16, bit 1: ftz. Arguments and result are 16-bit patterns."""
    if kind & 1:
        x, y, z = bf16_to_f64(a), bf16_to_f64(b), bf16_to_f64(c)
    else:
        x, y, z = f16_to_f64(a), f16_to_f64(b), f16_to_f64(c)
        if kind & 2:
            x = x if abs(x) >= 6.103515625e-05 else math.copysign(0.0, x)
            y = y if abs(y) >= 6.103515625e-05 else math.copysign(0.0, y)
            z = z if abs(z) >= 6.103515625e-05 else math.copysign(0.0, z)
    nan = np.uint32(0x7FFF)
    if op == mc.HMIN or op == mc.HMAX or op == mc.HMIN_NAN or op == mc.HMAX_NAN:
        if (x != x and y != y) or ((x != x or y != y) and (op == mc.HMIN_NAN or op == mc.HMAX_NAN)):
            return nan
        r = min_max64(x, y, op == mc.HMAX or op == mc.HMAX_NAN)
    elif op == mc.HADD:
        s, e = exact_sum(x, y)
        r = round_to_odd(s, e) if math.isfinite(e) else s
    elif op == mc.HMUL:
        r = x * y
    elif op == mc.HFMA:
        s, e = exact_sum(x * y, z)
        r = round_to_odd(s, e) if math.isfinite(e) else s
    elif op == mc.HEX2:
        r = 2.0**x
    elif op == mc.HTANH:
        r = math.tanh(x)
    elif op == mc.HRELU:
        r = x if x > 0.0 or x != x else 0.0
    else:
        r = x
    if r != r:
        return nan
    if kind & 1:
        return f64_to_bf16(r, 0)
    h = f64_to_f16(r, 0)
    if kind & 2 and (h & np.uint32(0x7C00)) == 0:
        h &= np.uint32(0x8000)
    return h


@njit(**OPTIONS)
def f64_lane(op, x, y, mode):
    """min, max, rint, rsqrt of fp64."""
    if op == mc.DRND:
        return rint(x, mode)
    if op == mc.DRSQRT:
        return 1.0 / math.sqrt(x) if x >= 0.0 else np.nan
    return min_max64(x, y, op == mc.DMAX)
