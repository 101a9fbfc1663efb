"""Register math of the online softmax, on Python lists of traced Float32 values (no register array, no spills).

Scores are kept in the log2 domain: x = product * softmax_scale * log2(e). Where a mask applies, the scale is applied
first, so a masked probability is exactly 0 whatever the scale.
"""

from __future__ import annotations

import math
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

NEG_INF = float("-inf")


def scaled(values: list[Any], factor: Any) -> list[Any]:
    """values * factor, two per instruction."""
    out: list[Any] = []
    for i in range(0, len(values), 2):
        out.extend(cute.arch.mul_packed_f32x2((values[i], values[i + 1]), (factor, factor)))
    return out


def masked(values: list[Any], visible: Any) -> list[Any]:
    """-inf from position `visible` on: the keys at or above the row's bound."""
    return [cutlass.select_(Int32(j) < visible, v, Float32(NEG_INF)) for j, v in enumerate(values)]


def masked_before(values: list[Any], hidden: Any) -> list[Any]:
    """-inf up to position `hidden`: the keys before the row's window."""
    return [cutlass.select_(Int32(j) < hidden, Float32(NEG_INF), v) for j, v in enumerate(values)]


def masked_by_bits(values: list[Any], words: list[Any]) -> list[Any]:
    """-inf where a bit is clear: bit i of words[w] is position 32 * w + i."""
    seen = [(words[j // 32] & Int32(1 << j % 32 if j % 32 < 31 else -(1 << 31))) != 0 for j in range(len(values))]
    return [cutlass.select_(bit, v, Float32(NEG_INF)) for bit, v in zip(seen, values)]


def maximum(values: list[Any]) -> Any:
    """Largest value, as a tree (depth log n)."""
    while len(values) > 1:
        pairs = [cute.arch.fmax(a, b) for a, b in zip(values[0::2], values[1::2])]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


def kept_maximum(row_max: Any, largest: Any, threshold: float) -> Any:
    """What a row's exponents are relative to from now on: `largest`, its maximum so far, or still `row_max` where that
    is no more than `threshold` below it.
    """
    return largest if threshold == 0 else cutlass.select_(largest > row_max + Float32(threshold), largest, row_max)


def reference_maximum(row_max: Any) -> Any:
    """What exponents are taken relative to: 0 while a row has seen no key, so that -inf - -inf never occurs."""
    return cutlass.select_(row_max == Float32(NEG_INF), Float32(0.0), row_max)


def probabilities(values: list[Any], reference: Any) -> list[Any]:
    """exp2(values - reference)."""
    negative = (-reference, -reference)
    differences = [cute.arch.add_packed_f32x2(pair, negative) for pair in zip(values[0::2], values[1::2])]
    return [cute.math.exp2(x, fastmath=True) for pair in differences for x in pair]


def scaled_probabilities(values: list[Any], factor: Any, reference: Any) -> list[Any]:
    """exp2(values * factor - reference), the product not rounded."""
    factors, negative = (factor, factor), (-reference, -reference)
    pairs = zip(values[0::2], values[1::2])
    differences = [cute.arch.fma_packed_f32x2(pair, factors, negative) for pair in pairs]
    return [cute.math.exp2(x, fastmath=True) for pair in differences for x in pair]


def total(values: list[Any]) -> Any:
    """Sum as a tree of packed additions."""
    pairs = list(zip(values[0::2], values[1::2]))
    while len(pairs) > 1:
        summed = [cute.arch.add_packed_f32x2(a, b) for a, b in zip(pairs[0::2], pairs[1::2])]
        pairs = summed + pairs[len(summed) * 2 :]
    return pairs[0][0] + pairs[0][1]


def in_base(lse_log2: Any, base: str) -> Any:
    """A base-2 log-sum-exp in base "e" or "2"."""
    return lse_log2 * math.log(2.0) if base == "e" else lse_log2
