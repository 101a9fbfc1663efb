"""The timed mode gives what was published of single properties of the SM; where it does not, the table says so."""

import pytest

from bench.micro.model import modelled
from bench.micro.published import POINTS
from ptx_emulator.timing import Constants

TOLERANCE = 0.1
# Name -> (lowest, highest ratio of modelled to published), and why it is not 1.
DEPARTURES = {
    "mma M128 N64 f16 TS pair interval": (0.85, 0.95, "16 cycles by the rate of the array; 18 published"),
    "rescale 64 columns": (1.1, 1.3, "tmem_load is set to 128, lower than this point asks for"),
    "rescale 4 x 64 columns": (1.2, 1.4, "as above"),
    "__syncthreads of 128": (0.7, 0.9, "one cost for all barriers of threads, that of the named one"),
    "commit": (0.6, 0.8, "only a lower bound was published"),
    "ld.shared, 1 lanes a bank, 8 warps": (1.3, 1.6, "the latency of one load is spread over 16 only"),
    "ld.shared, 2 lanes a bank, 8 warps": (1.1, 1.3, "as above"),
}


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_a_published_point_is_reproduced(point):
    value = modelled(point.timed, Constants.of())
    low, high, _ = DEPARTURES.get(point.name, (1 - TOLERANCE, 1 + TOLERANCE, ""))
    assert low <= value / point.nearest(value) <= high, (value, point.low, point.high)


def test_the_rescale_of_an_accumulator_asks_for_the_high_rates():
    """U's two points lie below the model even at 217 bytes per cycle; at 64 they are missed by far more."""
    point = next(p for p in POINTS if p.name == "rescale 4 x 64 columns")
    by_rate = [modelled(point.timed, Constants.of(tmem_load=rate, tmem_store=rate)) for rate in (64, 128, 217)]
    assert by_rate[0] > by_rate[1] > by_rate[2] > point.high
    assert by_rate[0] > 1.8 * point.high
    assert by_rate[2] < 1.25 * point.high


def test_code_costs_what_it_costs_because_it_is_fetched():
    """Mutants of the model: code that is always there, a cache that holds the loop, jumps for nothing."""
    by_name = {point.name: point for point in POINTS}
    loop, ring = by_name["code, 1 x 40 KiB a pass"], by_name["code, ring of 16 jumps"]
    expected = modelled(loop.timed, Constants.of())
    assert modelled(loop.timed, Constants.of(code_latency=1, code_line=1)) < 0.7 * expected
    assert modelled(loop.timed, Constants.of(code_cache=65536)) < 0.7 * expected
    assert modelled(ring.timed, Constants.of(branch=6)) < 0.3 * ring.low


def test_departures_name_points():
    assert set(DEPARTURES) <= {point.name for point in POINTS}
