"""Matrix products of the tensor core as one compiled call, and the native forms of tcgen05.mma and tcgen05.commit (see
mma.py, which has the rules).

What an instruction and the bits of its descriptors say is worked out once, as a *plan*: a row of int64 with the places
of all elements. Plans are found again by their key in a hash table, without Python.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ...engine import mbarrier
from ...engine import native as nat
from ...engine import state as st
from ...engine import trace as et
from ...engine.common import OPTIONS, _view, buffer_table, cell_u8, cell_u16, cell_u32, int32s, int64s
from ..numerics.floating import FORMATS, ZERO_EXPONENT, decode_into, format_in_tmem, layout, multiply
from ..numerics.integer import multiply_integers
from .layout import K_BYTES, PADDED_BITS, TMEM_COLUMNS, TMEM_LANES
from .load_store_native import allocated

_MMA_COUNT, _MACS, _SHARED_BYTES = (
    nat.COUNTERS.index(name) for name in ("tcgen05_mma", "tcgen05_macs", "tcgen05_shared_bytes")
)
_tmem_rows = _view(np.uint32, TMEM_COLUMNS)
_member_rows = _view(np.int64, 4)

# A plan. Addresses are host addresses of arrays; offsets count bytes of shared memory.
P_MEMBERS = 0  # CTAs: 1, or the 2 of a pair
P_ROWS = 1  # of A in each CTA
P_K = 2
P_N = 3  # columns of B in each CTA
P_WIDTH = 4  # columns of D in a segment
P_BYTES = 5  # of an element
P_A_INDEX = 6  # address of int32 [rows, K] offsets from P_A_START; 0: A is in Tensor Memory
P_A_START = 7
P_A_END = 8
P_B_INDEX = 9  # address of int32 [K, N] offsets from P_B_START
P_B_START = 10
P_B_END = 11
P_SEGMENTS = 12  # address of int64 [S, 3]; see numerics.mma_into
P_SEGMENT_COUNT = 13
P_LANE_STEP = 14  # the lane of D's or A's address is 0 or this
P_D_TYPE = 15  # D_F32, ...
P_MACS = 16
P_SHARED_BYTES = 17  # that the operands take in shared memory
P_FORMAT_A = 18  # numerics.layout, 6 numbers
P_FORMAT_B = 24
P_BITS_A = 30  # of an element where 16 of them and padding take 16 bytes; else 0
P_BITS_B = 31
P_A_RUNS = 32  # the bytes of shared memory that A takes: address of int64 offsets from P_A_START, how many, bytes each
P_B_RUNS = 35
P_D_STARTS = 38  # address of int64 [S]: D's first cell in each segment, from its address
P_SIZE = 40
A_WORDS = K_BYTES // 4  # of a row of A in Tensor Memory

D_F32, D_F16, D_S32, D_S32_SATURATED = range(4)

# The hash table of plans: rows of (form << 32 | instruction descriptor, A's descriptor, B's descriptor, plan).
_CAPACITY = 1 << 14
_ROW = 4


class PlanTable:
    """The plans of every launch of this process; emptied when it is three quarters full."""

    def __init__(self):
        self.rows = np.zeros((_CAPACITY, _ROW), np.int64)
        self._plans: dict[tuple, object] = {}

    def clear(self) -> None:
        self._plans.clear()
        self.rows[:] = 0

    def get(self, key: tuple[int, int, int]):
        return self._plans.get(key)

    def add(self, key: tuple[int, int, int], plan) -> None:
        """Keeps `plan`, whose `row` is int64 [P_SIZE], under (form and instruction descriptor, A, B)."""
        if len(self._plans) >= _CAPACITY * 3 // 4:
            self.clear()
        self._plans[key] = plan
        slot = _slot(self.rows.ctypes.data, *_signed(key))
        self.rows[slot] = [*_signed(key), plan.row.ctypes.data]


def _signed(key) -> list[int]:
    return [value - (1 << 64) if value >> 63 else value for value in key]


@njit(nogil=True, cache=True)
def _slot(p_rows, form, a, b):
    """The row that holds the key, or the free one where it belongs."""
    rows = int64s(p_rows)
    x = np.uint64(form) ^ np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    slot = np.int64(x >> np.uint64(40)) % _CAPACITY
    while True:
        row = slot * _ROW
        if rows[row + 3] == 0 or (rows[row] == form and rows[row + 1] == a and rows[row + 2] == b):
            return slot
        slot = (slot + 1) % _CAPACITY


@njit(**OPTIONS)
def _gather(base, p_index, size, element_bytes, bits, raw):
    """Container bits of `size` elements at byte offsets from host address `base`; with `bits`, of elements of that many
    bits, of which 16 and padding take 16 bytes: an offset counts elements in its lowest four bits."""
    index = int32s(p_index)
    if bits != 0:
        for i in range(size):
            place = base + index[i]
            bit = (place & 15) * bits
            two = cell_u8((place & ~15) + (bit >> 3))
            raw[i] = ((np.int64(two[0]) | np.int64(two[1]) << 8) >> (bit & 7) & ((1 << bits) - 1)) << (6 - bits)
    elif element_bytes == 2:
        for i in range(size):
            raw[i] = cell_u16(base + index[i])[0]
    elif element_bytes == 1:
        for i in range(size):
            raw[i] = cell_u8(base + index[i])[0]
    else:
        for i in range(size):
            raw[i] = cell_u32(base + index[i])[0]


@njit(**OPTIONS)
def _gather_tmem(p_words, lane, column, segments, k, element_bytes, raw):
    """A in Tensor Memory: one row of K elements per segment, from the segment's lane."""
    for s in range(segments.shape[0]):
        base = p_words + 4 * ((segments[s, 1] + lane) * TMEM_COLUMNS + column)
        for i in range(k):
            if element_bytes == 2:
                raw[s * k + i] = cell_u16(base)[i]
            elif element_bytes == 1:
                raw[s * k + i] = cell_u8(base)[i]
            else:
                raw[s * k + i] = cell_u32(base)[i]


