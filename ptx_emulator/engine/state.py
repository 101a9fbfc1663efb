"""Layout of the int64 tables that the compiled engine and Python share.

Everything that changes while a cluster runs lives in three kinds of table, so that the engine can stop at any
instruction, let Python act, and go on: one header per cluster (`H_*`), one row per warp (`W_*`) that ends in
32 groups of lanes (`G_*`), and one row per 8 bytes of each CTA's shared memory for mbarriers (`B_*`).
"""

from __future__ import annotations

LANES = 32
FULL_MASK = 0xFFFFFFFF

# Generic addresses: shared and local memory are windows that no host address can fall into.
SHARED_WINDOW = 1 << 60
LOCAL_WINDOW = 1 << 61
WINDOW_BYTES = 1 << 32
RANK_SHIFT = 24
OFFSET_MASK = (1 << RANK_SHIFT) - 1
SHARED_START = 0x400  # the first KiB is reserved for the system, as on hardware

# Header of a cluster.
H_WARPS = 0  # number of warps of all CTAs
H_WARP_TABLE = 1  # host addresses of the tables
H_CODE = 2
H_AUX = 3
H_BUFFERS = 4
H_N_BUFFERS = 5
H_LAST_BUFFER = 6  # the buffer hit last, tried first
H_CTAS = 7
H_SHARED_BYTES = 8
H_SHARED_BASES = 9  # -> host address of each CTA's shared memory
H_MBAR_BASES = 10  # -> host address of each CTA's mbarrier table
H_NAMED_BASES = 11  # -> host address of each CTA's named-barrier table
H_CLUSTER_ARRIVED = 12
H_CLUSTER_PHASE = 13
H_PROGRESS = 14  # counts every change that another warp could be waiting for
H_CURSOR = 15  # warp to look at next
H_RANDOM = 16  # state of the random generator; 0: round robin
H_SLICE = 17  # micro-operations of a warp's turn; it ends at the next control operation
H_CLOCK = 18
H_TIMEOUT = 19  # 1: waits that may time out do so
H_STOP_WARP = 20  # where the engine stopped: warp, group, micro-op, lanes
H_STOP_GROUP = 21
H_STOP_PC = 22
H_STOP_MASK = 23
H_ERROR = 24  # one of the ERR_*
H_ERROR_LANE = 25
H_ERROR_ADDRESS = 26
H_ERROR_EXTRA = 27
H_SCRATCH = 28  # host address of scratch rows
H_RETRY = 29  # 1: warps blocked in a Python handler may be tried again
H_IDLE_INSTRUCTIONS = 30  # instructions since H_IDLE_PROGRESS was seen
H_IDLE_PROGRESS = 31
H_BUDGET = 32  # what is left of the turn of the warp at H_CURSOR; 0: a new turn
H_TRACE = 33  # host address of the trace (trace.py); 0: none
H_TRACE_COUNT = 34  # rows in it
H_TRACE_LOST = 35  # rows that found no place
H_NATIVE = 36  # level of the native forms in use (native.py)
H_NATIVE_TABLE = 37  # host addresses of their functions
H_CTA_TABLE = 38  # -> a row of host addresses per CTA (native.C_*)
H_COUNTERS = 39  # -> native.COUNTERS
H_TENSOR_MAPS = 40  # -> the tensor maps seen so far (units/tma/load_native.py)
H_PLANS = 41  # -> the matrix products seen so far (units/tcgen05/mma_native.py)
H_REMOTE = 42  # host address of the log of operations on other CTAs (remote.py); 0: they are done at once
H_REMOTE_COUNT = 43  # rows in it
H_PAUSE = 44  # value of H_CLOCK at which the engine stops, so that Python can look at limits and signals
H_IDLE_LIMIT = 45  # micro-operations without any change after which it stops
H_SPURIOUS = 46  # 1: an mbarrier.try_wait that has to wait may time out at any time
H_SIZE = 48

