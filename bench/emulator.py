"""How fast the emulator executes a decode call: warp instructions per CPU second. Runs anywhere.

    python -m bench.emulator --batch 10 --num-heads 16 --seq-len-q 8 --kv-len 2048 --dtype bf16 [--order in_order]

        [--path auto] [--page-size 64] [--repeats 3] [--checks] [--json FILE]

A warp instruction is a PTX instruction executed by one warp (or by a group of its lanes that diverged). CPU seconds
are the process's, user and system, from the launch's arguments to its results; compiling and decoding the kernel, and
the emulator's own compiled code, are warmed up by a call before. The smallest of `--repeats` runs is reported: other
work on the machine only adds. `--checks` runs the call with the happens-before checker too, in turn with the plain
runs, and adds its seconds, their ratio to the plain ones, and the number of hazards. Not a timing of the kernel.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from bench.counts import ARCH
from bench.workloads import Workload, add_workload_arguments, workload_of
from mla.config import PAGE_SIZES, PATHS
from ptx_emulator.machine.asyncs import ORDERS
from wrappers import command_line, emulated, kernel
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import make_problem


@dataclass(frozen=True)
class Speed:
    """One row: the call, what it executed, and the seconds that took; `checked_cpu_seconds` and the number of `hazards`
    with the happens-before checker, None without `--checks`."""

    dtype: str
    batch: int
    num_heads: int
    seq_len_q: int
    kv_len: int
    path: str
    order: str
    warp_instructions: int
    tcgen05_macs: int
    cpu_seconds: float
    wall_seconds: float
    checked_cpu_seconds: float | None = None
    hazards: int | None = None

    @property
    def instructions_per_second(self) -> float:
        """Warp instructions per CPU second."""
        return self.warp_instructions / self.cpu_seconds

    @property
    def checks_ratio(self) -> float | None:
        """CPU time with checks over CPU time without."""
        return None if self.checked_cpu_seconds is None else self.checked_cpu_seconds / self.cpu_seconds


def measure(workload: Workload, path: str, order: str, repeats: int, checks: bool) -> Speed:
    """Emulates the call `repeats` times after one that warms up, and keeps the run of least CPU time; with `checks` as
    often with the happens-before checker."""
    problem = make_problem(
        workload.batch, workload.num_heads, workload.seq_len_q, workload.kv_len, page_size=workload.page_size,
        dtype=TORCH_DTYPES[workload.dtype],
    )  # fmt: skip
    call = problem.decode_call()
    compiled = kernel.compiled(call, ARCH, path)

    def run(checked: bool) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        emulated.launch(compiled, call, order=order, checks=checked)
        return time.process_time() - cpu, time.perf_counter() - wall

    modes = (False, True) if checks else (False,)
    warm = [emulated.launch(compiled, call, order=order, checks=checked) for checked in modes]
    reports = warm[-1]
    runs = [[run(checked) for checked in modes] for _ in range(repeats)]
    plain, *with_checks = (min(column) for column in zip(*runs, strict=True))
    return Speed(
        workload.dtype, workload.batch, workload.num_heads, workload.seq_len_q, workload.kv_len, path, order,
        sum(report.warp_instructions for report in reports),
        sum(report.counters["tcgen05_macs"] for report in reports),
        *plain,
        with_checks[0][0] if checks else None,
        len(reports[-1].hazards) if checks else None,
    )  # fmt: skip


def table(rows: Sequence[Speed]) -> str:
    """Aligned text, one line per row under a header."""
    header = ["dtype", "B", "H", "Q", "K", "path", "order", "warp instr", "GMAC", "CPU s", "wall s", "warp instr/CPU s"]
    checks = any(row.checks_ratio is not None for row in rows)
    lines = [header + (["CPU s with checks", "ratio", "hazards"] if checks else [])]
    for row in rows:
        lines.append([
            row.dtype, str(row.batch), str(row.num_heads), str(row.seq_len_q), str(row.kv_len), row.path, row.order,
            str(row.warp_instructions), f"{row.tcgen05_macs / 1e9:.2f}", f"{row.cpu_seconds:.2f}",
            f"{row.wall_seconds:.2f}", f"{row.instructions_per_second:.3g}",
        ])  # fmt: skip
        if checks:
            lines[-1] += [f"{row.checked_cpu_seconds:.2f}", f"{row.checks_ratio:.2f}", str(row.hazards)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def machine() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m bench.emulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_workload_arguments(parser)
    parser.set_defaults(batch=10)
    parser.add_argument("--dtype", default="bf16", help=f"list of {','.join(TORCH_DTYPES)}")
    parser.add_argument("--order", default="in_order", help=f"list of {','.join(ORDERS)}")
    parser.add_argument("--path", default="auto", help=f"operand path of the kernel, list of {','.join(PATHS)}")
    parser.add_argument("--page-size", type=int, choices=PAGE_SIZES, default=64)
    parser.add_argument("--repeats", type=command_line.integer(1), default=3)
    parser.add_argument("--checks", action="store_true", help="measure the happens-before checker too")
    parser.add_argument(
        "--json",
        type=command_line.output_file,
        metavar="FILE",
        help="write the rows there too; - is stdout (then no table)",
    )
    options = parser.parse_args(arguments)
    dtypes, paths, orders = (given.split(",") for given in (options.dtype, options.path, options.order))
    lists = (("--dtype", dtypes, TORCH_DTYPES), ("--path", paths, PATHS), ("--order", orders, ORDERS))
    try:
        for name, values, allowed in lists:
            for value in values:
                if value not in allowed:
                    raise ValueError(f"{name} {value}: must be one of {', '.join(allowed)}")
        workload = workload_of(options)
    except ValueError as error:
        parser.error(str(error))
    rows = []
    for dtype, path, order in product(dtypes, paths, orders):
        row = replace(workload, dtype=dtype)
        rows.append(measure(row, path, order, options.repeats, options.checks))
    if options.json != "-":
        print(f"{machine()}\n{table(rows)}")
    if options.json:
        derived = ("instructions_per_second", "checks_ratio")
        found = [asdict(row) | {name: getattr(row, name) for name in derived} for row in rows]
        text = json.dumps({"machine": machine(), "rows": found}, indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    command_line.run(main)
