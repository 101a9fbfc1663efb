"""Item 5, its first part: the workloads of bench.predict, timed on the GPU, beside what the timed mode predicts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

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


def run_all(names: Sequence[str], is_rehearsal: bool, limit: float, why_not: str = "") -> Iterator[dict]:
    """A report row for each workload, each in processes of its own. In a rehearsal the timed mode is the clock.
    why_not: why this GPU has no decode kernel to time.
    """
    if not names:
        yield {**_EMPTY, "workload": "all", "about": "bench.clock --list failed"}
    for name in names:
        row = {**_EMPTY, "workload": name}
        if why_not:
            yield {**row, "result": NOT_HERE, "about": why_not}
            continue
        predicted = commands.run([*BENCH, name, "--clock", "model"], limit)
        timed = predicted
        if predicted.status is not None and not is_rehearsal:
            timed = commands.run([*BENCH, name, "--clock", "gpu"], limit)
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
