"""Conversions between number formats (cvt, PTX ISA 9.7.9.21)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from . import microcode as mc
from .engine_common import (
    OPTIONS, code_table, guarded, int64s, round_f32, rows_f32, rows_f64, rows_i32, rows_i64, rows_u32, rows_u64,
    store32, store64,
)  # fmt: skip
from .engine_float import _rint
from .engine_formats import (
    bf16_to_f64, decode, e4m3_to_f64, e5m2_to_f64, f16_to_f64, f64_to_bf16, f64_to_e2m1, f64_to_e4m3, f64_to_e5m2,
    f64_to_f16, f64_to_tf32, f64_to_ue8m0,
)  # fmt: skip

SATFINITE = 8  # flag beside the rounding mode in the immediate of F32_F16, F32_BF16, F32_TF32


@njit(**OPTIONS)
def _to_integer(x, low, high, nan, mode):
    """A double as int64 (or the bits of uint64), rounded and clamped; bounds are exact doubles."""
    if x != x:
        return nan
    y = _rint(x, mode)
    if y <= low:
        return np.int64(low)
    if y >= 9223372036854775808.0:
        if high > 9223372036854775808.0:
            return np.int64(-1) if y >= 18446744073709551616.0 else np.int64(y - 9223372036854775808.0) ^ np.int64(
                -9223372036854775808
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
def _f64_of_i64(value, unsigned, mode):
    x = np.float64(np.uint64(value)) if unsigned else np.float64(np.int64(value))
    return x


@njit(**OPTIONS)
def _f16_slow(x, flags):
    h = f64_to_f16(np.float64(x), flags & 7)
    if flags & SATFINITE and (h & np.uint32(0x7FFF)) == np.uint32(0x7C00):
        h -= np.uint32(1)
    return h


@njit(**OPTIONS)
def _bf16_slow(x, flags):
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
def run_convert(p_code, p_counts, pc, limit, mask, p32, p64, scratch):
    code = code_table(p_code)
    counts = int64s(p_counts, 1 << 40)
    u, s, f = rows_u32(p32), rows_i32(p32), rows_f32(p32)
    w, sw, d = rows_u64(p64), rows_i64(p64), rows_f64(p64)
    t, tf, ts = rows_u32(scratch)[0], rows_f32(scratch)[0], rows_i32(scratch)[0]
    tw, td, tsw = rows_u64(scratch)[0], rows_f64(scratch)[0], rows_i64(scratch)[0]
    while pc < limit:
        row = code[np.uint64(pc)]
        op = row[0]
        if op >> mc.FAMILY_SHIFT != mc.CONVERT:
            break
        counts[np.uint64(pc)] += 1
        pc += 1
        m = mask
        if row[1] != 0:
            m = guarded(p32, np.int64(row[1]), mask)
            if m == 0:
                continue
        ra, rb, rc = np.uint64(row[3]), np.uint64(row[4]), np.uint64(row[5])
        x = np.int64(row[4])
        wide = False
        if op == mc.F32_BF16:
            a, ua = f[ra], u[ra]
            if x == 0:
                for i in range(32):
                    rounded = (ua[i] + np.uint32(0x7FFF) + ((ua[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
                    t[i] = np.uint32(0x7FFF) if a[i] != a[i] else rounded
            else:
                for i in range(32):
                    t[i] = _bf16_slow(a[i], x)
        elif op == mc.F32_F16:
            a, ua = f[ra], u[ra]
            if x == 0:
                for i in range(32):
                    ts[i] = np.int32(ua[i] & np.uint32(0x7FFFFFFF))
                for i in range(32):
                    # Adding 0.5 makes the machine round at 2**-24, the unit of an fp16 subnormal.
                    tf[i + 32] = tf[i] + np.float32(0.5)
                for i in range(32):
                    size = t[i]
                    # A sum of uint32 is uint64 in numba: the cast makes it wrap.
                    normal = np.uint32(size + np.uint32(0xC8000FFF) + ((size >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
                    normal = np.uint32(0x7C00) if size >= np.uint32(0x47800000) else min(normal, np.uint32(0x7C00))
                    small = t[i + 32] - np.uint32(0x3F000000)
                    h = small if size < np.uint32(0x38800000) else normal
                    h |= (ua[i] >> np.uint32(16)) & np.uint32(0x8000)
                    t[i] = np.uint32(0x7FFF) if size > np.uint32(0x7F800000) else h
            else:
                for i in range(32):
                    t[i] = _f16_slow(a[i], x)
        elif op == mc.BF16_F32:
            ua = u[ra]
            for i in range(32):
                t[i] = ua[i] << np.uint32(16)
        elif op == mc.F16_F32:
            ua = u[ra]
            for i in range(32):
                tf[i] = np.float32(f16_to_f64(ua[i]))
        elif op == mc.F32_S32 or op == mc.F32_U32:
            a = f[ra]
            for i in range(32):
                t[i] = np.uint32(_integer_from(op, np.float64(a[i]), x) & np.int64(0xFFFFFFFF))
        elif op == mc.F64_S32 or op == mc.F64_U32:
            a = d[ra]
            for i in range(32):
                t[i] = np.uint32(_integer_from(op, a[i], x) & np.int64(0xFFFFFFFF))
        elif op == mc.F32_S64 or op == mc.F32_U64:
            wide = True
            a = f[ra]
            for i in range(32):
                tsw[i] = _integer_from(op, np.float64(a[i]), x)
        elif op == mc.F64_S64 or op == mc.F64_U64:
            wide = True
            a = d[ra]
            for i in range(32):
                tsw[i] = _integer_from(op, a[i], x)
        elif op == mc.S32_F32 or op == mc.U32_F32:
            ua, sa = u[ra], s[ra]
            if op == mc.S32_F32 and x == 0:
                for i in range(32):
                    tf[i] = np.float32(sa[i])
            else:
                for i in range(32):
                    v = np.float64(sa[i]) if op == mc.S32_F32 else np.float64(ua[i])
                    tf[i] = round_f32(v, x)
        elif op == mc.S64_F32 or op == mc.U64_F32:
            a = w[ra]
            for i in range(32):
                tf[i] = _f32_of_i64(a[i], op == mc.U64_F32, x)
        elif op == mc.S32_F64 or op == mc.U32_F64:
            wide = True
            ua, sa = u[ra], s[ra]
            for i in range(32):
                td[i] = np.float64(sa[i]) if op == mc.S32_F64 else np.float64(ua[i])
        elif op == mc.S64_F64 or op == mc.U64_F64:
            wide = True
            a = w[ra]
            for i in range(32):
                td[i] = _f64_of_i64(a[i], op == mc.U64_F64, x)
        elif op == mc.F32_F64:
            wide = True
            a = f[ra]
            for i in range(32):
                td[i] = np.float64(a[i])
        elif op == mc.F64_F32:
            a = d[ra]
            for i in range(32):
                tf[i] = round_f32(a[i], x)
        elif op == mc.F64_F16:
            a = d[ra]
            for i in range(32):
                t[i] = f64_to_f16(a[i], x)
        elif op == mc.F64_BF16:
            a = d[ra]
            for i in range(32):
                t[i] = f64_to_bf16(a[i], x)
        elif op == mc.CLAMP_S:
            sa, sb, sc = s[ra], s[rb], s[rc]
            for i in range(32):
                ts[i] = min(max(sa[i], sb[i]), sc[i])
        elif op == mc.CLAMP_U:
            ua, ub = u[ra], u[rb]
            for i in range(32):
                t[i] = min(ua[i], ub[i])
        elif op == mc.XCLAMP_S:
            wide = True
            wa, wb, wc = sw[ra], sw[rb], sw[rc]
            for i in range(32):
                tsw[i] = min(max(wa[i], wb[i]), wc[i])
        elif op == mc.XCLAMP_U:
            wide = True
            va, vb = w[ra], w[rb]
            for i in range(32):
                tw[i] = min(va[i], vb[i])
        else:
            ua, a = u[ra], f[ra]
            for i in range(32):
                t[i] = _small_format(op, ua[i], a[i], x)
        if wide:
            store64(p64, row[2], scratch, m)
        else:
            store32(p32, row[2], scratch, m)
    return pc
