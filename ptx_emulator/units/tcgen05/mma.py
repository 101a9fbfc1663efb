"""Tensor core instructions of single threads: tcgen05.mma, .mma.ws, .cp, .shift, .commit (PTX ISA 9.7.16.9, .10, .12).

All of a CTA's (or CTA pair's) operations run in the order of issue; when, the launch's order policy chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...errors import OutOfBounds, TmemError
from ...ir import Address, Imm, Vector
from ...machine import mbarrier
from ...machine.warp import lane_list, require
from ...registry import op, unsupported
from ..per_thread import lane_address, lane_long, lane_word
from . import mma_native
from .layout import (
    COPY_SHAPES,
    K_BYTES,
    TMEM_COLUMNS,
    TMEM_LANES,
    DataPath,
    data_path,
    decode_instruction_descriptor,
    decode_shared_descriptor,
    equal_runs,
    operand_map,
    zero_columns,
)
from .load_store import at, cta_group, members_of, shared_address
from .tmem import SHIFT_COLUMNS, split_address

_KINDS = ("kind::f16", "kind::tf32", "kind::f8f6f4", "kind::i8")
COLLECTOR_OPS = ("fill", "use", "lastuse", "discard")


@dataclass(frozen=True, slots=True)
class Mma:
    """A decoded tcgen05.mma. Fields after `group` are operands, or None where the instruction has none. `shift_a`:
    afterwards the rows of A move down."""

    kind: str
    ws: bool
    group: int
    a: object
    disabled_lanes: object
    enable_input: object
    scale_log2: int
    zero_columns: object
    shift_a: bool


def _prepare_mma(inst) -> Mma:
    ws = inst.name == "tcgen05.mma.ws"
    buffers = ("b0", "b1", "b2", "b3") if ws else ("a",)
    collectors = {f"collector::{b}::{o}" for b in buffers for o in COLLECTOR_OPS}
    group = cta_group(inst)
    kinds = [m for m in inst.mods if m in _KINDS]
    require(inst, len(kinds) == 1, f"{inst.name} needs one of .{', .'.join(_KINDS)}")
    # Which buffer a matrix is read from does not change the result (9.7.16.10): collector qualifiers are hints.
    shift = not ws and "ashift" in inst.mods
    known = {*collectors, *_KINDS, "cta_group::1", "cta_group::2"} | ({"ashift"} if shift else set())
    wrong = [m for m in inst.mods if m not in known]
    require(inst, not wrong, f"modifier .{'.'.join(wrong)} of {inst.name} is not implemented")
    kept = {"collector::a::fill", "collector::a::use"} & set(inst.mods)
    from_tmem = isinstance(inst.operands[1], Address)
    require(inst, not shift or (from_tmem and not kept), ".ashift needs A in Tensor Memory, and no .fill or .use")
    left = list(inst.operands[4:])
    lanes = left.pop(0) if left and isinstance(left[0], Vector) else None
    require(
        inst,
        lanes is None or (not ws and len(lanes.elements) == 4 * group),
        f"disable-output-lane must have {4 * group} words, and .ws takes none",
    )
    require(inst, len(left) in (1, 2), f"{len(inst.operands)} operands do not match the syntax of {inst.name}")
    enable, scale, zero_columns = left[0], 0, None
    if len(left) == 2 and ws:
        zero_columns = left[1]
    elif len(left) == 2:
        good = isinstance(left[1], Imm) and 0 <= left[1].value <= 15 and kinds[0] in ("kind::f16", "kind::tf32")
        require(inst, good, "scale-input-d must be an immediate from 0 to 15, with kind::f16 or kind::tf32")
        scale = left[1].value
    return Mma(kinds[0][6:], ws, group, inst.operands[1], lanes, enable, scale, zero_columns, shift)


def _native_mma(inst, symbols):
    form = inst.data
    rare = form.disabled_lanes is not None or form.scale_log2 or form.shift_a
    if rare or form.zero_columns not in (None, Imm(0)):
        return None
    a_in_tmem = isinstance(form.a, Address)
    return mma_native.mma_arguments(inst, symbols, _form_number(form, a_in_tmem), a_in_tmem)


@op("tcgen05.mma", "tcgen05.mma.ws", prepare=_prepare_mma, writes=0, native=_native_mma)
def mma(warp, inst, mask: int):
    """Per thread: D = A * B (+ D) of one K step."""
    for lane in lane_list(mask):
        _mma(warp, inst, lane)


def _mma(warp, inst, lane: int) -> None:
    form, cta = inst.data, warp.cta
    grid = cta.grid
    d_operand, a_operand, b_operand, i_operand = inst.operands[:4]
    a_in_tmem = isinstance(a_operand, Address)
    a_address = lane_address(warp, a_operand, lane) if a_in_tmem else 0
    a_bits = 0 if a_in_tmem else lane_long(warp, a_operand, lane)
    try:
        plan = _plan(form, a_in_tmem, lane_word(warp, i_operand, lane), a_bits, lane_long(warp, b_operand, lane))
        zero = None
        if form.zero_columns is not None:
            zero = zero_columns(lane_long(warp, form.zero_columns, lane), plan.m, plan.b.index.shape[1])
    except ValueError as error:
        raise unsupported(inst, str(error)) from None
    if form.shift_a and len(plan.segments) != TMEM_LANES:
        raise unsupported(inst, ".ashift is for M = 128 with one CTA and M = 256 with a pair")
    members = members_of(cta, form.group, inst)
    place = lane_address(warp, d_operand, lane)
    for member in members:
        check_tmem(member, plan.path, place, plan.path.width, "D", inst)
        if a_in_tmem:
            check_tmem(member, plan.path, a_address, K_BYTES // 4, "A", inst)
        for operand in (plan.a, plan.b):
            if operand is not None:
                check_shared(member, operand, inst)
    segments = [plan.segments] * len(members)
    if form.disabled_lanes is not None:
        words = np.array([lane_word(warp, w, lane) for w in form.disabled_lanes.elements], np.uint32)
        first_lane = split_address(place)[0]
        segments = [_enabled(plan.segments, words[4 * i : 4 * i + 4], first_lane) for i in range(len(members))]
    keep = lane_word(warp, form.enable_input, lane)

    def run():
        mma_native.execute(plan, segments, place, a_address, keep, form.scale_log2, zero, members)
        if form.shift_a:
            # Every quarter of the lanes by itself, as CUTLASS' 1cta_mma_a_from_tmem.py observed on B200.
            for member in members:
                for first in range(0, TMEM_LANES, 32):
                    member.tmem.shift_rows(first, split_address(a_address)[1])

    if grid.observer is not None:
        grid.observer.mma(warp, inst, plan.row, place, a_address, members[0], accumulate=bool(keep))
    grid.counters["tcgen05_mma"] += 1
    grid.counters["tcgen05_macs"] += int(plan.row[mma_native.P_MACS])
    grid.counters["tcgen05_shared_bytes"] += int(plan.row[mma_native.P_SHARED_BYTES])
    grid.asyncs.submit(cta, unit(cta, form.group), run, f"{inst.name}, line {inst.line}")


@dataclass(frozen=True, slots=True)
class SharedOperand:
    """index: byte offsets from `start` of every element; the matrix ends before start + extent. runs: the same bytes as
    (int64 offsets from `start`, bytes from each)."""

    index: np.ndarray
    start: int
    extent: int
    runs: tuple[np.ndarray, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What descriptors say: rows of D, the operands (`a` None in Tensor Memory), where D lies (`starts`: its segments'
    first cells from its address), and all of it as a `row` for mma_native. A segment's row of A in Tensor Memory is the
    segment itself: each reads the A of its own lane."""

    m: int
    a: SharedOperand | None
    b: SharedOperand
    path: DataPath
    segments: np.ndarray
    starts: np.ndarray
    row: np.ndarray


