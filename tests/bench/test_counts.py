from __future__ import annotations

import json

import pytest

from bench import counts
from mla.config import MlaDecodeConfig

CONFIG = MlaDecodeConfig("bf16", num_heads=16, seq_len_q=8, is_causal=True, page_size=64, path="narrow")


def test_tiles_worked_out_by_hand():
    """16 heads x 8 tokens are two row tiles: tokens 0-3 and 4-7. Tiles hold 64 keys.

    K = 200: bounds 193..196 and 197..200, so tiles 0-2 are whole and the fourth is masked, in both units.
    K = 128: bounds 121..124 and 125..128: one whole tile, one masked, in both.
    K = 64 + 4: bounds 61..64 see tile 0 masked and never tile 1; bounds 65..68 see tile 0 whole, tile 1 masked.
    K = 4: tokens 0-3 see nothing, so the only tile is never read; tokens 4-7 see 1..4 keys.
    """
    assert counts.count_tiles(CONFIG, [200]) == counts.TileCounts(unmasked=6, masked=2, skipped=0)
    assert counts.count_tiles(CONFIG, [128]) == counts.TileCounts(unmasked=2, masked=2, skipped=0)
    assert counts.count_tiles(CONFIG, [68]) == counts.TileCounts(unmasked=1, masked=2, skipped=1)
    assert counts.count_tiles(CONFIG, [4]) == counts.TileCounts(unmasked=0, masked=1, skipped=1)
    assert counts.count_tiles(CONFIG, [0]) == counts.TileCounts(0, 0, 0)
    assert counts.count_tiles(CONFIG, [200, 128, 68]) == counts.TileCounts(unmasked=9, masked=6, skipped=1)


def test_tokens_worked_out_by_hand():
    """One CTA per row tile and then 3 of 4 tiles, so that both row tiles of 200 keys are split."""
    for num_ctas in (1, 2, 148):
        items = counts.work_items(CONFIG, [200, 4], num_ctas)
        assert sum(item.keys for item in items) == 196 + 200 + 0 + 4
        assert counts.count_tiles(CONFIG, [200, 4], num_ctas) == counts.TileCounts(unmasked=6, masked=3, skipped=1)


def test_work_items_worked_out_by_hand():
    """K = 512, dense in effect for one token: 8 tiles; K = 0 occupies one position; a gap of one in front of each."""
    config = MlaDecodeConfig("bf16", num_heads=16, seq_len_q=1, is_causal=True, page_size=64)

    def shares(num_ctas):
        items = counts.work_items(config, [512, 0, 64], num_ctas)
        return [(item.unit, item.phases.begin, item.phases.end, item.keys) for item in items]

    assert shares(1) == [(0, 0, 8, 512), (0, 0, 0, 0), (0, 0, 1, 64)]
    assert shares(2) == [(0, 0, 6, 384), (1, 6, 8, 128), (1, 0, 0, 0), (1, 0, 1, 64)]
    singles = [(tile + 1, tile, tile + 1, 64) for tile in range(8)]
    assert shares(148) == [*singles, (10, 0, 0, 0), (12, 0, 1, 64)], "13 positions make 13 shares, three of gaps"


@pytest.fixture(scope="module")
def launch():
    workload = counts.Workload.uniform("bf16", 16, 8, 320, 2)
    return counts.count(workload, is_causal=False, num_ctas=3, path="narrow")


def test_every_key_byte_is_loaded_once_per_row_tile(launch):
    """576 elements of 2 bytes: the tile that is read as K is read again as V, from shared memory."""
    assert launch.kv_bytes_per_token == 576 * 2
    assert launch.tiles == counts.TileCounts(unmasked=20, masked=0, skipped=0)


def test_the_line_is_cut_in_equal_shares(launch):
    """Four row tiles of five key tiles and a gap on three CTAs: shares of 8, that is of 6, 7 and 7 key tiles."""
    assert (launch.row_tiles, launch.work_items, launch.busy_units, launch.makespan_tiles) == (4, 6, 3, 7)
    assert launch.merge_instructions > 0


def test_tensor_core_instructions_of_a_tile(launch):
    """Q K^T: 576 / 16 steps of N = 64. P V: 64 / 16 steps, 512 dimensions in two instructions of N = 256."""
    assert launch.tcgen05_mma == launch.tiles.read * (576 // 16 + 64 // 16 * 2)


def test_every_role_ran(launch):
    assert set(launch.warp_instructions) == {"softmax", "correction", "scores", "output", "load", "scheduler"}
    assert all(launch.warp_instructions.values())


def test_command(capsys):
    arguments = ["--batch", "1", "--num-heads", "3", "--seq-len-q", "2", "--kv-len", "70", "--json"]
    assert counts.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["row_tiles"] == found["work_items"] == 1
    assert found["tiles"] == {"unmasked": 1, "masked": 1, "skipped": 0}
    with pytest.raises(SystemExit):
        counts.main(["--kv-len", "0"])
    assert "--kv-len: '0': must be an integer of 1.." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        counts.main(["--num-ctas", "0"])
    assert "--num-ctas: '0': must be an integer of 1.." in capsys.readouterr().err


def test_a_pair_loads_keys_and_values():
    """Keys once over the pair, and of the values half of the latent dimensions in each CTA."""
    fp8 = counts.count(counts.Workload.uniform("fp8", 16, 8, 256, 1), is_causal=False, path="wide")
    assert fp8.kv_bytes_per_token == 576 + 512
    assert fp8.tiles.read == 2 and fp8.tcgen05_mma == 2 * (576 // 32 + 128 // 32 * 2)


@pytest.mark.parametrize(
    "path, dtype, cycles",
    [("narrow", "fp8", 1888), ("narrow", "bf16", 4352), ("wide", "fp8", 1312), ("wide", "bf16", 2752)],
)
def test_shared_memory_traffic_is_what_the_plan_says(path, dtype, cycles):
    found = counts.count(counts.Workload.uniform(dtype, 16, 8, 512, 2), is_causal=False, num_ctas=8, path=path)
    assert found.shared_cycles == found.planned_shared_cycles == cycles
