"""MMA role: issues every tcgen05.mma: the scores of a key tile slot by slot as its keys arrive, the output of a tile as
soon as its probabilities are there, in whatever order that happens. Each accumulator is summed in one order always.

Consumes: edges `work`, `query`, `keys`, `rope`, `values`, `probs`. Produces: edges `score`, `output`; frees `query`,
`keys`, `rope`, `values`, `probs` by commit. Warps: one, of which one thread issues; in a pair of CTAs only the
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
from mla.context import Context, has_work, read_work
from mla.memory_plan import CHUNK_BYTES, OUTPUT_N, KeySlot, mma_steps
from mla.paths import accumulator, path_of

AHEAD = 2  # scores are issued at most so many key tiles ahead of the output: as many as there are S buffers
CLOSED, WORK, QUERY = -3, -2, -1  # what comes next, if it is not the scores of a key slot
COPY_BYTES = 16  # of a row, per tcgen05.cp
COPY_COLUMNS = COPY_BYTES // 4
ENTRY_BITS, STARTS = 8, 16  # of Progress.pending


class Progress(NamedTuple):
    """What of the tensor core's work is issued.

    step: what comes next: WORK, the next work item; QUERY, its query; from 0 on, the scores of that key slot of the
    next tile; CLOSED where there is no more work. item, queries: work items so far, and those with keys.
    begin, tile, end: the item's first key tile, its next, and the one behind its last. keys: TilePhases.keys.
    scores: key tiles whose S is issued. outputs: halves of P*V that are. pending: the tiles between, the next P*V in
    the lowest ENTRY_BITS: its K steps, and STARTS where it starts O anew. begun: work items of which P*V has begun.
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
    begun: Any


@cute.jit
def run(ctx: cutlass.Constexpr):
    """Whatever is ready next. Nothing here waits for one thing while another could go on: the load role needs the slots
    that outputs free, so that the two would wait for each other. One thread decides, so that no warp has to agree.
    """
    with cute.arch.elect_one():
        progress = Progress(Int32(WORK), *(Int32(0) for _ in Progress._fields[1:]))
        while (progress.step != CLOSED) | (progress.outputs < progress.scores * ctx.plan.output_halves):
            progress = advance(ctx, progress)
            if output_is_ready(ctx, progress):
                progress = output(ctx, progress)


