"""Narrow path: one CTA, M = 64 rows, tcgen05.mma.ws, the K tile read again as V.

S[64, T] = Q[64, 576] K[T, 576]^T with both operands K-major; O[64, 512] += P[64, T] V[T, 512], where V is the latent
part of the very same K tile, addressed as an MN-major operand. A key is loaded once per row tile. T is 64 tokens, 128
of fp8.

An M=64 .ws accumulator folds its N columns over the 128 TMEM lanes (PTX ISA 9.7.16.10.5, layout E): lane
row + 64 * half holds columns [half * N/2, (half + 1) * N/2). So two threads, 64 lanes apart, share a row.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.experimental import primitives as prims

from mla import operands
from mla.context import Context

OUTPUT_N = 256  # N of one P*V instruction, the largest
MMA_M = 64


def row_of_lane(lane: Any) -> Any:
    """Row of the tile that TMEM lane `lane` holds."""
    return lane % MMA_M


def half_of_lane(lane: Any) -> Any:
    """Which half of an instruction's N columns TMEM lane `lane` holds."""
    return lane // MMA_M


def output_dim(lane: Any, column: int) -> Any:
    """Latent dimension held at O column `column` (0..255) of TMEM lane `lane`."""
    half_n = OUTPUT_N // 2
    return half_of_lane(lane) * half_n + (column // half_n * OUTPUT_N + column % half_n)


def score_address(ctx: Context, count: Any) -> Any:
    """TMEM address of the S buffer of key tile `count`."""
    plan = ctx.plan
    return ctx.tmem + (plan.score_column + (count % plan.score_stages) * plan.score_columns)


def issue_scores(ctx: Context, count: Any) -> None:
    """S(count) = Q K(count)^T. One thread."""
    plan, config = ctx.plan, ctx.config
    query = operands.smem_descriptor(ctx.smem + plan.query_offset, 0)
    kv_address = ctx.smem + (plan.kv_offset + (count % plan.kv_stages) * plan.kv_stage_bytes)
    keys = operands.smem_descriptor(kv_address, 0)
    idesc = operands.instruction_descriptor(config.dtype, MMA_M, plan.tile_tokens, b_is_mn_major=False)
    steps_per_chunk = plan.chunk_elements // plan.mma_k
    step_bytes = plan.mma_k * config.element_bytes
    for step in range(config.head_dim // plan.mma_k):
        chunk, inner = step // steps_per_chunk, step % steps_per_chunk * step_bytes
        operands.mma_ws(
            config.dtype,
            score_address(ctx, count),
            operands.advance(query, chunk * plan.query_chunk_bytes + inner),
            operands.advance(keys, chunk * plan.kv_chunk_bytes + inner),
            idesc,
            step > 0,
        )


@cute.jit
def issue_output(ctx: cutlass.Constexpr, count: Int32, visible: Int32, accumulate: cutlass.Boolean):
    """O (+)= P(count) V(count) over the first `visible` tokens, in whole K steps. One thread.

    accumulate: False starts O anew.
    """
    plan, config = ctx.plan, ctx.config
    probs = operands.smem_descriptor(ctx.smem + plan.probs_offset, 0)
    kv_address = ctx.smem + (plan.kv_offset + (count % plan.kv_stages) * plan.kv_stage_bytes)
    values = operands.smem_descriptor(kv_address, plan.kv_chunk_bytes)
    idesc = operands.instruction_descriptor(config.dtype, MMA_M, OUTPUT_N, b_is_mn_major=True)
    half_bytes = OUTPUT_N // plan.chunk_elements * plan.kv_chunk_bytes
    for step in cutlass.range_constexpr(plan.tile_tokens // plan.mma_k):
        if visible > step * plan.mma_k:
            for half in cutlass.range_constexpr(config.kv_lora_rank // OUTPUT_N):
                operands.mma_ws(
                    config.dtype,
                    ctx.tmem + (plan.output_column + half * (OUTPUT_N // 2)),
                    operands.advance(probs, step * plan.mma_k * config.element_bytes),
                    operands.advance(values, half * half_bytes + step * plan.mma_k * operands.SWIZZLE_BYTES),
                    idesc,
                    accumulate | (step > 0),
                )


def load_columns(address: Any, count: int) -> list[Any]:
    """`count` fp32 columns of the calling thread's TMEM lane. A warp-collective load, waited for."""
    raw = prims.tcgen05_ld("32x32b", operands.tmem_pointer(address), num=count)
    prims.tcgen05_wait("load")
    return [raw[i].bitcast(cutlass.Float32) for i in range(count)]


def store_columns(address: Any, values: list[Any]) -> None:
    """Counterpart of load_columns; the caller waits (tcgen05.wait::st) before it signals."""
    prims.tcgen05_st("32x32b", operands.tmem_pointer(address), operands.int_vector(values))
