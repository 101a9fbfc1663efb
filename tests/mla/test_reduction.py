"""The merge of split row tiles: every number of parts it treats differently, and wrong merges that must fail."""

from __future__ import annotations

import pytest
import torch

from mla import reduction
from mla.config import MlaDecodeConfig
from mla.reduction import MergePartials, parts_of
from mla.tile_scheduler import TileScheduler
from tests.wrappers.emulation import PATHS, is_caught, launch, launch_with_reports
from wrappers.testing import MlaProblem, assert_matches, make_problem

UNITS_CTAS = {"narrow": 1, "wide": 2}
TILE_TOKENS = {"narrow": 64, "wide": 128}  # of bf16


def problem_of_parts(parts: int, path: str, num_heads: int = 16) -> MlaProblem:
    """One row tile of two key tiles and a bit for each of `parts` units."""
    tokens = (2 * parts + 1) * TILE_TOKENS[path]
    return make_problem(1, num_heads, 1, (tokens - 3,), page_size=16 if path == "narrow" else 128)


@pytest.mark.parametrize("parts", [2, 3, 5, 10, 11, 16, 17, 33, 65])
@pytest.mark.parametrize("path", PATHS)
def test_parts(path, parts):
    """On either side of every change in how warps share the parts, and more than 32 of them."""
    problem = problem_of_parts(parts, path)
    assert_matches(problem, *launch(problem, path=path, num_ctas=parts * UNITS_CTAS[path]))


def test_more_parts_than_lanes_for_one_warp():
    """Log-sum-exps come 32 at a time: here 8 warps have 33 parts each."""
    problem = problem_of_parts(8 * 33, "narrow", num_heads=1)
    assert_matches(problem, *launch(problem, path="narrow", num_ctas=8 * 33))


def test_unequal_lengths():
    """Tiles of many parts, of few and of one, cuts between tiles and within, more than 32 requests."""
    lengths = [0, 6000, 100, 0, 64] + [500] * 40 + [9000, 1]
    problem = make_problem(len(lengths), 3, 2, lengths)
    assert_matches(problem, *launch(problem, path="narrow", num_ctas=61))


def test_warps_share_parts_evenly_and_in_order():
    for log2_members in range(4):
        for parts in range(1, 300):
            ranges = [parts_of(parts, member, log2_members) for member in range(1 << log2_members)]
            assert ranges[0][0] == 0 and ranges[-1][1] == parts
            assert all(left[1] == right[0] for left, right in zip(ranges, ranges[1:]))
            sizes = [end - begin for begin, end in ranges]
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_units, ctas", [(1, 8), (2, 8), (148, 147 * 8)])
def test_the_grid_depends_on_the_cuts_alone(num_units, ctas):
    config = MlaDecodeConfig("bf16", 16, 4, True, 64)
    assert MergePartials(config, TileScheduler.of(config, 64, 64)).num_ctas(num_units) == ctas


def test_a_launch_without_split_tiles_reads_no_partial_result():
    """The workspace is NaN, the merge ends at once: each of 148 CTAs has a request of two key tiles."""
    problem = make_problem(148, 16, 1, 70, page_size=16)
    out, lse, reports = launch_with_reports(problem, path="narrow", num_ctas=148)
    assert_matches(problem, out, lse)
    per_warp = reports.merge.warp_instructions / (147 * 8 * reduction.WARPS)
    assert per_warp < 100, "reads its cut and leaves"


# On one path each: both have the same merge.
@pytest.mark.parametrize("path, name", [("narrow", "merge-skips-part"), ("wide", "merge-first-warp")])
def test_wrong_merges_fail(path, name):
    problem = problem_of_parts(24, path)
    assert is_caught(problem, name, path=path, num_ctas=24 * UNITS_CTAS[path])


def test_same_bits_from_run_to_run():
    problem = problem_of_parts(20, "narrow")
    results = [launch(problem, path="narrow", num_ctas=20, order=order) for order in ("in_order", "late", "random")]
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(lse, results[0][1])
