"""The report: one JSON file, and Markdown made from it alone. Written anew after every row."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from scripts.first_light import constants

NAME = "first-light"
SECTIONS = ("assumptions", "switches", "correctness", "constants", "tuning", "speed", "peers")
GOOD = (
    "holds", "not needed", "unknown", "passed", "as predicted", "not applicable here", "measured", "observed",
    "not separated", "timed", "best", "default", "faster", "slower", "changes results: not written",
)  # fmt: skip
_CONSTANTS = """## Constants of the timed mode (ptx_emulator/timing/constants.py)

Each is the value with which the timed mode takes as long for its program as was timed; constants.json has them."""
_SWITCHES = """## Fallbacks (MlaDecodeConfig.avoid)

Those that this machine needs are in machine.json, and all kernels below have them; `mla_decode` reads it where
MLA_MACHINE_TABLE names it."""
_TUNING = """## Tuning

What gains at least 3 % and changes no result is in machine.json, for calls of that dtype and number of rows."""
REHEARSAL = (
    "**A rehearsal.** The emulator stood in for the GPU and the timed mode for the clock: the microseconds below are "
    "modelled, and the comparisons are between two runs of the emulator and what was worked out by hand. What is called "
    "measured was timed in the timed mode, so the constants come out as they went in. The peers are stand-ins that compute "
    "nothing, on this machine's own clock. It shows that this command works, and nothing about hardware."
)


class Report:
    """Collects rows by section in `folder`/first-light.json and .md."""

    def __init__(self, folder: Path, command: str, machine: dict, problems: Sequence[str], is_rehearsal: bool):
        self.folder = folder
        self.content: dict = {
            "kind": "rehearsal" if is_rehearsal else "device",
            "command": command,
            "commit": commit(),
            "started": now(),
            "ended": None,
            "state": "running",
            "machine": machine,
            "problems": list(problems),
            "clocks": {},
            **{section: [] for section in SECTIONS},
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def add(self, section: str, row: dict) -> None:
        self.content[section].append(row)
        self.write()

    def end(self, state: str) -> None:
        """state: "complete" or "interrupted"."""
        self.content.update(state=state, ended=now())
        self.write()

    @property
    def is_good(self) -> bool:
        """Whether nothing differs, failed, crashed or is off its prediction."""
        return all(row["result"] in GOOD for section in SECTIONS for row in self.content[section])

    def write(self) -> None:
        for suffix, text in (("json", json.dumps(self.content, indent=1)), ("md", markdown(self.content))):
            file = self.folder / f"{NAME}.{suffix}"
            part = file.with_suffix(f".{suffix}.part")
            part.write_text(text.rstrip() + "\n")
            os.replace(part, file)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def commit() -> str:
    """The commit of this checkout, "+" if files differ from it; "unknown" outside one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, cwd=Path(__file__).parent, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def markdown(content: dict) -> str:
    is_rehearsal = content["kind"] == "rehearsal"
    lines = [f"# First light: {'rehearsal' if is_rehearsal else _gpu_name(content['machine'])}", ""]
    lines += [REHEARSAL, ""] if is_rehearsal else []
    lines += [f"    {content['command']}", "", f"State: {content['state']}. Commit {content['commit']}, "
              f"{content['started']} to {content['ended'] or 'now'}.", "", *_machine(content), ""]  # fmt: skip
    lines += ["## Assumptions (docs/silicon-assumptions.md)", "", *_assumptions(content["assumptions"]), ""]
    lines += [_SWITCHES, "", *_switches(content["switches"]), ""]
    lines += ["## Correctness", "", *_correctness(content["correctness"]), ""]
    lines += [_CONSTANTS, "", *_constants(content["constants"]), ""]
    lines += [_TUNING, "", *_tuning(content["tuning"]), ""]
    lines += ["## Speed", "", *_speed(content["speed"], is_rehearsal), ""]
    lines += ["## Beside the peers, on the same tensors", "", *_peers(content["peers"])]
    return "\n".join(lines)


