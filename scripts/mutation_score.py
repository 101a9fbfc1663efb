"""Mutation score of the decode and merge kernels: which removed synchronisation do the emulator's checks find?

python -m scripts.mutation_score [--dtype bf16|fp16|fp8] [--num-heads N] [--seq-len-q N] [--kernel decode|merge]
                                 [--seeds N] [--only TEXT] [--limit SECONDS] [--json FILE] [--clean N]

`python -m ptx_emulator mutate` does this for any kernel, on one call of it. Here every mutant runs with the
happens-before checker on a small and a larger batch, then under adversarial schedules.
Prints a line per mutant that is not detected and a table; exit status 1 if one survives. `--clean N` runs the
unchanged kernels instead, with the checker, under N adversarial schedules: exit status 1 if one raises anything.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from mla.compile import compile_decode
from mla.config import DTYPES
from ptx_emulator.errors import EmulationError
from ptx_emulator.tool import mutate
from wrappers import command_line, emulated, kernel
from wrappers.backends import EMULATED_ARCH
from wrappers.command_line import integer
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import MlaProblem, assert_matches, make_problem

# Key lengths of the requests: on two CTAs several work items for each, with full, masked and partial tiles, some split.
SMALL = (330, 65, 200)
LARGE = (330, 65, 200, 64, 130, 1, 700, 128, 0, 257)
NUM_CTAS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    torch.set_num_threads(1)
    (small, ptx, reached), (large, _, reached_too) = (prepare(problem(options, lens)) for lens in (SMALL, LARGE))
    if options.clean:
        return clean(ptx, (small, large), options)
    runs = [partial(small, order="in_order"), partial(large, order="in_order")]
    runs += [partial(large if seed % 2 else small, order="adversarial", seed=seed) for seed in range(options.seeds)]
    verdicts = mutate.judge(
        ptx, runs, reached | reached_too, options.limit, kernel=entry(ptx, options.kernel), only=options.only
    )
    print(mutate.text_of(verdicts))
    if options.json is not None:
        Path(options.json).write_text(json.dumps(mutate.as_json(verdicts), indent=1))
    return mutate.status(verdicts)


def clean(ptx: str, runs: Sequence[Callable], options: argparse.Namespace) -> int:
    """Runs the unchanged kernels under adversarial schedules, the batches in turn."""
    found, started = [], time.monotonic()
    for seed in range(options.clean):
        try:
            what = runs[seed % len(runs)](ptx, order="adversarial", seed=seed)
        except (EmulationError, AssertionError) as error:
            what = (type(error).__name__, str(error))
        if what is not None:
            found.append({"seed": seed, "by": what[0], "detail": what[1]})
            print(f"seed {seed}: {what[0]}: {what[1]}")
        if (seed + 1) % 50 == 0:
            print(f"[{seed + 1}/{options.clean} {time.monotonic() - started:.0f} s]", file=sys.stderr, flush=True)
    print(f"{options.clean} adversarial schedules, {len(found)} of them raised something")
    if options.json is not None:
        Path(options.json).write_text(json.dumps({"schedules": options.clean, "raised": found}, indent=1))
    return int(bool(found))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m scripts.mutation_score", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--num-heads", type=integer(1, 128), default=16)
    parser.add_argument("--seq-len-q", type=integer(1, 2**20), default=4)
    parser.add_argument("--kernel", choices=("decode", "merge"), default="decode")
    parser.add_argument("--seeds", type=integer(0), default=3, help="adversarial schedules per mutant")
    parser.add_argument("--clean", type=integer(0), default=0, metavar="N", help="schedules of the unchanged kernels")
    parser.add_argument("--limit", type=command_line.positive, default=120.0, help="seconds per run")
    parser.add_argument("--only", help="only instructions whose text contains this")
    parser.add_argument("--json", type=command_line.output_file, metavar="FILE")
    return parser.parse_args(arguments)


def problem(options: argparse.Namespace, lens: tuple[int, ...]) -> MlaProblem:
    return make_problem(
        len(lens), options.num_heads, options.seq_len_q, lens, page_size=64, dtype=TORCH_DTYPES[options.dtype]
    )


def prepare(problem: MlaProblem) -> tuple[Callable, str, set[int]]:
    """(execute(ptx, **options), the unchanged PTX, the lines that it executes). Raises if the kernel is not clean."""
    call = problem.decode_call()
    compiled = compile_decode(kernel.decode_config(call, EMULATED_ARCH))

    def execute(ptx: str, **options) -> tuple[str, str] | None:
        reports = emulated.launch(replace(compiled, ptx=ptx), call, num_ctas=NUM_CTAS, checks=True, **options)
        hazards = reports.merge.hazards
        if hazards:
            return hazards[0].kind, str(hazards[0])
        assert_matches(problem, call.out, call.lse)
        execute.reports = reports
        return None

    found = execute(compiled.ptx, order="in_order")
    if found is not None:
        raise SystemExit(f"the unchanged kernel is not clean: {found[1]}")
    reached = {line for r in execute.reports for line, n in r.by_line().items() if n}
    return execute, compiled.ptx, reached


def entry(ptx: str, which: str) -> str:
    """The name of the decode or merge kernel's entry."""
    wanted = {"decode": "MlaDecode", "merge": "MergePartials"}[which]
    names = [line.split()[2].rstrip("(") for line in ptx.splitlines() if line.startswith(".visible .entry")]
    return next(name for name in names if wanted in name)


if __name__ == "__main__":
    command_line.run(main)
