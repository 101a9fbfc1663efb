"""The tables of a timed launch, shared by compiled code and Python. Times are cycles since the cluster's start."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..engine import state as st
from ..front.decode import Kernel
from .constants import Constants
from .costs import CODE_LINE_BYTES, CostTable, code_lines, cost_table
from .traffic import ALIKE, Traffic

# Columns of a warp's row.
FRONT = 0  # when it can issue its next instruction
STORED = 1  # when the last of its shared-memory stores is done
LOADED, STORED_TMEM = 2, 3  # when its tcgen05.ld and .st are done
PENDING = 4  # what it waits for outside mbarriers: 0 nothing, 1 named barrier, 2 cluster barrier
PENDING_NUMBER, PENDING_PARITY = 5, 6
ISSUED = 7  # instructions, for the window
BULK = 8  # when its bulk stores are done
LAST_TMA = 9  # when its thread may issue the next TMA instruction
SINCE = 10  # when it began the wait of PENDING
ENDED = 11
COPIED = 12  # when its cp.async are done
POLLING = 13  # when the first of its tests of mbarriers failed, 0 for none, since it last did something else
WAITED = 14  # when it came to its griddepcontrol.wait; 0: not yet
LINE = 15  # of code, in which its last micro-operation lay, from 1
WARP_COLUMNS = 16
# What a warp waits for outside mbarriers: columns of `blocked`.
BLOCKED_NAMED, BLOCKED_CLUSTER, BLOCKED_CODE = range(3)
BLOCKERS = ("named", "cluster", "code")

# Columns of a CTA's (an SM's) row.
TENSOR_FREE, TENSOR_DONE = 0, 1  # when the tensor core is free; when the last product issued so far is complete
HBM = 2  # virtual time of the SM's share of HBM
LOAD, LOAD_SINCE = 3, 4  # bytes that came from HBM lately, and until when they are counted
CTA_COLUMNS = 5

# Units of an SM that are reserved in buckets of time.
ISSUE, ALU, FMA, MUFU, TMEM = 0, 4, 8, 12, 16  # one per sub-partition each
PORT, LINK, BULK_STORE, LOAD_STORE = 20, 21, 22, 23
UNITS = 24
UNIT_NAMES = (
    *(f"{name} {q}" for name in ("issue", "alu", "fma", "mufu", "tmem") for q in range(4)),
    "port", "link", "bulk store", "load/store",
)  # fmt: skip
# The L1 cache of an SM: a row for each line, (line number, its sectors, when they are there, when last used).
L1_SETS, L1_WAYS = 64, 4  # 128-byte lines: 32 KB, what shared memory leaves of 256 KB
L1_LINE, L1_SECTORS, L1_READY, L1_USED = range(4)
# The instruction cache of an SM: a row for each line, (line number, when it is there, when last used).
CODE_SETS = 16
CODE_LINE, CODE_READY, CODE_USED = range(3)
L2_HOLDS = 32 << 20  # bytes of a buffer that stays in L2 while a kernel runs
BUCKET = 8.0  # cycles
BUCKETS = 1 << 14  # of the ring: reservations must not be further apart in time than BUCKET * BUCKETS

# An mbarrier's times; a named barrier's and the cluster barrier's are the same.
NEXT = 0  # the latest arrival of the phase that is open
NEXT_BY = 1
DONE = 2  # of the last completed phases of parity 0 and 1
DONE_BY = 4
TIME_COLUMNS = 6
BY_ARRIVAL, BY_TMA, BY_MMA, BY_NAMED = range(4)  # what completed a phase
COMPLETERS = ("arrive", "tma", "mma", "barrier")

# misc
TOUCHED, APPROVED, TRACED, LAST_WARP, STEPS, PAUSE_AT = range(6)
MISC = 8
TOUCH_CAPACITY = 64
WINDOW = 128

# What is traced: rows of (begin, end, CTA, track, kind, detail).
TRACE_COLUMNS = 6
TRACE_MMA, TRACE_TMA, TRACE_WAIT, TRACE_TMEM, TRACE_STORE, TRACE_CODE = range(6)


class Tables(NamedTuple):
    """See the names above for columns. `lines`: for every 128 bytes of the buffers, which of its four sectors the
    cluster has touched; `places`: (first address, end, first line) of each buffer; `allowances`: bytes of it that HBM gives
    this cluster at most, bytes that it has read, and the share of blocks that it is the first to read (traffic.Traffic).
    `shares`: (bytes that an SM has had from HBM, how many SMs share it until then). `l1`: lines of each SM's L1 cache. `waits`: cycles that a warp waited
    at the mbarrier of each 8 bytes of shared memory, by what completed it; `blocked`: at named and cluster barriers, and
    for code (BLOCKERS). `code`: lines of each SM's instruction cache; `code_lines`: see costs.code_lines."""

    constants: np.ndarray
    costs: CostTable
    warps: np.ndarray
    ready: np.ndarray
    window: np.ndarray
    ctas: np.ndarray
    used: np.ndarray
    epochs: np.ndarray
    busy: np.ndarray
    barriers: np.ndarray
    named: np.ndarray
    touched: np.ndarray
    misc: np.ndarray
    lines: np.ndarray
    places: np.ndarray
    allowances: np.ndarray
    shares: np.ndarray
    l1: np.ndarray
    code: np.ndarray
    code_lines: np.ndarray
    waits: np.ndarray
    blocked: np.ndarray
    bytes: np.ndarray
    trace: np.ndarray


