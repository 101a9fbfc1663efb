"""Integer and logic micro-operations that have no vector form, one lane at a time (PTX ISA 9.7.1, 9.7.8)."""

from __future__ import annotations

import numpy as np
from numba import njit

from . import microcode as mc
from .common import OPTIONS, leading_zeros, mulhi_u64, popcount, reverse_bits


@njit(**OPTIONS)
def _prmt(a, b, selector, mode):
    """prmt.b32 (PTX ISA 9.7.9.7): modes 0 default, 1 f4e, 2 b4e, 3 rc8, 4 ecl, 5 ecr, 6 rc16."""
    low = np.uint64(a) | np.uint64(b) << np.uint64(32)
    result = np.uint64(0)
    first = np.int64(selector & np.uint32(3))
    for i in range(4):
        sign = np.uint64(0)
        if mode == 0:
            nibble = (np.int64(selector) >> (4 * i)) & 15
            index = nibble & 7
            sign = np.uint64(nibble >> 3)
        elif mode == 1:
            index = first + i
        elif mode == 2:
            index = (first - i) & 7
        elif mode == 3:
            index = first
        elif mode == 4:
            index = max(first, i)
        elif mode == 5:
            index = min(first, i)
        else:
            index = (first & 1) * 2 + (i & 1)
        byte = (low >> np.uint64(8 * index)) & np.uint64(255)
        if sign:
            byte = np.uint64(255) if byte & np.uint64(128) else np.uint64(0)
        result |= byte << np.uint64(8 * i)
    return np.uint32(result)


@njit(**OPTIONS)
def _bfe32(a, start, length, signed):
    """bfe (PTX ISA 9.7.1.18): `start` and `length` use their low 8 bits."""
    position, count = np.int64(start & np.uint32(255)), np.int64(length & np.uint32(255))
    value = np.int64(np.int32(a)) if signed else np.int64(a)
    if count == 0:
        return np.uint32(0)
    last = min(position + count - 1, 31)
    if position > 31:
        return np.uint32(0xFFFFFFFF) if signed and value < 0 else np.uint32(0)
    field = np.int64(a) >> position & ((1 << (last - position + 1)) - 1)
    if signed and (np.int64(a) >> last) & 1:
        field |= -1 << (last - position + 1)
    return np.uint32(field)


@njit(**OPTIONS)
def _bfi32(a, b, start, length):
    position, count = np.int64(start & np.uint32(255)), np.int64(length & np.uint32(255))
    if position > 31 or count == 0:
        return b
    mask = np.uint32((((1 << min(count, 32)) - 1) << position) & 0xFFFFFFFF)
    return (b & ~mask) | (np.uint32((np.int64(a) << position) & 0xFFFFFFFF) & mask)


@njit(**OPTIONS)
def _lop3(a, b, c, table):
    result = np.uint32(0)
    for entry in range(8):
        if (table >> entry) & 1:
            term = a if entry & 4 else ~a
            term &= b if entry & 2 else ~b
            term &= c if entry & 1 else ~c
            result |= term
    return result


