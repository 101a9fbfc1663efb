"""Tensor core instructions of single threads: tcgen05.mma, .mma.ws, .cp, .commit (PTX ISA 9.7.16.9, .10, .12).

All of a CTA's (or CTA pair's) operations run in the order of issue; when, the launch's order policy chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit

from .. import barriers, numerics
from ..errors import OutOfBounds, TmemError
from ..ir import Address, Imm, Vector
from ..registry import op, unsupported
from ..tcgen05_layout import (
    COPY_SHAPES,
    K_BYTES,
    TMEM_COLUMNS,
    data_path,
    decode_instruction_descriptor,
    decode_shared_descriptor,
    operand_map,
)
from ..tmem import split_address
from ..warp import lane_list, require
from .per_thread import lane_address, lane_long, lane_word
from .tcgen05 import at, cta_group, peer, shared_address

_KINDS = ("kind::f16", "kind::tf32", "kind::f8f6f4")
_COLLECTOR_OPS = ("fill", "use", "lastuse", "discard")


@dataclass(frozen=True, slots=True)
class Mma:
    """A decoded tcgen05.mma. Fields after `group` are operands, or None where the instruction has none."""

    kind: str
    ws: bool
    group: int
    a: object
    disabled_lanes: object
    enable_input: object
    scale_log2: int
    zero_columns: object


def _prepare_mma(inst) -> Mma:
    ws = inst.name == "tcgen05.mma.ws"
    buffers = ("b0", "b1", "b2", "b3") if ws else ("a",)
    collectors = {f"collector::{b}::{o}" for b in buffers for o in _COLLECTOR_OPS}
    group = cta_group(inst)
    kinds = [m for m in inst.mods if m in _KINDS]
    require(inst, len(kinds) == 1, f"{inst.name} needs one of .{', .'.join(_KINDS)}")
    # Which buffer a matrix is read from does not change the result (9.7.16.10): collector qualifiers are hints.
    wrong = [m for m in inst.mods if m not in collectors and m not in _KINDS and not m.startswith("cta_group::")]
    require(inst, not wrong, f"modifier .{'.'.join(wrong)} of {inst.name} is not implemented")
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
        good = isinstance(left[1], Imm) and 0 <= left[1].value <= 15 and kinds[0] != "kind::f8f6f4"
        require(inst, good, "scale-input-d must be an immediate from 0 to 15, with kind::f16 or kind::tf32")
        scale = left[1].value
    return Mma(kinds[0][6:], ws, group, inst.operands[1], lanes, enable, scale, zero_columns)


@op("tcgen05.mma", "tcgen05.mma.ws", prepare=_prepare_mma, writes=0)
def mma(warp, inst, mask: int):
    """Per thread: D = A * B (+ D) of one K step."""
    for lane in lane_list(mask):
        _mma(warp, inst, lane)


def _mma(warp, inst, lane: int) -> None:
    form, cta = inst.data, warp.cta
    grid = cta.grid
    d_operand, a_operand, b_operand, i_operand = inst.operands[:4]
    bits = lane_word(warp, i_operand, lane)
    try:
        shape = decode_instruction_descriptor(bits, form.kind, form.ws, form.group)
        b = _shared_operand(lane_long(warp, b_operand, lane), shape.n // form.group, shape, shape.b_mn_major, True)
        if isinstance(a_operand, Address):
            a = None
            a_address = lane_address(warp, a_operand, lane)
        else:
            rows = shape.m // form.group
            a = _shared_operand(lane_long(warp, a_operand, lane), rows, shape, shape.a_mn_major, False)
            a_address = 0
    except ValueError as error:
        raise unsupported(inst, str(error)) from None
    if form.zero_columns is not None and lane_long(warp, form.zero_columns, lane):
        raise unsupported(inst, "a zero-column mask descriptor other than 0 is not implemented")
    if a is None and shape.a_mn_major:
        raise unsupported(inst, "matrix A in Tensor Memory cannot be transposed")
    members = (cta,) if form.group == 1 else tuple(sorted((cta, peer(cta, inst)), key=lambda c: c.rank))
    path = data_path(shape.m, shape.n, form.ws, form.group)
    place = lane_address(warp, d_operand, lane)
    for member in members:
        _check_tmem(member, path, place, path.width, "D", inst)
        if a is None:
            _check_tmem(member, path, a_address, K_BYTES // 4, "A", inst)
        for operand in (a, b):
            if operand is not None:
                _check_shared(member, operand, inst)
    disabled = None
    if form.disabled_lanes is not None:
        disabled = np.array([lane_word(warp, w, lane) for w in form.disabled_lanes.elements], np.uint32)
    accumulate = bool(lane_word(warp, form.enable_input, lane))

    def run():
        b_raw = [gather(m.shared, b.index, b.start, shape.element_bytes) for m in members]
        b_matrix = numerics.decode(
            np.concatenate(b_raw, axis=1) if len(b_raw) > 1 else b_raw[0],
            numerics.FORMATS[shape.b_type],
            shape.b_negate,
        )
        for i, member in enumerate(members):
            lanes = b"" if disabled is None else disabled[4 * i : 4 * i + 4].tobytes()
            _multiply(member, form, shape, a, a_address, b_matrix, place, lanes, accumulate)

    if grid.observer is not None:
        parts = [(m, *_touched(shape, path, place, a, a_address, b)) for m in members]
        grid.observer.mma(warp, inst, parts, accumulate=accumulate)
    grid.counters["tcgen05_mma"] += 1
    grid.counters["tcgen05_macs"] += shape.m * shape.n * shape.k
    grid.asyncs.submit(cta, unit(cta, form.group), run, f"{inst.name}, line {inst.line}")


def _touched(shape, path, place: int, a, a_address: int, b) -> tuple:
    """What an MMA touches in one CTA, as Observer.mma takes it."""
    operands = [chunks(operand, shape.element_bytes) for operand in (a, b) if operand is not None]
    lane, column = split_address(place)
    d = ((path.segments[:, 1] + lane) * TMEM_COLUMNS + column, path.width)
    if a is not None:
        return operands, None, d
    lane, column = split_address(a_address)
    return operands, ((path.segments[:, 1] + lane) * TMEM_COLUMNS + column, K_BYTES // 4), d


def chunks(operand: SharedOperand, element_bytes: int) -> tuple[np.ndarray, int]:
    """(offsets in shared memory, bytes from each) that an operand covers."""
    offsets, nbytes = _chunks(operand.index.tobytes(), element_bytes)
    return offsets + operand.start, nbytes


@lru_cache(maxsize=256)
def _chunks(index: bytes, element_bytes: int) -> tuple[np.ndarray, int]:
    offsets = np.frombuffer(index, np.int32).astype(np.int64)
    whole = np.unique(offsets & ~15)
    if len(whole) * 16 == len(offsets) * element_bytes:
        return whole, 16
    return np.unique(offsets), element_bytes


def unit(cta, group: int) -> tuple:
    """The queue in which a CTA's, or a CTA pair's, tensor core operations run in order."""
    return ("tcgen05", group, cta.rank if group == 1 else cta.rank & ~1)


@dataclass(frozen=True, slots=True)
class SharedOperand:
    """index: byte offsets from `start` of every element; the matrix ends before start + extent."""

    index: np.ndarray
    start: int
    extent: int


@lru_cache(maxsize=8192)
def _shared_operand(bits: int, rows: int, shape, mn_major: bool, transposed: bool) -> SharedOperand:
    descriptor = decode_shared_descriptor(bits)
    index, extent = operand_map(descriptor, rows, shape.k, shape.element_bytes, mn_major, transposed=transposed)
    return SharedOperand(index, descriptor.start, extent)


def _check_shared(cta, operand: SharedOperand, inst) -> None:
    if operand.start + operand.extent > cta.shared.nbytes:
        raise OutOfBounds(
            f"matrix at shared offset {operand.start:#x} ends at {operand.start + operand.extent:#x}, "
            f"shared memory of CTA {cta.rank} at {cta.shared.nbytes:#x}",
            **at(inst),
        )


def _check_tmem(cta, path, address: int, columns: int, name: str, inst) -> None:
    lane, column = split_address(address)
    if lane not in (0, path.lane_step):
        allowed = "0 or 16" if path.lane_step else "0"
        raise TmemError(f"matrix {name} at lane {lane}: this shape needs lane {allowed}", **at(inst))
    cta.tmem.check_columns(column, columns, at(inst))


@njit(nogil=True, cache=True)
def _gather(elements, index, start, shift, out):
    for i in range(index.shape[0]):
        for j in range(index.shape[1]):
            out[i, j] = elements[(start + index[i, j]) >> shift]


def gather(shared: np.ndarray, index: np.ndarray, start: int, element_bytes: int) -> np.ndarray:
    """Container bits, uint32 of the shape of `index`, of the elements at byte offsets start + index."""
    out = np.empty(index.shape, np.uint32)
    shift = element_bytes.bit_length() - 1
    _gather(shared.view(f"u{element_bytes}"), index, start, shift, out)
    return out


@lru_cache(maxsize=256)
def _segments(m: int, n: int, ws: bool, group: int, a_in_tmem: bool, lane: int, disabled: bytes) -> np.ndarray:
    """The data path's segments at an address' lane, without the disabled lanes. For A in Tensor Memory a segment's
    row of A is the segment itself: each reads the A of its own lane."""
    segments = np.array(data_path(m, n, ws, group).segments)
    if a_in_tmem:
        segments[:, 0] = np.arange(len(segments))
    segments[:, 1] += lane
    if disabled:
        bit = np.unpackbits(np.frombuffer(disabled, np.uint8), bitorder="little")
        segments = segments[bit[segments[:, 1]] == 0]
    segments.flags.writeable = False
    return segments


def _multiply(
    cta, form: Mma, shape, a, a_address: int, b_matrix, place: int, disabled: bytes, accumulate: bool
) -> None:
    """One CTA's rows of D."""
    lane, column = split_address(place)
    path = data_path(shape.m, shape.n, form.ws, form.group)
    if a is None:
        a_lane, a_column = split_address(a_address)
        words = cta.tmem.words[path.segments[:, 1] + a_lane, a_column : a_column + K_BYTES // 4]
        a_raw = words.view(f"u{shape.element_bytes}").astype(np.uint32)
    else:
        a_raw = gather(cta.shared, a.index, a.start, shape.element_bytes)
    a_matrix = numerics.decode(a_raw, numerics.FORMATS[shape.a_type], shape.a_negate)
    segments = _segments(shape.m, shape.n, form.ws, form.group, a is None, lane, disabled)
    numerics.mma_into(
        a_matrix,
        b_matrix,
        cta.tmem.words,
        segments,
        column,
        path.width,
        accumulate=accumulate,
        half=shape.d_type == "f16",
        scale_log2=form.scale_log2,
    )


def _prepare_commit(inst) -> int:
    known = {"cta_group::1", "cta_group::2", "mbarrier::arrive::one", "shared::cluster", "multicast::cluster", "b64"}
    wrong = [m for m in inst.mods if m not in known]
    require(inst, not wrong, f"modifier .{'.'.join(wrong)} of {inst.name} is not implemented")
    require(inst, "mbarrier::arrive::one" in inst.mods, f"{inst.name} needs .mbarrier::arrive::one")
    expected = 1 + ("multicast::cluster" in inst.mods)
    require(inst, len(inst.operands) == expected, f"{len(inst.operands)} operands, expected {expected}")
    return cta_group(inst)


@op("tcgen05.commit", prepare=_prepare_commit, writes=0)
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
                barriers.arrive(member, offset, 1, inst)

        if cta.grid.observer is not None:
            run = cta.grid.observer.commit(warp, inst, targets, offset, run)
        cta.grid.asyncs.submit(cta, unit(cta, inst.data), run, f"tcgen05.commit, line {inst.line}")


@dataclass(frozen=True, slots=True)
class Copy:
    """A decoded tcgen05.cp; see COPY_SHAPES."""

    group: int
    rows: int
    row_bytes: int
    blocks: tuple


def _prepare_copy(inst) -> Copy:
    group = cta_group(inst)
    rest = [m for m in inst.mods if not m.startswith("cta_group::")]
    key = (rest[0] if rest else "", rest[1] if len(rest) > 1 else "")
    require(
        inst,
        len(rest) in (1, 2) and key in COPY_SHAPES,
        f"modifiers .{'.'.join(rest)} of tcgen05.cp are not implemented (known: "
        f"{', '.join('.' + '.'.join(filter(None, k)) for k in COPY_SHAPES)})",
    )
    return Copy(group, *COPY_SHAPES[key])


@op("tcgen05.cp", prepare=_prepare_copy, writes=0)
def copy(warp, inst, mask: int):
    """Per thread: shared memory to Tensor Memory, of this CTA or of both CTAs of the pair."""
    cta, form = warp.cta, inst.data
    for lane in lane_list(mask):
        address = lane_address(warp, inst.operands[0], lane)
        try:
            source = _copy_operand(lane_long(warp, inst.operands[1], lane), form.rows, form.row_bytes)
        except ValueError as error:
            raise unsupported(inst, str(error)) from None
        members = (cta,) if form.group == 1 else (cta, peer(cta, inst))
        first_lane, column = split_address(address)
        if first_lane:
            raise TmemError(f"tcgen05.cp to lane {first_lane}: implemented for lane 0", **at(inst))
        for member in members:
            _check_shared(member, source, inst)
            member.tmem.check_columns(column, form.row_bytes // 4, at(inst))

        def run(members=members, source=source, column=column):
            for member in members:
                data = gather(member.shared, source.index, source.start, 4)
                for block, lanes in enumerate(form.blocks):
                    for first in lanes:
                        member.tmem.words[first : first + 32, column : column + form.row_bytes // 4] = data[
                            32 * block : 32 * block + 32
                        ]

        if cta.grid.observer is not None:
            lanes = np.concatenate([np.arange(first, first + 32) for block in form.blocks for first in block])
            place = (lanes * TMEM_COLUMNS + column, form.row_bytes // 4)
            cta.grid.observer.tensor_copy(warp, inst, members, chunks(source, 4), place)
        cta.grid.asyncs.submit(cta, unit(cta, form.group), run, f"tcgen05.cp, line {inst.line}")


@lru_cache(maxsize=1024)
def _copy_operand(bits: int, rows: int, row_bytes: int) -> SharedOperand:
    descriptor = decode_shared_descriptor(bits)
    index, extent = operand_map(descriptor, rows, row_bytes // 4, 4, False)
    return SharedOperand(index, descriptor.start, extent)
