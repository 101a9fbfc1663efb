"""What atomics and reductions compute from two values (PTX ISA 9.7.13.4-6, 9.7.13.16). A kind is a place in ATOMICS."""

from __future__ import annotations

import numpy as np
from numba import njit

from .common import OPTIONS, exact_sum, round_to_odd
from .formats import bf16_to_f64, f16_to_f64, f64_to_bf16, f64_to_f16

ATOMICS = (
    "add",
    "min_s",
    "max_s",
    "min_u",
    "max_u",
    "and",
    "or",
    "xor",
    "exch",
    "cas",
    "inc",
    "dec",
    "add_f32",
    "add_f64",
    "add_f16",
    "add_bf16",
    "add_f16x2",
    "add_bf16x2",
    "min_f16x2",
    "max_f16x2",
    "min_bf16x2",
    "max_bf16x2",
)


def _combining(signed):
    """A function of a kind up to "cas", the old value and the operands, unsigned; `signed` is the signed type of their
    width."""

    @njit(**OPTIONS)
    def combine(kind, old, b, c):
        if kind == 0:
            return old + b
        if kind == 1:
            return old if signed(old) < signed(b) else b
        if kind == 2:
            return old if signed(old) > signed(b) else b
        if kind == 3:
            return old if old < b else b
        if kind == 4:
            return old if old > b else b
        if kind == 5:
            return old & b
        if kind == 6:
            return old | b
        if kind == 7:
            return old ^ b
        if kind == 8:
            return b
        return c if old == b else old

    return combine


combine32 = _combining(np.int32)
combine64 = _combining(np.int64)


@njit(**OPTIONS)
def _half_atomic(kind, a, b):
    """add, min or max of fp16 or bf16 patterns, rounded to nearest even."""
    half = kind in (14, 16, 18, 19)
    x = f16_to_f64(a) if half else bf16_to_f64(a)
    y = f16_to_f64(b) if half else bf16_to_f64(b)
    if kind <= 17:
        s, e = exact_sum(x, y)
        r = round_to_odd(s, e) if e == e else s
    elif x != x or y != y:
        r = y if x != x else x
    elif kind == 18 or kind == 20:
        r = min(x, y)
    else:
        r = max(x, y)
    return f64_to_f16(r, 0) if half else f64_to_bf16(r, 0)


@njit(**OPTIONS)
def atomic32(kind, old, b, c):
    if kind <= 9:
        return combine32(kind, old, b, c)
    if kind == 10:
        return np.uint32(0) if old >= b else old + np.uint32(1)
    if kind == 11:
        return b if old == 0 or old > b else old - np.uint32(1)
    low, s = np.uint32(0xFFFF), np.uint32(16)
    r = _half_atomic(kind, old & low, b & low)
    if kind >= 16:
        r |= _half_atomic(kind, old >> s, b >> s) << s
    return r