# Row of a warp.
W_R32 = 0
W_R64 = 1
W_COUNTS = 2
W_CTA = 3  # rank of its CTA
W_LIVE = 4  # lanes that have not exited
W_GROUPS = 5
W_LOCAL = 6  # host address of local memory, [32, W_LOCAL_BYTES]
W_LOCAL_BYTES = 7
W_CLUSTER_PHASE = 8  # phase of the cluster barrier at which this warp arrived last
W_INDEX = 9  # warp within its CTA
W_CLUSTER_LANES = 10  # lanes that have arrived at the cluster barrier and not waited since
W_STALLED = 11  # 1: kept from running until nothing else can (random order)
W_LOADS = 12  # tcgen05.ld that have not read yet (machine/deferred_loads.py)
W_REMOTE = 13  # operations on other CTAs that are not done yet (machine/remote.py)
W_REMOTE_STORES = 14  # stores among them
W_TURNS = 15  # turns that it has had
W_GROUP0 = 16
G_MASK = 0
G_PC = 1
G_STATUS = 2
G_A = 3  # what it waits for; meaning depends on the status
G_B = 4
G_C = 5
G_SIZE = 6
W_SIZE = W_GROUP0 + LANES * G_SIZE

# Status of a group of lanes.
RUN = 0
PARKED = 1  # at a warp-synchronising instruction, waiting for lanes G_A
MBARRIER = 2  # waits for (CTA rank G_A, slot G_B), phase parity G_C (>= 2: for phase number G_C - 2 to end)
NAMED = 3  # waits for barrier G_A to leave generation G_B
CLUSTER = 4  # waits for cluster phase G_A to end
PYTHON = 5  # a handler returned Blocked
YIELDED = 6  # gave up its turn
TESTED = 7  # as MBARRIER, but after a failed test_wait, with the result already written

REDUCING = -1  # G_C of a group that waits within bar.red and comes back for the result

# Row of an mbarrier.
B_EXPECTED = 0  # arrivals per phase; 0: not initialised
B_PENDING = 1
B_TX = 2
B_PHASE = 3  # number of completed phases
B_SIZE = 4
MBARRIER_WORD = 0x6D62617272696572  # kept in the 8 bytes of shared memory that the barrier occupies

# Row of a named barrier (16 per CTA).
N_EXPECTED = 0  # threads; 0: nobody waits
N_ARRIVED = 1
N_GENERATION = 2
N_AND = 3
N_OR = 4
N_POPC = 5
N_RESULT_AND = 6
N_RESULT_OR = 7
N_RESULT_POPC = 8
N_SIZE = 10
NAMED_BARRIERS = 16

# What the engine returns.
STOP_DONE = 0
STOP_HANDLER = 1
STOP_IDLE = 2
STOP_ERROR = 3
STOP_SLICE = 4
STOP_TRACE = 5
STOP_PAUSE = 7  # 6: timing/engine.py

# Errors that the engine finds.
ERR_NONE = 0
ERR_OUT_OF_BOUNDS = 1
ERR_MISALIGNED = 2
ERR_READ_ONLY = 3
ERR_SHARED_BOUNDS = 4
ERR_SHARED_RANK = 5
ERR_LOCAL_BOUNDS = 6
ERR_MBARRIER_UNINITIALISED = 7
ERR_MBARRIER_LIVE = 8
ERR_MBARRIER_UNDERFLOW = 9
ERR_MBARRIER_TX = 10
ERR_MBARRIER_OVERWRITTEN = 11
ERR_MBARRIER_COUNT = 12
ERR_NAMED_ID = 13
ERR_NAMED_COUNT = 14
ERR_NAMED_OVERFLOW = 15
ERR_TRAP = 16
ERR_NOT_CONVERGED = 17
ERR_PHASE = 18
ERR_CLUSTER_ARRIVE = 19
ERR_CLUSTER_WAIT = 20
ERR_REMOTE = 21  # no error: operations on other CTAs must be done first
