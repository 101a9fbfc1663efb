"""The visibility rule on plain integers, against a brute-force statement of the contract."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right

from mla.causal_mask import CausalMask, KeyShard, draft_window

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
    "seq_len_q, is_causal, expected",
    [(1, True, 1), (2, True, 2), (64, True, 2), (65, True, 2), (66, True, 3), (8, False, 1)],
)
def test_mask_tile_count_formula(seq_len_q, is_causal, expected):
    assert CausalMask(is_causal, 16, seq_len_q).mask_tile_count(64) == expected


SHARDS = [(1, 1), (2, 1), (2, 3), (3, 64), (4, 1), (8, 5)]


@pytest.mark.parametrize("world, interleave", SHARDS)
def test_local_keys_count_what_the_rank_holds(world, interleave):
    for rank in range(world):
        shard = KeyShard(world, interleave, rank)
        held = [key for key in range(700) if key // interleave % world == rank]
        for count in range(701):
            assert shard.local_keys(count) == sum(key < count for key in held), (rank, count)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("world, interleave", SHARDS)
def test_k_bound_of_a_rank_matches_brute_force(world, interleave, is_causal):
    for num_heads, seq_len_q, seq_len_k in itertools.product((1, 3), (1, 2, 5), (0, 1, 4, 63, 200)):
        for rank in range(world):
            mask = CausalMask(is_causal, num_heads, seq_len_q, shard=KeyShard(world, interleave, rank))
            held = [key for key in range(seq_len_k) if key // interleave % world == rank]
            for row in range(num_heads * seq_len_q):
                token = row // num_heads
                seen = [brute_force_visible(is_causal, seq_len_q, seq_len_k, token, key) for key in held]
                assert mask.k_bound(row, seq_len_k) == sum(seen)
                assert seen == sorted(seen, reverse=True), "what a row sees of a shard is its first keys"


def test_draft_window_is_bit_by_bit_what_the_row_says():
    rng = random.Random(0)
    for _ in range(2000):
        seq_len_q, first = rng.randrange(1, 200), rng.randrange(-100, 260)
        row = [rng.random() < 0.5 for _ in range(seq_len_q)]
        junk = [rng.random() < 0.5 for _ in range(-seq_len_q % 32)]
        bits = row + junk
        words = [sum(bit << i for i, bit in enumerate(bits[start : start + 32])) for start in range(0, len(bits), 32)]
        drafts = range(first, first + 32)
        expected = [draft < 0 or (draft < seq_len_q and row[draft]) for draft in drafts]
        window = draft_window(lambda index: words[min(index, len(words) - 1)], first, seq_len_q)
        assert [bool(window >> i & 1) for i in range(32)] == expected and window >> 32 == 0


def test_tree_phases_mask_the_drafts_alone():
    for num_heads, seq_len_q, seq_len_k in SHAPES:
        mask = CausalMask(True, num_heads, seq_len_q, is_tree=True)
        for first_row in range(0, num_heads * seq_len_q, TILE_ROWS):
            shape = (first_row, TILE_ROWS, TILE_TOKENS, seq_len_k)
            phases = mask.phases(*shape, 0, mask.num_tiles(*shape))
            first_draft = max(seq_len_k - seq_len_q, 0)
            assert phases.keys == seq_len_k and phases.end == -(-seq_len_k // TILE_TOKENS)
            assert phases.bulk_end == max(min(first_draft // TILE_TOKENS, phases.end - 1), 0)
            assert phases.final_straddles == (first_draft // TILE_TOKENS < phases.end)
