"""Units that are shared in time, and what reserves them. Requests may come out of order in time, so a unit's time is
kept in small buckets; a request takes what is free from its own time on.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from . import constants as c
from . import tables as tb

OPTIONS = {"nogil": True, "error_model": "numpy", "cache": True}

K_HBM, K_BURST, K_QUEUE = (c.INDEX[name] for name in ("hbm", "hbm_burst", "hbm_queue"))
PUBLISHED_SMS = 148.0
LOAD_CYCLES = 4000.0  # over which the use of HBM is averaged
SHARED_BLOCK = 14  # log2 of the bytes that one cluster is the first to read, or another
K_L2, K_PORT, K_PATIENCE = c.INDEX["l2_bytes"], c.INDEX["shared_port"], c.INDEX["shared_patience"]
K_TMA = tuple(c.INDEX[name] for name in ("tma_512", "tma_4k", "tma_8k", "tma_16k", "tma_32k"))
_TMA_BYTES = (512.0, 4096.0, 8192.0, 16384.0, 32768.0)
K_WAKE, K_HBM_LATENCY, K_L2_LATENCY = c.INDEX["wake"], c.INDEX["hbm_latency"], c.INDEX["l2_latency"]


@njit(**OPTIONS)
def reserve(t, cta, unit, start, cycles, rate=1.0):
    """Takes `cycles` of a unit from `start` on, no more than `rate` of it at a time; returns when they are over."""
    t.busy[cta, unit] += cycles
    row = cta * tb.UNITS + unit
    used, epochs = t.used[row], t.epochs[row]
    start = max(start, 0.0)
    number = np.int64(start / tb.BUCKET)
    begin = number * tb.BUCKET
    left, end = cycles, start
    while True:
        place = number & (tb.BUCKETS - 1)
        if epochs[place] != number:
            epochs[place] = number
            used[place] = 0.0
        free = min(tb.BUCKET - used[place], begin + tb.BUCKET - start) if begin < start else tb.BUCKET - used[place]
        if free > 0.0:
            taken = min(free, left, (begin + tb.BUCKET - max(begin, start)) * rate)
            used[place] += taken
            left -= taken
            end = max(max(begin, start) + taken / rate, begin + used[place])
            if left <= 1e-9:
                break
        elif left <= 1e-9:
            break
        number += 1
        begin += tb.BUCKET
    return max(end, start + cycles / rate)


@njit(**OPTIONS)
def note(t, begin, end, cta, track, kind, detail):
    """A row of the trace, if there is room."""
    n = t.misc[tb.TRACED]
    if n < t.trace.shape[0]:
        row = t.trace[n]
        row[0], row[1], row[2], row[3], row[4], row[5] = begin, end, cta, track, kind, detail
        t.misc[tb.TRACED] = n + 1


@njit(**OPTIONS)
def arrive(times, when, by):
    """An arrival at a barrier whose row of times this is."""
    if when >= times[tb.NEXT]:
        times[tb.NEXT] = when
        times[tb.NEXT_BY] = by


@njit(**OPTIONS)
def finish(times, parity):
    """The phase of `parity` is complete."""
    times[tb.DONE + parity] = times[tb.NEXT]
    times[tb.DONE_BY + parity] = times[tb.NEXT_BY]
    times[tb.NEXT] = 0.0


@njit(**OPTIONS)
def touch(t, address, nbytes):
    """Marks global bytes [address, address + nbytes) as touched. Returns (bytes of sectors that are new to the cluster and
    that no other has brought to L2, how many of them HBM has to give): of a buffer that L2 can hold, HBM gives every byte
    once, to one of the clusters.
    """
    for i in range(t.places.shape[0]):
        if address >= t.places[i, 0] and address < t.places[i, 1]:
            base, first = t.places[i, 0], t.places[i, 2]
            number = (address - base) >> SHARED_BLOCK
            if np.floor((number + 1) * t.allowances[i, 2]) == np.floor(number * t.allowances[i, 2]):
                return 0.0, 0.0  # another cluster's
            new = 0.0
            for sector in range((address - base) >> 5, ((address + nbytes - 1 - base) >> 5) + 1):
                line, bit = first + (sector >> 2), np.uint8(1 << (sector & 3))
                if t.lines[line] & bit == 0:
                    t.lines[line] |= bit
                    new += 32.0
            charged = min(new, max(t.allowances[i, 0] - t.allowances[i, 1], 0.0))
            t.allowances[i, 1] += new
            return new, charged
    return 0.0, 0.0


@njit(**OPTIONS)
def _l1_row(t, cta, line):
    """The row of `t.l1[cta]` that holds a line of global memory, -1 for none."""
    first = line % tb.L1_SETS * tb.L1_WAYS
    for row in range(first, first + tb.L1_WAYS):
        if t.l1[cta, row, tb.L1_LINE] == line and t.l1[cta, row, tb.L1_SECTORS] != 0.0:
            return row
    return -1


@njit(**OPTIONS)
def in_l1(t, cta, pointers, lanes, nbytes, now):
    """When all that the lanes load is in the SM's L1 cache (no later than `now` if it is there already); -1 if some of
    it is not."""
    latest = 0.0
    for lane in range(32):
        if not (lanes >> lane) & 1:
            continue
        for sector in range(pointers[lane] >> 5, ((pointers[lane] + nbytes - 1) >> 5) + 1):
            row = _l1_row(t, cta, sector >> 2)
            if row < 0 or not (np.int64(t.l1[cta, row, tb.L1_SECTORS]) >> (sector & 3)) & 1:
                return -1.0
            t.l1[cta, row, tb.L1_USED] = now
            latest = max(latest, t.l1[cta, row, tb.L1_READY])
    return latest


@njit(**OPTIONS)
def take_into_l1(t, cta, pointers, lanes, nbytes, now, ready):
    """Puts the sectors that the lanes load into the SM's L1 cache, where they are from `ready` on."""
    for lane in range(32):
        if not (lanes >> lane) & 1:
            continue
        for sector in range(pointers[lane] >> 5, ((pointers[lane] + nbytes - 1) >> 5) + 1):
            line = sector >> 2
            row = _l1_row(t, cta, line)
            if row < 0:
                first = line % tb.L1_SETS * tb.L1_WAYS
                row = first
                for other in range(first + 1, first + tb.L1_WAYS):
                    if t.l1[cta, other, tb.L1_USED] < t.l1[cta, row, tb.L1_USED]:
                        row = other
                t.l1[cta, row, tb.L1_LINE], t.l1[cta, row, tb.L1_SECTORS] = line, 0.0
            held = np.int64(t.l1[cta, row, tb.L1_SECTORS])
            if not (held >> (sector & 3)) & 1:
                t.l1[cta, row, tb.L1_SECTORS] = held | (1 << (sector & 3))
                t.l1[cta, row, tb.L1_READY] = ready
            t.l1[cta, row, tb.L1_USED] = now


