"""The cut of a batch into ranges, on plain integers: everything once, balanced, and at most two partials a CTA."""

from __future__ import annotations

import random

import pytest
import torch

from mla import split_kv
from mla.config import MlaDecodeConfig
from mla.tile_scheduler import TileScheduler
from tests.wrappers.emulation import PATHS, launch_with_reports
from wrappers.testing import MlaProblem

NUM_CTAS = 148


def scheduler_of(num_heads=16, seq_len_q=4, dtype="bf16") -> TileScheduler:
    config = MlaDecodeConfig(dtype, num_heads, seq_len_q, True, 64)
    return TileScheduler.of(config, 64, 64)


def line_of(scheduler: TileScheduler, seq_lens: list[int]) -> list[tuple[int, int, int, int]]:
    """(request, row tile, first position, positions) of the key tiles of every row tile."""
    line, position = [], 0
    for request, length in enumerate(seq_lens):
        for row_tile in range(scheduler.row_tiles):
            cost = scheduler.cost(row_tile, length)
            line.append((request, row_tile, position + scheduler.gap, cost - scheduler.gap))
            position += cost
    return line


def ranges_of(
    scheduler: TileScheduler, seq_lens: list[int], num_ctas: int
) -> list[list[tuple[int, int, int, int, int]]]:
    """Per CTA: (request, row tile, begin, end, slot or -1), as the scheduler warp announces them."""
    line = line_of(scheduler, seq_lens)
    total = line[-1][2] + line[-1][3]
    cut = split_kv.Partition.of(total, num_ctas, len(line), scheduler.gap)
    ranges = []
    for cta in range(num_ctas):
        begin, end = cut.begin(cta), cut.begin(cta + 1)
        items = []
        for request, row_tile, first, cost in line:
            taken = split_kv.take(first, cost, begin, end)
            if taken.begin < taken.end:
                is_whole = taken.begin == 0 and taken.end == cost
                slot = -1 if is_whole else split_kv.partial_slot(cta, taken.begin)
                items.append((request, row_tile, taken.begin, taken.end, slot))
        ranges.append(items)
    return ranges


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
        for items in ranges_of(scheduler, seq_lens, NUM_CTAS):
            for request, row_tile, begin, end, _ in items:
                taken.setdefault((request, row_tile), []).append((begin, end))
        for request, row_tile, _, cost in line_of(scheduler, seq_lens):
            parts = taken[request, row_tile]
            assert parts[0][0] == 0 and parts[-1][1] == cost
            assert all(left[1] == right[0] for left, right in zip(parts, parts[1:]))


def test_slots_are_unique_and_fit_the_workspace():
    scheduler = scheduler_of()
    for seq_lens in batches():
        slots = [slot for items in ranges_of(scheduler, seq_lens, NUM_CTAS) for *_, slot in items if slot >= 0]
        assert len(slots) == len(set(slots))
        assert all(slot < split_kv.num_slots(NUM_CTAS) for slot in slots)


def test_the_merge_finds_the_slots_that_were_written():
    """The first unit and the number of units of a row tile, from its position alone."""
    scheduler = scheduler_of()
    for seq_lens in batches():
        line = line_of(scheduler, seq_lens)
        cut = split_kv.Partition.of(line[-1][2] + line[-1][3], NUM_CTAS, len(line), scheduler.gap)
        written: dict[tuple[int, int], list[int]] = {}
        for items in ranges_of(scheduler, seq_lens, NUM_CTAS):
            for request, row_tile, _, _, slot in items:
                written.setdefault((request, row_tile), []).append(slot)
        for request, row_tile, first, cost in line:
            found = split_kv.Cut(request, row_tile, 0, 64, *cut.units_of(first, cost))
            slots = [found.slot(part) for part in range(found.parts)]
            assert written[request, row_tile] == (slots if len(slots) > 1 else [-1])