@njit(**OPTIONS)
def int32_lane(op, a, b, c, d, x):
    """A 32-bit operation of sources a, b, c, d and immediate x."""
    if op == mc.PRMT:
        return _prmt(a, b, c, x)
    if op == mc.LOP3:
        return _lop3(a, b, c, x)
    if op == mc.BFI:
        return _bfi32(a, b, c, d)
    if op == mc.CLZ:
        return np.uint32(leading_zeros(a))
    if op == mc.SHF_L or op == mc.SHF_R:
        n = np.int64(c & np.uint32(31)) if x else min(np.int64(c), 32)
        both = np.uint64(a) | np.uint64(b) << np.uint64(32)
        if op == mc.SHF_R:
            return np.uint32(both >> np.uint64(n) & np.uint64(0xFFFFFFFF))
        if n == 32:
            return a
        return np.uint32((both << np.uint64(n)) >> np.uint64(32))
    if op == mc.BFE_U:
        return _bfe32(a, b, c, False)
    if op == mc.BFE_S:
        return _bfe32(a, b, c, True)
    if op == mc.BFIND_U:
        if a == 0:
            return np.uint32(0xFFFFFFFF)
        zeros = leading_zeros(a)
        return np.uint32(zeros) if x else np.uint32(31) - np.uint32(zeros)
    if op == mc.BMSK:
        start = np.int64(a & np.uint32(31)) if x else min(np.int64(a), 32)
        count = np.int64(b & np.uint32(31)) if x else min(np.int64(b), 32)
        return np.uint32((((1 << count) - 1) << start) & 0xFFFFFFFF)
    if op == mc.DP4A:
        total = np.int64(c)
        for i in range(4):
            p, q = (
                np.int64((a >> np.uint32(8 * i)) & np.uint32(255)),
                np.int64((b >> np.uint32(8 * i)) & np.uint32(255)),
            )
            if x & 1 and p > 127:
                p -= 256
            if x & 2 and q > 127:
                q -= 256
            total += p * q
        return np.uint32(total & 0xFFFFFFFF)
    signed_a, signed_b = np.int64(np.int32(a)), np.int64(np.int32(b))
    if b == 0:
        # Division by zero gives an unspecified value; the hardware's all-ones (and the dividend).
        return np.uint32(0xFFFFFFFF) if op == mc.DIV_S or op == mc.DIV_U else a
    if op == mc.DIV_U:
        return np.uint32(a // b)
    if op == mc.REM_U:
        return np.uint32(a % b)
    quotient = abs(signed_a) // abs(signed_b)
    if (signed_a < 0) != (signed_b < 0):
        quotient = -quotient
    if op == mc.DIV_S:
        return np.uint32(quotient & 0xFFFFFFFF)
    return np.uint32((signed_a - quotient * signed_b) & 0xFFFFFFFF)


@njit(**OPTIONS)
def _divide64(op, a, b):
    if b == 0:
        return np.uint64(0xFFFFFFFFFFFFFFFF) if op == mc.XDIV_S or op == mc.XDIV_U else a
    if op == mc.XDIV_U:
        return a // b
    if op == mc.XREM_U:
        return a % b
    negative_a, negative_b = np.int64(a) < 0, np.int64(b) < 0
    ua = np.uint64(0) - a if negative_a else a
    ub = np.uint64(0) - b if negative_b else b
    if op == mc.XDIV_S:
        q = ua // ub
        return np.uint64(0) - q if negative_a != negative_b else q
    r = ua % ub
    return np.uint64(0) - r if negative_a else r


@njit(**OPTIONS)
def _field64(op, a, b, start, length):
    """bfe and bfi on 64 bits."""
    position, count = np.int64(start & np.uint32(255)), np.int64(length & np.uint32(255))
    if op == mc.XBFI:
        if position > 63 or count == 0:
            return b
        mask = np.uint64(0xFFFFFFFFFFFFFFFF) if count >= 64 else (np.uint64(1) << np.uint64(count)) - np.uint64(1)
        mask <<= np.uint64(position)
        return (b & ~mask) | (a << np.uint64(position) & mask)
    signed = op == mc.XBFE_S
    negative = signed and np.int64(a) < 0
    if count == 0:
        return np.uint64(0)
    if position > 63:
        return np.uint64(0xFFFFFFFFFFFFFFFF) if negative else np.uint64(0)
    width = min(count, 64 - position)
    up = np.uint64(64 - position - width)
    down = 64 - width
    if signed:
        return np.uint64(np.int64(a << up) >> np.int64(down))
    return (a << up) >> np.uint64(down)


@njit(**OPTIONS)
def int64_lane(op, a, b, c, d, x):
    """A 64-bit operation; b is the second 64-bit source, c and d are 32-bit sources. Bit counts fit 32 bits."""
    if op == mc.XPOPC:
        return np.uint64(popcount(a))
    if op == mc.XCLZ:
        return np.uint64(leading_zeros(a))
    if op == mc.XBREV:
        return reverse_bits(a)
    if op == mc.XBFIND_U:
        if a == 0:
            return np.uint64(0xFFFFFFFF)
        zeros = np.uint64(leading_zeros(a))
        return zeros if x else np.uint64(63) - zeros
    if op == mc.XMULHI_U or op == mc.XMULHI_S:
        high = mulhi_u64(a, b)
        if op == mc.XMULHI_S:
            if np.int64(a) < 0:
                high -= b
            if np.int64(b) < 0:
                high -= a
        return high
    if op == mc.XBFI or op == mc.XBFE_U or op == mc.XBFE_S:
        return _field64(op, a, b, c, d)
    return _divide64(op, a, b)
