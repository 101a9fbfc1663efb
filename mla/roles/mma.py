"""MMA role: issues every tcgen05.mma: the scores of a key tile slot by slot as its keys arrive, the output of a tile as
soon as its probabilities are there, in whatever order that happens. Each accumulator is summed in one order always.

Consumes: edges `work`, `query`, `keys`, `values` or `rope`, `probs`. Produces: edges `score`, `output`; frees `query`,
`keys`, `values` or `rope`, `probs` by commit. Warps: one, of which one thread issues; in a pair of CTAs only the
leader's. Registers: few.

A `tcgen05` fence follows the waits for roles that touched Tensor Memory (softmax, correction), none those for TMA.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32

from mla import operands
from mla.causal_mask import minimum
from mla.context import Context, has_work, read_work, release_work
from mla.memory_plan import CHUNK_BYTES, OUTPUT_N, KeySlot, mma_steps
from mla.paths import accumulator, path_of

AHEAD = 2  # scores are issued at most so many key tiles ahead of the output: as many as there are S buffers
CLOSED, WORK, QUERY = -3, -2, -1  # what comes next, if it is not the scores of a key slot
ENTRY_BITS, STARTS = 8, 16  # of Progress.pending


class Progress(NamedTuple):
    """What of the tensor core's work is issued.

    step: what comes next: WORK, the next work item; QUERY, its query; from 0 on, the scores of that key slot of the
    next tile; CLOSED where there is no more work. item, queries: work items so far, and those with keys.
    begin, tile, end: the item's first key tile, its next, and the one behind its last. keys: TilePhases.keys.
    scores: key tiles whose S is issued. outputs: halves of P*V that are. pending: the tiles between, the next P*V in
    the lowest ENTRY_BITS: its K steps, and STARTS where it starts O anew.
    """

    step: Any
    item: Any
    queries: Any
    begin: Any
    tile: Any
    end: Any
    keys: Any
    scores: Any
    outputs: Any
    pending: Any


@cute.jit
def run(ctx: cutlass.Constexpr):
    """Whatever is ready next, scores before output; nothing here waits for one while the other could go on, or the load
    role, which needs the slots that output frees, and this one would wait for each other.
    """
    progress = Progress(Int32(WORK), *(Int32(0) for _ in Progress._fields[1:]))
    while (progress.step != CLOSED) | (progress.outputs < progress.scores * ctx.plan.output_halves):
        if step_is_ready(ctx, progress):
            progress = take_step(ctx, progress)
        elif output_is_ready(ctx, progress):
            progress = output(ctx, progress)


@cute.jit
def step_is_ready(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """Whether what comes next has arrived, and scores have a buffer. Warp-uniform."""
    plan, step, count = ctx.plan, progress.step, progress.scores
    is_ready = Boolean(False)
    if step == WORK:
        is_ready = ctx.pipe("work").test_full(progress.item)
    elif step == QUERY:
        is_ready = ctx.pipe("query").test_full(progress.queries)
    elif count - progress.outputs // plan.output_halves <= AHEAD:
        if step == 0:
            # At most AHEAD tiles are pending: softmax frees the buffer before the first of them is ready.
            ctx.pipe("score").wait_empty(count)
            operands.fence_after_sync()
        for number, key_slot in enumerate(plan.key_slots):
            if step == number:
                is_ready = ctx.pipe(key_slot.edge).test_full(slot_count(ctx, count, key_slot))
    return is_ready


@cute.jit
def output_is_ready(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """Whether half of an output is pending, its probabilities are there, and O's half is given back. Warp-uniform."""
    halves = ctx.plan.output_halves
    is_ready = Boolean(False)
    if progress.outputs < progress.scores * halves:
        is_ready = ctx.pipe("probs").test_full(progress.outputs // halves)
        if is_ready:
            is_ready = ctx.pipe("output").test_empty(progress.outputs)
    return is_ready


@cute.jit
def take_step(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """Do what comes next. Returns the progress behind it."""
    plan = ctx.plan
    step = progress.step
    if step == WORK:
        progress = begin_work(ctx, progress)
    elif step == QUERY:
        path_of(plan).begin_item(ctx)
        progress = progress._replace(step=Int32(0))
    else:
        for number, key_slot in enumerate(plan.key_slots):
            if step == number:
                scores(ctx, progress.scores, key_slot)
        progress = progress._replace(step=step + 1)
        if step + 1 == len(plan.key_slots):
            progress = end_scores(ctx, progress)
    return progress


@cute.jit
def begin_work(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """The next work item, of which the other CTA of a pair does nothing here."""
    if has_work(ctx, progress.item):
        phases = read_work(ctx, progress.item).phases
        release_work(ctx, progress.item)
        step = cutlass.select_(ctx.is_leader & (phases.num_tiles > 0), Int32(QUERY), Int32(WORK))
        progress = progress._replace(
            step=step, item=progress.item + 1, begin=phases.begin, tile=phases.begin, end=phases.end, keys=phases.keys
        )
    else:
        progress = progress._replace(step=Int32(CLOSED))
    return progress


@cute.jit
def end_scores(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """All scores of a key tile are issued, of the work item's last tile all that read its query."""
    plan, count, tile = ctx.plan, progress.scores, progress.tile
    is_last = tile + 1 == progress.end
    with cute.arch.elect_one():
        path_of(plan).commit(ctx.pipe("score").full_barrier(count))
        if is_last:
            path_of(plan).commit(ctx.pipe("query").empty_barrier(progress.queries))
    visible = minimum(progress.keys - tile * plan.tile_tokens, plan.tile_tokens)
    entry = (visible + (plan.mma_k - 1)) // plan.mma_k
    entry = entry + cutlass.select_(tile == progress.begin, Int32(STARTS), Int32(0))
    return progress._replace(
        step=cutlass.select_(is_last, Int32(WORK), Int32(0)),
        queries=progress.queries + Int32(is_last),
        tile=tile + 1,
        scores=count + 1,
        pending=progress.pending | (entry << (ENTRY_BITS * (count - progress.outputs // plan.output_halves))),
    )


def slot_count(ctx: Context, count: Any, key_slot: KeySlot) -> Any:
    """Where in its ring a slot of key tile `count` comes."""
    return count * ctx.plan.rings[key_slot.edge].tile_slots + key_slot.number


def scores(ctx: Context, count: Any, key_slot: KeySlot) -> None:
    """The part of S(count) whose keys lie in one ring slot, which has arrived."""
    ring, slot = ctx.pipe(key_slot.edge), slot_count(ctx, count, key_slot)
    with cute.arch.elect_one():
        issue_scores(ctx, count, slot, key_slot)
        if key_slot.edge != ctx.plan.value_edge:
            path_of(ctx.plan).commit(ring.empty_barrier(slot))


@cute.jit
def output(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """The next half of the output, O (+)= P V over the K steps that the tile has. Returns the progress behind it."""
    plan, tile = ctx.plan, progress.outputs // ctx.plan.output_halves
    operands.fence_after_sync()
    for half in cutlass.range_constexpr(plan.output_halves):
        if progress.outputs % plan.output_halves == half:
            multiply_half(ctx, tile, half, progress.pending)
    is_last = (progress.outputs + 1) % plan.output_halves == 0
    with cute.arch.elect_one():
        path_of(plan).commit(ctx.pipe("output").full_barrier(progress.outputs))
        if is_last:
            path_of(plan).commit(ctx.pipe("probs").empty_barrier(tile))
    pending = progress.pending >> cutlass.select_(is_last, Int32(ENTRY_BITS), Int32(0))
    return progress._replace(outputs=progress.outputs + 1, pending=pending)


@cute.jit
def multiply_half(ctx: cutlass.Constexpr, tile: Int32, half: cutlass.Constexpr, entry: Int32):
    """P*V of one half of O, slot by slot of the values. entry: the tile's of Progress.pending, or more."""
    plan, ring = ctx.plan, ctx.pipe(ctx.plan.value_edge)
    steps, accumulate = entry & (STARTS - 1), entry & STARTS == 0
    first = tile * plan.rings[plan.value_edge].tile_slots
    for part in [part for part in plan.value_parts if part.half == half]:
        if cutlass.const_expr(not plan.keys_are_values):
            for number in part.slots:
                ring.wait_full(first + number)
        with cute.arch.elect_one():
            issue_output(ctx, part, tile, first + part.slots[0], steps, accumulate)
            for number in part.slots:
                path_of(plan).commit(ring.empty_barrier(first + number))


def issue_scores(ctx: Context, count: Any, slot: Any, key_slot: KeySlot) -> None:
    """The part of S(count) whose keys lie in slot `slot` of their ring. One thread."""
    plan, path = ctx.plan, path_of(ctx.plan)
    idesc = operands.instruction_descriptor(ctx.config.dtype, path.MMA_M, plan.tile_tokens, b_is_mn_major=False)
    address = ctx.smem + ctx.slot_offset(key_slot.edge, slot)
    for number, offset in key_slot.spans:
        row_bytes = plan.spans[number].bytes
        keys = operands.smem_descriptor(address + offset, row_bytes=row_bytes)
        for step in mma_steps(row_bytes):
            path.multiply(
                ctx,
                accumulator.score_address(ctx, count),
                query_operand(ctx, number, step),
                operands.advance(keys, step),
                idesc,
                number > 0 or step > 0,
            )


def query_operand(ctx: Context, number: int, step: int) -> Any:
    """A operand: Q's span `number`, from byte `step` on, in Tensor Memory or in shared memory."""
    plan = ctx.plan
    if number < plan.query_tmem_spans:
        return operands.tmem_pointer(ctx.tmem + (plan.query_column + number * plan.span_columns + step // 4))
    offset = plan.query_offset + number * plan.query_chunk_bytes
    return operands.advance(operands.smem_descriptor(ctx.smem + offset), step)


@cute.jit
def issue_output(
    ctx: cutlass.Constexpr,
    part: cutlass.Constexpr,
    tile: Int32,
    slot: Int32,
    steps: Int32,
    accumulate: cutlass.Boolean,
):
    """P(tile) times one part of the values, which start in slot `slot` of their ring, if the tile has `steps` K steps.
    One thread.
    """
    plan, config = ctx.plan, ctx.config
    values = operands.smem_descriptor(ctx.smem + ctx.slot_offset(plan.value_edge, slot), plan.value_chunk_bytes)
    probs = operands.smem_descriptor(ctx.smem + ctx.probs_offset(tile))
    idesc = operands.instruction_descriptor(config.dtype, path_of(plan).MMA_M, OUTPUT_N, b_is_mn_major=True)
    for token in cutlass.range_constexpr(part.first_token, part.first_token + part.tokens, plan.mma_k):
        if steps > token // plan.mma_k:
            path_of(plan).multiply(
                ctx,
                accumulator.output_address(ctx, part.half),
                operands.advance(probs, probs_offset(ctx, token)),
                operands.advance(values, (token - part.first_token) * CHUNK_BYTES),
                idesc,
                accumulate | (token > 0),
            )


def probs_offset(ctx: Context, token: int) -> int:
    """Byte offset, in a buffer of P, of the A operand from token `token` of the tile on: rows of 128 bytes."""
    position = token * ctx.config.element_bytes
    return position // CHUNK_BYTES * ctx.plan.probs_chunk_bytes + position % CHUNK_BYTES
