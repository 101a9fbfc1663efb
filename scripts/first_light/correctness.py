"""Item 3: scripts.validate, scripts.crosscheck_device, the device tests and, where it is installed, compute-sanitizer."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.crosscheck_device import BAD
from scripts.first_light import commands
from scripts.first_light.replay import NOT_HERE

PASSED, FAILED, CRASHED, INTERRUPTED = "passed", "FAILED", "crashed", "interrupted"
SMALL = ("--dtype", "bf16", "--num-heads", "16", "--seq-len-q", "1", "--batch", "1")
SANITIZERS = ("memcheck", "racecheck", "synccheck")
SANITIZER_FAILED = 9  # the exit status that it is asked to have


@dataclass(frozen=True)
class Check:
    """A command. read: from the content of the JSON file that it writes, (rows that passed, rows, what is wrong)."""

    name: str
    command: tuple[str, ...]
    read: Callable[[object], tuple[int, int, list[str]]] | None
    why_not: str = ""


def validated(content: object) -> tuple[int, int, list[str]]:
    wrong = [
        f"{r['dtype']} {r['path']} H={r['num_heads']} Q={r['seq_len_q']} K={r['kv_len']}: {'; '.join(r['faults'])}"
        for r in content
        if not r["passed"]
    ]
    return len(content) - len(wrong), len(content), wrong


def crosschecked(content: object) -> tuple[int, int, list[str]]:
    if "skipped" in content:
        return 0, 0, [content["skipped"]]
    rows = content["cases"]
    wrong = [f"{row['test']}: {row['result']} {row.get('reason', '')}".strip() for row in rows if row["result"] in BAD]
    return len(rows) - len(wrong), len(rows), wrong


def tested(content: object) -> tuple[int, int, list[str]]:
    passed, failed = len(content["passed"]), content["failed"]
    return passed, passed + len(failed), failed or content["skipped"][:1]


def checks(is_rehearsal: bool, is_short: bool, why_no_kernel: str = "") -> list[Check]:
    """What is run. why_no_kernel: why the decode kernel cannot run on this GPU, "" if it can."""
    backend = "emulator" if is_rehearsal else "cute"
    if is_short:
        shapes = [("bf16, one small shape", (*SMALL, "--kv-len", "70"))]
    else:
        shapes = [(f"{dtype}, all shapes", ("--dtype", dtype)) for dtype in ("bf16", "fp16", "fp8")]
    found = [
        Check(
            f"validate {name}", ("-m", "scripts.validate", "--backend", backend, *arguments), validated, why_no_kernel
        )
        for name, arguments in shapes
    ]
    replay = "emulator" if is_rehearsal else "gpu"
    tests = ("--tests", "tests/ptx_emulator/units/test_matrix.py") if is_short else ()
    command = ("-m", "scripts.crosscheck_device", "--backend", replay, *tests)
    found.append(Check("conformance kernels", command, crosschecked))
    found.append(device_tests(is_short, why_no_kernel))
    return [*found, *(sanitizer(tool, is_rehearsal, why_no_kernel) for tool in SANITIZERS)]


def device_tests(is_short: bool, why_no_kernel: str) -> Check:
    """The tests that need the GPU; where there is none they are skipped and say so."""
    tests = "tests/bench/test_decode.py" if is_short else "tests"
    options = ("-q", "-p", "no:cacheprovider", "-p", "scripts.first_light.pytest_json", "-m", "device and not slow")
    return Check("device tests", ("-m", "pytest", *options, tests), tested, why_no_kernel)


def sanitizer(tool: str, is_rehearsal: bool, why_no_kernel: str) -> Check:
    program = shutil.which("compute-sanitizer")
    why = "compute-sanitizer is not on PATH" if program is None else why_no_kernel
    why = "the emulator is no GPU" if is_rehearsal else why
    run = (sys.executable, "-m", "scripts.validate", "--backend", "cute", *SMALL, "--kv-len", "300")
    command = (program or "", "--tool", tool, "--error-exitcode", str(SANITIZER_FAILED), *run)
    return Check(f"compute-sanitizer {tool}", command, None, why)


def run_all(chosen: Sequence[Check], limit: float) -> Iterator[dict]:
    """A report row for each check, as they are done; after Ctrl-C that of the check in hand, then KeyboardInterrupt."""
    for check in chosen:
        row, is_interrupted = run_one(check, limit)
        yield row
        if is_interrupted:
            raise KeyboardInterrupt


def run_one(check: Check, limit: float) -> tuple[dict, bool]:
    """Runs a check in a process group of its own, `limit` seconds at most. Returns (its row, whether Ctrl-C
    ended it).
    """
    row = {"check": check.name, "result": NOT_HERE, "passed": 0, "rows": 0, "about": [], "seconds": 0.0}
    if check.why_not:
        return {**row, "about": [check.why_not]}, False
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="first-light-") as folder:
        file = Path(folder) / "rows.json"
        command = [*check.command, "--json", str(file)]
        command = command if check.read is None else [sys.executable, *command]
        ended = commands.run(command, limit)
        content = _content(file)
    row["seconds"] = round(time.monotonic() - began, 1)
    if check.read and content is not None:
        row["passed"], row["rows"], row["about"] = check.read(content)
    status = ended.status
    row["result"] = PASSED if status == 0 else FAILED
    if check.read is not None and status == 0 and not row["rows"]:
        row["result"] = NOT_HERE
    if status not in (0, 1, SANITIZER_FAILED) or (status == 1 and check.read and content is None):
        row["result"] = INTERRUPTED if status is None else CRASHED
        row["about"] = [*row["about"], ended.about]
    elif status and check.read is None:
        row["about"] = [ended.about]
    return row, status is None


def _content(file: Path) -> object:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