def tokenspeed_makespan(
    seq_lens: list[int], row_tiles: int, num_ctas: int, tile_tokens: int = 64, most_splits: int = 64
) -> int:
    """Tiles of the busiest CTA, or pair, under one split count for the batch, from its longest request (wave-aware, at
    most 64 splits of single CTAs or 32 of pairs), as peers.md describes TokenSpeed-MLA."""
    tiles = [-(-length // tile_tokens) for length in seq_lens]
    splits = max(1, min(most_splits, num_ctas // (len(seq_lens) * row_tiles)))
    parts = sorted((-(-count // splits) for count in tiles for _ in range(splits * row_tiles)), reverse=True)
    load = [0] * num_ctas
    for part in parts:
        load[load.index(min(load))] += part
    return max(load)


BATCHES = {
    "uniform": [4096] * 64,
    "geometric": [262144 >> i for i in range(8)],
    "one-long": [131072] + [1024] * 63,
    "single": [131072],
}


@pytest.mark.parametrize("seq_lens", BATCHES.values(), ids=BATCHES)
def test_makespan_is_within_a_tile_of_perfect(seq_lens):
    scheduler = scheduler_of()
    ranges = ranges_of(scheduler, seq_lens, NUM_CTAS)
    loads = [sum(end - begin for *_, begin, end, _ in items) for items in ranges]
    perfect = -(-sum(loads) // NUM_CTAS)
    assert max(loads) <= perfect + 1
    assert max(loads) <= tokenspeed_makespan(seq_lens, scheduler.row_tiles, NUM_CTAS)
    most_items = max(len(items) for items in ranges)
    assert min(loads) >= max(loads) - 1 - most_items * scheduler.gap > 0, "every SM has work, at batch 1 too"


def planned_loads(seq_lens: list[int], path: str) -> list[int]:
    """Tiles of 128 e4m3 keys per unit of 148 SMs."""
    rows, num_units = {"narrow": (64, 148), "wide": (128, 74)}[path]
    scheduler = TileScheduler.of(MlaDecodeConfig("fp8", 1, 1, True, 128, path=path), rows, 128)
    return [sum(end - begin for *_, begin, end, _ in items) for items in ranges_of(scheduler, seq_lens, num_units)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seq_lens", BATCHES.values(), ids=BATCHES)
def test_makespan_of_either_path(seq_lens, path):
    loads = planned_loads(seq_lens, path)
    num_units = len(loads)
    assert sum(loads) == sum(length // 128 for length in seq_lens)
    gaps = len(seq_lens) * {"narrow": 0, "wide": 2}[path]
    assert max(loads) <= -(-(sum(loads) + gaps) // num_units) + 1
    peer = tokenspeed_makespan(seq_lens, 1, num_units, 128, {"narrow": 64, "wide": 32}[path])
    assert max(loads) <= peer
    if seq_lens == BATCHES["single"]:
        assert min(loads) > 0 and peer > max(loads), "the peer's split count leaves SMs idle"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seq_lens", BATCHES.values(), ids=BATCHES)
def test_emulated_loads_are_those_planned(seq_lens, path):
    """Key tiles that each CTA, or pair, has multiplied, counted by the emulator in a launch on all 148 SMs; of a quarter
    of the keys, which is quicker."""
    quarter = [length // 4 for length in seq_lens]
    assert emulated_loads(quarter, path) == planned_loads(quarter, path)


def emulated_loads(seq_lens: list[int], path: str) -> list[int]:
    """Tiles of 128 e4m3 keys per unit. All requests share one page: only the work matters here."""
    tokens = 128
    tables = torch.zeros(len(seq_lens), max(seq_lens) // tokens, dtype=torch.int32)
    problem = MlaProblem(
        torch.ones(len(seq_lens), 1, 1, 576).to(torch.float8_e4m3fn),
        torch.ones(1, tokens, 576).to(torch.float8_e4m3fn), tables, torch.tensor(seq_lens, dtype=torch.int32),
    )  # fmt: skip
    report = launch_with_reports(problem, num_ctas=NUM_CTAS, path=path)[2].decode
    steps_of_a_tile = 576 // 32 + 128 // 32 * 2
    counts = [counters["tcgen05_mma"] for counters in report.by_cluster]
    assert not any(count % steps_of_a_tile for count in counts)
    return [count // steps_of_a_tile for count in counts]


@pytest.mark.parametrize(
    "seq_lens, loads", [([64 * 10], [1] * 10), ([128] * 10, [2] * 10), ([64] * 10, [1] * 10), ([64, 320], [1] * 6)]
)
def test_short_row_tiles_are_not_cut_further(seq_lens, loads):
    """Few long requests are cut down to single tiles; of short ones there are as many ranges as row tiles."""
    ranges = ranges_of(scheduler_of(), seq_lens, NUM_CTAS)
    assert [sum(end - begin for *_, begin, end, _ in items) for items in ranges if items] == loads


@pytest.mark.parametrize("row_tiles, gap", [(1, 0), (1, 2), (2, 1), (5, 0), (300, 2)])
@pytest.mark.parametrize("num_units", [1, 2, 3, 74, 148])
@pytest.mark.parametrize("longer", [0, 1, 3, 4, 7, 8, 9, 591, 592, 593, 5000])
def test_ranges_by_counting(longer, num_units, row_tiles, gap):
    total = row_tiles * (1 + gap) + longer
    cut = split_kv.Partition.of(total, num_units, row_tiles, gap)
    sizes = [cut.begin(unit + 1) - cut.begin(unit) for unit in range(num_units)]
    used = [size for size in sizes if size]
    assert cut.begin(0) == 0 and sum(sizes) == total and sizes[: len(used)] == used
    assert max(used) - min(used) <= 1
    assert len(used) == min(num_units, total if total > (split_kv.UNCUT_TILES + gap) * row_tiles else row_tiles)
    owners = [unit for unit, size in enumerate(sizes) for _ in range(size)]
    assert [cut.unit_of(position) for position in range(total)] == owners[:total]


def test_a_gap_keeps_ranges_from_reaching_into_the_next_row_tile():
    """As long as an item switch takes, a unit with two items has fewer key tiles than the others."""
    scheduler = TileScheduler.of(MlaDecodeConfig("bf16", 16, 8, True, 64, path="wide"), 128, 128)
    assert scheduler.gap == 2
    ranges = ranges_of(scheduler, [128 * 16] * 10, 74)
    weights = [sum(end - begin for *_, begin, end, _ in items) + 2 * (len(items) - 1) for items in ranges if items]
    most = max(sum(end - begin for *_, begin, end, _ in items) for items in ranges)
    assert max(weights) == most == -(-sum(weights) // 74)


def test_a_line_without_row_tiles():
    cut = split_kv.Partition.of(0, 148, 0, 2)
    assert (cut.begin(0), cut.begin(1), cut.begin(148)) == (0, 1, 1), "one range, of a position that nothing takes"
