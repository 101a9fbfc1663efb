"""Loads, stores and atomics (PTX ISA 9.7.9.8-9.7.9.13, 9.7.13.4-9.7.13.5).

An access is two micro-operations: ADDR resolves each lane's address to a checked host address in scratch, and
the one after it moves data. No other group can run between the two.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from . import microcode as mc
from . import state as st
from .atomic import atomic32, combine64
from .common import (
    OPTIONS,
    buffer_table,
    cell_f32,
    cell_f64,
    cell_u8,
    cell_u16,
    cell_u32,
    cell_u64,
    code_table,
    guarded,
    int32s,
    int64s,
    rows_u32,
    rows_u64,
    store32,
    store64,
)
from .remote import ALL_FIRST, ROOM_FIRST, has_room, note_stores, remote_lanes, suspend
from .trace import trace_access

# Address spaces of ADDR.
HOST = 0  # global, param, const: addresses are host addresses
SHARED_CTA = 1
SHARED_CLUSTER = 2
GENERIC = 3
LOCAL = 4

POINTERS = 1024  # byte offset of the resolved addresses in scratch


@njit(**OPTIONS)
def fail(p_head, error, lane, address, extra):
    head = int64s(p_head)
    head[st.H_ERROR] = error
    head[st.H_ERROR_LANE] = lane
    head[st.H_ERROR_ADDRESS] = address
    head[st.H_ERROR_EXTRA] = extra


@njit(**OPTIONS)
def find_buffer(p_head, address, nbytes, write):
    """Checks that [address, address + nbytes) lies in one buffer; returns an ERR_* code."""
    head = int64s(p_head)
    n = head[st.H_N_BUFFERS]
    buffers = buffer_table(head[st.H_BUFFERS])
    last = head[st.H_LAST_BUFFER]
    if last < n and address >= buffers[last, 0] and address + nbytes <= buffers[last, 1]:
        return st.ERR_READ_ONLY if write and buffers[last, 2] == 0 else st.ERR_NONE
    for i in range(n):
        if address >= buffers[i, 0] and address + nbytes <= buffers[i, 1]:
            head[st.H_LAST_BUFFER] = i
            return st.ERR_READ_ONLY if write and buffers[i, 2] == 0 else st.ERR_NONE
    return st.ERR_OUT_OF_BOUNDS


@njit(**OPTIONS)
def shared_address(p_head, p_warp, address, nbytes, cluster):
    """(host address, ERR_*) of the 32-bit shared address `rank << 24 | offset`."""
    head = int64s(p_head)
    rank, offset = address >> st.RANK_SHIFT, address & st.OFFSET_MASK
    if rank != int64s(p_warp)[st.W_CTA] and (not cluster or rank >= head[st.H_CTAS]):
        return np.int64(0), st.ERR_SHARED_RANK
    if offset < st.SHARED_START or offset + nbytes > head[st.H_SHARED_BYTES]:
        return np.int64(0), st.ERR_SHARED_BOUNDS
    return int64s(head[st.H_SHARED_BASES])[rank] + offset, st.ERR_NONE


@njit(**OPTIONS)
def _resolve(p_head, p_warp, space, address, nbytes, write, lane):
    """(host address, ERR_*) of one lane's address in `space`."""
    if space == SHARED_CTA or space == SHARED_CLUSTER:
        return shared_address(p_head, p_warp, address & 0xFFFFFFFF, nbytes, space == SHARED_CLUSTER)
    if space == GENERIC:
        if address >= st.SHARED_WINDOW and address < st.SHARED_WINDOW + st.WINDOW_BYTES:
            return shared_address(p_head, p_warp, address - st.SHARED_WINDOW, nbytes, True)
        if address >= st.LOCAL_WINDOW and address < st.LOCAL_WINDOW + st.WINDOW_BYTES:
            space = LOCAL
            address -= st.LOCAL_WINDOW
    if space == LOCAL:
        warp = int64s(p_warp)
        size = warp[st.W_LOCAL_BYTES]
        if address < 0 or address + nbytes > size:
            return np.int64(0), st.ERR_LOCAL_BOUNDS
        return warp[st.W_LOCAL] + lane * size + address, st.ERR_NONE
    return address, find_buffer(p_head, address, nbytes, write)


