"""Wide path: a pair of CTAs, M = 128 rows, tcgen05.mma.cta_group::2, B operands split over the pair.

S[128, 128] = Q[128, 576] K[128, 576]^T; O[128, 512] += P[128, 128] V[128, 512]. CTA c holds rows 64 c .. 64 c + 63 of
Q, P, S and O. An instruction's B has half of its rows in each CTA: of K, the tokens 64 c .. 64 c + 63 of the tile; of
V, of each 256 latent dimensions the 128 from 128 c on, for all tokens. So K, split by tokens, cannot be read again as
V, split by dimensions, and V is loaded apart. One thread of the leading CTA issues for both.
"""

from __future__ import annotations

from typing import Any

from mla import operands
from mla.context import Column, Context, Slot
from mla.plan.tile import CHUNK_BYTES, OUTPUT_N

MMA_M = 128

commit = operands.commit_pair


def multiply(ctx: Context, accumulator: Any, a: Any, b: Any, idesc: int, accumulate: Any) -> None:
    """accumulator (+)= A B over one K step, in both CTAs. One thread of the leader."""
    operands.mma_pair(ctx.config.dtype, accumulator, a, b, idesc, accumulate)


def copy_to_tmem(target: Any, source: Any) -> None:
    """16 bytes of each row of an operand A to 4 columns of Tensor Memory, in both CTAs. One thread of the leader."""
    operands.copy_rows_to_tmem(target, source, "cta_2")


def value_slot(ctx: Context, number: Any) -> Slot:
    """What this CTA loads for a tile's value slot `number`: 128 latent dimensions, in chunks of 128 bytes."""
    tile = ctx.plan.tile
    half_slots = tile.tokens // tile.value_tokens
    half, first_token = number // half_slots, number % half_slots * tile.value_tokens
    chunks = tile.value_dims * ctx.config.element_bytes // CHUNK_BYTES
    first = half * (OUTPUT_N // tile.chunk_elements) + ctx.cta_rank * chunks
    columns = [
        Column(ctx.args.kv, first + chunk, tile.chunk_elements, chunk * tile.value_chunk_bytes)
        for chunk in range(chunks)
    ]
    return Slot("values", columns, first_token, tile.value_tokens)
