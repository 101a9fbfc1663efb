"""HBM that some clusters are done with before others, and what several of them read."""

import math

import pytest

from bench.micro import tma
from ptx_emulator.grid import prepare_launch
from ptx_emulator.timing import Constants, time_launch
from ptx_emulator.timing.traffic import ALIKE, Traffic

COUNT, BYTES, CTAS = 48, 8192, 148  # 58 MB, more than L2 holds as a whole


def cycles(traffic=None, clusters=(0,)):
    ptx, options = tma.loads(BYTES, 8, COUNT, ctas=CTAS)
    launched = prepare_launch(ptx, "k", **{"cluster": (1, 1, 1), "shared_bytes": 0, **options})
    return time_launch(launched, Constants.of(), clusters=clusters, traffic=traffic).clusters[0]


@pytest.mark.parametrize("hbm_bytes, expected", [
    ((), [(math.inf, 148)]),
    ((7.0,) * 74, [(math.inf, 148)]),
    ((4.0, 4.0, 4.0, 10.0), [(2.0, 148), (math.inf, 37)]),
    ((0.0, 4.0, 8.0, 8.0, 10.0), [(2.0, 148), (4.0, 111), (math.inf, 37)]),
])  # fmt: skip
def test_shares_of_pairs(hbm_bytes, expected):
    """Two SMs to a cluster; those with nothing to read are not counted among the 148."""
    assert [tuple(row) for row in Traffic(hbm_bytes).shares(148, 2)] == expected


def test_those_that_are_done_leave_their_share_to_the_others():
    """Half of the SMs read half as much as the one that is timed: its second half comes at twice the rate, but for what the
    link brings at most; 3/4 of the time, where all alike take all of it."""
    alike = cycles(ALIKE)
    most = float(COUNT * BYTES)
    uneven = cycles(Traffic((most,) * 74 + (most / 2,) * 74))
    ramp = 2500  # launch, and the first load's latency
    assert uneven.bytes == alike.bytes
    assert (uneven.cycles - ramp) / (alike.cycles - ramp) == pytest.approx(0.75, abs=0.04)
    assert cycles(Traffic((most,) * 148)).cycles == alike.cycles


def test_clusters_that_are_executed_say_how_uneven_they_are():
    executed = [(0, 50.0), (2, 100.0), (4, 100.0)]
    assert Traffic.of_executed(5, executed).hbm_bytes == (50.0, 75.0, 100.0, 100.0, 100.0)
    assert Traffic.of_executed(5, [(0, 100.0), (4, 104.0)]) == ALIKE
    assert cycles(None, clusters=(0, 1)).cycles == cycles(ALIKE, clusters=(0, 1)).cycles


@pytest.mark.parametrize("first_reads", [0.5, 0.25])
def test_what_others_have_read_comes_from_l2(first_reads):
    alone, shared = cycles(ALIKE), cycles(Traffic((), first_reads))
    assert shared.bytes[0] == alone.bytes[0]
    assert shared.bytes[1] / alone.bytes[1] == pytest.approx(first_reads, abs=0.03)
    assert shared.cycles < 0.75 * alone.cycles


@pytest.mark.parametrize("wrong", [{"first_reads": 0.0}, {"first_reads": 1.5}, {"hbm_bytes": (1.0, -1.0)}])
def test_traffic_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Traffic(**wrong)