def _plan(form: Mma, a_in_tmem: bool, bits: int, a_bits: int, b_bits: int) -> Plan:
    """The plan of instruction descriptor `bits` and the operands' descriptors. Raises ValueError."""
    key = (_form_number(form, a_in_tmem) << 32 | bits, a_bits, b_bits)
    plan = mma_native.PLANS.get(key)
    if plan is not None:
        return plan
    shape = decode_instruction_descriptor(bits, form.kind, form.ws, form.group)
    if a_in_tmem and shape.a_mn_major:
        raise ValueError("matrix A in Tensor Memory cannot be transposed")
    step = shape.k, shape.element_bytes
    b = shared_operand(b_bits, shape.n // form.group, *step, shape.b_mn_major, transposed=True)
    a = None if a_in_tmem else shared_operand(a_bits, shape.m // form.group, *step, shape.a_mn_major)
    path = data_path(shape.m, shape.n, form.ws, form.group)
    segments = np.array(path.segments)
    if a_in_tmem:
        segments[:, 0] = np.arange(len(segments))
    starts = segments[:, 1] * TMEM_COLUMNS
    row = mma_native.plan_row(shape, form.group, a, b, path, segments, starts)
    plan = Plan(shape.m, a, b, path, segments, starts, row)
    mma_native.PLANS.add(key, plan)
    return plan


@lru_cache(maxsize=1024)
def _form_number(form: Mma, a_in_tmem: bool) -> int:
    """A number for what an instruction's text adds to its descriptors."""
    return _KINDS.index(f"kind::{form.kind}") << 3 | int(form.ws) << 2 | (form.group - 1) << 1 | int(a_in_tmem)


def _enabled(segments: np.ndarray, disabled: np.ndarray, first_lane: int) -> np.ndarray:
    """The segments, from lane `first_lane`, whose lanes have no bit in the words `disabled`."""
    bit = np.unpackbits(disabled.view(np.uint8), bitorder="little")
    return np.ascontiguousarray(segments[bit[segments[:, 1] + first_lane] == 0])


def unit(cta, group: int) -> tuple:
    """The queue in which a CTA's, or a CTA pair's, tensor core operations run in order."""
    return ("tcgen05", group, cta.rank if group == 1 else cta.rank & ~1)


@lru_cache(maxsize=8192)
def shared_operand(
    bits: int, rows: int, columns: int, element_bytes: int, mn_major: bool = False, transposed: bool = False
) -> SharedOperand:
    """What a shared memory descriptor says of a matrix. Raises ValueError."""
    descriptor = decode_shared_descriptor(bits)
    index, extent = operand_map(descriptor, rows, columns, element_bytes, mn_major, transposed=transposed)
    return SharedOperand(index, descriptor.start, extent, _runs(index.tobytes(), element_bytes))


@lru_cache(maxsize=256)
def _runs(index: bytes, size: int) -> tuple[np.ndarray, int]:
    """The `runs` of a SharedOperand, from the bytes of its index; elements of `size` bytes."""
    return equal_runs(np.frombuffer(index, np.int32), size)


def check_shared(cta, operand: SharedOperand, inst) -> None:
    if operand.start + operand.extent > cta.shared.nbytes:
        raise OutOfBounds(
            f"matrix at shared offset {operand.start:#x} ends at {operand.start + operand.extent:#x}, "
            f"shared memory of CTA {cta.rank} at {cta.shared.nbytes:#x}",
            **at(inst),
        )


def check_tmem(cta, path, address: int, columns: int, name: str, inst) -> None:
    lane, column = split_address(address)
    if lane not in (0, path.lane_step):
        allowed = "0 or 16" if path.lane_step else "0"
        raise TmemError(f"matrix {name} at lane {lane}: this shape needs lane {allowed}", **at(inst))
    cta.tmem.check_columns(column, columns, at(inst))


def _prepare_commit(inst) -> int:
    known = {"cta_group::1", "cta_group::2", "mbarrier::arrive::one", "shared::cluster", "multicast::cluster", "b64"}
    wrong = [m for m in inst.mods if m not in known]
    require(inst, not wrong, f"modifier .{'.'.join(wrong)} of {inst.name} is not implemented")
    require(inst, "mbarrier::arrive::one" in inst.mods, f"{inst.name} needs .mbarrier::arrive::one")
    expected = 1 + ("multicast::cluster" in inst.mods)
    require(inst, len(inst.operands) == expected, f"{len(inst.operands)} operands, expected {expected}")
    return cta_group(inst)


@op("tcgen05.commit", prepare=_prepare_commit, writes=0, native=mma_native.commit_arguments)
def commit(warp, inst, mask: int):
    """Per thread: arrive on an mbarrier (or on those of several CTAs) when what was issued before is complete."""
    cta = warp.cta
    for lane in lane_list(mask):
        address = lane_address(warp, inst.operands[0], lane)
        target, offset = shared_address(
            cta, address, 8, inst, generic="shared::cluster" not in inst.mods, align=8, cluster=True
        )
        targets = [target]
        if "multicast::cluster" in inst.mods:
            ranks = lane_word(warp, inst.operands[1], lane) & 0xFFFF
            if ranks >> len(cta.cluster) or not ranks:
                raise OutOfBounds(f"ctaMask {ranks:#06x} in a cluster of {len(cta.cluster)}", **at(inst))
            targets = [member for member in cta.cluster if ranks >> member.rank & 1]

        def run(targets=targets, offset=offset):
            for member in targets:
                mbarrier.arrive(member, offset, 1, inst)

        if cta.grid.observer is not None:
            run = cta.grid.observer.commit(warp, inst, targets, offset, run)
        cta.grid.asyncs.submit(cta, unit(cta, inst.data), run, f"tcgen05.commit, line {inst.line}")


_NARROW = {"b6x16_p32": 6, "b4x16_p64": 4}  # source formats: 16 elements of so many bits and padding take 16 bytes


@dataclass(frozen=True, slots=True)
class Copy:
    """A decoded tcgen05.cp; see COPY_SHAPES. bits: of the elements that become bytes, 8: nothing changes."""

    group: int
    bits: int
    rows: int
    row_bytes: int
    blocks: tuple


def narrow_elements(shared: np.ndarray, places: np.ndarray, bits: int) -> np.ndarray:
    """uint32 elements of 4 or 6 bits, of which 16 lie without gaps at the start of every 16 bytes; `places`: offsets in
    shared memory, which count elements in their lowest four bits."""
    bit = (places & 15) * bits
    byte = (places & ~15) + (bit >> 3)
    two = shared[byte].astype(np.uint32) | shared[byte + 1].astype(np.uint32) << 8
    return two >> (bit & 7).astype(np.uint32) & (1 << bits) - 1


def _prepare_copy(inst) -> Copy:
    group = cta_group(inst)
    rest = [m for m in inst.mods if not m.startswith("cta_group::")]
    bits = 8
    if rest[-2:-1] == ["b8x16"] and rest[-1] in _NARROW:
        bits = _NARROW[rest[-1]]
        rest = rest[:-2]
    key = (rest[0] if rest else "", rest[1] if len(rest) > 1 else "")
    require(
        inst,
        len(rest) in (1, 2) and key in COPY_SHAPES,
        f"modifiers .{'.'.join(rest)} of tcgen05.cp are not implemented (known: "
        f"{', '.join('.' + '.'.join(filter(None, k)) for k in COPY_SHAPES)})",
    )
    return Copy(group, bits, *COPY_SHAPES[key])


@op("tcgen05.cp", prepare=_prepare_copy, writes=0)
def copy(warp, inst, mask: int):
    """Per thread: shared memory to Tensor Memory, of this CTA or of both CTAs of the pair."""
    cta, form = warp.cta, inst.data
    for lane in lane_list(mask):
        address = lane_address(warp, inst.operands[0], lane)
        try:
            source = shared_operand(lane_long(warp, inst.operands[1], lane), form.rows, form.row_bytes // 4, 4)
        except ValueError as error:
            raise unsupported(inst, str(error)) from None
        members = members_of(cta, form.group, inst)
        first_lane, column = split_address(address)
        height = form.rows // len(form.blocks)
        if first_lane + height > 32:
            raise TmemError(f"tcgen05.cp of {height} rows a quarter to lane {first_lane} of each", **at(inst))
        for member in members:
            check_shared(member, source, inst)
            member.tmem.check_columns(column, form.row_bytes // 4, at(inst))

        def run(members=members, source=source, column=column, first_lane=first_lane, height=height):
            for member in members:
                data = _copied(member.shared, source, form.bits)
                for block, lanes in enumerate(form.blocks):
                    for first in lanes:
                        rows = slice(first_lane + first, first_lane + first + height)
                        member.tmem.words[rows, column : column + form.row_bytes // 4] = data[
                            height * block : height * (block + 1)
                        ]

        if cta.grid.observer is not None:
            lanes = [np.arange(first, first + height) for block in form.blocks for first in block]
            place = ((np.concatenate(lanes) + first_lane) * TMEM_COLUMNS + column, form.row_bytes // 4)
            cta.grid.observer.tensor_copy(warp, inst, members, source, place)
        cta.grid.asyncs.submit(cta, unit(cta, form.group), run, f"tcgen05.cp, line {inst.line}")


def _copied(shared: np.ndarray, source: SharedOperand, bits: int) -> np.ndarray:
    """uint32 [rows, words] that a tcgen05.cp writes: 4-bit elements in bits 5:2, 6-bit ones in bits 6:1 of their bytes
    (9.7.16.9.1, whose figures are absent from the text; see numerics.format_in_tmem)."""
    words = source.start + source.index
    if bits == 8:
        return shared.view(np.uint32)[words >> 2]
    places = (words[..., None] + np.arange(4)).reshape(len(words), -1)
    elements = narrow_elements(shared, places, bits) << (8 - bits) // 2
    return np.ascontiguousarray(elements.astype(np.uint8)).view(np.uint32)


def _prepare_shift(inst) -> int:
    rest = [m for m in inst.mods if not m.startswith("cta_group::")]
    require(inst, rest == ["down"], f"{inst.opcode} is not implemented")
    return cta_group(inst)


@op("tcgen05.shift", prepare=_prepare_shift, writes=0)
def shift(warp, inst, mask: int):
    """Per thread: move the rows of a quarter's 32 lanes down by one, in this CTA or in both of the pair."""
    cta, group = warp.cta, inst.data
    for lane in lane_list(mask):
        first, column = split_address(lane_address(warp, inst.operands[0], lane))
        if first % 32:
            raise TmemError(f"tcgen05.shift at lane {first}: must be a multiple of 32", **at(inst))
        members = members_of(cta, group, inst)
        for member in members:
            member.tmem.check_columns(column, SHIFT_COLUMNS, at(inst))

        def run(members=members, first=first, column=column):
            for member in members:
                member.tmem.shift_rows(first, column)

        if cta.grid.observer is not None:
            rows = (first + np.arange(32)) * TMEM_COLUMNS + column
            cta.grid.observer.tensor_shift(warp, inst, members, rows, SHIFT_COLUMNS)
        cta.grid.asyncs.submit(cta, unit(cta, group), run, f"tcgen05.shift, line {inst.line}")