@cute.jit
def advance(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """What comes next, as far as it has arrived, up to the end of a key tile. Returns the progress behind it."""
    plan, count = ctx.plan, progress.scores
    if progress.step == WORK:
        if ctx.pipe("work").test_full(progress.item):
            progress = begin_work(ctx, progress)
    if progress.step == QUERY:
        if query_is_ready(ctx, progress):
            copy_query(ctx, progress)
            progress = progress._replace(step=Int32(0))
    if (progress.step >= 0) & (count - progress.outputs // plan.output_halves <= AHEAD):
        step = progress.step
        for number, key_slot in enumerate(plan.key_slots):
            if step == number:
                if keys_are_ready(ctx, progress, key_slot):
                    if cutlass.const_expr(number == 0):
                        # At most AHEAD tiles are pending: softmax frees the buffer before the first of them is ready.
                        ctx.pipe("score").wait_empty(count)
                        operands.fence_after_sync()
                    scores(ctx, progress, key_slot)
                    step = step + 1
        progress = progress._replace(step=step)
        if step == len(plan.key_slots):
            progress = end_scores(ctx, progress)
    return progress


@cute.jit
def keys_are_ready(ctx: cutlass.Constexpr, progress: cutlass.Constexpr, key_slot: cutlass.Constexpr):
    """Whether a slot of the next tile's keys has arrived, and the query that it is multiplied with."""
    is_ready = ctx.pipe(key_slot.edge).test_full(slot_count(ctx, progress, key_slot))
    if cutlass.const_expr(key_slot.spans[-1][0] >= ctx.plan.query_tmem_spans):
        if is_ready:
            is_ready = ctx.pipe("query").test_full(progress.queries)
    return is_ready


@cute.jit
def query_is_ready(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """Whether what is copied of the next query has arrived, and Tensor Memory has room: the scores before are complete.
    """
    ring = ctx.plan.rings["keys"]
    is_ready = ctx.pipe("keys").test_full(ring.count(progress.queries, progress.scores, ring.item_slots - 1))
    if is_ready:
        is_ready = ctx.pipe("keys").test_full(ring.count(progress.queries, progress.scores))
    if is_ready & (progress.scores > 0):
        is_ready = ctx.pipe("score").test_full(progress.scores - 1)
    return is_ready


@cute.jit
def output_is_ready(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """Whether half of an output is pending, its probabilities are there, and O's half is given back."""
    halves = ctx.plan.output_halves
    is_ready = Boolean(False)
    if progress.outputs < progress.scores * halves:
        is_ready = ctx.pipe("probs").test_full(progress.outputs // halves)
        if is_ready:
            is_ready = ctx.pipe("output").test_empty(progress.outputs)
    return is_ready


@cute.jit
def begin_work(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """The next work item, of which the other CTA of a pair does nothing here."""
    if has_work(ctx, progress.item):
        phases = read_work(ctx, progress.item).phases
        ctx.pipe("work").arrive_empty(progress.item)
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


def slot_count(ctx: Context, progress: Progress, key_slot: KeySlot) -> Any:
    """Where in its ring a slot of the next key tile comes."""
    return ctx.plan.rings[key_slot.edge].count(progress.queries + 1, progress.scores, key_slot.number)


def copy_query(ctx: Context, progress: Progress) -> None:
    """The next query's part that is kept in Tensor Memory, from slots of the ring of keys. The copies run before the
    multiplications issued behind them (PTX ISA 9.7.16.6.2).
    """
    plan, keys, ring = ctx.plan, ctx.pipe("keys"), ctx.plan.rings["keys"]
    operands.fence_after_sync()
    for number in range(plan.query_tmem_spans):
        slot = ring.count(progress.queries, progress.scores, number // plan.query_slot_chunks)
        place = ctx.slot_offset("keys", slot) + number % plan.query_slot_chunks * plan.query_chunk_bytes
        source = operands.smem_descriptor(ctx.smem + place)
        target = ctx.tmem + (plan.query_column + number * plan.span_columns)
        for unit in range(CHUNK_BYTES // COPY_BYTES):
            path_of(plan).copy_to_tmem(target + unit * COPY_COLUMNS, operands.advance(source, unit * COPY_BYTES))
        if (number + 1) % plan.query_slot_chunks == 0:
            path_of(plan).commit(keys.empty_barrier(slot))


def scores(ctx: Context, progress: Progress, key_slot: KeySlot) -> None:
    """The part of the next tile's scores whose keys lie in one ring slot, which has arrived."""
    ring, slot = ctx.pipe(key_slot.edge), slot_count(ctx, progress, key_slot)
    issue_scores(ctx, progress.scores, slot, key_slot)
    if key_slot.edge != ctx.plan.value_edge:
        path_of(ctx.plan).commit(ring.empty_barrier(slot))


@cute.jit
def output(ctx: cutlass.Constexpr, progress: cutlass.Constexpr):
    """The next half of the output, O (+)= P V over the K steps that the tile has. Returns the progress behind it."""
    plan, tile = ctx.plan, progress.outputs // ctx.plan.output_halves
    begun = progress.begun
    if (progress.outputs % plan.output_halves == 0) & (progress.pending & STARTS != 0):
        begun = begun + 1
    operands.fence_after_sync()
    for half in cutlass.range_constexpr(plan.output_halves):
        if progress.outputs % plan.output_halves == half:
            multiply_half(ctx, tile, begun, half, progress.pending)
    is_last = (progress.outputs + 1) % plan.output_halves == 0
    path_of(plan).commit(ctx.pipe("output").full_barrier(progress.outputs))
    if is_last:
        path_of(plan).commit(ctx.pipe("probs").empty_barrier(tile))
    pending = progress.pending >> cutlass.select_(is_last, Int32(ENTRY_BITS), Int32(0))
    return progress._replace(outputs=progress.outputs + 1, pending=pending, begun=begun)


@cute.jit
def multiply_half(ctx: cutlass.Constexpr, tile: Int32, items: Int32, half: cutlass.Constexpr, entry: Int32):
    """P*V of one half of O, slot by slot of the values. items: work items up to the tile's. entry: its own of
    Progress.pending in the lowest bits.
    """
    plan, ring = ctx.plan, ctx.pipe(ctx.plan.value_edge)
    steps, accumulate = entry & (STARTS - 1), entry & STARTS == 0
    first = plan.rings[plan.value_edge].count(items, tile)
    for part in [part for part in plan.value_parts if part.half == half]:
        if cutlass.const_expr(not plan.keys_are_values):
            for number in part.slots:
                ring.wait_full(first + number)
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
    offset = plan.query_offset + plan.query_chunks_kept.index(number) * plan.query_chunk_bytes
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
