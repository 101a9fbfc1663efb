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
            seen = mask.seen_keys(first_row, TILE_ROWS, seq_len_k)
            num_tiles = seen.num_tiles(TILE_TOKENS)
            assert num_tiles == -(-max(bounds) // TILE_TOKENS)
            for begin, end in itertools.combinations(range(num_tiles + 1), 2):
                phases = seen.phases(TILE_TOKENS, begin, end)
                assert (phases.first_key, phases.window_end) == (0, begin), "no phase of a window"
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
            seen = mask.seen_keys(first_row, TILE_ROWS, seq_len_k)
            phases = seen.phases(TILE_TOKENS, 0, seen.num_tiles(TILE_TOKENS))
            masked = max(phases.num_tiles - 1 - phases.bulk_end, 0) + (phases.num_tiles > 0 and phases.final_straddles)
            assert masked == phases.num_tiles - phases.num_unmasked
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
            seen = mask.seen_keys(first_row, TILE_ROWS, seq_len_k)
            phases = seen.phases(TILE_TOKENS, 0, seen.num_tiles(TILE_TOKENS))
            first_draft = max(seq_len_k - seq_len_q, 0)
            assert phases.keys == seq_len_k and phases.end == -(-seq_len_k // TILE_TOKENS)
            for tile in range(phases.end):
                has_draft = min((tile + 1) * TILE_TOKENS, seq_len_k) > first_draft
                if tile < phases.bulk_end:
                    assert not has_draft
                elif tile < phases.end - 1:
                    assert has_draft, "masked without need"
                else:
                    assert phases.final_straddles == has_draft


def brute_force_keys(mask: CausalMask, row: int, seq_len_k: int) -> list[int]:
    """Keys in the cache, of this rank where there are several, that a row sees: position by position."""
    token = row // mask.num_heads
    shard = mask.shard or KeyShard(1, 1, 0)
    held = [key for key in range(seq_len_k) if key // shard.interleave % shard.world == shard.rank]
    position = seq_len_k - mask.seq_len_q + token
    if mask.visible_lens is not None:
        return [local for local, key in enumerate(held) if key < mask.visible_lens[token]]
    seen = [brute_force_visible(mask.is_causal, mask.seq_len_q, seq_len_k, token, key) for key in held]
    if mask.window_left is None:
        return [local for local, is_seen in enumerate(seen) if is_seen]
    return [local for local, key in enumerate(held) if seen[local] and key >= position - mask.window_left]


def check_row_tiles(mask: CausalMask, seq_len_k: int) -> None:
    """Bounds of rows, tiles of row tiles and phases of their parts, against the keys that rows see."""
    rows = mask.num_rows
    keys_of = [brute_force_keys(mask, row, seq_len_k) for row in range(rows)]
    for row, keys in enumerate(keys_of):
        bounds = range(mask.window_start(row, seq_len_k), mask.k_bound(row, seq_len_k))
        assert list(bounds) == keys, (mask, row, seq_len_k)
    for first_row in range(0, rows, TILE_ROWS):
        of_tile = keys_of[first_row : first_row + TILE_ROWS]
        read = sorted({key // TILE_TOKENS for keys in of_tile for key in keys})
        whole = {
            tile for tile in read
            if all(set(range(tile * TILE_TOKENS, (tile + 1) * TILE_TOKENS)) <= set(keys) for keys in of_tile)
        }  # fmt: skip
        seen = mask.seen_keys(first_row, TILE_ROWS, seq_len_k)
        num_tiles = seen.num_tiles(TILE_TOKENS)
        # Of a shard without a key in the window, the tile between its bounds may be read for nothing.
        assert num_tiles == len(read) or (mask.shard is not None and not read and num_tiles == 1)
        assert seen.phases(TILE_TOKENS, 0, max(num_tiles, 1)).num_tiles == num_tiles
        for begin, end in itertools.combinations(range(len(read) + 1), 2):
            phases = seen.phases(TILE_TOKENS, begin, end)
            tiles = list(range(phases.begin, phases.end))
            assert tiles == read[begin:end]
            assert phases.begin <= phases.window_end <= phases.bulk_end <= phases.end
            final = set() if phases.final_straddles else {phases.end - 1} & set(range(phases.window_end, phases.end))
            unmasked = set(range(phases.window_end, phases.bulk_end)) | final
            assert unmasked == whole & set(tiles), "tiles without mask code are those that every row sees whole"
            assert phases.num_unmasked == len(unmasked)
            starts = [min(keys, default=0) for keys in of_tile]
            for tile in range(phases.window_end, phases.end):
                assert tile * TILE_TOKENS >= max(starts), "a tile behind the first phase reaches before a window"
            assert phases.keys == max(max(keys, default=-1) for keys in of_tile) + 1
            assert phases.first_key == mask.window_start(first_row, seq_len_k)


@pytest.mark.parametrize("is_causal", [True, False])
def test_windows_match_brute_force(is_causal):
    for num_heads, seq_len_q in ((1, 1), (40, 3), (16, 5), (3, 70)):
        for seq_len_k in (0, 1, 4, 63, 64, 65, 200, 333):
            for window_left in sorted({seq_len_q - 1, seq_len_q, 63, 64, 65, 130, 2**31 - 1024}):
                if window_left >= seq_len_q - 1:
                    check_row_tiles(CausalMask(is_causal, num_heads, seq_len_q, window_left=window_left), seq_len_k)


@pytest.mark.parametrize("world, interleave", SHARDS[1:])
def test_windows_of_a_rank_match_brute_force(world, interleave):
    for rank, window_left, seq_len_k in itertools.product(range(world), (4, 64, 150), (0, 3, 200, 333)):
        mask = CausalMask(True, 16, 5, shard=KeyShard(world, interleave, rank), window_left=window_left)
        check_row_tiles(mask, seq_len_k)


def test_a_window_of_all_keys_is_none():
    with_window, without = CausalMask(True, 16, 4, window_left=500), CausalMask(True, 16, 4)
    for seq_len_k in (0, 3, 64, 501):
        seen = [mask.seen_keys(0, TILE_ROWS, seq_len_k) for mask in (with_window, without)]
        assert seen[0] == seen[1]


def test_visible_lengths_match_brute_force():
    rng = random.Random(0)
    for num_heads, seq_len_q in ((1, 1), (40, 3), (16, 5), (3, 70), (1, 150)):
        for seq_len_k in (0, 1, 64, 65, 200):
            for _ in range(4):
                lens = [rng.choice((0, seq_len_k, rng.randint(0, seq_len_k))) for _ in range(seq_len_q)]
                check_row_tiles(CausalMask(rng.random() < 0.5, num_heads, seq_len_q, visible_lens=lens), seq_len_k)


def test_visible_lengths_outside_the_keys_are_clamped():
    mask = CausalMask(False, 1, 3, visible_lens=[-5, 300, 2**31 - 1])
    assert [mask.k_bound(row, 200) for row in range(3)] == [0, 200, 200]
    seen = mask.seen_keys(0, TILE_ROWS, 200)
    assert (seen.end, seen.whole_to) == (200, 0)
