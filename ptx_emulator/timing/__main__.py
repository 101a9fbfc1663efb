"""Times any CuTe DSL kernel that is given by a Python file. Modelled, not measured.

    python -m ptx_emulator time CASE.py [batch=4 kv_len=81920 ...] [--dump FOLDER] [--cubin FILE] [--clusters 0,17]
        [--waits] [--set NAME=VALUE] [--constants FILE.json] [--relax] [--sensitivity] [--trace FILE.json] [--json]

(`python -m ptx_emulator.timing` is the same.) CASE.py has a function `arguments(**options)` that returns (IR text, PTX
text, host arguments, ...), as `cute_abi.launch` takes them, or with --dump the host arguments alone
(ptx_emulator/cute_abi/cases.py).
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..command_line import Parser, run, settings
from ..cute_abi.cases import read_case
from ..machine.watchdog import Limits
from . import Constants, LaunchTiming, time_host_function
from .cubin import code_sizes, register_counts
from .trace import TRACE_ROWS, chrome_trace, spans_of
from .variants import RELAXED, disputed


def read_cubin(path: str | None) -> tuple[dict[str, int], dict[str, int]]:
    """(registers, bytes of code) by kernel, of a cubin if there is one. Raises ValueError."""
    if path is None:
        return {}, {}
    try:
        cubin = Path(path).read_bytes()
        return register_counts(cubin), code_sizes(cubin)
    except (OSError, LookupError, struct.error) as error:
        raise ValueError(f"--cubin {path}: cannot be read ({type(error).__name__}: {error})") from error


def summary(launches: Sequence[LaunchTiming], constants: Constants) -> dict[str, Any]:
    """What --json prints: microseconds of each launch and of the call."""
    hand_overs = [constants["next_launch_pdl" if l.dependent else "next_launch"] * 1e6 for l in launches[1:]]
    rows = []
    for launch in launches:
        longest = max(launch.clusters, key=lambda cluster: cluster.cycles)
        rows.append(
            {
                "kernel": launch.kernel,
                "grid": launch.grid,
                "registers": launch.footprint.registers,
                "resident": launch.resident,
                "early": launch.early,
                "us": constants.microseconds(launch.cycles),
                "cycles": {cluster.number: cluster.cycles for cluster in launch.clusters},
                "busy": {name: cycles / longest.cycles for name, cycles in longest.busy.items()},
                "waits": [
                    {"warp": w, "mbarrier": offset, "by": by, "share": cycles / longest.cycles}
                    for (w, offset, by), cycles in longest.waits.items()
                ],
                "code": max((t for (_, kind), t in longest.blocked.items() if kind == "code"), default=0.0)
                / longest.cycles,
            }
        )
    total = constants["launch"] * 1e6 + sum(row["us"] for row in rows) + sum(hand_overs)
    return {"modelled": True, "clock": constants["clock"], "total_us": total, "launches": rows}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser("ptx_emulator time", __doc__)
    parser.add_argument("case", metavar="CASE.py")
    parser.add_argument("options", nargs="*", metavar="name=value", help="given to its `arguments`")
    parser.add_argument("--dump", metavar="FOLDER", help="of a CuTe DSL compilation: its IR and PTX are taken")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a constant of the model")
    parser.add_argument("--constants", help="JSON file of constants, e.g. measured")
    parser.add_argument(
        "--cubin", help="the assembled kernels: registers limit the CTAs that an SM holds, code is fetched"
    )
    parser.add_argument("--clusters", help="numbers of the clusters of the first launch to execute, with commas")
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds that executing a launch may take")
    parser.add_argument("--waits", action="store_true", help="where warps wait, and for what")
    parser.add_argument("--relax", action="store_true", help="the total with each resource twice as fast")
    parser.add_argument("--sensitivity", action="store_true", help="the total at both ends of each disputed constant")
    parser.add_argument("--trace", help="write a Chrome/Perfetto trace of the first launch's longest cluster here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args(arguments)
    try:
        constants = Constants.given(options.set, options.constants)
        named = settings(options.options)
        clusters = [int(n) for n in options.clusters.split(",")] if options.clusters else None
        Limits(seconds=options.time_limit)
        registers, sizes = read_cubin(options.cubin)
        if options.trace and not Path(options.trace).resolve().parent.is_dir():
            raise ValueError(f"--trace {options.trace}: its folder does not exist")
        case = read_case(options.case, named, options.dump)
        if case.ir is None:
            raise ValueError(f"{options.case}: has no IR; PTX alone is timed with ptx_emulator.timing.time_launch")
    except (ValueError, OSError) as error:
        parser.error(str(error))

    def timed(table: Constants, trace_rows: int = 0) -> list[LaunchTiming]:
        chosen = [{"clusters": clusters, "trace_rows": trace_rows}] + [{"cached": True}] * 8
        return time_host_function(
            case.ir, case.ptx, case.host_args, table, options=chosen, registers=registers, code_bytes=sizes,
            time_limit=options.time_limit,
        )  # fmt: skip

    timings = timed(constants, TRACE_ROWS if options.trace else 0)
    found = summary(timings, constants)
    if options.trace:
        longest = max(timings[0].clusters, key=lambda cluster: cluster.cycles)
        Path(options.trace).write_text(json.dumps(chrome_trace(spans_of(longest.trace), longest.port, constants)))
    asked = (("relaxed", options.relax, RELAXED), ("disputed", options.sensitivity, disputed()))
    found["variants"] = [
        {"kind": kind, "name": name, "total_us": summary(timed(table), table)["total_us"]}
        for kind, given, of in asked
        if given
        for name, table in ((name, constants.replace(**changes(constants))) for name, changes in of)
    ]
    print(json.dumps(found, indent=1) if options.json else text_of(found, options.waits))
    return 0


def text_of(found: dict[str, Any], waits: bool) -> str:
    lines = [f"modelled at {found['clock']} GHz: {found['total_us']:.1f} us"]
    for row in found["launches"]:
        lines.append(f"  {row['us']:8.1f} us  grid {row['grid']}  {row['kernel'][:60]}")
        registers = f"{row['registers']} registers" if row["registers"] else "registers unknown"
        lines.append(
            f"              {registers}, {row['resident']} CTAs an SM, {row['early']} before the last kernel's end"
        )
        lines.append(f"              cycles of clusters { ({n: round(c) for n, c in row['cycles'].items()}) }")
        busiest = sorted(row["busy"].items(), key=lambda item: -item[1])[:5]
        lines.append("              busy " + ", ".join(f"{name} {share:.0%}" for name, share in busiest))
        lines.append(f"              waits for code: {row['code']:.1%} of the time at most, of a warp")
        if waits:
            for wait in sorted(row["waits"], key=lambda w: (w["warp"], -w["share"])):
                if wait["share"] > 0.02:
                    lines.append(
                        f"              warp {wait['warp']:2d} waits {wait['share']:6.1%} at shared {wait['mbarrier']:#x} "
                        f"({wait['by']})"
                    )
    for variant in found["variants"]:
        ratio = variant["total_us"] / found["total_us"]
        lines.append(f"  {variant['kind']:8s} {variant['name']:22s} {variant['total_us']:8.1f} us  {ratio:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:], "ptx_emulator time"))
