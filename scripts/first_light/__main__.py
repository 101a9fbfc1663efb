"""First light: one command on a machine with a Blackwell GPU that says what of this project holds there.

    bash scripts/first_light.sh [--out first-light]      on a B200 or B300
    bash scripts/first_light.sh --rehearse [--short]     anywhere: the emulator is the GPU, the timed mode the clock

Runs a micro-kernel for each row of docs/silicon-assumptions.md on the GPU and in the emulator, each in a process of its
own, and says which fallbacks the machine needs, which all that follows has; scripts.validate, scripts.crosscheck_device,
the device tests and compute-sanitizer; the programs of bench.micro, from whose times follow the constants of the timed
mode (FOLDER/constants.json, for bench.predict --constants); the choices that a kernel leaves, the best of them into
FOLDER/machine.json, which mla_decode reads where MLA_MACHINE_TABLE names it; and the workloads of bench.predict, beside
their predictions with these constants and, in an interpreter that has them, tokenspeed-mla and FlashInfer. Writes
FOLDER/first-light.json and .md after every row: Ctrl-C keeps what is done. Nothing is uploaded.

Exit status: 0 all holds, 1 something does not, 2 wrong arguments or a machine on which it cannot run, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence

from ptx_emulator.tool.progress import Progress
from scripts.first_light import assumptions, constants, correctness, machine, move, peers, speed, switches, tuning
from scripts.first_light.isolate import Crashed, isolated
from scripts.first_light.replay import on_emulator, timed_on_emulator
from scripts.first_light.report import NAME, Report
from wrappers import command_line
from wrappers.backends import EMULATED_ARCH, KERNEL_ARCHS
from wrappers.machines import VARIABLE

_FIRST_EMULATION_SECONDS = 900  # of which the compiler of its loops takes about one minute


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    gpu = machine.find_gpu()
    found = machine.problems(gpu)
    for problem in found:
        print(f"first light: {problem.text}", file=sys.stderr)
    if not options.rehearse and machine.stops(found, options.anyway):
        return command_line.WRONG_ARGUMENTS
    command = shlex.join(["bash", "scripts/first_light.sh", *given])
    report = Report(options.out, command, machine.describe(gpu), [p.text for p in found], options.rehearse)
    uuid = "" if isinstance(gpu, str) else gpu.uuid
    report.content["clocks"]["before"] = machine.clocks(uuid)
    try:
        run(options, report, "" if options.rehearse else why_no_kernel(found), arch_of(gpu))
        state = "complete"
    except KeyboardInterrupt:
        state = "interrupted"
    report.content["clocks"]["after"] = machine.clocks(uuid)
    report.end(state)
    print(f"{state}: {options.out / NAME}.md and .json")
    if state == "interrupted":
        return command_line.INTERRUPTED
    return int(not report.is_good)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m scripts.first_light", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=command_line.output_folder, default=NAME, metavar="FOLDER")
    parser.add_argument("--rehearse", action="store_true", help="the emulator is the GPU, the timed mode the clock")
    parser.add_argument("--short", action="store_true", help="one small shape and workload each, for CI")
    parser.add_argument(
        "--anyway", action="store_true", help="on another architecture or a busy GPU: what can run there"
    )
    parser.add_argument(
        "--peers",
        metavar="PYTHON",
        help="an interpreter that has tokenspeed-mla, FlashInfer or both: timed beside ours",
    )
    parser.add_argument(
        "--pretend",
        action="append",
        default=[],
        type=setting,
        metavar="NAME=VALUE",
        help="of a rehearsal's GPU: a constant of the timed mode",
    )
    parser.add_argument(
        "--limit", type=command_line.positive, default=60,
        help="seconds a micro-kernel may take; a check or a workload: 30 times that",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.pretend and not options.rehearse:
        parser.error("--pretend: only with --rehearse")
    return options


def setting(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, command_line.positive(value)


def arch_of(gpu: machine.Gpu | str) -> str:
    """Of the machine's kernels, or of those that are emulated."""
    return EMULATED_ARCH if isinstance(gpu, str) else KERNEL_ARCHS.get(gpu.capability, EMULATED_ARCH)


def why_no_kernel(found: Sequence[machine.Problem]) -> str:
    """Why the decode kernel cannot run on the GPU, "" if it can or none is asked."""
    return next((problem.text for problem in found if problem.kind == "architecture"), "")


def run(options: argparse.Namespace, report: Report, why_not: str, arch: str) -> None:
    """Every step, with progress on stderr. A step's rows come once it is reached: it may look at those before."""
    checks = correctness.checks(options.rehearse, options.short, why_not)
    programs = constants.programs_of(options.short, options.rehearse)
    workloads, targets = speed.workloads(options.short), tuning.targets(options.short)
    long_limit = 30 * options.limit
    device = constants.Device(options.rehearse, dict(options.pretend), options.limit)
    clocks = speed.Clocks(options.rehearse, dict(options.pretend), options.out / constants.FILE, long_limit)
    table, timed = switches.Table(options.out, arch), report.content["speed"]
    steps: tuple[tuple[str, str, Iterator[dict], int], ...] = (
        ("assumptions", "relies_on", assumptions.check_all(assumptions.ROWS, options.rehearse, options.limit),
         len(assumptions.ROWS)),
        ("switches", "switch", judged(report, table), len(switches.SWITCHES)),
        ("correctness", "check", correctness.run_all(checks, long_limit), len(checks)),
        ("constants", "constant", constants.run_all(programs, device, options.out, long_limit),
         constants.num_rows(programs)),
        ("tuning", "choice", tuning.run_all(targets, clocks, table, options.short, why_not),
         sum(len(tuning.choices(target, options.short)) + 1 for target in targets)),
        ("speed", "workload", speed.run_all(workloads, clocks, why_not), len(workloads)),
        ("peers", "peer", peers.run_all(timed, options.peers, options.rehearse, long_limit, why_not), 2 * len(workloads)),
    )  # fmt: skip
    prepare(programs["programs"] if options.rehearse else ())
    with Progress(sum(number for *_, number in steps)) as progress:
        for section, name, rows, _ in steps:
            progress.begin(section)
            for row in rows:
                report.add(section, row)
                progress.finish(f"{section}: {row[name]}: {row['result']}")


def judged(report: Report, table: switches.Table) -> Iterator[dict]:
    """The fallbacks that the machine needs; all that is run from then on has them, by way of the table."""
    needed = []
    for row in switches.judge(report.content["assumptions"]):
        needed += [row["switch"]] if row["result"] == switches.NEEDED else []
        yield row
    os.environ[VARIABLE] = str(table.write(avoid=needed))


def prepare(programs: Sequence[dict]) -> None:
    """Has the emulator's loops compiled, and where there are programs those of the timed mode, which the time limit of a
    micro-kernel does not allow for. What goes wrong in it goes wrong again in the first row, which reports it."""
    given = [(on_emulator, move.dynamic_shared_memory())]
    given += [(timed_on_emulator, program, {}) for program in programs[:1]]
    try:
        for question in given:
            isolated(*question, limit=_FIRST_EMULATION_SECONDS)
    except Crashed as error:
        print(f"first light: preparing the emulator: {error}", file=sys.stderr)


if __name__ == "__main__":
    command_line.run(main)
