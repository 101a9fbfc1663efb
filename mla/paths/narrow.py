"""Narrow path: one CTA, M = 64 rows, tcgen05.mma.ws, the K tile read again as V.

S[64, T] = Q[64, 576] K[T, 576]^T with both operands K-major; O[64, 512] += P[64, T] V[T, 512], where V is the latent
part of the very same K tile, addressed as an MN-major operand. A key is loaded once per row tile. T is 64 tokens, 128
of fp8.
"""

from __future__ import annotations

from typing import Any

from mla import operands
from mla.context import Column, Context, Slot

MMA_M = 64

commit = operands.commit


def multiply(ctx: Context, accumulator: Any, a: Any, b: Any, idesc: int, accumulate: Any) -> None:
    """accumulator (+)= A B over one K step. One thread."""
    operands.mma_ws(ctx.config.dtype, accumulator, a, b, idesc, accumulate)


def begin_item(ctx: Context) -> None:
    """Q stays in shared memory."""


def value_slot(ctx: Context, number: Any) -> Slot:
    """Spans of the latent dimension, number `number` of the tile's slots: keys and values at once."""
    plan = ctx.plan
    first = number * plan.slot_spans
    columns = [
        Column(ctx.args.kv, first + span, plan.chunk_elements, span * plan.value_chunk_bytes)
        for span in range(plan.slot_spans)
    ]
    return Slot("keys", columns, 0, plan.tile_tokens)
