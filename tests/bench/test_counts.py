from __future__ import annotations

import json

import pytest

from bench import counts
from mla.config import MlaDecodeConfig

CONFIG = MlaDecodeConfig("bf16", num_heads=16, seq_len_q=8, is_causal=True, page_size=64)


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
    assert counts.tokens_read(CONFIG, [200, 4]) == (196 + 200 + 0 + 4, 3)


@pytest.fixture(scope="module")
def launch():
    return counts.count(counts.Workload(2, 16, 8, 128, "bf16"), page_size=64, is_causal=False)


def test_every_key_byte_is_loaded_once_per_row_tile(launch):
    """576 elements of 2 bytes: the tile that is read as K is read again as V, from shared memory."""
    assert launch.kv_bytes_per_token == 576 * 2
    assert launch.tiles == counts.TileCounts(unmasked=8, masked=0, skipped=0)


def test_tensor_core_instructions_of_a_tile(launch):
    """Q K^T: 576 / 16 steps of N = 64. P V: 64 / 16 steps, 512 dimensions in two instructions of N = 256."""
    assert launch.tcgen05_mma == launch.tiles.read * (576 // 16 + 64 // 16 * 2)


def test_every_role_ran(launch):
    assert set(launch.warp_instructions) == {"softmax", "correction", "mma", "load", "page_table"}
    assert all(launch.warp_instructions.values())


def test_command(capsys):
    arguments = ["--batch", "1", "--num-heads", "4", "--seq-len-q", "2", "--kv-len", "65", "--json"]
    assert counts.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["work_units"] == 1 and found["tiles"] == {"unmasked": 1, "masked": 1, "skipped": 0}
    with pytest.raises(SystemExit):
        counts.main(["--kv-len", "0"])
    assert "--kv-len 0: must be at least 1" in capsys.readouterr().err
