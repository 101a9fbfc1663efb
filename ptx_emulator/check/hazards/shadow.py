"""The tables of the happens-before checker, shared by compiled code (core.py, trace.py) and Python (observer.py).

Agents are the dimensions of the vector clocks. A warp has one for its ordinary accesses and one for each kind of
asynchronous work that completes in order: its tcgen05.ld, its tcgen05.st, its tensor-core operations, its bulk stores'
reads and writes, its cp.async. Copies that complete on an mbarrier have the mbarrier as agent: its clock counts the
copies that were issued to it, and a completed phase publishes those that have completed without a gap.

An access is a record: agent, clock, instruction. Each byte of shared and global memory and each word of Tensor Memory
holds its last write's record and a set of the reads since: a list of nodes, by the number of the first, which sets
share, and of which the same reads in the same order make the same set. Ranges with one history are judged once.

As in the engine, compiled functions take the host address of one table (`P_*`), which holds scalars and the addresses
of all other tables; the accessors below turn those into views.
"""

from __future__ import annotations

from numba import njit

from ...engine.common import ENTRY_OPTIONS, OPTIONS, cell_u8, int32s, int64s

# Scalars.
P_WARPS = 0
P_DIMS = 1
P_CLUSTER = 2  # number of the cluster in the whole run, from 1
P_LAUNCH = 3
P_RECORDS = 4  # next free record; 0 is none, 1 a forgotten one
P_NODES = 5  # next free node of a set
P_FULL = 7  # 1: sets, 2: records are full
P_FINDINGS = 8
P_PAIR = 9  # the pair of records judged last
P_MBARRIERS = 10  # mbarriers seen in this cluster
P_BUFFER = 11  # why `consume` (trace.py) has stopped: a buffer whose reads must be written down first, or STOP_*
P_CTAS = 12
P_ROWS = 13  # barriers
P_SHARED_BYTES = 14
P_INSTRUCTIONS = 15
P_CELLS = 16  # of global memory
P_BUFFERS = 17
P_ZERO = 18  # 0, where places are counted from
P_EVENTS = 19  # next free row of T_EVENTS
# Host addresses of tables, and what they hold: int32 unless said otherwise; [W] warps of the cluster, [D] agents,
# [C] its CTAs, [B] barriers.
P_TABLES = 20
(
    T_VIEWS,  # [VIEWS, W, D]
    T_CLOCK,  # [D]
    T_SYNCED,  # [W]: the warp's clock when its lanes last synchronised
    T_EARLY,  # [W]: 1 before griddepcontrol.wait in a grid that overlaps the one it depends on
    T_CTA,  # [W]: CTA of a warp
    T_JOINED,  # [2 (this phase, complete phases), PLANES, B, D]
    T_BARRIERS,  # int64[B, M_SIZE]
    T_SLOTS,  # [C, shared bytes / 8]: row of the mbarrier, or -1
    T_RECORDS,  # [RECORDS, R_SIZE]
    T_RECENT,  # [W, 2 * instructions]: the last record of each instruction's reads, and writes
    T_FINDINGS,  # int64[FINDINGS, F_SIZE]
    T_NODES,  # [NODES, 2]: record, the node with the rest of the set, 0 for none
    T_SET_KEYS,  # int64[HASH]: (set, record)
    T_SET_VALUES,  # [HASH]: the set that they make
    T_SHARED,  # [2 (write, reads), C, bytes]
    T_LANES,  # uint8[2, C, bytes]: the lane, 255 for several, ALL_LANES for all together
    T_TMEM,  # [2, C, words]
    T_MEMORY,  # [2, cells of global memory]
    T_BUFFERS,  # int64[n, BUFFER_SIZE]: start, end, first cell, whether written to, whether it has history, its rows
    T_BASES,  # int64[2, C]: host addresses of shared memory and of the named barriers' tables
    T_INST,  # [micro-operations, 2]: instruction, flags
    T_REMOTE,  # [2 (clock, record), C, D]: what must be complete when the CTA exits
    T_ENDED,  # [C, D + 1]: what the CTA's exited warps knew; last, how many warps live
    T_HEADS,  # [CLUSTERS]: the last row of T_EVENTS about each other cluster, 0 for none
    T_EVENTS,  # int64[EVENTS, E_SIZE]: what warps have acquired from other clusters (flags.py)
    T_VIEW,  # [PLANES, D]: scratch
    T_PIPE,  # int64[W]: lanes that have issued tensor core operations since their last commit
    T_FULL,  # int64[W]: lanes of a warp
) = range(P_TABLES, P_TABLES + 28)
P_SIZE = P_TABLES + 28

