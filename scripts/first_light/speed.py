"""Item 5, its first part: the workloads of bench.predict, timed on the GPU, beside what the timed mode predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.workloads import WORKLOADS, Workload
from scripts.first_light.isolate import Crashed, isolated
from scripts.first_light.replay import NOT_HERE

TOLERANCE = 0.15  # a row that is further from its prediction is marked
CLOCK_GHZ = 1.93
AS_PREDICTED, OFF, CRASHED = "as predicted", "OFF", "crashed"
SHORT = (Workload.uniform("fp8", 16, 4, 1024, 1),)
_WARMUP, _REPEATS = 10, 50


def workloads(is_short: bool) -> Sequence[Workload]:
    return SHORT if is_short else WORKLOADS


def run_all(chosen: Sequence[Workload], is_rehearsal: bool, limit: float, why_not: str = "") -> Iterator[dict]:
    """A report row for each workload, each in processes of its own. In a rehearsal the timed mode is the clock.
    why_not: why this GPU has no decode kernel to time."""
    for workload in chosen:
        row = {"workload": workload.name, "result": CRASHED, "predicted_us": None, "timed_us": None, "spread_us": None}
        if why_not:
            yield {**row, "result": NOT_HERE, "about": why_not}
            continue
        try:
            row["predicted_us"] = isolated(predict, workload, limit=limit)
            timed = [row["predicted_us"]] * 3 if is_rehearsal else isolated(time_on_gpu, workload, limit=limit)
        except Crashed as error:
            yield {**row, "about": str(error)}
            continue
        yield {**row, **compared(row["predicted_us"], *timed)}


def compared(predicted: float, timed: float, low: float, high: float) -> dict:
    """The rest of a row. Microseconds: prediction, median, 10th and 90th percentile."""
    ratio = timed / predicted
    result = AS_PREDICTED if abs(ratio - 1) <= TOLERANCE else OFF
    return {"result": result, "timed_us": timed, "spread_us": [low, high], "ratio": round(ratio, 3), "about": ""}


def predict(workload: Workload) -> float:
    """Modelled microseconds of a call, launch included."""
    from bench import prediction
    from ptx_emulator.timing import Constants

    return round(prediction.predict(workload, Constants.of(clock=CLOCK_GHZ), "auto").total, 2)


def time_on_gpu(workload: Workload) -> list[float]:
    """Microseconds of replays of a captured call with L2 cold: median, 10th and 90th percentile."""
    from bench.decode import bench

    timing = bench(workload, "cute", _WARMUP, _REPEATS)["graph"]
    return [round(seconds * 1e6, 2) for seconds in (timing.median, timing.low, timing.high)]
