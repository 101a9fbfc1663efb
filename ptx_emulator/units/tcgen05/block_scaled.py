"""Block-scaled tcgen05.mma: kind::mxf8f6f4, mxf4 and mxf4nvf4 (PTX ISA 9.7.16.10.7, 9.7.16.10.9.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import TmemError
from ...ir import Address
from ...machine.warp import lane_list, require
from ...registry import op, unsupported
from ..numerics.floating import FORMATS, decode, format_in_tmem
from ..numerics.scaled import decode_scales, multiply_scaled
from ..per_thread import lane_address, lane_long, lane_word
from .layout import K_BYTES, PADDED_BITS, TMEM_COLUMNS, TMEM_LANES, DataPath, data_path
from .load_store import at, cta_group, members_of
from .mma import COLLECTOR_OPS, SharedOperand, check_shared, check_tmem, narrow_elements, shared_operand, unit
from .scaled_layout import FACTORS, ScaledDescriptor, decode_scaled_descriptor, scale_cells
from .tmem import split_address

_ID_BITS = 3 << 30  # of a scale factor address: CUTLASS keeps the factor's ID there


@dataclass(frozen=True, slots=True)
class ScaledMma:
    """A decoded block-scaled tcgen05.mma. `factors`: see ScaledDescriptor."""

    kind: str
    factors: int
    group: int


@dataclass(frozen=True, slots=True)
class ScaledPlan:
    """What descriptors and addresses say. `a` None: in Tensor Memory, at (lane, column) a_place. scale_a, scale_b: the
    columns with the scale factors."""

    shape: ScaledDescriptor
    path: DataPath
    a: SharedOperand | None
    b: SharedOperand
    place: tuple[int, int]
    a_place: tuple[int, int]
    scale_a: int
    scale_b: int


def _prepare(inst) -> ScaledMma:
    group = cta_group(inst, inst.parts)
    kind = inst.name.split("kind::")[1]
    left = [m for m in inst.mods if m not in {f"collector::a::{o}" for o in COLLECTOR_OPS} | {"block_scale"}]
    size = left.pop(0) if left else ""
    known = ", ".join(f".{size}" for name, size in FACTORS if name == kind and size)
    require(
        inst, not left and (kind, size) in FACTORS, f"kind::{kind} with .{size} is not implemented (known: {known})"
    )
    addresses = inst.operands[4:6]
    require(
        inst,
        len(inst.operands) == 7 and all(isinstance(x, Address) for x in addresses),
        f"{len(inst.operands)} operands do not match the syntax of a block-scaled tcgen05.mma",
    )
    return ScaledMma(kind, FACTORS[kind, size], group)


@op(
    *(f"tcgen05.mma.cta_group::{group}.kind::{kind}" for group in (1, 2) for kind in ("mxf8f6f4", "mxf4", "mxf4nvf4")),
    prepare=_prepare,
    writes=0,
)
def block_scaled_mma(warp, inst, mask: int):
    """Per thread: D = (A * scale_A) * (B * scale_B) (+ D) of one K step."""
    for lane in lane_list(mask):
        _issue(warp, inst, lane)


def _issue(warp, inst, lane: int) -> None:
    form, cta = inst.data, warp.cta
    grid = cta.grid
    plan = _plan(warp, inst, lane)
    members = members_of(cta, form.group, inst)
    d_address = lane_address(warp, inst.operands[0], lane)
    for member in members:
        check_tmem(member, plan.path, d_address, plan.path.width, "D", inst)
        for operand in filter(None, (plan.a, plan.b)):
            check_shared(member, operand, inst)
        if plan.a is None:
            check_tmem(member, plan.path, lane_address(warp, inst.operands[1], lane), K_BYTES // 4, "A", inst)
        member.tmem.check_columns(plan.scale_a, -(-plan.path.a_rows // 32), at(inst))
        member.tmem.check_columns(plan.scale_b, -(-plan.path.width // 32), at(inst))
    keep = bool(lane_word(warp, inst.operands[6], lane))

    def run():
        _execute(plan, members, keep)

    if grid.observer is not None:
        parts = [(member, *_touched(plan)) for member in members]
        grid.observer.scaled_mma(warp, inst, parts, accumulate=keep)
    grid.counters["tcgen05_mma"] += 1
    grid.counters["tcgen05_macs"] += plan.shape.m * plan.shape.n * plan.shape.k
    rows = plan.shape.n + (plan.shape.m if plan.a is not None else 0)
    grid.counters["tcgen05_shared_bytes"] += rows * K_BYTES
    grid.asyncs.submit(cta, unit(cta, form.group), run, f"tcgen05.mma, line {inst.line}")


def _plan(warp, inst, lane: int) -> ScaledPlan:
    form = inst.data
    a_operand = inst.operands[1]
    a_in_tmem = isinstance(a_operand, Address)
    try:
        shape = decode_scaled_descriptor(lane_word(warp, inst.operands[3], lane), form.kind, form.factors, form.group)
        if a_in_tmem and shape.a_mn_major:
            raise ValueError("matrix A in Tensor Memory cannot be transposed")
        b = shared_operand(lane_long(warp, inst.operands[2], lane), shape.n // form.group, K_BYTES, 1, shape.b_mn_major)
        a = None
        if not a_in_tmem:
            a = shared_operand(lane_long(warp, a_operand, lane), shape.m // form.group, K_BYTES, 1, shape.a_mn_major)
    except ValueError as error:
        raise unsupported(inst, str(error)) from None
    columns = []
    for name, operand, scale_id in (("A", inst.operands[4], shape.a_id), ("B", inst.operands[5], shape.b_id)):
        address = lane_address(warp, operand, lane)
        scale_lane, column = split_address(address & ~_ID_BITS)
        if scale_lane or address >> 30 not in (0, scale_id):
            raise TmemError(
                f"scale factors {name} at address {address:#010x}: must start at lane 0, and bits 30 and 31 be 0 or "
                f"the descriptor's ID {scale_id}",
                **at(inst),
            )
        columns.append(column)
    path = data_path(shape.m, shape.n, False, form.group)
    place = split_address(lane_address(warp, inst.operands[0], lane))
    a_place = split_address(lane_address(warp, a_operand, lane)) if a_in_tmem else (0, 0)
    return ScaledPlan(shape, path, a, b, place, a_place, *columns)


def _execute(plan: ScaledPlan, members, keep: bool) -> None:
    shape, path = plan.shape, plan.path
    nibbles = shape.k == 2 * K_BYTES
    b_raw = np.concatenate([_gather(member.shared, plan.b, shape.b_type, nibbles) for member in members])
    b = decode(np.ascontiguousarray(b_raw.T), FORMATS[shape.b_type], shape.b_negate)
    for member in members:
        words, segments = member.tmem.words, path.segments
        rows, lanes = segments[:, 0], segments[:, 1]
        columns = np.arange(path.width)
        scales_b = np.stack(
            [
                _factors(words, columns, np.full(path.width, q), plan.scale_b, shape, shape.b_id)
                for q in range(0, 128, 32)
            ]
        )
        scales_a = _factors(words, rows, lanes, plan.scale_a, shape, shape.a_id)
        if plan.a is None:
            segments = segments.copy()
            segments[:, 0] = np.arange(len(segments))
            lane, column = plan.a_place
            held = np.ascontiguousarray(words[lanes + lane, column : column + K_BYTES // 4]).view(np.uint8)
            a_raw = _nibbles(held) if nibbles else held.astype(np.uint32)
        else:
            a_raw = _gather(member.shared, plan.a, shape.a_type, nibbles)
        a_format = format_in_tmem(shape.a_type) if plan.a is None else FORMATS[shape.a_type]
        a = decode(np.ascontiguousarray(a_raw), a_format, shape.a_negate)
        lane, column = plan.place
        decoded = [decode_scales(raw, shape.scale_type) for raw in (scales_a, scales_b)]
        multiply_scaled(a, b, *decoded, words[lane:], segments, column, path.width, keep)


def _factors(words, rows, lanes, column: int, shape: ScaledDescriptor, first: int) -> np.ndarray:
    """uint8 [rows, factors]: scale factors of `rows` for results in `lanes`, the first in byte `first` of a word."""
    found = np.ascontiguousarray(words[scale_cells(rows, lanes, column)])
    return found.view(np.uint8).reshape(-1, 4)[:, first : first + shape.factors]


def _gather(shared: np.ndarray, operand: SharedOperand, type_: str, nibbles: bool) -> np.ndarray:
    """uint32 [rows, K] containers of an operand in shared memory."""
    places = operand.index + operand.start
    bits = PADDED_BITS.get(type_, 8)
    if nibbles:
        return _nibbles(shared[places])
    if bits == 8:
        return shared[places].astype(np.uint32)
    return narrow_elements(shared, places, bits) << 6 - bits


def _nibbles(data: np.ndarray) -> np.ndarray:
    """uint32 [rows, 2 K] containers of 4-bit elements (in bits 5:2) from bytes that hold two, the first one low."""
    pairs = np.stack([data & 15, data >> 4], axis=-1).astype(np.uint32) << 2
    return pairs.reshape(len(data), -1)


def _touched(plan: ScaledPlan) -> tuple:
    """What an MMA touches in one CTA, as Observer.scaled_mma takes it."""
    lanes = plan.path.segments[:, 1]
    held = _scales_touched(plan)
    if plan.a is None:
        held.append(((lanes + plan.a_place[0]) * TMEM_COLUMNS + plan.a_place[1], K_BYTES // 4))
    d = ((lanes + plan.place[0]) * TMEM_COLUMNS + plan.place[1], plan.path.width)
    return [operand for operand in (plan.a, plan.b) if operand is not None], held, d


def _scales_touched(plan: ScaledPlan) -> list[tuple[np.ndarray, int]]:
    """(first cells, columns) of the scale factors, in every quarter of the lanes."""
    lanes = np.arange(TMEM_LANES)
    result = []
    for column, rows in ((plan.scale_a, plan.path.a_rows), (plan.scale_b, plan.path.width)):
        used = lanes[lanes % 32 < rows]
        result.append((used * TMEM_COLUMNS + column, -(-rows // 32)))
    return result