# Views of a warp: for each agent the latest clock that is known
HB = 0  # to have happened before (base causality order, 8.9.5)
PX = 1  # ... with a proxy fence on the way, from ordinary accesses to the async proxy
TC = 2  # ... with tcgen05 fences on the way
TI = 3  # received, but no tcgen05.fence::after_thread_sync yet
TO = 4  # given away: what was known at the last tcgen05.fence::before_thread_sync
TS = 5  # TO as of the last time that the warp's lanes synchronised: what one lane's arrival gives away
FE = 6  # FE + scope: what was known at the last fence of that scope: what a relaxed store gives away
AQ = 9  # AQ + scope: what relaxed loads have seen: known after the next fence of that scope or a wider one
VIEWS = 12
PLANES = 3  # what a barrier hands on: HB, PX, TC

# First dimension of each kind of agent, in units of the number of warps. A_STRICT and A_GLOBAL are no agents: of a
# warp, what all of its lanes have given away, and (in PX only) what a proxy fence has covered of global memory. After
# them one dimension per barrier for the copies that complete on it, and one for its phases.
A_THREADS, A_LD, A_ST, A_PIPE, A_BULK_READ, A_BULK_WRITE, A_CP, A_STRICT, A_GLOBAL, A_KINDS = range(10)
MBARRIERS_PER_CTA = 64

# Records. R_ISSUE: the clock of the warp that issued it.
R_DIM, R_CLOCK, R_INST, R_CLUSTER, R_LAUNCH, R_WARP, R_MODE, R_WRITE, R_FLAGS, R_ISSUE, R_SIZE = range(11)
STRONG, EARLY, SOLO = 1, 2, 4  # atomic or volatile; before griddepcontrol.wait; by one lane
SCOPE_SHIFT = 3  # of a strong access: CTA, CLUSTER_SCOPE or GPU
CONSTANT, REDUCES = 32, 64  # ld.global.nc; an asynchronous reduction, which is atomic
CTA, CLUSTER_SCOPE, GPU = range(3)
RECORDS = 1 << 20
FORGOTTEN = 1

# How an access is ordered. OBJECT: a tensor map as a whole, as GENERIC, but it may be unwritten in part.
GENERIC, ASYNC, TENSOR, OBJECT = range(4)

# Spaces in findings.
SHARED, TMEM, GLOBAL, BARRIER = range(4)

# Findings.
(
    RACE, PROXY, PROXY_READ, TENSOR_FENCE, LANES, ELECTED, UNWRITTEN, PHASE, INIT, INIT_FENCE, OVERRUN, EXITED,
    WAIT_LD, CROSS_CTA, PREREQUISITE, TX_LEFT, NAMED_LEFT, INCOMPLETE, EXITED_WORK, EXITED_COMMIT, MAP_FENCE, SCOPE,
    NOT_CONSTANT, ASYNC_LANES, PROXY_LANES, NOT_STARTED, OTHER_LANE, ABSENT, OUTSIDE,
    BETWEEN_ROWS, DIVERGED,
) = range(1, 32)  # fmt: skip
(
    F_CODE, F_PRIOR, F_INST, F_WARP, F_DIM, F_WRITE, F_SPACE, F_RANK, F_CELL, F_CLUSTER, F_LAUNCH, F_COUNT, F_WARPS,
    F_SIZE,
) = range(14)  # fmt: skip
FINDINGS = 256

# Barriers: mbarriers first, then 16 named barriers per CTA, then the cluster's.
M_INIT = 0  # record of the init; 0: not initialised
M_FENCED = 1  # a fence followed the init
M_OBSERVED = 2  # how many phases were complete when somebody last got through a wait
M_ISSUED = 3  # copies issued to it
M_COMPLETE = 4  # copies complete without a gap
M_PLACE = 5  # an mbarrier's address in the cluster's shared memory
M_WAITING = 6  # warps that wait (named and cluster barriers), a bit each, 48 per column
M_SIZE = 17

STOP_ATOMIC, STOP_COPY, STOP_FULL, STOP_FENCE = -1, -2, -3, -4

# B_ROWS to B_ROW_BYTES: where rows start, how far apart and how long they are, of an array with gaps between them.
B_START, B_END, B_FIRST, B_WRITTEN, B_TOUCHED, B_ROWS, B_ROW_STEP, B_ROW_BYTES, BUFFER_SIZE = range(9)

# Flags of an instruction. I_SC: a fence.sc that other CTAs notice.
(
    I_STRONG, I_SKIP, I_PROXY, I_INIT_FENCE, I_WARP_SYNC, I_FENCE, I_LOADS, I_STORES, I_BEFORE, I_AFTER, I_CONSTANT,
    I_SC, I_PROXY_SHARED, I_PROXY_GLOBAL,
) = (1 << i for i in range(14))  # fmt: skip
I_SCOPE = 14  # shift of its scope

