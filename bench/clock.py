"""One workload's time, for scripts.first_light: modelled, or timed on the GPU of this machine. A JSON object on stdout.

    python -m bench.clock --list [--short]
    python -m bench.clock 'fp8 h16 q4 80K b1' --clock model|gpu [--constants FILE]

median_us, low_us, high_us: microseconds of a call with cold L2. gpu: replays of a captured call, median, 10th and 90th
percentile. model: the timed mode's total, launch included, three times.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from bench.workloads import WORKLOADS, Workload
from wrappers import command_line
from wrappers.backends import EMULATED_ARCH, KERNEL_ARCHS
from wrappers.machines import VARIABLE, machine_of

SHORT = Workload.uniform("fp8", 16, 4, 1024, 1)  # for rehearsals: modelled in seconds
WARMUP, REPEATS = 10, 50
_BY_NAME = {workload.name: workload for workload in (*WORKLOADS, SHORT)}


def modelled(workload: Workload, settings: Sequence[str], constants: str | None) -> list[float]:
    from bench import prediction
    from ptx_emulator.timing import Constants

    workload, path = as_machine(workload)
    return [prediction.predict(workload, Constants.given(settings, constants), path).total] * 3


def as_machine(workload: Workload) -> tuple[Workload, str]:
    """The workload with what the table of machines says of this one's kernels; the operand path."""
    machine = machine_of(machine_arch())
    tuned = machine.tuned(workload.dtype, workload.rows)
    path = tuned.pop("path", "auto")
    return replace(workload, avoid=machine.avoid, **tuned), path


def machine_arch() -> str:
    """Of this machine's GPU, or the one that is emulated."""
    if not torch.cuda.is_available():
        return EMULATED_ARCH
    return KERNEL_ARCHS.get(torch.cuda.get_device_capability(), EMULATED_ARCH)


def on_gpu(workload: Workload) -> list[float]:
    from bench import decode

    timing = decode.bench(workload, "cute", WARMUP, REPEATS)["graph"]
    return [seconds * 1e6 for seconds in (timing.median, timing.low, timing.high)]


def save(workload: Workload, file: str) -> None:
    """The call's tensors and numbers, as torch.load reads them."""
    from bench import decode

    problem = decode.problem_of(workload)
    names = ("query", "kv_cache", "block_tables", "seq_lens")
    content = {name: getattr(problem, name) for name in names}
    numbers = {"softmax_scale": float(problem.softmax_scale), "max_seq_len": max(workload.kv_lens)}
    torch.save({**content, **numbers}, file)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m bench.clock", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workload", nargs="?", choices=[*_BY_NAME], metavar="WORKLOAD")
    parser.add_argument("--list", action="store_true", help="the workloads' names, a JSON list")
    parser.add_argument("--short", action="store_true", help="the small one alone")
    parser.add_argument("--clock", choices=("model", "gpu"), default="model")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a constant of the model")
    parser.add_argument("--constants", metavar="FILE", help="JSON file of constants of the model, e.g. measured")
    parser.add_argument("--save", metavar="FILE", help="write the tensors that the GPU's time is of, and time nothing")
    parser.add_argument("--table", metavar="FILE", help="table of machines (wrappers/machines.py) in place of its own")
    options = parser.parse_args(arguments)
    if options.table:
        os.environ[VARIABLE] = options.table
    if options.list:
        print(json.dumps([w.name for w in ((SHORT,) if options.short else WORKLOADS)]))
        return 0
    if options.workload and options.save:
        save(_BY_NAME[options.workload], options.save)
        return 0
    if options.workload is None:
        parser.error("WORKLOAD or --list is needed")
    workload = _BY_NAME[options.workload]
    try:
        times = on_gpu(workload) if options.clock == "gpu" else modelled(workload, options.set, options.constants)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(json.dumps({f"{name}_us": round(time, 2) for name, time in zip(("median", "low", "high"), times)}))
    return 0


if __name__ == "__main__":
    command_line.run(main)
