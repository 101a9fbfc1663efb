"""What launches cost: chains of empty kernels, timed by the host from before the first to behind the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.micro.base import HEADER
from ptx_emulator.grid import prepare_launch
from ptx_emulator.timing import Constants, LaunchTiming, chain_seconds, time_launch

PTX = f"""{HEADER}.visible .entry first() {{
griddepcontrol.launch_dependents;
ret;
}}
.visible .entry next() {{
griddepcontrol.wait;
ret;
}}
"""
THREADS = 128
ONE_CTA = {"grid": (1, 1, 1), "cluster": (1, 1, 1), "shared_bytes": 0, "params": (), "buffers": ()}
FIRST, NEXT = ("first", False), ("next", False)
DEPENDENT = ("next", True)  # it may begin before the one before it has ended
CHAINS = {"one kernel": (FIRST,), "two kernels": (FIRST, NEXT), "two, the second dependent": (FIRST, DEPENDENT)}


def timings(chain: Sequence[tuple[str, bool]], constants: Constants) -> list[LaunchTiming]:
    found: list[LaunchTiming] = []
    for entry, dependent in chain:
        grid = prepare_launch(PTX, entry, block=(THREADS,), dependent=dependent, **ONE_CTA)
        found.append(time_launch(grid, constants, before=found[-1] if found else None))
    return found


def modelled(chain: Sequence[tuple[str, bool]], constants: Constants) -> float:
    """Seconds."""
    return chain_seconds(timings(chain, constants), constants)


def found(seconds: Mapping[str, float], constants: Constants) -> dict[str, float]:
    """launch, next_launch and next_launch_pdl from the seconds of the chains, less what the kernels themselves take in
    the model; those that are left."""

    def kernels(name: str) -> float:
        return constants.microseconds(sum(timing.cycles for timing in timings(CHAINS[name], constants))) * 1e-6

    one, two, dependent = (seconds[name] - kernels(name) for name in CHAINS)
    values = {"launch": one, "next_launch": two - one, "next_launch_pdl": dependent - one}
    return {name: value for name, value in values.items() if value > 0}
