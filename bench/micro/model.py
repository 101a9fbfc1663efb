"""A microbenchmark's cycles in the timed mode."""

from __future__ import annotations

from bench.micro.published import Point
from ptx_emulator.grid import prepare_launch
from ptx_emulator.timing import CONSTANTS, Constants, time_launch


def modelled(point: Point, constants: Constants) -> float:
    """Cycles between the program's clocks, of the slowest warp of the first cluster: `once`, or per count."""
    if not point.cold:
        constants = constants.replace(**{name: CONSTANTS[name].low for name in ("code_latency", "code_line")})
    if point.measure == "once":
        return _cycles(point, point.n, constants)
    first, second = point.counts
    return (_cycles(point, second, constants) - _cycles(point, first, constants)) / (second - first)


def _cycles(point: Point, n: int, constants: Constants) -> float:
    ptx, options = point.build(n)
    # Every cluster does the same; all of them share HBM, whichever is executed.
    time_launch(prepare_launch(ptx, "k", **options), constants, clusters=[0])
    return float(options["buffers"][0].reshape(-1, 2)[:, 0].max())
