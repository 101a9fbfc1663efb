"""Item 5, its first part: the workloads of bench.predict, timed on the GPU, beside what the timed mode predicts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.first_light import commands
from scripts.first_light.replay import NOT_HERE

TOLERANCE = 0.15  # a row that is further from its prediction is marked
AS_PREDICTED, OFF, CRASHED, INTERRUPTED = "as predicted", "OFF", "crashed", "interrupted"
BENCH = (sys.executable, "-m", "bench.clock")
_SECONDS_TO_LIST = 120
_EMPTY = {"workload": "", "result": CRASHED, "predicted_us": None, "timed_us": None, "spread_us": None}


def workloads(is_short: bool) -> list[str]:
    """Their names; none where bench.clock does not run."""
    found = commands.run([*BENCH, "--list", *(["--short"] if is_short else [])], _SECONDS_TO_LIST)
    if found.status is None:
        raise KeyboardInterrupt
    return json.loads(found.output) if found.status == 0 else []


@dataclass(frozen=True)
class Clocks:
    """How bench.clock is called. pretended: a rehearsal's GPU has these constants. constants: the file of those that
    were measured, which may not be there. limit: seconds."""

    is_rehearsal: bool
    pretended: Mapping[str, float]
    constants: Path
    limit: float

    def predict(self, *arguments: str) -> commands.Ended:
        """The timed mode with the constants that were measured."""
        given = ["--constants", str(self.constants)] if self.constants.exists() else []
        return commands.run([*BENCH, *arguments, "--clock", "model", *given], self.limit)

    def time(self, *arguments: str) -> commands.Ended:
        """The GPU, or in a rehearsal the timed mode with the constants that it pretends to have."""
        if not self.is_rehearsal:
            return commands.run([*BENCH, *arguments, "--clock", "gpu"], self.limit)
        settings = [part for name, value in self.pretended.items() for part in ("--set", f"{name}={value!r}")]
        return commands.run([*BENCH, *arguments, "--clock", "model", *settings], self.limit)


def run_all(names: Sequence[str], clocks: Clocks, why_not: str = "") -> Iterator[dict]:
    """A report row for each workload, each in processes of its own. why_not: why this GPU has no decode kernel to time."""
    if not names:
        yield {**_EMPTY, "workload": "all", "about": "bench.clock --list failed"}
    for name in names:
        row = {**_EMPTY, "workload": name}
        if why_not:
            yield {**row, "result": NOT_HERE, "about": why_not}
            continue
        predicted = clocks.predict(name)
        timed = predicted if predicted.status is None else clocks.time(name)
        yield {**row, **outcome(predicted, timed)}
        if None in (predicted.status, timed.status):
            raise KeyboardInterrupt


def outcome(predicted: commands.Ended, timed: commands.Ended) -> dict:
    """The rest of a row, from what bench.clock printed."""
    expected = json.loads(predicted.output)["median_us"] if predicted.status == 0 else None
    if timed.status != 0:
        result = INTERRUPTED if timed.status is None else CRASHED
        return {"result": result, "predicted_us": expected, "about": timed.about}
    found = json.loads(timed.output)
    if expected is None:
        spread = [found["low_us"], found["high_us"]]
        about = f"prediction: {predicted.about}"
        return {"result": CRASHED, "timed_us": found["median_us"], "spread_us": spread, "about": about}
    return {"predicted_us": expected, **compared(expected, found["median_us"], found["low_us"], found["high_us"])}


def compared(predicted: float, timed: float, low: float, high: float) -> dict:
    """Microseconds: prediction, median, 10th and 90th percentile."""
    ratio = timed / predicted
    result = AS_PREDICTED if abs(ratio - 1) <= TOLERANCE else OFF
    return {"result": result, "timed_us": timed, "spread_us": [low, high], "ratio": round(ratio, 3), "about": ""}
