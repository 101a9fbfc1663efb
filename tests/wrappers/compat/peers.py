"""What the tests of every adapter share."""

from __future__ import annotations

import math

import torch

from wrappers.testing import MlaProblem, make_problem

LENGTHS = [5, 0, 70]


def hostile_problem(dtype: torch.dtype = torch.bfloat16, is_causal: bool = True, **options) -> MlaProblem:
    """Three requests, one of them padded, with 2 tokens and 3 heads."""
    return make_problem(
        len(LENGTHS), 3, 2, LENGTHS, page_size=32, dtype=dtype, is_causal=is_causal, output_scale=1.0, **options
    )


def in_base(lse: torch.Tensor, base: str) -> torch.Tensor:
    """A base-e log-sum-exp in `base`."""
    return lse / math.log(2.0) if base == "2" else lse
