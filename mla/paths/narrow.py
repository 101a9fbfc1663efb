"""Narrow path: one CTA, M = 64 rows, tcgen05.mma.ws, the K tile read again as V.

S[64, T] = Q[64, 576] K[T, 576]^T with both operands K-major; O[64, 512] += P[64, T] V[T, 512], where V is the latent
part of the very same K tile, addressed as an MN-major operand. A key is loaded once per row tile. T is 64 tokens, 128
of fp8.
"""

from __future__ import annotations

from typing import Any

from mla import operands
from mla.context import Context, Slot, latent_slot

MMA_M = 64

commit = operands.commit


def multiply(ctx: Context, accumulator: Any, a: Any, b: Any, idesc: int, accumulate: Any) -> None:
    """accumulator (+)= A B over one K step. One thread."""
    operands.mma_ws(ctx.config.dtype, accumulator, a, b, idesc, accumulate)


def copy_to_tmem(target: Any, source: Any) -> None:
    """16 bytes of each row of an operand A to 4 columns of Tensor Memory. One thread."""
    operands.copy_rows_to_tmem(target, source, "cta_1")


def value_slot(ctx: Context, number: Any) -> Slot:
    """The slots of the keys: they are read again as values."""
    return latent_slot(ctx, number)
