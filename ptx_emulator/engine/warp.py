"""Operations between the lanes of a warp: shuffles, votes, matches, reductions (PTX ISA 9.7.9.6, 9.7.13.8-16).

The decoder puts a convergence check in front of each, so the lanes here are all that take part.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from . import microcode as mc
from .atomic import ATOMICS, combine32
from .common import OPTIONS, code_table, guarded, int64s, popcount, rows_f32, rows_u32, rows_u64, store32

SHUFFLES = ("up", "down", "bfly", "idx")
VOTES = ("all", "any", "uni", "ballot")
REDUCTIONS = (*ATOMICS[:8], "min_f", "max_f")
ABS, NAN = 1, 2  # flags of a floating redux


@njit(**OPTIONS)
def _shuffle(row, m, p32, scratch):
    u = rows_u32(p32)
    a, b, c = u[np.uint64(row[4])], u[np.uint64(row[5])], u[np.uint64(row[6])]
    t, valid = rows_u32(scratch)[0], rows_u32(scratch)[2]
    mode = row[7]
    for lane in range(32):
        distance = np.int64(b[lane] & np.uint32(31))
        clamp = np.int64(c[lane] & np.uint32(31))
        segment = np.int64((c[lane] >> np.uint32(8)) & np.uint32(31))
        highest = (lane & segment) | (clamp & ~segment)
        lowest = lane & segment
        if mode == 0:
            source = lane - distance
            inside = source >= highest
        else:
            if mode == 1:
                source = lane + distance
            elif mode == 2:
                source = lane ^ distance
            else:
                source = lowest | (distance & ~segment & 31)
            inside = source <= highest
        if not inside:
            source = lane
        valid[lane] = np.uint32(inside)
        # The value of a lane that does not take part is unpredictable: poison.
        t[lane] = a[source] if (m >> source) & 1 else np.uint32(0xFFFFFFFF)
    store32(p32, row[2], scratch, m)
    store32(p32, row[3], scratch + 256, m)


@njit(**OPTIONS)
def _vote(row, m, p32, scratch):
    p = rows_u32(p32)[np.uint64(row[3])]
    t = rows_u32(scratch)[0]
    ballot = np.int64(0)
    for lane in range(32):
        ballot |= np.int64(p[lane] & np.uint32(1)) << lane
    ballot &= m
    mode = row[4]
    if mode == 0:
        r = np.int64(ballot == m)
    elif mode == 1:
        r = np.int64(ballot != 0)
    elif mode == 2:
        r = np.int64(ballot == m or ballot == 0)
    else:
        r = ballot
    for lane in range(32):
        t[lane] = np.uint32(r)
    store32(p32, row[2], scratch, m)


@njit(**OPTIONS)
def _match(row, m, p32, p64, scratch):
    op = row[0]
    t, agree = rows_u32(scratch)[0], rows_u32(scratch)[2]
    wide = op == mc.XMATCH_ANY or op == mc.XMATCH_ALL
    every = op == mc.MATCH_ALL or op == mc.XMATCH_ALL
    source = np.uint64(row[4]) if every else np.uint64(row[3])
    narrow_row, wide_row = rows_u32(p32)[source], rows_u64(p64)[source]
    for lane in range(32):
        same = np.int64(0)
        for other in range(32):
            if wide:
                equal = wide_row[lane] == wide_row[other]
            else:
                equal = narrow_row[lane] == narrow_row[other]
            if equal:
                same |= np.int64(1) << other
        same &= m
        agree[lane] = np.uint32(same == m)
        if every and same != m:
            same = np.int64(0)
        t[lane] = np.uint32(same)
    store32(p32, row[2], scratch, m)
    if every:
        store32(p32, row[3], scratch + 256, m)


@njit(**OPTIONS)
def _redux(row, m, p32, scratch):
    u, f = rows_u32(p32)[np.uint64(row[3])], rows_f32(p32)[np.uint64(row[3])]
    t = rows_u32(scratch)[0]
    op, flags = np.int64(row[4]), np.int64(row[5])
    result = np.uint32(0)
    first = True
    if op < 8:
        for lane in range(32):
            if (m >> lane) & 1:
                result = u[lane] if first else combine32(op, result, u[lane], u[lane])
                first = False
    else:
        best = np.float32(0.0)
        nans = 0
        for lane in range(32):
            if (m >> lane) & 1:
                x = abs(f[lane]) if flags & ABS else f[lane]
                if x != x:
                    nans += 1
                elif first:
                    best, first = x, False
                elif (
                    (x < best or (x == best and np.signbit(x)))
                    if op == 8
                    else (x > best or (x == best and not np.signbit(x)))
                ):
                    best = x
        if first or (nans and flags & NAN):
            result = np.uint32(0x7FFFFFFF)
        else:
            result = np.uint32(np.float32(best).view(np.uint32))
    for lane in range(32):
        t[lane] = result
    store32(p32, row[2], scratch, m)


@njit(**OPTIONS)
def run_warp_ops(p_code, p_counts, pc, limit, mask, p32, p64, scratch):
    code = code_table(p_code)
    counts = int64s(p_counts)
    while pc < limit:
        row = code[np.uint64(pc)]
        op = row[0]
        if op >> mc.FAMILY_SHIFT != mc.WARP:
            break
        counts[np.uint64(pc)] += 1
        pc += 1
        m = mask
        if row[1] != 0:
            m = guarded(p32, np.int64(row[1]), mask)
            if m == 0:
                continue
        if op == mc.SHFL:
            _shuffle(row, m, p32, scratch)
        elif op == mc.VOTE:
            _vote(row, m, p32, scratch)
        elif op == mc.REDUX:
            _redux(row, m, p32, scratch)
        elif op == mc.ELECT or op == mc.ACTIVE:
            t, chosen = rows_u32(scratch)[0], rows_u32(scratch)[2]
            lowest = np.int64(popcount(np.int64((m & -m) - 1)))
            for lane in range(32):
                t[lane] = np.uint32(lowest) if op == mc.ELECT else np.uint32(m)
                chosen[lane] = np.uint32(lane == lowest)
            store32(p32, row[2], scratch, m)
            if op == mc.ELECT:
                store32(p32, row[3], scratch + 256, m)
        else:
            _match(row, m, p32, p64, scratch)
    return pc