@njit(**OPTIONS)
def drop_l1(t, cta):
    """What acquires: lines may be stale."""
    t.l1[cta] = 0.0


@njit(**OPTIONS)
def touch_box(t, address, counts, strides, low, dims, row_bytes):
    """Touches the rows of a tensor map's box; returns as `touch`. counts, strides (bytes), low, dims of dimensions 1..
    (4 each)."""
    new, charged = 0.0, 0.0
    for a in range(counts[3]):
        if low[3] + a < 0 or low[3] + a >= dims[3]:
            continue
        for b in range(counts[2]):
            if low[2] + b < 0 or low[2] + b >= dims[2]:
                continue
            for d in range(counts[1]):
                if low[1] + d < 0 or low[1] + d >= dims[1]:
                    continue
                for e in range(counts[0]):
                    if low[0] + e < 0 or low[0] + e >= dims[0]:
                        continue
                    place = address + e * strides[0] + d * strides[1] + b * strides[2] + a * strides[3]
                    more, paid = touch(t, place, row_bytes)
                    new += more
                    charged += paid
    return new, charged


@njit(**OPTIONS)
def hbm_rate(t, cta):
    """Bytes a cycle that HBM gives this SM: those that have had all of theirs leave it to the others."""
    level = 0
    while t.bytes[cta, 1] >= t.shares[level, 0]:  # the last one is infinite
        level += 1
    return t.constants[K_HBM] / t.shares[level, 1]