# What warps have acquired from other clusters: the warp, its time (negative until its next fence), the row about the
# same cluster before, host addresses of int32[D]: the clocks of that cluster's agents that are known, and those known
# with a proxy fence; the cluster.
E_WARP, E_TIME, E_NEXT, E_HB, E_PX, E_CLUSTER, E_SIZE = range(7)
EVENTS = 1 << 16
CLUSTERS = 1 << 20

NODES, HASH = 1 << 19, 1 << 20
ENOUGH = NODES // 4 * 3  # nodes; from here on room is made
TMEM_WORDS = 128 * 512
ALL_LANES = 254


@njit(**OPTIONS)
def knowledge(s, kind, w):
    p = int64s(s)
    return int32s(p[T_VIEWS] + (kind * p[P_WARPS] + w) * p[P_DIMS] * 4)


@njit(**OPTIONS)
def clock(s):
    return int32s(int64s(s)[T_CLOCK])


@njit(**OPTIONS)
def synced(s):
    return int32s(int64s(s)[T_SYNCED])


@njit(**OPTIONS)
def early(s):
    return int32s(int64s(s)[T_EARLY])


@njit(**OPTIONS)
def cta_of(s):
    return int32s(int64s(s)[T_CTA])


@njit(**OPTIONS)
def joined(s, phase, plane, barrier):
    p = int64s(s)
    return int32s(p[T_JOINED] + ((phase * PLANES + plane) * p[P_ROWS] + barrier) * p[P_DIMS] * 4)


@njit(**OPTIONS)
def barrier_row(s, barrier):
    return int64s(int64s(s)[T_BARRIERS] + barrier * (M_SIZE * 8))


@njit(**OPTIONS)
def slots(s, rank):
    p = int64s(s)
    return int32s(p[T_SLOTS] + rank * (p[P_SHARED_BYTES] >> 3) * 4)


@njit(**OPTIONS)
def record(s, r):
    return int32s(int64s(s)[T_RECORDS] + r * (R_SIZE * 4))


@njit(**OPTIONS)
def recent(s, w):
    p = int64s(s)
    return int32s(p[T_RECENT] + w * p[P_INSTRUCTIONS] * 8)


@njit("boolean(int64)", **ENTRY_OPTIONS)
def is_full(s):
    """Whether room must be made, for records or for sets."""
    p = int64s(s)
    return p[P_FULL] != 0 or p[P_NODES] > ENOUGH


@njit(**OPTIONS)
def finding(s, i):
    return int64s(int64s(s)[T_FINDINGS] + i * (F_SIZE * 8))


@njit(**OPTIONS)
def shared_cells(s, kind, rank):
    """Host address of the cells of a CTA's shared memory. kind: 0 writes, 1 reads."""
    p = int64s(s)
    return p[T_SHARED] + (kind * p[P_CTAS] + rank) * p[P_SHARED_BYTES] * 4


@njit(**OPTIONS)
def lane_cells(s, kind, rank):
    p = int64s(s)
    return cell_u8(p[T_LANES] + (kind * p[P_CTAS] + rank) * p[P_SHARED_BYTES])


@njit(**OPTIONS)
def tmem_cells(s, kind, rank):
    p = int64s(s)
    return p[T_TMEM] + (kind * p[P_CTAS] + rank) * (TMEM_WORDS * 4)


@njit(**OPTIONS)
def memory_cells(s, kind):
    p = int64s(s)
    return p[T_MEMORY] + kind * p[P_CELLS] * 4


@njit(**OPTIONS)
def buffer_row(s, i):
    return int64s(int64s(s)[T_BUFFERS] + i * (BUFFER_SIZE * 8))


@njit(**OPTIONS)
def event(s, i):
    return int64s(int64s(s)[T_EVENTS] + i * (E_SIZE * 8))


@njit(**OPTIONS)
def base(s, kind, rank):
    p = int64s(s)
    return int64s(p[T_BASES])[kind * p[P_CTAS] + rank]


@njit(**OPTIONS)
def instruction(s, pc):
    return int32s(int64s(s)[T_INST] + pc * 8)


@njit(**OPTIONS)
def remote(s, kind, rank):
    p = int64s(s)
    return int32s(p[T_REMOTE] + (kind * p[P_CTAS] + rank) * p[P_DIMS] * 4)


@njit(**OPTIONS)
def ended(s, rank):
    p = int64s(s)
    return int32s(p[T_ENDED] + rank * (p[P_DIMS] + 1) * 4)
