"""Assigns virtual register rows to physical rows.

PTX registers are in single-assignment form and number in the thousands; sharing rows between values whose
lives do not overlap keeps a warp's register file in the cache. Lives are whole intervals over the linear
micro-code (linear scan), computed from per-lane control flow, which is what each lane's registers see.
"""

from __future__ import annotations

import heapq

import numpy as np

from ..engine import microcode as mc


def operands_of(row: list[int], aux: list[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """(defined r32, used r32, defined r64, used r64) virtual rows of a micro-operation."""
    found: tuple[list[int], ...] = ([], [], [], [])
    for letter, value in zip(mc.SIGNATURES[row[0]], row[2:], strict=False):
        index = "drDR".find(letter)
        if index >= 0:
            found[index].append(value)
            continue
        index = "vsVS".find(letter)
        if index >= 0:
            found[index].extend(v for v in aux[value + 1 : value + 1 + aux[value]] if v >= 0)
    if row[1]:
        found[1].append(abs(row[1]) - 1)
    return found


def basic_blocks(code: list[list[int]]) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Basic blocks as (start, end) and each block's successors. A guard is anything that is false for none."""
    leaders = {0, len(code)}
    for pc, row in enumerate(code):
        if row[0] in (mc.BRA, mc.EXIT):
            leaders.add(pc + 1)
        if row[0] == mc.BRA:
            leaders.add(row[2])
    starts = sorted(leaders)
    blocks = list(zip(starts, starts[1:], strict=False))
    number = {start: i for i, start in enumerate(starts)}
    successors = []
    for _, end in blocks:
        last = code[end - 1]
        targets = []
        if last[0] == mc.BRA:
            targets.append(number[last[2]])
        if end < len(code) and not (last[0] in (mc.BRA, mc.EXIT) and not last[1]):
            targets.append(number[end])
        successors.append([t for t in targets if t < len(blocks)])
    return blocks, successors


def intervals(code: list[list[int]], aux: list[int], wide: bool) -> dict[int, tuple[int, int]]:
    """Virtual row -> (first, last) micro-operation at which it is live, of the r64 (`wide`) or r32 file."""
    define, use = (2, 3) if wide else (0, 1)
    accesses = [operands_of(row, aux) for row in code]
    blocks, successors = basic_blocks(code)
    generated, killed = [], []
    for start, end in blocks:
        gen = kill = 0
        for pc in range(end - 1, start - 1, -1):
            if code[pc][1] == 0:
                for v in accesses[pc][define]:
                    kill |= 1 << v
                    gen &= ~(1 << v)
            for v in accesses[pc][use]:
                gen |= 1 << v
        generated.append(gen)
        killed.append(kill)
    live_in = list(generated)
    live_out = [0] * len(blocks)
    changed = True
    while changed:
        changed = False
        for i in range(len(blocks) - 1, -1, -1):
            out = 0
            for s in successors[i]:
                out |= live_in[s]
            if out != live_out[i]:
                live_out[i] = out
                live_in[i] = generated[i] | (out & ~killed[i])
                changed = True
    return _spans(blocks, accesses, live_in, live_out, define, use)


def _spans(
    blocks, accesses, live_in: list[int], live_out: list[int], define: int, use: int
) -> dict[int, tuple[int, int]]:
    """The first and last micro-operation at which each row is live: at block ends by liveness, within by access."""
    rows = max((bits.bit_length() for bits in live_in), default=0)
    first = np.full(max(rows, 1), len(accesses) + 1)
    last = np.full(max(rows, 1), -1)
    for (start, end), inside, out in zip(blocks, live_in, live_out, strict=True):
        for bits, position in ((inside, start), (out, end)):
            if bits:
                live = _indices(bits)
                first[live] = np.minimum(first[live], position)
                last[live] = np.maximum(last[live], position)
    spans = {int(v): (int(first[v]), int(last[v])) for v in np.flatnonzero(last >= 0)}
    for pc, access in enumerate(accesses):
        for v in (*access[define], *access[use]):
            span = spans.get(v)
            if span is None:
                spans[v] = (pc, pc)
            elif not span[0] <= pc <= span[1]:
                spans[v] = (min(span[0], pc), max(span[1], pc))
    return spans


def _indices(bits: int) -> np.ndarray:
    """The positions of the ones of a big integer."""
    raw = bits.to_bytes(-(-bits.bit_length() // 8), "little")
    return np.flatnonzero(np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little"))


def allocate(spans: dict[int, tuple[int, int]], fixed: int, pairs: set[int]) -> tuple[dict[int, int], int]:
    """Virtual row -> physical row, and the number of physical rows; rows below `fixed` keep their number.

    `pairs` holds the first rows of two-row registers (b128); the second is the next virtual row.
    """
    mapping = {v: v for v in range(fixed)}
    free: list[int] = []
    free_pairs: list[int] = []
    active: list[tuple[int, int, bool]] = []
    count = fixed
    merged = {}
    for v, span in spans.items():
        if v < fixed or v - 1 in pairs:
            continue
        if v in pairs:
            other = spans.get(v + 1, span)
            span = (min(span[0], other[0]), max(span[1], other[1]))
        merged[v] = span
    for v in pairs:
        if v not in merged and v + 1 in spans:
            merged[v] = spans[v + 1]
    for v, (first, last) in sorted(merged.items(), key=lambda item: item[1]):
        while active and active[0][0] < first:
            _, row, is_pair = heapq.heappop(active)
            heapq.heappush(free_pairs if is_pair else free, row)
        pool = free_pairs if v in pairs else free
        if pool:
            row = heapq.heappop(pool)
        else:
            row = count
            count += 2 if v in pairs else 1
        mapping[v] = row
        if v in pairs:
            mapping[v + 1] = row + 1
        heapq.heappush(active, (last, row, v in pairs))
    return mapping, count
