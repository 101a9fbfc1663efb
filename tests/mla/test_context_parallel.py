"""Decode context parallelism: each rank's part against the reference, and the merged parts against the unsplit call."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mla.config import MlaDecodeConfig
from tests.wrappers.emulation import is_caught, launch, run, same
from wrappers import kernel
from wrappers.backends import EMULATED_ARCH
from wrappers.kernel import TORCH_DTYPES
from wrappers.partials import merge_partials
from wrappers.testing import MlaProblem, assert_matches, make_problem, shard

# Fewer keys than ranks, than query tokens, none; around the tiles of a rank's keys; many.
KV_LENS = (1, 3, 0, 129, 258, 600)


@pytest.fixture(params=["emulator", pytest.param("cute", marks=pytest.mark.device)])
def backend(request):
    return request.param


def check_all_ranks(
    problem: MlaProblem, world: int, interleave: int, backend: str, path: str, page_size: int = 16
) -> None:
    """Every rank's part, in pages of that size, is right, and so is what they merge to."""
    parts = []
    for rank in range(world):
        part = shard(problem, world, rank, interleave, page_size)
        parts.append(run(part, backend, path))
        assert_matches(part, *parts[-1])
    assert_matches(problem, *merge_partials(*zip(*parts)))


@pytest.mark.parametrize(
    "path, world, interleave, num_heads, seq_len_q, dtype, is_causal",
    [
        ("narrow", 2, 1, 16, 4, "bf16", True),
        ("narrow", 3, 1, 6, 2, "fp8", True),
        ("narrow", 2, 3, 32, 2, "fp16", False),
        ("wide", 4, 5, 16, 4, "fp16", True),
        ("wide", 2, 64, 16, 5, "fp8", True),
    ],
)
def test_split_run_and_merged(path, world, interleave, num_heads, seq_len_q, dtype, is_causal, backend):
    problem = make_problem(len(KV_LENS), num_heads, seq_len_q, KV_LENS, dtype=TORCH_DTYPES[dtype], is_causal=is_causal)
    check_all_ranks(problem, world, interleave, backend, path)


@pytest.mark.parametrize("path, num_heads, page_size, dtype", [("narrow", 3, 32, "bf16"), ("wide", 16, 16, "fp8")])
def test_of_a_ragged_query(path, num_heads, page_size, dtype, backend):
    """The narrow one is the kernel of tests/wrappers/engines/test_vllm.py."""
    problem = make_problem(4, num_heads, 4, (200, 3, 90, 7), query_lens=(4, 2, 0, 1), dtype=TORCH_DTYPES[dtype])
    check_all_ranks(problem, 2, 16, backend, path, page_size)


def test_a_world_of_one_is_none_bit_for_bit():
    """The very same kernel: the compile key does not see the world."""
    problem = make_problem(2, 16, 4, (70, 200))
    alone = replace(problem, dcp_world=1, dcp_rank=0, dcp_interleave=7)
    configs = {kernel.decode_config(p.decode_call(), EMULATED_ARCH) for p in (problem, alone)}
    assert configs == {MlaDecodeConfig("bf16", 16, 4, True, 64, lse_base="e")}
    result = launch(problem)
    assert same(launch(alone), result)
    assert same(merge_partials(*(part[None] for part in result)), result)


def test_a_rank_without_keys_gives_zero_and_minus_infinity():
    problem = shard(make_problem(2, 16, 5, (5, 64), dtype=TORCH_DTYPES["fp8"]), 2, 1, 64)
    out, lse = launch(problem)
    assert not out.any() and (lse == -math.inf).all()
    assert torch.equal(out, torch.zeros_like(out)) and problem.active_rows().sum() == 0


@pytest.mark.parametrize("mutant", ["dcp-no-interleave", "dcp-local-mask", "dcp-next-rank"])
def test_mutants_fail(mutant):
    problem = make_problem(3, 16, 4, (200, 130, 9))
    assert is_caught(shard(problem, 2, 0, 4), mutant)
