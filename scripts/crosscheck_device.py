"""Replays the emulator's conformance kernels on the GPU of this machine and compares memory bit for bit.

python -m scripts.crosscheck_device [--tests tests/ptx_emulator/units] [--backend gpu|emulator|ptxas]
                                    [--json crosscheck.json] [--timeout SECONDS]

On sm_100 everything runs; on sm_90 all kernels without tcgen05, with the PTX retargeted. Kernels with approximate
instructions report their largest error in units of the last place instead. What a GPU's compiler refuses (an
instruction that it does not have) is listed with its reason. Without a GPU: says so and exits with status 0.
`--backend emulator` replays in the emulator with all buffers moved, which checks the list itself; `--backend ptxas`
only assembles the kernels, for the target that each names. Exit status: 1 if a kernel that must agree differs, hangs or
crashes, or one that must assemble does not.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ptx_emulator.errors import EmulationError
from ptx_emulator.tool.progress import Progress
from scripts import crosscheck_gpu, crosscheck_ptxas
from scripts.crosscheck_cases import Case, compare, load_cases, replay_in_emulator
from wrappers import command_line

DEFAULT_TESTS = ("tests/ptx_emulator/front/ops", "tests/ptx_emulator/units")
BAD = ("different", "hung", "crashed")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m scripts.crosscheck_device",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tests", nargs="+", default=DEFAULT_TESTS, help="tests whose launches are replayed")
    parser.add_argument("--backend", choices=("gpu", "emulator", "ptxas"), default="gpu")
    parser.add_argument("--json", type=command_line.output_file, metavar="FILE")
    parser.add_argument("--timeout", type=command_line.positive, default=60, help="seconds a kernel may take")
    parser.add_argument("--replay", type=Path, help=argparse.SUPPRESS)  # the child process: cases, from number --first
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.replay:
        return replay_child(options.replay, options.first, options.backend)
    checks = {"gpu": crosscheck_gpu.why_not, "ptxas": crosscheck_ptxas.why_not}
    reason = checks[options.backend]() if options.backend in checks else ""
    if reason:
        print(f"skipped: {reason}")
        write_json(options.json, {"skipped": reason, "cases": []})
        return 0
    with tempfile.TemporaryDirectory(prefix="crosscheck-") as folder:
        file = Path(folder) / "cases"
        try:
            record(options.tests, file)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        cases = load_cases(file)
        if options.backend == "ptxas":
            found = crosscheck_ptxas.assemble_all(cases)
        else:
            found = replay_all(cases, file, options.backend, options.timeout)
        rows, is_interrupted = collect(found, len(cases))
    if options.json != "-":
        print(table(rows))
    device = crosscheck_gpu.Gpu().name if options.backend == "gpu" else options.backend
    write_json(options.json, {"device": device, "cases": rows})
    if is_interrupted:
        print(f"interrupted: {len(rows)} of {len(cases)} kernels", file=sys.stderr)
        return command_line.INTERRUPTED
    bad = ("refused",) if options.backend == "ptxas" else BAD
    return int(any(row["result"] in bad for row in rows))


def collect(found: Iterator[dict], total: int) -> tuple[list[dict], bool]:
    """The rows, as far as they came before Ctrl-C, with progress on stderr; whether that ended it."""
    rows = []
    with Progress(total) as progress:
        try:
            for row in found:
                rows.append(row)
                progress.finish(f"{row['test']}: {row['result']}")
        except KeyboardInterrupt:
            return rows, True
    return rows, False


def record(tests: Sequence[str], file: Path) -> None:
    """Runs the tests with the recorder; raises RuntimeError if they do not pass."""
    command = ["pytest", "-q", "-p", "no:cacheprovider", "-p", "scripts.crosscheck_cases"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--crosscheck-record", str(file), *tests], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the conformance tests do not pass:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")


def replay_all(cases: Sequence[Case], file: Path, backend: str, timeout: float) -> Iterator[dict]:
    """A row for every case. A child process replays them, so that a kernel that hangs or kills its context costs one
    case and not the run."""
    number = 0
    while number < len(cases):
        command = [sys.executable, "-m", "scripts.crosscheck_device", "--backend", backend]
        child = subprocess.Popen(
            [*command, "--replay", str(file), "--first", str(number)], stdout=subprocess.PIPE, text=True
        )
        lines: queue.Queue = queue.Queue()
        threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
        while number < len(cases):
            failed = ""
            try:
                line = lines.get(timeout=timeout)
                row = json.loads(line) if line else None
                failed = "" if line else "crashed"
            except queue.Empty:
                failed = "hung"
            number += 1
            yield {"test": cases[number - 1].name, **({"result": failed} if failed else row)}
            if failed or row["result"] == "crashed":
                break
        child.kill()
        child.wait()


def _read(stream, lines: queue.Queue) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def replay_child(file: Path, first: int, backend: str) -> int:
    """Prints a JSON line for every case from number `first`."""
    gpu = crosscheck_gpu.Gpu() if backend == "gpu" else None
    for case in load_cases(file)[first:]:
        if case.why_not:
            row = {"result": "skipped", "reason": case.why_not}
        elif gpu is not None and case.needs_blackwell and not gpu.has_tcgen05:
            row = {"result": "skipped", "reason": f"tcgen05 or a CTA pair on {gpu.target}"}
        else:
            row = outcome(case, gpu.replay if gpu is not None else replay_in_emulator)
        print(json.dumps(row), flush=True)
    return 0


def outcome(case: Case, replay: Callable[[Case], list[bytes]]) -> dict:
    """Replays a case and says how it compares with the record."""
    try:
        found = replay(case)
    except crosscheck_gpu.DriverError as error:
        refused = str(error).startswith("cuModuleLoadDataEx")
        return {"result": "refused" if refused else "crashed", "reason": str(error)}
    except EmulationError as error:
        return {"result": "crashed", "reason": str(error)}
    result = compare(case, found)
    row = {"bytes_different": result.different, "bytes_never_written": result.ignored, "max_ulp": result.max_ulp}
    if result.different == 0:
        return {"result": "equal", **row}
    return {"result": "approximate" if case.approximate else "different", **row}


def table(rows: Sequence[dict]) -> str:
    """Counts by test file, then every case that is neither equal nor skipped."""
    files: dict[str, Counter] = {}
    for row in rows:
        files.setdefault(row["test"].split("::")[0], Counter())[row["result"]] += 1
    lines = [f"{name}: " + ", ".join(f"{n} {result}" for result, n in sorted(c.items())) for name, c in files.items()]
    for row in rows:
        if row["result"] in ("equal", "skipped", "assembled"):
            continue
        about = row.get("reason") or ", ".join(
            f"{key} {row[key]}" for key in ("bytes_different", "max_ulp") if row.get(key) is not None
        )
        lines.append(f"  {row['result']:11s} {row['test']}  {about}")
    return "\n".join(lines)


def write_json(file: str | None, content: dict) -> None:
    if file == "-":
        print(json.dumps(content, indent=1))
    elif file is not None:
        Path(file).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    command_line.run(main)
