"""Ragged queries: every request has a number of query tokens of its own, which only the device knows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from mla.config import MlaDecodeConfig
from mla.decode import MlaDecode
from tests.wrappers.emulation import PATHS, is_caught, launch, launch_with_reports, run, same
from wrappers.decode import mla_decode
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import MlaProblem, assert_matches, make_problem

# Requests without tokens, without keys, without either, with more tokens than keys, of one token, of the most.
QUERY_LENS = (8, 1, 0, 3, 5, 2, 0, 7)
KV_LENS = (200, 70, 129, 0, 3, 64, 0, 330)


@pytest.fixture(params=["emulator", pytest.param("cute", marks=pytest.mark.device)])
def backend(request):
    return request.param


def make_ragged(num_heads=16, query_lens=QUERY_LENS, kv_lens=KV_LENS, seq_len_q=8, **options) -> MlaProblem:
    return make_problem(len(kv_lens), num_heads, seq_len_q, kv_lens, query_lens=query_lens, **options)


@pytest.mark.parametrize(
    "path, num_heads, page_size, dtype, is_causal",
    [
        ("wide", 16, 64, "fp8", True),
        ("narrow", 3, 32, "fp8", True),
        ("narrow", 16, 64, "bf16", False),
        *itertools.product(PATHS, (1,), (16,), ("bf16",), (True,)),
        # Up to three row tiles to a request on the wide path, five on the narrow one.
        *itertools.product(PATHS, (40,), (128,), ("fp16",), (True,)),
    ],
)
def test_any_number_of_query_tokens_with_any_number_of_keys(path, num_heads, page_size, dtype, is_causal, backend):
    problem = make_ragged(num_heads, page_size=page_size, dtype=TORCH_DTYPES[dtype], is_causal=is_causal)
    assert_matches(problem, *run(problem, backend, path))


@pytest.mark.parametrize("num_heads, dtype", [(6, "bf16"), (40, "fp8")])
def test_strided_views(num_heads, dtype, backend):
    problem = make_ragged(num_heads, dtype=TORCH_DTYPES[dtype], strided=True, cache_rank=4)
    assert_matches(problem, *run(problem, backend))


def test_a_few_requests_among_many_padded_ones():
    """More than a warp of requests without tokens in a row, which the device looks at 32 at a time."""
    query_lens = (0,) * 40 + (5,) + (0,) * 60 + (1, 0)
    problem = make_ragged(query_lens=query_lens, kv_lens=range(30, 30 + len(query_lens)))
    assert_matches(problem, *launch(problem))


def test_no_tokens_at_all():
    problem = make_ragged(query_lens=(0, 0), kv_lens=(5, 70))
    out, lse = mla_decode(*problem.tensors, **problem.options, return_lse=True, backend="emulator")
    assert out.shape == (0, 16, 512) and lse.shape == (0, 16)


def test_equal_lengths_are_the_dense_query_bit_for_bit():
    dense = make_problem(3, 16, 8, (200, 70, 400))
    ragged = replace(
        dense, query=dense.query.flatten(0, 1), cu_seqlens_q=torch.tensor([0, 8, 16, 24]).int(), max_seq_len_q=8
    )
    out, lse = launch(dense)
    assert same(launch(ragged), (out.flatten(0, 1), lse.flatten(0, 1)))


def test_one_compiled_kernel_serves_all_lengths_up_to_a_power_of_two():
    """As a captured CUDA graph would: only what is in memory changes."""
    for query_lens in ((8, 1, 0, 3), (0, 0, 2, 1), (5, 6, 7, 8)):
        problem = make_ragged(query_lens=query_lens, kv_lens=(90, 70, 129, 300), seq_len_q=max(5, *query_lens))
        assert_matches(problem, *launch(problem))


def test_tokens_behind_the_last_request_are_not_written():
    problem = make_ragged()
    spare = torch.cat([problem.query, torch.full((4, 16, 576), torch.nan, dtype=torch.bfloat16)])
    out, lse = launch(replace(problem, query=spare))
    assert_matches(problem, out[:-4], lse[:-4])
    assert out[-4:].isnan().all() and lse[-4:].isnan().all()


@pytest.mark.parametrize("num_heads, page_size, dtype", [(40, 128, "fp16"), (3, 32, "fp8")])
def test_no_key_is_read_that_no_query_token_sees(num_heads, page_size, dtype):
    """Bytes loaded by TMA, against the row tiles' own bounds: nothing for one without tokens or keys."""
    problem = make_ragged(num_heads, page_size=page_size, dtype=TORCH_DTYPES[dtype])
    reports = launch_with_reports(problem, num_ctas=1, path="narrow")[2]
    plan = MlaDecode(MlaDecodeConfig(dtype, num_heads, 8, True, page_size, path="narrow")).plan
    expected = 0
    for tokens, keys in zip(QUERY_LENS, KV_LENS):
        for first_row in range(0, tokens * num_heads, plan.tile.rows):
            last_token = min((first_row + plan.tile.rows - 1) // num_heads, tokens - 1)
            seen = max(keys - (tokens - 1) + last_token, 0)
            boxes = -(-seen // plan.tile.box_tokens)
            expected += (plan.tile.query_bytes if seen else 0) + boxes * plan.tile.box_tokens * plan.tile.token_bytes
    assert reports.decode.counters["tma_load_bytes"] == expected


@pytest.mark.parametrize("order, seed", [("late", 0), ("random", 1)])
def test_result_does_not_depend_on_execution_order(order, seed):
    problem = make_ragged()
    assert same(launch(problem, order=order, seed=seed), launch(problem))


@pytest.mark.parametrize("mutant", ["ragged-longest", "ragged-first"])
def test_mutants_fail(mutant):
    assert is_caught(make_ragged(), mutant)
