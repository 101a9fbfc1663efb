"""Wide path: a pair of CTAs, M = 128 rows, tcgen05.mma.cta_group::2, B operands split over the pair.

S[128, 128] = Q[128, 576] K[128, 576]^T; O[128, 512] += P[128, 128] V[128, 512]. CTA c holds rows 64 c .. 64 c + 63 of
Q, P, S and O. An instruction's B has half of its rows in each CTA: of K, the tokens 64 c .. 64 c + 63 of the tile; of
V, of each 256 latent dimensions the 128 from 128 c on, for all tokens. So K, split by tokens, cannot be read again as
V, split by dimensions, and V is loaded apart. One thread of the leading CTA issues for both.

The leading spans of Q are copied to Tensor Memory once per work item: as A operands they then cost no shared-memory
bandwidth, which is what binds this path (see MemoryPlan.tile_traffic_bytes).
"""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute

from mla import operands
from mla.context import Column, Context, Slot
from mla.memory_plan import CHUNK_BYTES, OUTPUT_N

MMA_M = 128
COPY_BYTES = 16  # of a row, per tcgen05.cp
COPY_COLUMNS = COPY_BYTES // 4

commit = operands.commit_pair


def multiply(ctx: Context, accumulator: Any, a: Any, b: Any, idesc: int, accumulate: Any) -> None:
    """accumulator (+)= A B over one K step, in both CTAs. One thread of the leader."""
    operands.mma_pair(ctx.config.dtype, accumulator, a, b, idesc, accumulate)


def begin_item(ctx: Context) -> None:
    """Copy what of Q is kept in TMEM. The copies run before the multiplications issued behind them (PTX ISA
    9.7.16.6.2); those of the item before are complete, or Q would not have been loaded.
    """
    plan = ctx.plan
    with cute.arch.elect_one():
        for number, span in enumerate(plan.spans[: plan.query_tmem_spans]):
            source = operands.smem_descriptor(ctx.smem + (plan.query_offset + number * plan.query_chunk_bytes))
            target = ctx.tmem + (plan.query_column + number * plan.span_columns)
            for unit in range(span.bytes // COPY_BYTES):
                operands.copy_rows_to_tmem(target + unit * COPY_COLUMNS, operands.advance(source, unit * COPY_BYTES))


def value_slot(ctx: Context, number: Any) -> Slot:
    """What this CTA loads for a tile's value slot `number`: 128 latent dimensions, in chunks of 128 bytes."""
    plan = ctx.plan
    half_slots = plan.tile_tokens // plan.value_tokens
    half, first_token = number // half_slots, number % half_slots * plan.value_tokens
    chunks = plan.value_dims * ctx.config.element_bytes // CHUNK_BYTES
    first = half * (OUTPUT_N // plan.chunk_elements) + ctx.cta_rank * chunks
    columns = [
        Column(ctx.args.kv, first + chunk, plan.chunk_elements, chunk * plan.value_chunk_bytes)
        for chunk in range(chunks)
    ]
    return Slot("values", columns, first_token, plan.value_tokens)