@njit(**OPTIONS)
def _format(p_plan, first):
    plan = int64s(p_plan)
    return plan[first], plan[first + 1], plan[first + 2], plan[first + 3], plan[first + 4], plan[first + 5]


@njit(**OPTIONS)
def _clear_columns(p_zero, value, exponent):
    """Makes the columns of B zero whose byte from host address `p_zero` is not 0."""
    zero = cell_u8(p_zero)
    for n in range(value.shape[1]):
        if zero[n] != 0:
            for i in range(value.shape[0]):
                value[i, n] = 0
                exponent[i, n] = ZERO_EXPONENT


@njit("void(int64, int64, int64, int64, int64, int64, int64)", nogil=True, cache=True)
def _execute(p_plan, place, a_address, keep, scale_log2, p_zero, p_members):
    """D = A * B (+ D * 2**-scale_log2 if `keep`), one K step.

    place, a_address: Tensor Memory addresses of D and, where it lies there, A. p_zero: see _clear_columns; 0: none.
    p_members: host address of a row per
    CTA of the plan: its shared memory, its Tensor Memory, and the segments to compute (int64 [S, 3], S), which are
    the plan's or some of them.
    """
    plan = int64s(p_plan)
    members, k, columns = plan[P_MEMBERS], plan[P_K], plan[P_N]
    a_in_tmem, element_bytes = plan[P_A_INDEX] == 0, plan[P_BYTES]
    member_rows = _member_rows(p_members)
    width = members * columns
    val_b, exp_b = np.empty((k, width), np.float32), np.empty((k, width), np.float32)
    raw = np.empty(k * columns, np.uint32)
    special_b = False
    for member in range(members):
        base = member_rows[member, 0] + plan[P_B_START]
        _gather(base, plan[P_B_INDEX], raw.size, element_bytes, plan[P_BITS_B], raw)
        if members == 1:
            special_b = decode_into(raw, _format(p_plan, P_FORMAT_B), val_b.reshape(-1), exp_b.reshape(-1))
            break
        for i in range(k):
            first, last = member * columns, (member + 1) * columns
            part = raw[i * columns : (i + 1) * columns]
            found = decode_into(part, _format(p_plan, P_FORMAT_B), val_b[i, first:last], exp_b[i, first:last])
            special_b = special_b or found
    if p_zero != 0:
        _clear_columns(p_zero, val_b, exp_b)
    all_segments = buffer_table(plan[P_SEGMENTS])[: plan[P_SEGMENT_COUNT]]
    rows = plan[P_SEGMENT_COUNT] if a_in_tmem else plan[P_ROWS]
    val_a, exp_a = np.empty((rows, k), np.float32), np.empty((rows, k), np.float32)
    raw = np.empty(rows * k, np.uint32)
    half, integers = plan[P_D_TYPE] == D_F16, plan[P_D_TYPE] >= D_S32
    for member in range(members):
        tmem = member_rows[member, 1]
        if a_in_tmem:
            _gather_tmem(tmem, a_address >> 16, a_address & 0xFFFF, all_segments, k, element_bytes, raw)
        else:
            base = member_rows[member, 0] + plan[P_A_START]
            _gather(base, plan[P_A_INDEX], raw.size, element_bytes, plan[P_BITS_A], raw)
        special_a = decode_into(raw, _format(p_plan, P_FORMAT_A), val_a.reshape(-1), exp_a.reshape(-1))
        exact = not (special_a or special_b or half or scale_log2 != 0)
        segments = buffer_table(member_rows[member, 2])[: member_rows[member, 3]]
        lane, column = place >> 16, place & 0xFFFF
        memory = _tmem_rows(tmem + 4 * TMEM_COLUMNS * lane)[: TMEM_LANES - lane]
        if integers:
            saturate = plan[P_D_TYPE] == D_S32_SATURATED
            multiply_integers(val_a, val_b, memory, segments, column, plan[P_WIDTH], keep != 0, saturate)
            continue
        multiply(
            val_a, exp_a, val_b, exp_b, exact, memory, segments, column, plan[P_WIDTH], keep != 0, half, scale_log2
        )


