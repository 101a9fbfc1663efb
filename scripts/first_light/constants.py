"""Item 4: the programs of bench.micro on the GPU, and the constants of the timed mode that follow."""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.first_light import commands, replay
from scripts.first_light.isolate import Crashed, isolated

MEASURED, OBSERVED, NOT_SEPARATED, CRASHED, INTERRUPTED = (
    "measured", "observed", "not separated", "crashed", "interrupted",
)  # fmt: skip
MEASURE = (sys.executable, "-m", "bench.micro.measure")
FILE = "constants.json"
# A rehearsal's short form: one of each family, and few MMAs under which the clock is read.
SHORT = ("alu", "hbm_latency", "arrive + wake", "tmem_load", "mma_macs", "clock", "tma_4k", "launches",
         "published: __syncthreads of 128")  # fmt: skip
_REHEARSED_ROUNDS = 4


@dataclass(frozen=True)
class Device:
    """Where programs run. pretended: a rehearsal's GPU has these constants."""

    is_rehearsal: bool
    pretended: Mapping[str, float]
    limit: float

    def ask(self, question: str, *given: object) -> object:
        """What a function of replay.py answers in a process of its own. Raises Crashed."""
        function = getattr(replay, f"{question}_on_{'emulator' if self.is_rehearsal else 'gpu'}")
        return isolated(function, *given, self.pretended, limit=self.limit)


def programs_of(is_short: bool, is_rehearsal: bool) -> dict:
    """What bench.micro.measure writes; empty where that does not run."""
    with tempfile.TemporaryDirectory(prefix="first-light-") as folder:
        file = Path(folder) / "programs"
        options = ["--only", ",".join(SHORT)] if is_short else []
        options += ["--load-rounds", str(_REHEARSED_ROUNDS)] if is_rehearsal else []
        ended = commands.run([*MEASURE, "--programs", str(file), *options], 600)
        if ended.status is None:
            raise KeyboardInterrupt
        return pickle.loads(file.read_bytes()) if ended.status == 0 else {"programs": [], "chains": {}}


def num_rows(programs: Mapping) -> int:
    """Report rows that follow, if all goes well: the loops of all sizes together make one."""
    names = {program["name"].split(" ")[0] if program["name"].startswith("code_cache ") else program["name"]
             for program in programs["programs"]}  # fmt: skip
    return len(names) + len(programs["chains"])


def run_all(programs: Mapping, device: Device, folder: Path, limit: float) -> Iterator[dict]:
    """Report rows: those programs that have no time, as they come; then, once all are timed, the constants. They are
    written to `folder`/constants.json, which bench.predict --constants takes."""
    if not programs["programs"]:
        yield row("all", "bench.micro.measure --programs", CRASHED, "it failed")
        return
    times: dict = {"clocks": {}, "seconds": {}, "sms": None}
    try:
        times["sms"] = device.ask("sms")
    except Crashed as error:
        yield row("sms", "asked of the driver", CRASHED, str(error))
    for program in programs["programs"]:
        yield from _take(times["clocks"], program["name"], device, "timed", program)
    for name in programs["chains"]:
        yield from _take(times["seconds"], name, device, "chain", programs, name)
    if len(times["seconds"]) < len(programs["chains"]):
        times["seconds"] = {}
    yield from derived(times, folder, limit)


def _take(to: dict, name: str, device: Device, question: str, *given: object) -> Iterator[dict]:
    try:
        answer = device.ask(question, *given)
    except Crashed as error:
        yield row(name, "", CRASHED, str(error))
        return
    if isinstance(answer, str):
        yield row(name, "", replay.NOT_HERE, answer)
    else:
        to[name] = answer


def derived(times: Mapping, folder: Path, limit: float) -> Iterator[dict]:
    with tempfile.TemporaryDirectory(prefix="first-light-") as place:
        given, answer = Path(place) / "times.json", Path(place) / "found.json"
        given.write_text(json.dumps(times))
        ended = commands.run([*MEASURE, "--times", str(given), "--json", str(answer)], limit)
        if ended.status != 0:
            yield row("all", "from the times", INTERRUPTED if ended.status is None else CRASHED, ended.about)
            if ended.status is None:
                raise KeyboardInterrupt
            return
        content = json.loads(answer.read_text())
    (folder / FILE).write_text(json.dumps(content["constants"], indent=1) + "\n")
    yield from rows_of(content)


def rows_of(content: Mapping) -> Iterator[dict]:
    for found in content["found"]:
        result = NOT_SEPARATED if found["why_not"] else MEASURED
        figures = {name: found[name] for name in ("measured", "modelled", "values", "table")}
        yield {**row(found["constant"], found["how"], result, found["why_not"]), **figures}
    for seen in content["observed"]:
        figures = {name: seen[name] for name in ("measured", "modelled")}
        yield {**row(seen["program"], "no constant follows", OBSERVED, ""), **figures}


def row(constant: str, how: str, result: str, about: str) -> dict:
    return {"constant": constant, "how": how, "result": result, "about": about, "measured": None, "modelled": None,
            "values": {}, "table": {}}  # fmt: skip


def table_rows(rows: Sequence[Mapping]) -> list[tuple]:
    """Cells for the report: constant, how, the program's number measured and modelled, value, the table's."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    return [
        (r["constant"], r["how"], number(r["measured"]), number(r["modelled"]),
         ", ".join(map(number, r["values"].values())), ", ".join(map(number, r["table"].values())), r["result"], r["about"])
        for r in rows
    ]  # fmt: skip
