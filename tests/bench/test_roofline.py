from __future__ import annotations

from dataclasses import replace

import pytest

from bench.hardware import B200
from bench.roofline import TILE_ROWS, main, roofline
from bench.workloads import Workload

# Bounds worked out independently in the project's performance notes (section 3): microseconds on a B200 at 1.85 GHz
# and 7.2 TB/s, to the digits printed there.
PUBLISHED = [
    (Workload.uniform("fp8", 16, 4, 81920, 4), 26.3, 10.2, 4.8),
    (Workload.uniform("bf16", 128, 1, 4096, 128), 88.8, 65, 15),
    (Workload.uniform("fp8", 128, 2, 8192, 32), 22.8, 32.6, 15),
    (Workload.uniform("bf16", 128, 1, 131072, 1), 21.0, 16.3, 4),
    (Workload.uniform("bf16", 16, 8, 2048, 64), 23.4, 16.3, 4),
]


@pytest.mark.parametrize("workload, hbm, mma, exp2", PUBLISHED)
def test_published_bounds(workload, hbm, mma, exp2):
    times = roofline(workload, B200)
    assert times.hbm * 1e6 == pytest.approx(hbm, rel=0.01)
    assert times.mma * 1e6 == pytest.approx(mma, rel=0.01)
    assert times.exp2 * 1e6 == pytest.approx(exp2, rel=0.05)
    assert times.bound == max(times.hbm, times.mma, times.exp2)


def test_the_larger_time_is_the_limiter():
    assert roofline(PUBLISHED[0][0], B200).limiter == "hbm"
    assert roofline(PUBLISHED[2][0], B200).limiter == "mma"


def test_a_partly_empty_tile_costs_a_whole_one():
    half, full = Workload.uniform("bf16", 32, 1, 1000, 1), Workload.uniform("bf16", 64, 1, 1000, 1)
    assert half.scores(TILE_ROWS) == full.scores(TILE_ROWS)
    assert replace(full, num_heads=65).flop(TILE_ROWS) == 2 * full.flop(TILE_ROWS)
    assert half.kv_bytes == full.kv_bytes


def test_command(capsys):
    arguments = [
        "--batch",
        "64",
        "--num-heads",
        "16",
        "--seq-len-q",
        "8",
        "--kv-len",
        "2048",
        "--dtype",
        "bf16",
    ]
    assert main(arguments) == 0
    assert "bound      23.4 us  (hbm)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--batch", "0"])
    assert "--batch: '0': must be an integer of 1.." in capsys.readouterr().err
