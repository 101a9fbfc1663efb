"""Visible lengths: the number of keys that each query token brings, read by the kernel, in no order over the tokens.

Problems are hostile: keys behind the largest length of a request are NaN, and table entries of pages of nothing else
name no page.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mla.config import MlaDecodeConfig
from mla.tile_scheduler import TileScheduler
from tests.mla.test_split_kv import ranges_of
from tests.wrappers.emulation import NUM_CTAS, assert_clean, is_caught, launch, launch_with_reports, run, same
from wrappers import emulated, kernel
from wrappers.backends import EMULATED_ARCH
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import MlaProblem, assert_matches, hide_unseen, make_problem

KV_LENS = (330, 64, 3, 200, 0, 129)


@pytest.fixture(params=["emulator", pytest.param("cute", marks=pytest.mark.device)])
def backend(request):
    return request.param


def with_lengths(lens: list[list[int]], num_heads: int = 16, **options) -> MlaProblem:
    """Requests of as many keys as their longest token sees, and 70 more that none sees."""
    keys = [max(row) + 70 for row in lens]
    problem = make_problem(len(lens), num_heads, len(lens[0]), keys, is_causal=False, **options)
    problem = replace(problem, local_visible_lens=torch.tensor(lens, dtype=torch.int32))
    hide_unseen(problem)
    return problem


@pytest.mark.parametrize(
    "path, num_heads, seq_len_q, page_size, dtype",
    [
        ("narrow", 16, 4, 16, "bf16"),
        ("narrow", 3, 5, 64, "fp8"),
        ("wide", 16, 8, 16, "fp8"),
        ("wide", 128, 3, 128, "bf16"),
    ],
)
def test_random_lengths(path, num_heads, seq_len_q, page_size, dtype, backend):
    for seed in range(2):
        problem = make_problem(
            len(KV_LENS), num_heads, seq_len_q, KV_LENS, page_size=page_size, dtype=TORCH_DTYPES[dtype], visible_lens=True,
            seed=seed,
        )  # fmt: skip
        assert_matches(problem, *run(problem, backend, path))


def test_lengths_of_a_ragged_query(backend):
    problem = make_problem(7, 16, 8, (200, 64, 130, 5, 0, 70, 9), query_lens=(8, 0, 3, 7, 2, 1, 0), visible_lens=True)
    assert_matches(problem, *run(problem, backend, "wide"))


def test_many_tokens_to_a_row_tile(backend):
    problem = make_problem(2, 1, 70, (130, 40), dtype=torch.float16, visible_lens=True)
    assert_matches(problem, *run(problem, backend))


def test_more_requests_than_lanes(backend):
    lengths = [(37 * request) % 150 for request in range(70)]
    problem = make_problem(70, 16, 4, lengths, page_size=16, visible_lens=True)
    assert_matches(problem, *run(problem, backend))


def test_lengths_and_the_mask_they_replace(backend):
    """The causal bounds, given as lengths, with `is_causal` either way; a length of 0 among them, and one of all."""
    causal = make_problem(3, 16, 4, (330, 64, 2), page_size=16, hostile=False)
    lens = (causal.seq_lens[:, None] - 3 + torch.arange(4)).clamp(min=0).int()
    expected = run(causal, backend)
    for is_causal in (True, False):
        problem = replace(causal, is_causal=is_causal, local_visible_lens=lens)
        assert same(run(problem, backend), expected)


def test_strided_lengths(backend):
    problem = make_problem(3, 16, 4, (330, 64, 2), page_size=16, visible_lens=True)
    wide = torch.full((3, 9), 2**31 - 1, dtype=torch.int32)
    wide[:, :8:2] = problem.local_visible_lens
    assert_matches(problem, *run(replace(problem, local_visible_lens=wide[:, :8:2]), backend))


def test_a_length_beyond_the_keys_is_all_of_them():
    """Unchecked, as on a GPU: nothing behind the request's keys is read."""
    lens, beyond = torch.tensor([[3, 70, 1, 69], [40, 40, 0, 2]]).int(), [[3, 2**31 - 1, 1, 69], [41, 40, -7, 2]]
    problem = replace(make_problem(2, 16, 4, (70, 40), page_size=16), local_visible_lens=lens)
    call = replace(problem.decode_call(), local_visible_lens=torch.tensor(beyond).int())
    emulated.launch(kernel.compiled(call, EMULATED_ARCH), call, num_ctas=NUM_CTAS)
    assert same((call.out, call.lse), launch(problem))


def test_bytes_are_those_of_the_longest_token():
    def loaded(keys: int) -> int:
        problem = make_problem(1, 16, 4, (keys,), page_size=16, hostile=False)
        lens = torch.tensor([[3, 130, 0, 70]], dtype=torch.int32)
        report = launch_with_reports(replace(problem, local_visible_lens=lens), num_ctas=1)[2].decode
        return report.counters["tma_load_bytes"]

    assert loaded(200) == loaded(2000) == (64 + 144) * 576 * 2


def test_stream_k_counts_the_longest_token_of_a_row_tile():
    """The scheduler's ranges, on plain integers, of the lengths of the two row tiles of eight tokens."""
    scheduler = TileScheduler.of(MlaDecodeConfig("bf16", 16, 8, False, 64, path="narrow", visible_lens=True), 64, 64)
    lens = [64 * 9, 5, 64 * 30, 0, 1, 0, 0, 64 * 3]
    given = scheduler.of_request(8, lens)
    assert [given.cost(row_tile, 64 * 40) - given.gap for row_tile in range(2)] == [30, 3]
    assert given.request_cost(64 * 40) == 33 + 2 * given.gap
    loads = [sum(end - begin for *_, begin, end, _ in items) for items in ranges_of(given, [64 * 40], 5)]
    assert sum(loads) == 33 and max(loads) == 7


@pytest.mark.parametrize("mutant", ["visible-off-by-one", "visible-last-token", "visible-first-token"])
def test_mutants_fail(mutant):
    """The longest and the shortest are neither the first nor the last token."""
    problem = with_lengths([[150, 20, 210, 100], [64, 64, 0, 3]], page_size=16)
    assert_matches(problem, *launch(problem))
    assert is_caught(problem, mutant)


def test_no_hazards():
    problem = make_problem(3, 16, 4, (330, 200, 64), page_size=16, visible_lens=True)
    assert_clean(problem, (("late", 0), ("adversarial", 1)), num_ctas=3)
