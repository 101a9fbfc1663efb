"""Item 6: the choices that a kernel's config leaves, timed one by one; the best into the table that the library reads."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.first_light.replay import NOT_HERE
from scripts.first_light.speed import CRASHED, INTERRUPTED, Clocks
from scripts.first_light.switches import Table

BEST, SLOWER, DEFAULT, INEXACT = "best", "slower", "default", "changes results: not written"
GAIN = 0.03  # by which a choice must be faster than the default: less is noise
DEFAULTS: dict = {}


@dataclass(frozen=True)
class Target:
    """A workload by whose time its kind of call is tuned: requests of `rows` rows, or more than half as many."""

    workload: str
    dtype: str
    rows: int


TARGETS = (
    Target("fp8 h16 q4 80K b4", "fp8", 64),
    Target("fp8 h128 q1 8K b32", "fp8", 128),
    Target("bf16 h16 q4 16K b8", "bf16", 64),
    Target("bf16 h128 q1 8K b32", "bf16", 128),
)
SHORT = Target("fp8 h16 q4 1K b1", "fp8", 64)
STAGES = {  # narrow: keys, rope. wide: keys, rope, values, P. Those that fit beside the default's.
    ("fp8", "narrow"): ([10, 4],), ("bf16", "narrow"): ([8, 2],),
    ("fp8", "wide"): ([5, 2, 7, 2], [7, 2, 5, 2]), ("bf16", "wide"): ([4, 2, 5, 1], [6, 2, 3, 1]),
}  # fmt: skip


def targets(is_short: bool) -> tuple[Target, ...]:
    return (SHORT,) if is_short else TARGETS


def choices(target: Target, is_short: bool) -> list[dict]:
    """Fields of the config that differ from the default, one kind at a time; the default first."""
    own = "narrow" if target.rows <= 64 else "wide"
    if is_short:
        return [DEFAULTS, {"uncut_tiles": 4}]
    other = "wide" if own == "narrow" else "narrow"
    found = [DEFAULTS, {"path": other}, {"uncut_tiles": 1}, {"uncut_tiles": 4}]
    return [*found, *({"stages": stages} for stages in STAGES[target.dtype, own]), {"rescale_threshold": 8.0}]


def run_all(
    chosen: Sequence[Target], clocks: Clocks, table: Table, is_short: bool, why_not: str = ""
) -> Iterator[dict]:
    """A report row for each choice. Those that gain are tried together at last, and the best is written."""
    for target in chosen:
        if why_not:
            yield _row(target, DEFAULTS, NOT_HERE, None, why_not)
            continue
        times: list[tuple[float, dict]] = []
        for choice in choices(target, is_short):
            yield from _time(target, choice, clocks, table, times)
        if not times or times[0][1]:  # of the default
            continue
        together = _together(times)
        if together:
            yield from _time(target, together, clocks, table, times)
        _, best = min(_allowed(times), key=lambda pair: pair[0])
        if best and gains(times, best):
            tuned = {"dtype": target.dtype, "most_rows": target.rows, **best}
            table.write(tuning=[*table.content["tuning"], tuned])
        yield _row(target, best, BEST, min(_allowed(times), key=lambda pair: pair[0])[0], "")


def _allowed(times: Sequence[tuple[float, dict]]) -> list[tuple[float, dict]]:
    """What may be written: what changes no result and gains, and the default."""
    return [(time, choice) for time, choice in times if not choice or _is_exact(choice) and gains(times, choice)]


def _is_exact(choice: Mapping) -> bool:
    return not choice.get("rescale_threshold")


def gains(times: Sequence[tuple[float, dict]], choice: Mapping) -> bool:
    """Whether a choice is faster than the default, which is the first, by more than noise."""
    time = next(time for time, other in times if other == choice)
    return time < (1 - GAIN) * times[0][0]


def _together(times: Sequence[tuple[float, dict]]) -> dict:
    """All that gain by themselves, the best of each kind; {} where there are not two. Stages belong to a path."""
    merged: dict = {}
    for _, choice in sorted(_allowed(times), key=lambda pair: -pair[0]):
        merged |= choice
    if "path" in merged:
        merged.pop("stages", None)
    return merged if len(merged) > 1 and merged not in [choice for _, choice in times] else {}


def _time(target: Target, choice: dict, clocks: Clocks, table: Table, times: list) -> Iterator[dict]:
    """Times the workload with the table and this choice in it; adds to `times`."""
    with tempfile.TemporaryDirectory(prefix="first-light-") as folder:
        trial = Table(Path(folder), table.arch)
        row = {"dtype": target.dtype, "most_rows": target.rows, **choice}
        file = trial.write(avoid=table.content["avoid"], tuning=[row] if choice else [])
        ended = clocks.time(target.workload, "--table", str(file))
    if ended.status != 0:
        yield _row(target, choice, INTERRUPTED if ended.status is None else CRASHED, None, ended.about)
        if ended.status is None:
            raise KeyboardInterrupt
        return
    times.append((json.loads(ended.output)["median_us"], choice))
    result = (
        DEFAULT if not choice else INEXACT if not _is_exact(choice) else "faster" if gains(times, choice) else SLOWER
    )
    yield _row(target, choice, result, times[-1][0], "")


def _row(target: Target, choice: Mapping, result: str, time: float | None, about: str) -> dict:
    said = ", ".join(f"{name} {value}" for name, value in choice.items()) or "the default"
    return {"workload": target.workload, "choice": said, "result": result, "timed_us": time, "about": about}
