"""Integer and logic micro-operations on 32-bit and 64-bit rows (PTX ISA 9.7.1, 9.7.2, 9.7.6, 9.7.8).

Each `run_*` function executes consecutive micro-operations of its family for one group of lanes and returns
the index of the first that is not its own. Results go to a scratch row first, so that every loop is free of
aliasing and compiles to vector code; `store*` then blends it into the destination.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from . import microcode as mc
from .engine_common import (
    OPTIONS, code_table, guarded, int64s, leading_zeros, mulhi_u64, popcount, reverse_bits, rows_i32, rows_i64,
    rows_u32, rows_u64, store32, store64,
)  # fmt: skip


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
def _int32_scalar(op, a, b, c, x):
    """The rare 32-bit operations, one lane."""
    if op == mc.PRMT:
        return _prmt(a, b, c, x)
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
            p, q = np.int64((a >> np.uint32(8 * i)) & np.uint32(255)), np.int64((b >> np.uint32(8 * i)) & np.uint32(255))
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
def run_int32(p_code, p_counts, pc, limit, mask, p32, scratch):
    code = code_table(p_code)
    counts = int64s(p_counts, 1 << 40)
    u, s = rows_u32(p32), rows_i32(p32)
    t, ts = rows_u32(scratch)[0], rows_i32(scratch)[0]
    while pc < limit:
        row = code[np.uint64(pc)]
        op = row[0]
        if op >> mc.FAMILY_SHIFT != mc.INT32:
            break
        counts[np.uint64(pc)] += 1
        pc += 1
        m = mask
        if row[1] != 0:
            m = guarded(p32, np.int64(row[1]), mask)
            if m == 0:
                continue
        ra, rb, rc = np.uint64(row[3]), np.uint64(row[4]), np.uint64(row[5])
        a, b = u[ra], u[rb]
        if op == mc.ADD:
            for i in range(32):
                t[i] = a[i] + b[i]
        elif op == mc.MOV:
            for i in range(32):
                t[i] = a[i]
        elif op == mc.SUB:
            for i in range(32):
                t[i] = a[i] - b[i]
        elif op == mc.SHL:
            for i in range(32):
                t[i] = a[i] << b[i] if b[i] < 32 else np.uint32(0)
        elif op == mc.SHR_U:
            for i in range(32):
                t[i] = a[i] >> b[i] if b[i] < 32 else np.uint32(0)
        elif op == mc.SHR_S:
            sa = s[ra]
            for i in range(32):
                ts[i] = sa[i] >> np.int32(min(b[i], np.uint32(31)))
        elif op == mc.AND:
            for i in range(32):
                t[i] = a[i] & b[i]
        elif op == mc.OR:
            for i in range(32):
                t[i] = a[i] | b[i]
        elif op == mc.XOR:
            for i in range(32):
                t[i] = a[i] ^ b[i]
        elif op == mc.NOT:
            for i in range(32):
                t[i] = ~a[i]
        elif op == mc.SELP:
            c = u[rc]
            for i in range(32):
                t[i] = a[i] if c[i] & np.uint32(1) else b[i]
        elif op == mc.SEQ:
            for i in range(32):
                t[i] = np.uint32(a[i] == b[i])
        elif op == mc.SNE:
            for i in range(32):
                t[i] = np.uint32(a[i] != b[i])
        elif op == mc.SLT_U:
            for i in range(32):
                t[i] = np.uint32(a[i] < b[i])
        elif op == mc.SLE_U:
            for i in range(32):
                t[i] = np.uint32(a[i] <= b[i])
        elif op == mc.SLT_S:
            sa, sb = s[ra], s[rb]
            for i in range(32):
                t[i] = np.uint32(sa[i] < sb[i])
        elif op == mc.SLE_S:
            sa, sb = s[ra], s[rb]
            for i in range(32):
                t[i] = np.uint32(sa[i] <= sb[i])
        elif op == mc.MUL:
            for i in range(32):
                t[i] = a[i] * b[i]
        elif op == mc.MAD:
            c = u[rc]
            for i in range(32):
                t[i] = a[i] * b[i] + c[i]
        elif op == mc.MULHI_U:
            for i in range(32):
                t[i] = np.uint32((np.uint64(a[i]) * np.uint64(b[i])) >> np.uint64(32))
        elif op == mc.MULHI_S:
            sa, sb = s[ra], s[rb]
            for i in range(32):
                ts[i] = np.int32((np.int64(sa[i]) * np.int64(sb[i])) >> np.int64(32))
        elif op == mc.MIN_U:
            for i in range(32):
                t[i] = a[i] if a[i] < b[i] else b[i]
        elif op == mc.MAX_U:
            for i in range(32):
                t[i] = a[i] if a[i] > b[i] else b[i]
        elif op == mc.MIN_S:
            sa, sb = s[ra], s[rb]
            for i in range(32):
                ts[i] = sa[i] if sa[i] < sb[i] else sb[i]
        elif op == mc.MAX_S:
            sa, sb = s[ra], s[rb]
            for i in range(32):
                ts[i] = sa[i] if sa[i] > sb[i] else sb[i]
        elif op == mc.NEG:
            for i in range(32):
                t[i] = np.uint32(0) - a[i]
        elif op == mc.ABS:
            sa = s[ra]
            for i in range(32):
                t[i] = np.uint32(0) - a[i] if sa[i] < 0 else a[i]
        elif op == mc.LOP3:
            c = u[rc]
            x = np.int64(row[6])
            m0, m1 = np.uint32(-(x & 1) & 0xFFFFFFFF), np.uint32(-(x >> 1 & 1) & 0xFFFFFFFF)
            m2, m3 = np.uint32(-(x >> 2 & 1) & 0xFFFFFFFF), np.uint32(-(x >> 3 & 1) & 0xFFFFFFFF)
            m4, m5 = np.uint32(-(x >> 4 & 1) & 0xFFFFFFFF), np.uint32(-(x >> 5 & 1) & 0xFFFFFFFF)
            m6, m7 = np.uint32(-(x >> 6 & 1) & 0xFFFFFFFF), np.uint32(-(x >> 7 & 1) & 0xFFFFFFFF)
            for i in range(32):
                without_a = ~b[i] & (~c[i] & m0 | c[i] & m1) | b[i] & (~c[i] & m2 | c[i] & m3)
                with_a = ~b[i] & (~c[i] & m4 | c[i] & m5) | b[i] & (~c[i] & m6 | c[i] & m7)
                t[i] = ~a[i] & without_a | a[i] & with_a
        elif op == mc.POPC:
            for i in range(32):
                t[i] = popcount(a[i])
        elif op == mc.CLZ:
            for i in range(32):
                t[i] = leading_zeros(a[i])
        elif op == mc.BREV:
            for i in range(32):
                t[i] = reverse_bits(a[i])
        elif op == mc.SEXT16:
            for i in range(32):
                ts[i] = np.int32(np.int16(a[i] & np.uint32(0xFFFF)))
        elif op == mc.SEXT8:
            for i in range(32):
                ts[i] = np.int32(np.int8(a[i] & np.uint32(0xFF)))
        elif op == mc.ZEXT16:
            for i in range(32):
                t[i] = a[i] & np.uint32(0xFFFF)
        elif op == mc.ZEXT8:
            for i in range(32):
                t[i] = a[i] & np.uint32(0xFF)
        elif op == mc.PACK16:
            for i in range(32):
                t[i] = (a[i] & np.uint32(0xFFFF)) | (b[i] << np.uint32(16))
        elif op == mc.HIGH16:
            for i in range(32):
                t[i] = a[i] >> np.uint32(16)
        elif op == mc.CARRY:
            # Carry out of a sum: the sum (a) is below an addend (b).
            for i in range(32):
                t[i] = np.uint32(a[i] < b[i])
        elif op == mc.BFI:
            c, d = u[rc], u[np.uint64(row[6])]
            for i in range(32):
                t[i] = _bfi32(a[i], b[i], c[i], d[i])
        else:
            x = np.int64(row[6])
            if op == mc.BFIND_U:
                x = np.int64(row[4])
                b = a
                rc = ra
            elif op == mc.BMSK:
                x = np.int64(row[5])
                rc = ra
            elif op == mc.DIV_S or op == mc.DIV_U or op == mc.REM_S or op == mc.REM_U:
                rc = ra
            c = u[rc]
            for i in range(32):
                if (m >> i) & 1:
                    t[i] = _int32_scalar(op, a[i], b[i], c[i], x)
        store32(p32, row[2], scratch, m)
    return pc


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
def run_int64(p_code, p_counts, pc, limit, mask, p32, p64, scratch):
    code = code_table(p_code)
    counts = int64s(p_counts, 1 << 40)
    u, s, n, ns = rows_u64(p64), rows_i64(p64), rows_u32(p32), rows_i32(p32)
    t, ts, tn = rows_u64(scratch)[0], rows_i64(scratch)[0], rows_u32(scratch)[0]
    while pc < limit:
        row = code[np.uint64(pc)]
        op = row[0]
        if op >> mc.FAMILY_SHIFT != mc.INT64:
            break
        counts[np.uint64(pc)] += 1
        pc += 1
        m = mask
        if row[1] != 0:
            m = guarded(p32, np.int64(row[1]), mask)
            if m == 0:
                continue
        ra, rb, rc = np.uint64(row[3]), np.uint64(row[4]), np.uint64(row[5])
        narrow = False
        if op == mc.XMOV:
            a = u[ra]
            for i in range(32):
                t[i] = a[i]
        elif op == mc.PACK64:
            na, nb = n[ra], n[rb]
            for i in range(32):
                t[i] = np.uint64(na[i]) | np.uint64(nb[i]) << np.uint64(32)
        elif op == mc.LOW32:
            a = u[ra]
            narrow = True
            for i in range(32):
                tn[i] = np.uint32(a[i] & np.uint64(0xFFFFFFFF))
        elif op == mc.HIGH32:
            a = u[ra]
            narrow = True
            for i in range(32):
                tn[i] = np.uint32(a[i] >> np.uint64(32))
        elif op == mc.XADD:
            a, b = u[ra], u[rb]
            for i in range(32):
                t[i] = a[i] + b[i]
        elif op == mc.XSUB:
            a, b = u[ra], u[rb]
            for i in range(32):
                t[i] = a[i] - b[i]
        elif op == mc.SEXT64:
            sa = ns[ra]
            for i in range(32):
                ts[i] = np.int64(sa[i])
        elif op == mc.ZEXT64:
            na = n[ra]
            for i in range(32):
                t[i] = np.uint64(na[i])
        elif op == mc.MULW_S:
            sa, sb = ns[ra], ns[rb]
            for i in range(32):
                ts[i] = np.int64(sa[i]) * np.int64(sb[i])
        elif op == mc.MULW_U:
            na, nb = n[ra], n[rb]
            for i in range(32):
                t[i] = np.uint64(na[i]) * np.uint64(nb[i])
        elif op == mc.MADW_S:
            sa, sb, c = ns[ra], ns[rb], u[rc]
            for i in range(32):
                t[i] = np.uint64(np.int64(sa[i]) * np.int64(sb[i])) + c[i]
        elif op == mc.MADW_U:
            na, nb, c = n[ra], n[rb], u[rc]
            for i in range(32):
                t[i] = np.uint64(na[i]) * np.uint64(nb[i]) + c[i]
        elif op == mc.XMUL:
            a, b = u[ra], u[rb]
            for i in range(32):
                t[i] = a[i] * b[i]
        elif op == mc.XMAD:
            a, b, c = u[ra], u[rb], u[rc]
            for i in range(32):
                t[i] = a[i] * b[i] + c[i]
        elif op == mc.XAND:
            a, b = u[ra], u[rb]
            for i in range(32):
                t[i] = a[i] & b[i]
        elif op == mc.XOR64:
            a, b = u[ra], u[rb]
            for i in range(32):
                t[i] = a[i] | b[i]
        elif op == mc.XXOR:
            a, b = u[ra], u[rb]
            for i in range(32):
                t[i] = a[i] ^ b[i]
        elif op == mc.XNOT:
            a = u[ra]
            for i in range(32):
                t[i] = ~a[i]
        elif op == mc.XSHL:
            a, nb = u[ra], n[rb]
            for i in range(32):
                t[i] = a[i] << np.uint64(nb[i]) if nb[i] < 64 else np.uint64(0)
        elif op == mc.XSHR_U:
            a, nb = u[ra], n[rb]
            for i in range(32):
                t[i] = a[i] >> np.uint64(nb[i]) if nb[i] < 64 else np.uint64(0)
        elif op == mc.XSHR_S:
            sx, nb = s[ra], n[rb]
            for i in range(32):
                ts[i] = sx[i] >> np.int64(min(nb[i], np.uint32(63)))
        elif op == mc.XSELP:
            a, b, nc = u[ra], u[rb], n[rc]
            for i in range(32):
                t[i] = a[i] if nc[i] & np.uint32(1) else b[i]
        elif op == mc.XNEG:
            a = u[ra]
            for i in range(32):
                t[i] = np.uint64(0) - a[i]
        elif op == mc.XABS:
            a, sx = u[ra], s[ra]
            for i in range(32):
                t[i] = np.uint64(0) - a[i] if sx[i] < 0 else a[i]
        elif op == mc.XMIN_U:
            a, b = u[ra], u[rb]
            for i in range(32):
                t[i] = a[i] if a[i] < b[i] else b[i]
        elif op == mc.XMAX_U:
            a, b = u[ra], u[rb]
            for i in range(32):
                t[i] = a[i] if a[i] > b[i] else b[i]
        elif op == mc.XMIN_S:
            sx, sy = s[ra], s[rb]
            for i in range(32):
                ts[i] = sx[i] if sx[i] < sy[i] else sy[i]
        elif op == mc.XMAX_S:
            sx, sy = s[ra], s[rb]
            for i in range(32):
                ts[i] = sx[i] if sx[i] > sy[i] else sy[i]
        elif op >= mc.XSEQ and op <= mc.XSLE_U:
            narrow = True
            a, b, sx, sy = u[ra], u[rb], s[ra], s[rb]
            if op == mc.XSEQ:
                for i in range(32):
                    tn[i] = np.uint32(a[i] == b[i])
            elif op == mc.XSNE:
                for i in range(32):
                    tn[i] = np.uint32(a[i] != b[i])
            elif op == mc.XSLT_S:
                for i in range(32):
                    tn[i] = np.uint32(sx[i] < sy[i])
            elif op == mc.XSLE_S:
                for i in range(32):
                    tn[i] = np.uint32(sx[i] <= sy[i])
            elif op == mc.XSLT_U:
                for i in range(32):
                    tn[i] = np.uint32(a[i] < b[i])
            else:
                for i in range(32):
                    tn[i] = np.uint32(a[i] <= b[i])
        elif op == mc.XMULHI_U or op == mc.XMULHI_S:
            a, b, sx, sy = u[ra], u[rb], s[ra], s[rb]
            for i in range(32):
                high = mulhi_u64(a[i], b[i])
                if op == mc.XMULHI_S:
                    if sx[i] < 0:
                        high -= b[i]
                    if sy[i] < 0:
                        high -= a[i]
                t[i] = high
        elif op == mc.XPOPC or op == mc.XCLZ or op == mc.XBFIND_U:
            narrow = True
            a = u[ra]
            for i in range(32):
                if op == mc.XPOPC:
                    tn[i] = np.uint32(popcount(a[i]))
                elif op == mc.XCLZ:
                    tn[i] = np.uint32(leading_zeros(a[i]))
                elif a[i] == 0:
                    tn[i] = np.uint32(0xFFFFFFFF)
                elif row[4]:
                    tn[i] = np.uint32(leading_zeros(a[i]))
                else:
                    tn[i] = np.uint32(63) - np.uint32(leading_zeros(a[i]))
        elif op == mc.XBREV:
            a = u[ra]
            for i in range(32):
                t[i] = reverse_bits(a[i])
        elif op == mc.XCARRY:
            narrow = True
            a, b = u[ra], u[rb]
            for i in range(32):
                tn[i] = np.uint32(a[i] < b[i])
        elif op == mc.XBFI:
            a, b, nc, nd = u[ra], u[rb], n[rc], n[np.uint64(row[6])]
            for i in range(32):
                t[i] = _field64(op, a[i], b[i], nc[i], nd[i])
        elif op == mc.XBFE_U or op == mc.XBFE_S:
            a, nb, nc = u[ra], n[rb], n[rc]
            for i in range(32):
                t[i] = _field64(op, a[i], a[i], nb[i], nc[i])
        else:
            a, b = u[ra], u[rb]
            for i in range(32):
                if (m >> i) & 1:
                    t[i] = _divide64(op, a[i], b[i])
        if narrow:
            store32(p32, row[2], scratch, m)
        else:
            store64(p64, row[2], scratch, m)
    return pc
