"""A microbenchmark's cycles in the timed mode."""

from __future__ import annotations

from bench.micro.timed import MARK, Timed
from ptx_emulator.grid import prepare_launch
from ptx_emulator.timing import Constants, time_launch


def modelled(timed: Timed, constants: Constants) -> float:
    """The number that a program is for, of the slowest warp of the first cluster."""
    if not timed.cold:
        constants = constants.with_code_there
    return timed.number([clocks(timed, n, constants) for n in timed.runs])


def clocks(timed: Timed, n: int, constants: Constants) -> list[float]:
    """(END, MARK) of one run. A timer's nanoseconds are cycles too in the emulator."""
    ptx, options = timed.build(n)
    # Every cluster does the same; all of them share HBM, whichever is executed.
    time_launch(prepare_launch(ptx, "k", **options), constants, clusters=[0])
    found = [float(value) for value in options["buffers"][0].reshape(-1, 2).max(axis=0)]
    if timed.timer:
        found[MARK] /= constants["clock"]
    return found