@njit(**OPTIONS)
def _resolve_row(p_head, p_warp, row, m, p32, p64, scratch):
    """ADDR32 / ADDR64: fills the pointers in scratch; returns False after an error."""
    pointers = int64s(scratch + POINTERS)
    offset, space = np.int64(row[3]), np.int64(row[4])
    nbytes, align, write = np.int64(row[5]) & 255, np.int64(row[5]) >> 8 & 255, np.int64(row[5]) >> 16
    wide = rows_u64(p64)[np.uint64(row[2])]
    narrow = rows_u32(p32)[np.uint64(row[2])]
    if row[0] == mc.ADDR64:
        for i in range(32):
            pointers[i] = np.int64(wide[i]) + offset
    else:
        for i in range(32):
            pointers[i] = (np.int64(narrow[i]) + offset) & 0xFFFFFFFF
    for i in range(32):
        if (m >> i) & 1:
            address = pointers[i]
            if address & (align - 1):
                fail(p_head, st.ERR_MISALIGNED, i, address, align)
                return False
            pointers[i], error = _resolve(p_head, p_warp, space, address, nbytes, write != 0, i)
            if error:
                fail(p_head, error, i, address, nbytes)
                return False
    return True


@njit(**OPTIONS)
def _load32(p_aux, row, m, p32, scratch):
    aux = int32s(p_aux)
    pointers = int64s(scratch + POINTERS)
    u = rows_u32(p32)
    start, size, signed = np.int64(row[2]), np.int64(row[3]) & 255, np.int64(row[3]) >> 8
    for e in range(aux[start]):
        if aux[start + 1 + e] < 0:
            continue
        d = u[np.uint64(aux[start + 1 + e])]
        step = e * size
        if size == 4:
            for i in range(32):
                if (m >> i) & 1:
                    d[i] = cell_u32(pointers[i] + step)[0]
        elif size == 2:
            for i in range(32):
                if (m >> i) & 1:
                    v = cell_u16(pointers[i] + step)[0]
                    d[i] = np.uint32(np.int64(np.int16(v)) & 0xFFFFFFFF) if signed else np.uint32(v)
        else:
            for i in range(32):
                if (m >> i) & 1:
                    v1 = cell_u8(pointers[i] + step)[0]
                    d[i] = np.uint32(np.int64(np.int8(v1)) & 0xFFFFFFFF) if signed else np.uint32(v1)
        if signed == 2:
            # A signed byte in a 16-bit register keeps only 16 bits.
            for i in range(32):
                d[i] &= np.uint32(0xFFFF)


@njit(**OPTIONS)
def _load64(p_aux, row, m, p64, scratch):
    aux = int32s(p_aux)
    pointers = int64s(scratch + POINTERS)
    u = rows_u64(p64)
    start, size, signed = np.int64(row[2]), np.int64(row[3]) & 255, np.int64(row[3]) >> 8
    for e in range(aux[start]):
        if aux[start + 1 + e] < 0:
            continue
        d = u[np.uint64(aux[start + 1 + e])]
        for i in range(32):
            if (m >> i) & 1:
                p = pointers[i] + e * size
                if size == 8:
                    d[i] = cell_u64(p)[0]
                elif size == 4:
                    v4 = cell_u32(p)[0]
                    d[i] = np.uint64(np.int64(np.int32(v4))) if signed else np.uint64(v4)
                elif size == 2:
                    v2 = cell_u16(p)[0]
                    d[i] = np.uint64(np.int64(np.int16(v2))) if signed else np.uint64(v2)
                else:
                    v1 = cell_u8(p)[0]
                    d[i] = np.uint64(np.int64(np.int8(v1))) if signed else np.uint64(v1)


@njit(**OPTIONS)
def _store(p_aux, row, m, p32, p64, scratch):
    aux = int32s(p_aux)
    pointers = int64s(scratch + POINTERS)
    start, size = np.int64(row[2]), np.int64(row[3])
    for e in range(aux[start]):
        index = np.uint64(aux[start + 1 + e])
        a = rows_u32(p32)[index]
        w = rows_u64(p64)[index]
        step = e * size
        if row[0] == mc.STX:
            for i in range(32):
                if (m >> i) & 1:
                    p = pointers[i] + step
                    if size == 8:
                        cell_u64(p)[0] = w[i]
                    elif size == 4:
                        cell_u32(p)[0] = np.uint32(w[i] & np.uint64(0xFFFFFFFF))
                    elif size == 2:
                        cell_u16(p)[0] = np.uint16(w[i] & np.uint64(0xFFFF))
                    else:
                        cell_u8(p)[0] = np.uint8(w[i] & np.uint64(0xFF))
        elif size == 4:
            for i in range(32):
                if (m >> i) & 1:
                    cell_u32(pointers[i] + step)[0] = a[i]
        elif size == 2:
            for i in range(32):
                if (m >> i) & 1:
                    cell_u16(pointers[i] + step)[0] = np.uint16(a[i] & np.uint32(0xFFFF))
        else:
            for i in range(32):
                if (m >> i) & 1:
                    cell_u8(pointers[i] + step)[0] = np.uint8(a[i] & np.uint32(0xFF))


