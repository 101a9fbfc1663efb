"""The reference against torch's own attention in fp64, and against answers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from wrappers.reference import keys_of_rank, mla_decode_reference, visible_keys
from wrappers.testing import make_problem


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("seq_len_q, kv_len", [(1, 1), (1, 130), (2, 4), (5, 5), (8, 77)])
def test_agrees_with_torch_attention(seq_len_q, kv_len, is_causal):
    problem = make_problem(2, 3, seq_len_q, kv_len, page_size=16, is_causal=is_causal, output_scale=0.5, seed=kv_len)
    out, lse = problem.reference(torch.float64)
    mask = causal_lower_right(seq_len_q, kv_len) if is_causal else None
    for request in range(2):
        pages = problem.block_tables[request, : -(-kv_len // 16)].long()
        kv = problem.kv_cache[pages].reshape(-1, 576)[:kv_len].double()
        query = problem.query[request].double().transpose(0, 1)
        keys = kv.expand(3, -1, -1)
        expected = scaled_dot_product_attention(
            query, keys, keys[..., :512], attn_mask=mask, scale=problem.softmax_scale
        )
        torch.testing.assert_close(out[request], 0.5 * expected.transpose(0, 1), rtol=1e-12, atol=1e-12)
        scores = problem.softmax_scale * query @ kv.T
        if is_causal:
            scores = scores.masked_fill(~mask._materialize(), -math.inf)
        torch.testing.assert_close(lse[request], scores.logsumexp(-1).T, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Lower right causal bias will produce NaNs")
@pytest.mark.parametrize("seq_len_q, kv_len", [(1, 1), (2, 4), (4, 4), (1, 7), (4, 2), (5, 3), (3, 1)])
def test_visible_keys_are_lower_right_aligned(seq_len_q, kv_len):
    expected = causal_lower_right(seq_len_q, kv_len)._materialize()
    for token in range(seq_len_q):
        keys = visible_keys(token, seq_len_q, kv_len, is_causal=True)
        assert keys == expected[token].nonzero().flatten().tolist()


def test_base_2_log_sum_exp_of_equal_scores_counts_keys():
    query = torch.zeros(1, 2, 1, 576)
    cache = torch.randn(1, 16, 576)
    table, lens = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([9], dtype=torch.int32)
    for base, log in (("e", math.log), ("2", math.log2)):
        out, lse = mla_decode_reference(query, cache, table, lens, softmax_scale=1.0, lse_base=base)
        torch.testing.assert_close(lse.flatten(), torch.tensor([log(8), log(9)]))
        torch.testing.assert_close(out[0, 1, 0], cache[0, :9, :512].mean(0))


def test_rows_without_keys_are_zero_and_minus_infinity():
    problem = make_problem(3, 2, 4, [0, 2, 4], page_size=16)
    out, lse = problem.reference()
    assert problem.active_rows()[..., 0].tolist() == [[False] * 4, [False, False, True, True], [True] * 4]
    assert torch.equal(lse.isfinite(), problem.active_rows())
    assert (lse[~problem.active_rows()] == -math.inf).all()
    assert not out[~problem.active_rows()].any()
    assert out.isfinite().all()


def test_a_4d_cache_is_the_same_cache():
    problem = make_problem(2, 2, 2, [5, 33], page_size=32)
    expected = problem.reference()[0]
    for cache in (problem.kv_cache.unsqueeze(1), problem.kv_cache.unsqueeze(2)):
        tensors = (problem.query, cache, *problem.tensors[2:])
        assert torch.equal(mla_decode_reference(*tensors, **problem.options, dtype=torch.float64)[0], expected)


def test_computes_in_fp32_or_fp64_only():
    problem = make_problem(1, 1, 1, 3)
    assert problem.reference(torch.float32)[0].dtype == torch.float32
    with pytest.raises(ValueError, match="dtype=torch.bfloat16"):
        problem.reference(torch.bfloat16)


def test_a_tree_row_replaces_the_causal_rule_among_the_query_tokens():
    assert visible_keys(1, 3, 5, True, [True, False, True]) == [0, 1, 2, 4]
    assert visible_keys(0, 3, 2, True, [True, False, True]) == [1], "token 0 lies before the first key"


def test_windows_and_lengths():
    """Worked out by hand: tokens 0 and 1 are keys 3 and 4."""
    assert visible_keys(0, 2, 5, True, window_left=2) == [1, 2, 3]
    assert visible_keys(1, 2, 5, True, window_left=2) == [2, 3, 4]
    assert visible_keys(0, 2, 5, False, window_left=1) == [2, 3, 4]
    assert visible_keys(0, 3, 2, True, window_left=2) == []
    assert visible_keys(0, 3, 2, False, window_left=2) == [0, 1]
    assert [visible_keys(0, 3, 4, causal, visible_len=3) for causal in (True, False)] == [[0, 1, 2]] * 2
    assert visible_keys(2, 3, 4, True, visible_len=0) == []


def test_ranks_take_turns():
    assert [keys_of_rank(9, 2, rank, 2) for rank in range(2)] == [[0, 1, 4, 5, 8], [2, 3, 6, 7]]
    assert keys_of_rank(4, 3, 2, 2) == []


def test_a_ragged_query_is_its_requests_one_by_one():
    problem = make_problem(3, 2, 4, [20, 33, 5], page_size=16, query_lens=[4, 0, 2])
    out, lse = problem.reference()
    for request, (begin, end) in enumerate([(0, 4), (4, 4), (4, 6)]):
        alone = (problem.query[None, begin:end], problem.kv_cache, *(t[request, None] for t in problem.tensors[2:]))
        expected = mla_decode_reference(*alone, softmax_scale=problem.softmax_scale, dtype=torch.float64)
        assert torch.equal(out[begin:end], expected[0][0]) and torch.equal(lse[begin:end], expected[1][0])
