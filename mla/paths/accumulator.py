"""Accumulators in Tensor Memory, the same on both paths: 64 rows, the N columns folded over the two lane halves.

An M=64 .ws accumulator, and each CTA's part of a cta_group::2 M=128 accumulator, fold N over the 128 TMEM lanes (PTX
ISA 9.7.16.10.5, layouts E and B): lane row + 64 * half holds columns [half * N/2, (half + 1) * N/2). So two threads,
64 lanes apart, share a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cutlass
from cutlass.experimental import primitives as prims

from mla import operands
from mla.context import Context
from mla.plan.tile import OUTPUT_N

ROWS = 64


def row_of_lane(lane: Any) -> Any:
    """Row, of this CTA's, that TMEM lane `lane` holds."""
    return lane % ROWS


def half_of_lane(lane: Any) -> Any:
    """Which half of an instruction's N columns TMEM lane `lane` holds."""
    return lane // ROWS


def output_dim(lane: Any, half: Any, column: Any) -> Any:
    """Latent dimension held at column `column` (0..127) of a half of O, of TMEM lane `lane`."""
    return half * OUTPUT_N + half_of_lane(lane) * (OUTPUT_N // 2) + column


def output_address(ctx: Context, half: Any) -> Any:
    """TMEM address of latent dimensions [256 * half, 256 * half + 256) of O."""
    return ctx.tmem + (ctx.plan.tmem.output_column + half * (OUTPUT_N // 2))


def score_address(ctx: Context, count: Any) -> Any:
    """TMEM address of the S buffer of key tile `count`."""
    plan = ctx.plan
    return ctx.tmem + (plan.tmem.score_column + (count % plan.tmem.score_stages) * plan.tmem.score_columns)


def load_columns(address: Any, count: int) -> list[Any]:
    """`count` fp32 columns of the calling thread's TMEM lane. A warp-collective load, waited for."""
    return next(iter(stream_columns(address, count, count)))[1]


def stream_columns(address: Any, count: int, chunk: int) -> Iterator[tuple[int, list[Any]]]:
    """(first column, its `chunk` fp32 values) of `count` columns of the calling thread's TMEM lane. Warp-collective.

    A chunk is handed out once it is there, with the load of the next already issued.
    """
    raw = issue_load(address, chunk)
    for column in range(0, count, chunk):
        prims.tcgen05_wait("load")
        values = [raw[i].bitcast(cutlass.Float32) for i in range(chunk)]
        if column + chunk < count:
            raw = issue_load(address + (column + chunk), chunk)
        yield column, values


def issue_load(address: Any, count: int) -> Any:
    """Start of a load; nothing may touch its registers before the next tcgen05.wait::ld."""
    return prims.tcgen05_ld("32x32b", operands.tmem_pointer(address), num=count)


def store_columns(address: Any, values: list[Any]) -> None:
    """Counterpart of load_columns; the caller waits (tcgen05.wait::st) before it signals."""
    store_words(address, [value.bitcast(cutlass.Int32) for value in values])


def store_words(address: Any, words: list[Any]) -> None:
    """As store_columns, of 32-bit words (Int32)."""
    prims.tcgen05_st("32x32b", operands.tmem_pointer(address), operands.int_vector(words))