@njit(**OPTIONS)
def _atomic(row, m, p32, p64, scratch):
    """ATOM / XATOM, lanes in ascending order. Immediates: kind, bytes | byte offset << 8. Returns whether memory has
    changed: one that leaves it as it is, as a failed compare-and-swap, is nothing that anybody could wait for."""
    changed = False
    pointers = int64s(scratch + POINTERS)
    kind, size, step = np.int64(row[5]), np.int64(row[6]) & 255, np.int64(row[6]) >> 8
    if row[0] == mc.XATOM:
        b, c, t = rows_u64(p64)[np.uint64(row[3])], rows_u64(p64)[np.uint64(row[4])], rows_u64(scratch)[0]
        for i in range(32):
            if (m >> i) & 1:
                p = pointers[i] + step
                old = cell_u64(p)[0]
                if kind == 13:
                    cell_f64(p)[0] = cell_f64(p)[0] + np.uint64(b[i]).view(np.float64)
                else:
                    cell_u64(p)[0] = combine64(kind, old, b[i], c[i])
                changed |= cell_u64(p)[0] != old
                t[i] = old
        store64(p64, row[2], scratch, m)
        return changed
    nb, nc, tn = rows_u32(p32)[np.uint64(row[3])], rows_u32(p32)[np.uint64(row[4])], rows_u32(scratch)[0]
    for i in range(32):
        if (m >> i) & 1:
            p = pointers[i] + step
            if size == 2:
                old2 = np.uint32(cell_u16(p)[0])
                cell_u16(p)[0] = np.uint16(atomic32(kind, old2, nb[i], nc[i]) & np.uint32(0xFFFF))
                changed |= np.uint32(cell_u16(p)[0]) != old2
                tn[i] = old2
            else:
                old4 = cell_u32(p)[0]
                if kind == 12:
                    cell_f32(p)[0] = cell_f32(p)[0] + np.uint32(nb[i]).view(np.float32)
                else:
                    cell_u32(p)[0] = atomic32(kind, old4, nb[i], nc[i])
                changed |= cell_u32(p)[0] != old4
                tn[i] = old4
    store32(p32, row[2], scratch, m)
    return changed


@njit(**OPTIONS)
def run_memory(p_head, p_warp, p_code, p_aux, p_counts, pc, limit, mask, p32, p64, scratch):
    code = code_table(p_code)
    counts = int64s(p_counts)
    head = int64s(p_head)
    while pc < limit:
        row = code[np.uint64(pc)]
        op = row[0]
        if op >> mc.FAMILY_SHIFT != mc.MEMORY:
            break
        counts[np.uint64(pc)] += 1
        m = mask
        if row[1] != 0:
            m = guarded(p32, np.int64(row[1]), mask)
            if m == 0:
                pc += 1
                continue
        if op == mc.ADDR32 or op == mc.ADDR64:
            if not _resolve_row(p_head, p_warp, row, m, p32, p64, scratch):
                return pc
            remote = np.int64(0)
            if head[st.H_REMOTE] != 0 and (row[4] == SHARED_CLUSTER or row[4] == GENERIC):
                remote = remote_lanes(p_head, p_warp, m, scratch + POINTERS)
            storing = code[np.uint64(pc + 1), 0] == mc.ST or code[np.uint64(pc + 1), 0] == mc.STX
            if remote != 0 and (not has_room(p_head) if storing else int64s(p_warp)[st.W_REMOTE] != 0):
                suspend(p_head, ROOM_FIRST if storing else ALL_FIRST)
                counts[np.uint64(pc)] -= 1
                return pc
            if head[st.H_TRACE] != 0:
                trace_access(p_head, p_warp, np.int64(row[5]), np.int64(row[4]), pc, m, scratch + POINTERS)
            if remote != 0 and storing:
                note_stores(p_head, p_warp, pc, remote, np.int64(row[5]) & 255, scratch + POINTERS)
        elif op == mc.LD:
            _load32(p_aux, row, m, p32, scratch)
        elif op == mc.LDX:
            _load64(p_aux, row, m, p64, scratch)
        elif op == mc.ST or op == mc.STX:
            _store(p_aux, row, m, p32, p64, scratch)
            head[st.H_PROGRESS] += 1
        else:
            if _atomic(row, m, p32, p64, scratch):
                head[st.H_PROGRESS] += 1
        pc += 1
    return pc
