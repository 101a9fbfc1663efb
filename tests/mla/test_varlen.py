"""How a warp finds its range: batches of more requests than lanes, page tables of more entries than a ring stage."""

from __future__ import annotations

import random

import pytest

from ptx_emulator.machine.asyncs import ORDERS
from tests.wrappers.emulation import is_caught, launch
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import assert_matches, make_problem


@pytest.mark.parametrize(
    "path, num_heads, batch",
    [("narrow", 1, 32), ("narrow", 1, 33), ("narrow", 1, 1060), ("wide", 16, 70), ("wide", 16, 300)],
)
def test_batches_around_the_size_of_a_warp(path, num_heads, batch):
    """A lane measures up to 34 requests, and a range starts in any of the windows of 32."""
    rng = random.Random(batch)
    lengths = [rng.choice((0, 1, 5, 64, 65)) if batch < 100 else rng.choice((0, 0, 0, 1, 5)) for _ in range(batch - 1)]
    problem = make_problem(batch, num_heads, 1, [*lengths, 700], page_size=16)
    assert_matches(problem, *launch(problem, path=path))


@pytest.mark.parametrize("path, dtype", [("narrow", "fp8"), ("narrow", "bf16"), ("wide", "fp8"), ("wide", "bf16")])
def test_ragged_ends_one_behind_the_other(path, dtype):
    """The load role asks for the next work item's query and keys before it clears the last tile of the one before: items
    of one, two and several tiles, all ragged, and empty ones between them, in one unit."""
    lengths = (3, 0, 131, 1, 65, 0, 0, 289, 64, 257, 5)
    problem = make_problem(len(lengths), 16, 8, lengths, dtype=TORCH_DTYPES[dtype])
    for order in ORDERS:
        assert_matches(problem, *launch(problem, path=path, num_ctas=2, order=order))
    assert is_caught(problem, "no-tail-clear", path=path, num_ctas=2)


@pytest.mark.parametrize("num_ctas", [1, 3])
def test_long_page_tables(num_ctas):
    """Three stages of page ids to a work item, and a part that starts within one."""
    problem = make_problem(1, 16, 1, (1500,), page_size=16)
    assert_matches(problem, *launch(problem, path="narrow", num_ctas=num_ctas))


def test_wrong_page_ids_fail():
    """On one path: both have the same scheduler warp."""
    assert is_caught(make_problem(1, 16, 1, (1500,), page_size=16), "same-pages", path="wide", num_ctas=2)
