"""fp32, fp64, fp16 and bf16 arithmetic micro-operations (PTX ISA 9.7.3, 9.7.4, 9.7.5).

fp32 fma is the machine's own fused operation. Half-precision results are computed in fp64, made to round like
the exact result (round to odd), then rounded once.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from . import microcode as mc
from .engine_common import (
    OPTIONS, bits_of_f64, code_table, exact_sum, f64_of_bits, fma32, fma64, guarded, int64s, round_f32,
    round_to_odd, rows_f32, rows_f32_pairs, rows_f64, rows_u32, rows_u64, store32, store64,
)  # fmt: skip
from .engine_formats import bf16_to_f64, f16_to_f64, f64_to_bf16, f64_to_f16

CANONICAL_NAN = 0x7FFFFFFF


@njit(inline="always")
def _flush(bits):
    return bits & np.uint32(0x80000000) if (bits & np.uint32(0x7F800000)) == 0 else bits


@njit(**OPTIONS)
def _exp2(x):
    """2**x of an fp32 value, to within 0.51 ulp of fp32; branch-free so that it compiles to vector code."""
    y = np.float64(x)
    y = min(max(y, -160.0), 160.0)
    n = math.floor(y + 0.5)
    f = (y - n) * 0.6931471805599453
    p = 1.0 / 40320.0
    p = p * f + 1.0 / 5040.0
    p = p * f + 1.0 / 720.0
    p = p * f + 1.0 / 120.0
    p = p * f + 1.0 / 24.0
    p = p * f + 1.0 / 6.0
    p = p * f + 0.5
    p = p * f + 1.0
    p = p * f + 1.0
    scale = f64_of_bits((np.int64(n) + np.int64(1023)) << np.int64(52))
    return np.float32(p * scale) if x == x else np.float32(np.nan)


@njit(**OPTIONS)
def _approx32(op, x):
    """lg2, rcp, rsqrt, sqrt, sin, cos, tanh of one fp32 value, rounded once from fp64."""
    y = np.float64(x)
    if op == mc.LG2:
        if y == 0.0:
            return np.float32(-np.inf)
        return np.float32(math.log2(y)) if y > 0.0 else np.float32(np.nan)
    if op == mc.RCP:
        return np.float32(1.0 / y)
    if op == mc.RSQRT:
        return np.float32(1.0 / math.sqrt(y)) if y >= 0.0 else np.float32(np.nan)
    if op == mc.SQRT:
        return np.float32(math.sqrt(y)) if y >= 0.0 else np.float32(np.nan)
    if math.isinf(y) and op != mc.TANH:
        return np.float32(np.nan)
    if op == mc.SIN:
        return np.float32(math.sin(y))
    if op == mc.COS:
        return np.float32(math.cos(y))
    return np.float32(math.tanh(y))


@njit(**OPTIONS)
def _rint(x, mode):
    """Rounded to an integral value; mode 0 nearest even, 1 toward zero, 2 down, 3 up."""
    if mode == 0:
        return np.rint(x)
    if mode == 1:
        return np.trunc(x)
    return np.floor(x) if mode == 2 else np.ceil(x)


@njit(**OPTIONS)
def _directed(op, a, b, c, mode):
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
def _packed_directed(op, a, b, c, mode):
    if op == mc.FADD2_R:
        return _directed(mc.FADD_R, a, b, c, mode)
    if op == mc.FMUL2_R:
        return _directed(mc.FMUL_R, a, b, c, mode)
    return _directed(mc.FFMA_R, a, b, c, mode)


@njit(**OPTIONS)
def run_f32(p_code, p_counts, pc, limit, mask, p32, p64, scratch):
    code = code_table(p_code)
    counts = int64s(p_counts, 1 << 40)
    u, f, ff = rows_u32(p32), rows_f32(p32), rows_f32_pairs(p64)
    t, tf, tt = rows_u32(scratch)[0], rows_f32(scratch)[0], rows_f32_pairs(scratch)[0]
    nan = np.uint32(CANONICAL_NAN)
    while pc < limit:
        row = code[np.uint64(pc)]
        op = row[0]
        if op >> mc.FAMILY_SHIFT != mc.F32:
            break
        counts[np.uint64(pc)] += 1
        pc += 1
        m = mask
        if row[1] != 0:
            m = guarded(p32, np.int64(row[1]), mask)
            if m == 0:
                continue
        ra, rb, rc = np.uint64(row[3]), np.uint64(row[4]), np.uint64(row[5])
        if op >= mc.FADD2 and op <= mc.FSUB2:
            a, b = ff[ra], ff[rb]
            if op == mc.FMUL2:
                for i in range(64):
                    tt[i] = a[i] * b[i]
            elif op == mc.FADD2:
                for i in range(64):
                    tt[i] = a[i] + b[i]
            elif op == mc.FSUB2:
                for i in range(64):
                    tt[i] = a[i] - b[i]
            else:
                c = ff[rc]
                for i in range(64):
                    tt[i] = fma32(a[i], b[i], c[i])
            store64(p64, row[2], scratch, m)
            continue
        if op == mc.FTZ2:
            w, tw = rows_u32(p64 + np.int64(ra) * 256)[0], t
            w2, tw2 = rows_u32(p64 + np.int64(ra) * 256)[1], rows_u32(scratch)[1]
            for i in range(32):
                tw[i] = _flush(w[i])
            for i in range(32):
                tw2[i] = _flush(w2[i])
            store64(p64, row[2], scratch, m)
            continue
        if op == mc.FADD2_R or op == mc.FMUL2_R or op == mc.FFMA2_R:
            a, b = ff[ra], ff[rb]
            c = ff[rc] if op == mc.FFMA2_R else a
            mode = np.int64(row[6]) if op == mc.FFMA2_R else np.int64(row[5])
            for i in range(64):
                tt[i] = _packed_directed(op, a[i], b[i], c[i], mode)
            store64(p64, row[2], scratch, m)
            continue
        a, b, ua, ub = f[ra], f[rb], u[ra], u[rb]
        if op == mc.FFMA:
            c = f[rc]
            for i in range(32):
                tf[i] = fma32(a[i], b[i], c[i])
        elif op == mc.FADD:
            for i in range(32):
                tf[i] = a[i] + b[i]
        elif op == mc.FMUL:
            for i in range(32):
                tf[i] = a[i] * b[i]
        elif op == mc.FSUB:
            for i in range(32):
                tf[i] = a[i] - b[i]
        elif op == mc.FMAX or op == mc.FMIN:
            # -0 orders below +0; a single NaN loses; two give the canonical NaN.
            flip = np.uint32(0) if op == mc.FMAX else np.uint32(1)
            for i in range(32):
                above = np.uint32(a[i] > b[i]) | (np.uint32(a[i] == b[i]) & np.uint32(ua[i] < ub[i]))
                pick_a = (above ^ flip) & np.uint32(1)
                chosen = ua[i] if pick_a else ub[i]
                chosen = ub[i] if a[i] != a[i] else chosen
                chosen = ua[i] if (b[i] != b[i]) else chosen
                t[i] = nan if (a[i] != a[i]) and (b[i] != b[i]) else chosen
        elif op == mc.FMAX_NAN or op == mc.FMIN_NAN:
            flip = np.uint32(0) if op == mc.FMAX_NAN else np.uint32(1)
            for i in range(32):
                above = np.uint32(a[i] > b[i]) | (np.uint32(a[i] == b[i]) & np.uint32(ua[i] < ub[i]))
                pick_a = (above ^ flip) & np.uint32(1)
                chosen = ua[i] if pick_a else ub[i]
                t[i] = nan if (a[i] != a[i]) or (b[i] != b[i]) else chosen
        elif op == mc.EX2:
            for i in range(32):
                tf[i] = _exp2(a[i])
        elif op == mc.FTZ:
            for i in range(32):
                t[i] = _flush(ua[i])
        elif op == mc.FNAN1:
            for i in range(32):
                t[i] = nan if a[i] != a[i] else ua[i]
        elif op == mc.FLT:
            for i in range(32):
                t[i] = np.uint32(a[i] < b[i])
        elif op == mc.FLE:
            for i in range(32):
                t[i] = np.uint32(a[i] <= b[i])
        elif op == mc.FEQ:
            for i in range(32):
                t[i] = np.uint32(a[i] == b[i])
        elif op == mc.FNEQ:
            for i in range(32):
                t[i] = np.uint32((a[i] < b[i]) | (a[i] > b[i]))
        elif op == mc.FNUM:
            for i in range(32):
                t[i] = np.uint32((a[i] == a[i]) & (b[i] == b[i]))
        elif op == mc.FEQU:
            for i in range(32):
                t[i] = np.uint32(not ((a[i] < b[i]) | (a[i] > b[i])))
        elif op == mc.FLTU:
            for i in range(32):
                t[i] = np.uint32(not (a[i] >= b[i]))
        elif op == mc.FLEU:
            for i in range(32):
                t[i] = np.uint32(not (a[i] > b[i]))
        elif op == mc.FSAT:
            # Clamped to [0, 1]; NaN gives +0.
            for i in range(32):
                tf[i] = min(a[i], np.float32(1.0)) if a[i] > np.float32(0.0) else np.float32(0.0)
        elif op == mc.FRELU:
            for i in range(32):
                tf[i] = a[i] if (a[i] > np.float32(0.0)) or (a[i] != a[i]) else np.float32(0.0)
        elif op == mc.FDIV:
            for i in range(32):
                tf[i] = a[i] / b[i]
        elif op == mc.FRND:
            for i in range(32):
                tf[i] = np.float32(_rint(np.float64(a[i]), np.int64(row[4])))
        elif op >= mc.LG2 and op <= mc.TANH:
            for i in range(32):
                tf[i] = _approx32(op, a[i])
        else:
            mode = np.int64(row[5])
            c = a
            if op == mc.FFMA_R:
                mode = np.int64(row[6])
                c = f[rc]
            elif op == mc.RCP_R or op == mc.SQRT_R:
                mode = np.int64(row[4])
                b = a
            for i in range(32):
                tf[i] = _directed(op, a[i], b[i], c[i], mode)
        store32(p32, row[2], scratch, m)
    return pc


@njit(**OPTIONS)
def _min_max64(x, y, want_max):
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
def _half(op, a, b, c, kind):
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
        r = _min_max64(x, y, op == mc.HMAX or op == mc.HMAX_NAN)
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
def run_f64(p_code, p_counts, pc, limit, mask, p32, p64, scratch):
    code = code_table(p_code)
    counts = int64s(p_counts, 1 << 40)
    u, d, w = rows_u32(p32), rows_f64(p64), rows_u64(p64)
    t, tn = rows_f64(scratch)[0], rows_u32(scratch)[0]
    while pc < limit:
        row = code[np.uint64(pc)]
        op = row[0]
        if op >> mc.FAMILY_SHIFT != mc.F64:
            break
        counts[np.uint64(pc)] += 1
        pc += 1
        m = mask
        if row[1] != 0:
            m = guarded(p32, np.int64(row[1]), mask)
            if m == 0:
                continue
        ra, rb, rc = np.uint64(row[3]), np.uint64(row[4]), np.uint64(row[5])
        if op >= mc.HADD:
            # x2 forms hold two values a register; the flags' bit 2 says so.
            unary = op == mc.HEX2 or op == mc.HTANH or op == mc.HCANON or op == mc.HRELU
            flags = np.int64(row[6]) if op == mc.HFMA else (np.int64(row[4]) if unary else np.int64(row[5]))
            a = u[ra]
            b = a if unary else u[rb]
            c = u[rc] if op == mc.HFMA else a
            low = np.uint32(0xFFFF)
            for i in range(32):
                r = _half(op, a[i] & low, b[i] & low, c[i] & low, flags)
                if flags & 4:
                    s = np.uint32(16)
                    r |= _half(op, a[i] >> s, b[i] >> s, c[i] >> s, flags) << s
                tn[i] = r
            store32(p32, row[2], scratch, m)
            continue
        if op >= mc.DEQ and op <= mc.DNEQ:
            a, b = d[ra], d[rb]
            for i in range(32):
                x, y = a[i], b[i]
                if op == mc.DEQ:
                    r = x == y
                elif op == mc.DLT:
                    r = x < y
                elif op == mc.DLE:
                    r = x <= y
                elif op == mc.DNUM:
                    r = x == x and y == y
                elif op == mc.DEQU:
                    r = not (x < y or x > y)
                elif op == mc.DLTU:
                    r = not (x >= y)
                elif op == mc.DLEU:
                    r = not (x > y)
                else:
                    r = x < y or x > y
                tn[i] = np.uint32(r)
            store32(p32, row[2], scratch, m)
            continue
        a = d[ra]
        b = a if op == mc.DSQRT or op == mc.DRND or op == mc.DRSQRT else d[rb]
        c = d[rc] if op == mc.DFMA else a
        for i in range(32):
            x, y = a[i], b[i]
            if op == mc.DADD:
                r = x + y
            elif op == mc.DSUB:
                r = x - y
            elif op == mc.DMUL:
                r = x * y
            elif op == mc.DFMA:
                r = fma64(x, y, c[i])
            elif op == mc.DDIV:
                r = x / y
            elif op == mc.DSQRT:
                r = math.sqrt(x) if x >= 0.0 else np.nan
            elif op == mc.DRSQRT:
                r = 1.0 / math.sqrt(x) if x >= 0.0 else np.nan
            elif op == mc.DRND:
                r = _rint(x, np.int64(row[4]))
            else:
                r = _min_max64(x, y, op == mc.DMAX)
            t[i] = r
        store64(p64, row[2], scratch, m)
    return pc
