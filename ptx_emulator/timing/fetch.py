"""Instruction fetch: an instruction cache for each SM, filled line by line and ahead of each warp's own stream.

A kernel starts with the cache empty. A warp that comes to a line which is not there waits for it; the lines that follow
are then on their way, so straight-line code runs at the rate at which lines come, and a jump pays the latency. Warps do
not slow each other's streams down, and find what another has brought. Sources: constants.py, `code_*`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from . import constants as c
from . import tables as tb
from .units import OPTIONS, note

K_LATENCY, K_PACE, K_AHEAD = (c.INDEX[name] for name in ("code_latency", "code_line", "code_ahead"))


@njit(**OPTIONS)
def line_ready(t, cta, line, now, otherwise):
    """When a line is in the SM's cache; one that is not there, nor on its way, takes the place of the line of its set
    that was not used for longest, and is there at `otherwise`. Warps are not executed in the order of their clocks: who
    asks earlier than the one that brought the line, brings it."""
    ways = t.code.shape[1] // tb.CODE_SETS
    first = np.int64(line) % tb.CODE_SETS * ways
    oldest = first
    for row in range(first, first + ways):
        if t.code[cta, row, tb.CODE_LINE] == line:
            held = t.code[cta, row]
            held[tb.CODE_USED] = max(held[tb.CODE_USED], now)
            held[tb.CODE_READY] = min(held[tb.CODE_READY], otherwise)
            return held[tb.CODE_READY]
        if t.code[cta, row, tb.CODE_USED] < t.code[cta, oldest, tb.CODE_USED]:
            oldest = row
    held = t.code[cta, oldest]
    held[tb.CODE_LINE], held[tb.CODE_READY], held[tb.CODE_USED] = line, otherwise, now
    return otherwise


@njit(**OPTIONS)
def fetch(t, cta, w, line):
    """The warp comes to a line other than the one that it is in."""
    warp = t.warps[w]
    now = warp[tb.FRONT]
    ready = line_ready(t, cta, line, now, now + t.constants[K_LATENCY])
    warp[tb.LINE] = line
    if ready > now:
        warp[tb.FRONT] = ready
        t.blocked[w, tb.BLOCKED_CODE] += ready - now
        note(t, now, ready, cta, w, tb.TRACE_CODE, line)
    last = min(line + t.constants[K_AHEAD], t.code_lines[-1])
    following = line + 1.0
    while following <= last:
        ready = line_ready(t, cta, following, now, max(now + t.constants[K_LATENCY], ready + t.constants[K_PACE]))
        following += 1.0
