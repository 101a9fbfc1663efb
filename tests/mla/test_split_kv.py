"""The cut of a batch into shares, on plain integers: everything once, balanced, and at most two partials a CTA."""

from __future__ import annotations

import random

import pytest

from mla import split_kv
from mla.config import MlaDecodeConfig
from mla.tile_scheduler import TileScheduler

NUM_CTAS = 148


def scheduler_of(num_heads=16, seq_len_q=4, dtype="bf16") -> TileScheduler:
    config = MlaDecodeConfig(dtype, num_heads, seq_len_q, True, 64)
    return TileScheduler.of(config, 64, 64)


def line_of(scheduler: TileScheduler, seq_lens: list[int]) -> list[tuple[int, int, int, int]]:
    """(request, row tile, first position, positions) of every row tile."""
    line, position = [], 0
    for request, length in enumerate(seq_lens):
        for row_tile in range(scheduler.row_tiles):
            cost = scheduler.cost(row_tile, length)
            line.append((request, row_tile, position, cost))
            position += cost
    return line


def shares_of(scheduler: TileScheduler, seq_lens: list[int], num_ctas: int) -> list[list[tuple[int, int, int, int, int]]]:
    """Per CTA: (request, row tile, begin, end, slot or -1), as the scheduler warp announces them."""
    line = line_of(scheduler, seq_lens)
    total = line[-1][2] + line[-1][3]
    share = split_kv.share_tiles(total, num_ctas)
    shares = []
    for cta in range(num_ctas):
        begin, end = cta * share, min(cta * share + share, total)
        items = []
        for request, row_tile, first, cost in line:
            taken = split_kv.take(first, cost, begin, end)
            if taken.begin < taken.end:
                is_whole = taken.begin == 0 and taken.end == cost
                slot = -1 if is_whole else split_kv.partial_slot(cta, taken.begin)
                items.append((request, row_tile, taken.begin, taken.end, slot))
        shares.append(items)
    return shares


def batches():
    rng = random.Random(0)
    yield [2048] * 10
    yield [0, 0, 0]
    yield [1]
    yield [131072]
    yield [262144 >> i for i in range(8)]
    yield [100_000] + [128] * 63
    for _ in range(20):
        yield [rng.choice((0, 1, 63, 64, 65, 500, rng.randrange(1, 9000))) for _ in range(rng.randrange(1, 80))]


@pytest.mark.parametrize("num_heads, seq_len_q", [(16, 4), (16, 8), (128, 3), (3, 1)])
def test_every_tile_is_taken_once(num_heads, seq_len_q):
    scheduler = scheduler_of(num_heads, seq_len_q)
    for seq_lens in batches():
        taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for items in shares_of(scheduler, seq_lens, NUM_CTAS):
            for request, row_tile, begin, end, _ in items:
                taken.setdefault((request, row_tile), []).append((begin, end))
        for request, row_tile, _, cost in line_of(scheduler, seq_lens):
            parts = taken[request, row_tile]
            assert parts[0][0] == 0 and parts[-1][1] == cost
            assert all(left[1] == right[0] for left, right in zip(parts, parts[1:]))


def test_slots_are_unique_and_fit_the_workspace():
    scheduler = scheduler_of()
    for seq_lens in batches():
        slots = [slot for items in shares_of(scheduler, seq_lens, NUM_CTAS) for *_, slot in items if slot >= 0]
        assert len(slots) == len(set(slots))
        assert all(slot < split_kv.num_slots(NUM_CTAS) for slot in slots)


def test_the_merge_finds_the_slots_that_were_written():
    """The merge derives the CTAs of a row tile from its position alone."""
    scheduler = scheduler_of()
    for seq_lens in batches():
        line = line_of(scheduler, seq_lens)
        share = split_kv.share_tiles(line[-1][2] + line[-1][3], NUM_CTAS)
        written: dict[tuple[int, int], list[int]] = {}
        for items in shares_of(scheduler, seq_lens, NUM_CTAS):
            for request, row_tile, _, _, slot in items:
                written.setdefault((request, row_tile), []).append(slot)
        for request, row_tile, first, cost in line:
            ctas = range(first // share, (first + cost - 1) // share + 1)
            slots = [split_kv.partial_slot(cta, max(cta * share - first, 0)) for cta in ctas]
            assert written[request, row_tile] == (slots if len(slots) > 1 else [-1])


def tokenspeed_makespan(seq_lens: list[int], row_tiles: int, num_ctas: int) -> int:
    """Tiles of the busiest CTA under one split count for the batch, from its longest request (M64 rule: wave-aware,
    at most 64 splits), as peers.md describes TokenSpeed-MLA."""
    tiles = [-(-length // 64) for length in seq_lens]
    splits = max(1, min(64, num_ctas // (len(seq_lens) * row_tiles)))
    parts = sorted((-(-count // splits) for count in tiles for _ in range(splits * row_tiles)), reverse=True)
    load = [0] * num_ctas
    for part in parts:
        load[load.index(min(load))] += part
    return max(load)


@pytest.mark.parametrize(
    "seq_lens", [[4096] * 64, [262144 >> i for i in range(8)], [131072] + [1024] * 63, [131072]], ids=["uniform", "geometric", "one-long", "single"]
)
def test_makespan_is_within_a_tile_of_perfect(seq_lens):
    scheduler = scheduler_of()
    shares = shares_of(scheduler, seq_lens, NUM_CTAS)
    loads = [sum(end - begin for *_, begin, end, _ in items) for items in shares]
    perfect = -(-sum(loads) // NUM_CTAS)
    assert max(loads) <= perfect + 1
    assert max(loads) <= tokenspeed_makespan(seq_lens, scheduler.row_tiles, NUM_CTAS)
    if seq_lens == [131072]:
        assert all(loads[:-1]) and sum(map(bool, loads)) >= NUM_CTAS - 2


def test_no_share_is_smaller_than_the_minimum():
    shares = shares_of(scheduler_of(), [64 * 10], NUM_CTAS)
    loads = [sum(end - begin for *_, begin, end, _ in items) for items in shares if items]
    assert loads == [4, 4, 2], "the last share takes what is left"


def test_workspace_bytes():
    assert split_kv.workspace_bytes(148, 64, 512) == 148 * 2 * 64 * 513 * 4
