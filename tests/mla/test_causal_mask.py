"""The visibility rule on plain integers, against a brute-force statement of the contract."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right

from mla.causal_mask import CausalMask

TILE_ROWS = 64
TILE_TOKENS = 64


def brute_force_visible(is_causal: bool, seq_len_q: int, seq_len_k: int, token: int, key: int) -> bool:
    """Contract: the last query token is aligned with the last key (lower right)."""
    if key >= seq_len_k:
        return False
    return not is_causal or key - (seq_len_k - 1) <= token - (seq_len_q - 1)


SHAPES = list(itertools.product((1, 3, 16, 40, 64, 128), (1, 2, 4, 5, 8), (0, 1, 2, 4, 63, 64, 65, 127, 128, 200)))


@pytest.mark.parametrize("is_causal", [True, False])
def test_k_bound_matches_brute_force(is_causal):
    for num_heads, seq_len_q, seq_len_k in SHAPES:
        mask = CausalMask(is_causal, num_heads, seq_len_q)
        for row in range(num_heads * seq_len_q):
            token = row // num_heads
            expected = sum(brute_force_visible(is_causal, seq_len_q, seq_len_k, token, key) for key in range(seq_len_k))
            assert mask.k_bound(row, seq_len_k) == expected, (num_heads, seq_len_q, seq_len_k, row)


@pytest.mark.parametrize("seq_len_q, seq_len_k", [(2, 4), (1, 5), (4, 4), (8, 8), (5, 200)])
def test_bounds_are_torchs_causal_lower_right(seq_len_q, seq_len_k):
    expected = causal_lower_right(seq_len_q, seq_len_k)._materialize(torch.device("cpu"))
    mask = CausalMask(True, 3, seq_len_q)
    for token, head in itertools.product(range(seq_len_q), range(3)):
        bound = mask.k_bound(token * 3 + head, seq_len_k)
        assert torch.equal(torch.arange(seq_len_k) < bound, expected[token])


def test_exact_mask_q2_k4_and_more_queries_than_keys():
    assert [CausalMask(True, 1, 2).k_bound(row, 4) for row in range(2)] == [3, 4]
    assert [CausalMask(True, 1, 5).k_bound(row, 2) for row in range(5)] == [0, 0, 0, 1, 2]


def test_top_left_alignment_is_not_the_rule():
    """The mutant that a square test cannot tell apart: keys below token + 1."""
    mask = CausalMask(True, 1, 2)
    assert [mask.k_bound(row, 4) for row in range(2)] != [1, 2]


@pytest.mark.parametrize("is_causal", [True, False])
def test_phases_cover_exactly_the_visible_tiles(is_causal):
    for num_heads, seq_len_q, seq_len_k in SHAPES:
        mask = CausalMask(is_causal, num_heads, seq_len_q)
        rows = num_heads * seq_len_q
        for first_row in range(0, rows, TILE_ROWS):
            bounds = [mask.k_bound(row, seq_len_k) for row in range(first_row, min(first_row + TILE_ROWS, rows))]
            shape = (first_row, TILE_ROWS, TILE_TOKENS, seq_len_k)
            num_tiles = mask.num_tiles(*shape)
            assert num_tiles == -(-max(bounds) // TILE_TOKENS)
            for begin, end in itertools.combinations(range(num_tiles + 1), 2):
                phases = mask.phases(*shape, begin, end)
                assert phases.keys == max(bounds) and phases.num_tiles == end - begin
                for tile in range(begin, end):
                    straddles = min(bounds) < (tile + 1) * TILE_TOKENS
                    if tile < phases.bulk_end:
                        assert not straddles, "an unmasked bulk tile reaches past a bound"
                    elif tile < end - 1:
                        assert straddles, "an intermediate tile is masked without need"
                    else:
                        assert phases.final_straddles == straddles


@pytest.mark.parametrize("is_causal", [True, False])
def test_mask_tile_count_bounds_the_masked_tiles(is_causal):
    for num_heads, seq_len_q, seq_len_k in SHAPES:
        mask = CausalMask(is_causal, num_heads, seq_len_q)
        for first_row in range(0, num_heads * seq_len_q, TILE_ROWS):
            shape = (first_row, TILE_ROWS, TILE_TOKENS, seq_len_k)
            phases = mask.phases(*shape, 0, mask.num_tiles(*shape))
            masked = max(phases.num_tiles - 1 - phases.bulk_end, 0) + (phases.num_tiles > 0 and phases.final_straddles)
            assert masked <= mask.mask_tile_count(TILE_TOKENS), (num_heads, seq_len_q, seq_len_k, first_row)


@pytest.mark.parametrize(
    "seq_len_q, is_causal, expected", [(1, True, 1), (2, True, 2), (64, True, 2), (65, True, 2), (66, True, 3), (8, False, 1)]
)
def test_mask_tile_count_formula(seq_len_q, is_causal, expected):
    assert CausalMask(is_causal, 16, seq_len_q).mask_tile_count(64) == expected