@njit(**OPTIONS)
def from_hbm(t, cta, start, nbytes):
    """When `nbytes` that no cache holds have come through this SM's share of HBM, latency left out."""
    row = t.ctas[cta]
    rate = hbm_rate(t, cta)
    row[tb.HBM] = max(row[tb.HBM], start - t.constants[K_BURST]) + nbytes / rate
    return row[tb.HBM]


@njit(**OPTIONS)
def queueing(t, cta, start, nbytes):
    """What a load from HBM waits in queues that fill as the SM's share does: from half of it on, in proportion."""
    row = t.ctas[cta]
    rate = hbm_rate(t, cta)
    passed = max(start - row[tb.LOAD_SINCE], 0.0)
    row[tb.LOAD] = row[tb.LOAD] * math.exp(-passed / LOAD_CYCLES) + nbytes
    row[tb.LOAD_SINCE] = max(row[tb.LOAD_SINCE], start)
    share = row[tb.LOAD] / (LOAD_CYCLES * rate)
    return t.constants[K_QUEUE] * min(max(2.0 * share - 1.0, 0.0), 1.0)


@njit(**OPTIONS)
def tma_latency(t, nbytes):
    """Cycles from the issue of a load from HBM until its mbarrier is complete, nothing else going on."""
    last = len(K_TMA) - 1
    if nbytes <= _TMA_BYTES[0]:
        value = t.constants[K_TMA[0]]
    elif nbytes >= _TMA_BYTES[last]:
        value = t.constants[K_TMA[last]]
    else:
        value = 0.0
        for i in range(last):
            if _TMA_BYTES[i] <= nbytes <= _TMA_BYTES[i + 1]:
                share = (nbytes - _TMA_BYTES[i]) / (_TMA_BYTES[i + 1] - _TMA_BYTES[i])
                low, high = t.constants[K_TMA[i]], t.constants[K_TMA[i + 1]]
                value = low + share * (high - low)
    # The published round trips are of all SMs at once: the queues that they made themselves are counted apart.
    load = nbytes / value / (t.constants[K_HBM] / PUBLISHED_SMS)
    return value - t.constants[K_QUEUE] * max(2.0 * load - 1.0, 0.0) - t.constants[K_WAKE]


@njit(**OPTIONS)
def deliver(t, cta, start, nbytes, new, charged):
    """When a TMA load issued at `start` is in shared memory: latency, the SM's link, its share of HBM for the `charged`
    of the `new` bytes, the shared-memory port."""
    latency = tma_latency(t, nbytes)
    if new < nbytes / 2:
        latency -= t.constants[K_HBM_LATENCY] - t.constants[K_L2_LATENCY]
    if charged > 0:
        latency += queueing(t, cta, start, charged)
    wire = nbytes / t.constants[K_L2]
    end = reserve(t, cta, tb.LINK, start + latency - wire, wire)
    if charged > 0:
        end = max(end, from_hbm(t, cta, start, charged) + t.constants[K_HBM_LATENCY])
    port = nbytes / t.constants[K_PORT]
    t.bytes[cta, 0] += nbytes
    t.bytes[cta, 1] += charged
    return max(end, reserve(t, cta, tb.PORT, end - wire, port, min(port / wire, 1.0)))


@njit(**OPTIONS)
def through_port(t, cta, start, cycles):
    """When `cycles` of ld/st.shared are served: behind each other, but within a bounded wait whatever the tensor core
    asks for."""
    own = reserve(t, cta, tb.LOAD_STORE, start, cycles)
    end = reserve(t, cta, tb.PORT, start, cycles)
    return max(own, min(end, start + cycles + t.constants[K_PATIENCE]))
