"""Runs of micro-operations that only read and write registers: vector code where there is some, else lane by lane."""

from __future__ import annotations

import numpy as np
from numba import njit

from . import microcode as mc
from .common import OPTIONS, code_table, guarded, int64s, rows_f32, rows_f32_pairs, rows_f64, rows_u32, rows_u64
from .convert import convert32_lane, convert64_lane
from .floating import approx_lane, directed_lane, f64_lane, half_lane, packed_directed_lane, rint
from .integer import int32_lane, int64_lane
from .vector.switch import execute

PAIR = 4  # flag of half-precision operations: two values in a register


@njit(**OPTIONS)
def _int_lanes(row, p32, p64, m):
    op, x = np.int64(row[0]), np.int64(row[7])
    u, w = rows_u32(p32), rows_u64(p64)
    d, a, b, c, e = np.uint64(row[2]), np.uint64(row[3]), np.uint64(row[4]), np.uint64(row[5]), np.uint64(row[6])
    if op >> mc.FAMILY_SHIFT == mc.INT32:
        for i in range(32):
            if (m >> i) & 1:
                u[d, i] = int32_lane(op, u[a, i], u[b, i], u[c, i], u[e, i], x)
        return
    narrow = op == mc.XPOPC or op == mc.XCLZ or op == mc.XBFIND_U
    extract = op == mc.XBFE_U or op == mc.XBFE_S
    for i in range(32):
        if (m >> i) & 1:
            # bfe has its two 32-bit sources in columns 4 and 5, bfi in 5 and 6.
            first, second = (u[b, i], u[c, i]) if extract else (u[c, i], u[e, i])
            result = int64_lane(op, w[a, i], w[a, i] if extract else w[b, i], first, second, x)
            if narrow:
                u[d, i] = np.uint32(result & np.uint64(0xFFFFFFFF))
            else:
                w[d, i] = result


@njit(**OPTIONS)
def _f32_lanes(row, p32, p64, m):
    op, mode = np.int64(row[0]), np.int64(row[7])
    f, ff = rows_f32(p32), rows_f32_pairs(p64)
    d, a, b, c = np.uint64(row[2]), np.uint64(row[3]), np.uint64(row[4]), np.uint64(row[5])
    if op == mc.FADD2_R or op == mc.FMUL2_R or op == mc.FFMA2_R:
        for i in range(64):
            if (m >> (i >> 1)) & 1:
                ff[d, i] = packed_directed_lane(op, ff[a, i], ff[b, i], ff[c, i], mode)
        return
    for i in range(32):
        if (m >> i) & 1:
            if op == mc.FRND:
                f[d, i] = np.float32(rint(np.float64(f[a, i]), mode))
            elif op == mc.LG2 or op == mc.SIN or op == mc.COS or op == mc.TANH:
                f[d, i] = approx_lane(op, f[a, i])
            else:
                f[d, i] = directed_lane(op, f[a, i], f[b, i], f[c, i], mode)


@njit(**OPTIONS)
def _f64_lanes(row, p32, p64, m):
    op, flags = np.int64(row[0]), np.int64(row[7])
    u, g = rows_u32(p32), rows_f64(p64)
    d, a, b, c = np.uint64(row[2]), np.uint64(row[3]), np.uint64(row[4]), np.uint64(row[5])
    low, s = np.uint32(0xFFFF), np.uint32(16)
    for i in range(32):
        if (m >> i) & 1:
            if op >= mc.HADD:
                x, y, z = u[a, i], u[b, i], u[c, i]
                r = half_lane(op, x & low, y & low, z & low, flags)
                if flags & PAIR:
                    r |= half_lane(op, x >> s, y >> s, z >> s, flags) << s
                u[d, i] = r
            else:
                g[d, i] = f64_lane(op, g[a, i], g[b, i], flags)


@njit(**OPTIONS)
def _convert_lanes(row, p32, p64, m):
    op, flags = np.int64(row[0]), np.int64(row[7])
    u, f, w = rows_u32(p32), rows_f32(p32), rows_u64(p64)
    d, a, b, c = np.uint64(row[2]), np.uint64(row[3]), np.uint64(row[4]), np.uint64(row[5])
    wide = op == mc.F32_S64 or op == mc.F32_U64 or op == mc.F64_S64 or op == mc.F64_U64
    wide = wide or op == mc.S64_F64 or op == mc.U64_F64 or op == mc.XCLAMP_S or op == mc.XCLAMP_U
    for i in range(32):
        if (m >> i) & 1:
            if wide:
                w[d, i] = convert64_lane(op, f[a, i], w[a, i], w[b, i], w[c, i], flags)
            else:
                u[d, i] = convert32_lane(op, u[a, i], f[a, i], w[a, i], flags)


@njit(**OPTIONS)
def _by_lane(row, p32, p64, m):
    family = row[0] >> mc.FAMILY_SHIFT
    if family == mc.INT32 or family == mc.INT64:
        _int_lanes(row, p32, p64, m)
    elif family == mc.F32:
        _f32_lanes(row, p32, p64, m)
    elif family == mc.F64:
        _f64_lanes(row, p32, p64, m)
    else:
        _convert_lanes(row, p32, p64, m)


@njit(**OPTIONS)
def run_registers(p_code, p_counts, pc, limit, mask, p32, p64):
    """Runs consecutive register operations from `pc` on, up to `limit`. Returns the first pc not executed."""
    code = code_table(p_code)
    counts = int64s(p_counts)
    while pc < limit:
        row = code[np.uint64(pc)]
        op = np.int64(row[0])
        if op >= mc.MEMORY << mc.FAMILY_SHIFT or op < mc.INT32 << mc.FAMILY_SHIFT:
            break
        counts[np.uint64(pc)] += 1
        pc += 1
        m = mask
        if row[1] != 0:
            m = guarded(p32, np.int64(row[1]), mask)
            if m == 0:
                continue
        done = execute(op, p32, p64, np.int64(row[2]), np.int64(row[3]), np.int64(row[4]), np.int64(row[5]), m)
        if done == 0:
            _by_lane(row, p32, p64, m)
    return pc