def make_tables(
    kernel: Kernel,
    constants: Constants,
    ctas: int,
    warps: int,
    shared_bytes: int,
    buffers: np.ndarray,
    trace_rows: int = 0,
    busy_sms: int | None = None,
    code_bytes: int | None = None,
    traffic: Traffic = ALIKE,
) -> Tables:
    """`buffers`: int64 [n, 3] rows of (start, end, writable). `busy_sms`: with a CTA of the grid at the same time, all
    unless given. `code_bytes`: of the assembled kernel."""
    costs = cost_table(kernel, constants.__getitem__)
    lines_held = max(1, round(constants["code_cache"] / CODE_LINE_BYTES / CODE_SETS)) * CODE_SETS
    lengths = (buffers[:, 1] - (buffers[:, 0] & ~127) + 127) // 128
    places = np.stack([buffers[:, 0] & ~127, buffers[:, 1], np.cumsum(lengths) - lengths], axis=1)
    slots, busy = shared_bytes // 8, busy_sms or int(constants["sms"])
    return Tables(
        constants=constants.row(),
        costs=costs,
        warps=np.zeros((warps, WARP_COLUMNS)),
        ready=np.zeros((warps, kernel.rows32 + kernel.rows64)),
        window=np.zeros((warps, WINDOW)),
        ctas=np.zeros((ctas, CTA_COLUMNS)),
        used=np.zeros((ctas * UNITS, BUCKETS)),
        epochs=np.zeros((ctas * UNITS, BUCKETS), np.int64),
        busy=np.zeros((ctas, UNITS + 1)),
        barriers=np.zeros((ctas, slots, TIME_COLUMNS)),
        named=np.zeros((ctas, st.NAMED_BARRIERS + 1, TIME_COLUMNS)),
        touched=np.zeros((TOUCH_CAPACITY, 3), np.int64),
        misc=np.zeros(MISC, np.int64),
        lines=np.zeros(int(lengths.sum()) + 1, np.uint8),
        places=np.ascontiguousarray(places, np.int64),
        allowances=_allowances(buffers, max(1, busy // ctas), traffic.first_reads),
        shares=traffic.shares(busy, ctas),
        l1=np.zeros((ctas, L1_SETS * L1_WAYS, 4)),
        code=np.zeros((ctas, lines_held, 3)),
        code_lines=code_lines(costs, code_bytes),
        waits=np.zeros((warps, slots, len(COMPLETERS))),
        blocked=np.zeros((warps, len(BLOCKERS))),
        bytes=np.zeros((ctas, 3)),
        trace=np.zeros((trace_rows, TRACE_COLUMNS)),
    )


def _allowances(buffers: np.ndarray, clusters: int, first_reads: float) -> np.ndarray:
    """What many clusters read comes from HBM once if L2 holds it: of a small buffer (a query, tables) all, of another one
    what the caller says.
    """
    sizes = (buffers[:, 1] - buffers[:, 0]).astype(float)
    is_small = sizes <= L2_HOLDS
    shares = np.where(is_small, np.ceil(sizes / clusters / 32) * 32, np.inf)
    return np.stack([shares, np.zeros(len(sizes)), np.where(is_small, 1.0, first_reads)], axis=1)


def reset(tables: Tables) -> None:
    """For another cluster."""
    tables.allowances[:, 1] = 0
    for name in ("warps", "ready", "window", "ctas", "used", "epochs", "busy", "barriers", "named", "touched", "misc",
                 "lines", "l1", "code", "waits", "blocked", "bytes", "trace"):  # fmt: skip
        getattr(tables, name)[:] = 0
    tables.epochs[:] = -1