def _gpu_name(machine: dict) -> str:
    gpu = machine["gpu"]
    return gpu if isinstance(gpu, str) else gpu["name"]


def _machine(content: dict) -> list[str]:
    machine = content["machine"]
    gpu = machine["gpu"]
    told = gpu if isinstance(gpu, str) else (
        f"{gpu['name']}, compute capability {'.'.join(map(str, gpu['capability']))}, driver for CUDA {gpu['cuda']}, "
        f"torch for CUDA {gpu['torch_cuda']}"
    )  # fmt: skip
    lines = [f"Machine: {machine['system']}, Python {machine['python']}, {machine['cores']} cores. GPU: {told}."]
    lines += [f"Note: {problem}." for problem in content["problems"]]
    for when, values in ((when, values) for when, values in content["clocks"].items() if values):
        lines.append(f"Clocks {when}: " + ", ".join(f"{name} {value}" for name, value in values.items()) + ".")
    return [line for text in lines for line in (text, "")][:-1]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(header), line(["---"] * len(header)), *map(line, rows)] if rows else ["Not reached."]


def _mark(result: str) -> str:
    return result if result in GOOD else f"**{result}**"


def _assumptions(rows: Sequence[dict]) -> list[str]:
    cells = [
        (row["row"] if number == 0 else "", row["relies_on"] if number == 0 else "", kernel["kernel"],
         _mark(kernel["result"]), kernel["about"])
        for row in rows
        for number, kernel in enumerate(row["kernels"])
    ]  # fmt: skip
    return table(("row", "what the kernel relies on", "micro-kernel", "result", "about"), cells)


def _correctness(rows: Sequence[dict]) -> list[str]:
    cells = [
        (r["check"], _mark(r["result"]), f"{r['passed']} of {r['rows']}" if r["rows"] else "", f"{r['seconds']:.0f}",
         "; ".join(r["about"][:3]))
        for r in rows
    ]  # fmt: skip
    return table(("check", "result", "rows passed", "seconds", "about"), cells)


def _constants(rows: Sequence[dict]) -> list[str]:
    header = ("constant or program", "how", "timed", "modelled with these", "value", "the table's", "result", "about")
    return table(header, [(*cells[:6], _mark(cells[6]), cells[7]) for cells in constants.table_rows(rows)])


def _switches(rows: Sequence[dict]) -> list[str]:
    cells = [(row["switch"], row["row"], _mark(row["result"]), row["about"]) for row in rows]
    return table(("switch", "row", "result", "about"), cells)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _tuning(rows: Sequence[dict]) -> list[str]:
    cells = [(r["workload"], r["choice"], _number(r["timed_us"]), _mark(r["result"]), r["about"]) for r in rows]
    return table(("workload", "choice", "timed, us", "result", "about"), cells)


def _peers(rows: Sequence[dict]) -> list[str]:
    cells = [
        (r["workload"], r["peer"], _number(r["timed_us"]), "" if r["spread_us"] is None else
         "-".join(map(_number, r["spread_us"])), "" if r["ratio"] is None else r["ratio"], _mark(r["result"]), r["about"])
        for r in rows
    ]  # fmt: skip
    return table(("workload", "peer", "timed, us", "10-90 %", "peer / ours", "result", "about"), cells)


def _speed(rows: Sequence[dict], is_rehearsal: bool) -> list[str]:
    cells = [
        (r["workload"], _number(r["predicted_us"]), _number(r["timed_us"]),
         "" if r["spread_us"] is None else "-".join(map(_number, r["spread_us"])), r.get("ratio", ""),
         _mark(r["result"]), r["about"])
        for r in rows
    ]  # fmt: skip
    clock = "timed mode, us" if is_rehearsal else "GPU, us"
    return table(("workload", "predicted, us", clock, "10-90 %", "timed / predicted", "result", "about"), cells)
