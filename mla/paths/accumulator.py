"""Accumulators in Tensor Memory, the same on both paths: 64 rows, the N columns folded over the two lane halves.

An M=64 .ws accumulator, and each CTA's part of a cta_group::2 M=128 accumulator, fold N over the 128 TMEM lanes (PTX
ISA 9.7.16.10.5, layouts E and B): lane row + 64 * half holds columns [half * N/2, (half + 1) * N/2). So two threads,
64 lanes apart, share a row.
"""

from __future__ import annotations

from typing import Any

import cutlass
from cutlass.experimental import primitives as prims

from mla import operands
from mla.context import Context
from mla.memory_plan import OUTPUT_N

ROWS = 64


def row_of_lane(lane: Any) -> Any:
    """Row, of this CTA's, that TMEM lane `lane` holds."""
    return lane % ROWS


def half_of_lane(lane: Any) -> Any:
    """Which half of an instruction's N columns TMEM lane `lane` holds."""
    return lane // ROWS


def output_dim(lane: Any, column: int) -> Any:
    """Latent dimension held at O column `column` (0..255) of TMEM lane `lane`."""
    half_n = OUTPUT_N // 2
    return half_of_lane(lane) * half_n + (column // half_n * OUTPUT_N + column % half_n)


def output_address(ctx: Context, half: int) -> Any:
    """TMEM address of latent dimensions [256 * half, 256 * half + 256) of O."""
    return ctx.tmem + (ctx.plan.output_column + half * (OUTPUT_N // 2))


def score_address(ctx: Context, count: Any) -> Any:
    """TMEM address of the S buffer of key tile `count`."""
    plan = ctx.plan
    return ctx.tmem + (plan.score_column + (count % plan.score_stages) * plan.score_columns)


def load_columns(address: Any, count: int) -> list[Any]:
    """`count` fp32 columns of the calling thread's TMEM lane. A warp-collective load, waited for."""
    raw = prims.tcgen05_ld("32x32b", operands.tmem_pointer(address), num=count)
    prims.tcgen05_wait("load")
    return [raw[i].bitcast(cutlass.Float32) for i in range(count)]


def store_columns(address: Any, values: list[Any]) -> None:
    """Counterpart of load_columns; the caller waits (tcgen05.wait::st) before it signals."""
    prims.tcgen05_st("32x32b", operands.tmem_pointer(address), operands.int_vector(values))
