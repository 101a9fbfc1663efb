"""Measuring the line of work on the device: the positions of requests, summed by a warp."""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from mla.arch import WARP_SIZE


@cute.jit
def lane_request(seq_lens: cute.Tensor, batch_size: Int32, first: Int32, scheduler: cutlass.Constexpr):
    """(keys, positions) of the calling lane's request `first + lane`; a lane past the batch has none."""
    request = first + cute.arch.lane_idx()
    length, cost = Int32(0), Int32(0)
    if request < batch_size:
        length = cutlass.max(seq_lens[request], 0)
        cost = scheduler.request_cost(length)
    return length, cost


@cute.jit
def line_length(seq_lens: cute.Tensor, batch_size: Int32, scheduler: cutlass.Constexpr):
    """Positions of requests [0, batch_size). A warp-collective; every lane gets the sum."""
    total = Int32(0)
    for first in cutlass.range(0, batch_size, WARP_SIZE, unroll=1):
        total = total + lane_request(seq_lens, batch_size, first, scheduler)[1]
    return warp_sum(total)


def warp_sum(value: Any) -> Any:
    """Sum over the lanes of a warp, in every lane."""
    for distance in (16, 8, 4, 2, 1):
        value = value + cute.arch.shuffle_sync_bfly(value, distance)
    return value