def execute(
    plan, segments, place: int, a_address: int, keep: int, scale_log2: int, zero_columns: np.ndarray | None, members
) -> None:
    """Carries out an ops.tcgen05_mma.Plan in the CTAs `members`, with an array of segments for each. `zero_columns`:
    bool [N], the columns of B that count as zero."""
    rows = [
        (member.shared.ctypes.data, int(member.addresses[nat.C_TMEM]), part.ctypes.data, len(part))
        for member, part in zip(members, segments, strict=True)
    ]
    table = np.array(rows, np.int64)
    p_zero = 0 if zero_columns is None else zero_columns.ctypes.data
    _execute(plan.row.ctypes.data, place, a_address, keep, scale_log2, p_zero, table.ctypes.data)


def plan_row(shape, group: int, a, b, path, segments: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The `P_*` row of an instruction descriptor's shape, operands (`a` None in Tensor Memory), data path, its segments
    and where they start in D. The caller keeps the arrays alive."""
    row = np.zeros(P_SIZE, np.int64)
    row[P_MEMBERS : P_BYTES + 1] = [group, path.a_rows, shape.k, b.index.shape[1], path.width, shape.element_bytes]
    for operand, index, runs in ((a, P_A_INDEX, P_A_RUNS), (b, P_B_INDEX, P_B_RUNS)):
        if operand is not None:
            places, length = operand.runs
            row[index : index + 3] = [operand.index.ctypes.data, operand.start, operand.start + operand.extent]
            row[runs : runs + 3] = [places.ctypes.data, len(places), length]
    row[P_D_STARTS] = starts.ctypes.data
    row[P_SEGMENTS : P_LANE_STEP + 1] = [segments.ctypes.data, len(segments), path.lane_step]
    shared_rows = shape.n if a is None else shape.n + shape.m
    d_type = D_S32_SATURATED if shape.saturate else {"f32": D_F32, "f16": D_F16, "s32": D_S32}[shape.d_type]
    row[P_D_TYPE : P_SHARED_BYTES + 1] = [
        d_type,
        shape.m * shape.n * shape.k,
        shared_rows * shape.k * shape.element_bytes,
    ]
    a_format = format_in_tmem(shape.a_type) if a is None else FORMATS[shape.a_type]
    row[P_FORMAT_A : P_FORMAT_A + 6] = layout(a_format, shape.a_negate)
    row[P_FORMAT_B : P_FORMAT_B + 6] = layout(FORMATS[shape.b_type], shape.b_negate)
    row[P_BITS_A : P_BITS_B + 1] = [PADDED_BITS.get(shape.a_type, 0), PADDED_BITS.get(shape.b_type, 0)]
    return row


PLANS = PlanTable()


@njit(**OPTIONS)
def _tmem_fits(cta, plan, address, columns):
    lane = address >> 16
    return (lane == 0 or lane == plan[P_LANE_STEP]) and allocated(cta[nat.C_COLUMNS], address & 0xFFFF, columns)


# Arguments of mma: number, level, then the codes of D, A, B, the instruction descriptor and enable-input-d; the form.
_D, _A, _B, _I, _ENABLE, _FORM, _A_IN_TMEM = 2, 4, 6, 8, 10, 12, 13
# Further columns of the trace's row.
FIRST, KEEP = range(2)


def mma_arguments(inst, symbols, form: int, a_in_tmem: bool) -> list[int] | None:
    """The arguments for a tcgen05.mma of form number `form`, without masks and scale."""
    codes = nat.operand_codes(symbols, *inst.operands[:5])
    return None if codes is None else [mma.number, nat.IN_ORDER, *codes, form, int(a_in_tmem)]


@nat.native
def mma(p_head, p_warp, p_arguments, lanes):
    if lanes & (lanes - 1):
        return 0
    head, arguments, lane = int64s(p_head), int32s(p_arguments), nat.leader(lanes)
    a_bits = nat.operand_value(p_warp, p_arguments + 4 * _A, lane)
    a_address = np.int64(0)
    if arguments[_A_IN_TMEM] != 0:
        a_address, a_bits = a_bits, np.int64(0)
    b_bits = nat.operand_value(p_warp, p_arguments + 4 * _B, lane)
    descriptor = nat.operand_value(p_warp, p_arguments + 4 * _I, lane) & 0xFFFFFFFF
    key = np.int64(arguments[_FORM]) << 32 | descriptor
    row = int64s(head[st.H_PLANS])[_slot(head[st.H_PLANS], key, a_bits, b_bits) * _ROW + 3]
    if row == 0:
        return 0
    plan = int64s(row)
    rank, members = int64s(p_warp)[st.W_CTA], plan[P_MEMBERS]
    first = rank if members == 1 else rank & ~1
    if first + members > head[st.H_CTAS]:
        return 0
    place = nat.operand_value(p_warp, p_arguments + 4 * _D, lane)
    for member in range(first, first + members):
        cta = nat.cta_row(p_head, member)
        if cta[nat.C_TMEM] == 0 or not _tmem_fits(cta, plan, place, plan[P_WIDTH]):
            return 0
        if arguments[_A_IN_TMEM] != 0 and not _tmem_fits(cta, plan, a_address, A_WORDS):
            return 0
    if plan[P_A_END] > head[st.H_SHARED_BYTES] or plan[P_B_END] > head[st.H_SHARED_BYTES]:
        return 0
    keep = nat.operand_value(p_warp, p_arguments + 4 * _ENABLE, lane)
    rows = np.empty((members, 4), np.int64)
    for member in range(members):
        rows[member, 0] = int64s(head[st.H_SHARED_BASES])[first + member]
        rows[member, 1] = nat.cta_row(p_head, first + member)[nat.C_TMEM]
        rows[member, 2] = plan[P_SEGMENTS]
        rows[member, 3] = plan[P_SEGMENT_COUNT]
    _execute(row, place, a_address, keep, 0, 0, rows.ctypes.data)
    nat.count(p_head, _MMA_COUNT, 1)
    nat.count(p_head, _MACS, plan[P_MACS])
    nat.count(p_head, _SHARED_BYTES, plan[P_SHARED_BYTES])
    more = nat.trace(p_head, p_warp, et.MULTIPLY, lanes, row, place, a_address)
    if more != 0:
        told = int64s(more)
        told[FIRST], told[KEEP] = first, keep
    return 1


# Arguments of commit: number, level, code of the address, whether the address is generic.


def commit_arguments(inst, symbols) -> list[int] | None:
    """The arguments for a tcgen05.commit to one CTA's barrier."""
    address = nat.operand_code(inst.operands[0], symbols)
    if address is None or len(inst.operands) != 1:
        return None
    return [commit.number, nat.IN_ORDER, *address, int("shared::cluster" not in inst.mods)]


@nat.native
def commit(p_head, p_warp, p_arguments, lanes):
    if lanes & (lanes - 1):
        return 0
    address = nat.operand_value(p_warp, p_arguments + 8, nat.leader(lanes))
    if int32s(p_arguments)[4] != 0:
        if address < st.SHARED_WINDOW or address >= st.SHARED_WINDOW + st.WINDOW_BYTES:
            return 0
        address -= st.SHARED_WINDOW
    row = nat.live_mbarrier(p_head, p_warp, address)
    if row == 0 or int64s(row)[st.B_PENDING] < 1:
        return 0
    phases = int64s(row)[st.B_PHASE]
    ended = mbarrier.arrive(p_head, row, 1)
    nat.trace(p_head, p_warp, et.COMMIT, lanes, address, phases, np.int64(ended))
    return 1
