"""Item 5, the peers: tokenspeed-mla and FlashInfer on the tensors of our own timings, in a Python that has them."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.first_light import commands
from scripts.first_light.peer_call import NOT_INSTALLED, PACKAGES
from scripts.first_light.replay import NOT_HERE
from scripts.first_light.speed import BENCH, CRASHED, INTERRUPTED

TIMED = "timed"
CALL = Path(__file__).with_name("peer_call.py")
STAND_IN = Path(__file__).with_name("stand_in")
_SECONDS_TO_SAVE = 600


def run_all(
    speed_rows: Sequence[dict], python: str | None, is_rehearsal: bool, limit: float, why_not: str = ""
) -> Iterator[dict]:
    """A report row for each workload that we timed and each peer. In a rehearsal the peers are stand-ins on the host's
    clock. python: the interpreter that has them, None where nobody said.
    """
    command = ["env", f"PYTHONPATH={STAND_IN}", sys.executable] if is_rehearsal else [python or ""]
    options = ["--device", "cpu", "--warmup", "1", "--repeats", "4"] if is_rehearsal else []
    why_not = why_not or ("" if is_rehearsal or python else "no --peers PYTHON was given")
    if why_not:
        yield _row("all", "all", NOT_HERE, why_not)
        return
    for timed in speed_rows:
        if timed["timed_us"] is None:
            continue
        with tempfile.TemporaryDirectory(prefix="first-light-") as folder:
            tensors = Path(folder) / "tensors.pt"
            saved = commands.run([*BENCH, timed["workload"], "--save", str(tensors)], _SECONDS_TO_SAVE)
            for peer in PACKAGES if saved.status == 0 else ():
                ended = commands.run([*command, str(CALL), peer, str(tensors), *options], limit)
                yield compared(timed, peer, ended)
                if ended.status is None:
                    raise KeyboardInterrupt
        if saved.status != 0:
            yield _row(timed["workload"], "all", CRASHED, f"saving its tensors: {saved.about}")


def compared(ours: dict, peer: str, ended: commands.Ended) -> dict:
    if ended.status == NOT_INSTALLED:
        return _row(ours["workload"], peer, NOT_HERE, ended.output.strip())
    if ended.status != 0:
        return _row(ours["workload"], peer, INTERRUPTED if ended.status is None else CRASHED, ended.about)
    found = json.loads(ended.output.splitlines()[-1])
    row = _row(ours["workload"], f"{peer} {found['version']}", TIMED, "")
    times = {"timed_us": found["median_us"], "spread_us": [found["low_us"], found["high_us"]]}
    return {**row, **times, "ratio": round(found["median_us"] / ours["timed_us"], 3)}


def _row(workload: str, peer: str, result: str, about: str) -> dict:
    return {"workload": workload, "peer": peer, "result": result, "timed_us": None, "spread_us": None, "ratio": None,
            "about": about}  # fmt: skip
