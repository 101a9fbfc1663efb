"""Signal-to-noise ratios of the decode kernel against the fp64 reference: a table, one row per problem.

    python -m scripts.validate [--dtype bf16,fp16,fp8]     a fixed set of shapes
    python -m scripts.validate --num-heads 16 --seq-len-q 1,4,8 --kv-len 2048 --batch 10 --page-size 64

With any option that describes a problem there is one row per combination of the lists given; what is left out is
16 heads, 1, 4 and 8 tokens, 10 requests of 2048 keys, pages of 64, causal, scores of standard deviation 1, values of
mean 0, the operand path that the kernel's own rule chooses, and none of --mode's: ragged gives every request a number
of query tokens of its own, tree a tree mask, dcp is one rank of decode context parallelism, scales reads the scales
from memory, window hides all but about half of the keys from every query token, lens gives each a number of keys.

A row passes when its SNR is within 0.5 dB of torch doing the kernel's roundings, its log-sum-exp is right, and rows
that see no key are (0, -inf). Exit status: 0 all rows passed, 1 some did not, 2 wrong arguments, 130 interrupted:
the rows that are done are then printed and written all the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mla.config import HEAD_DIM, MAX_HEADS, PAGE_SIZES, PATHS
from ptx_emulator.tool.progress import Progress
from wrappers import backends, command_line, decode, validate
from wrappers.call import DecodeCall
from wrappers.command_line import choice, integer, list_of, number, output_file
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import DEFAULT_SCALE, MlaProblem, compare, make_problem, shard
from wrappers.validate import BACKENDS

MODES = ("plain", "ragged", "tree", "dcp", "scales", "window", "lens")
# world, rank, interleave
DCP = (2, 1, 16)
ORDERS = ("in_order", "late", "random")
SNR_MARGIN_DB = 0.5


@dataclass(frozen=True)
class Case:
    """One row's question: `batch` requests of `kv_len` keys each, or, ragged, of 0 to `kv_len` in equal steps.

    `logit_sigma` is the standard deviation of the scores, `value_mean` the mean of the values.
    """

    dtype: str
    num_heads: int = 16
    seq_len_q: int = 8
    kv_len: int = 2048
    batch: int = 10
    page_size: int = 64
    is_causal: bool = True
    is_ragged: bool = False
    logit_sigma: float = 1.0
    value_mean: float = 0.0
    path: str = "auto"
    mode: str = "plain"

    def __str__(self) -> str:
        mask = mask_name(self)
        keys = f"K=0..{self.kv_len}" if self.is_ragged else f"K={self.kv_len}"
        return f"{self.dtype} {self.path} B={self.batch} H={self.num_heads} Q={self.seq_len_q} {keys} {mask}"

    @property
    def kv_lens(self) -> list[int]:
        if not self.is_ragged or self.batch == 1:
            return [self.kv_len] * self.batch
        return [self.kv_len * (self.batch - 1 - index) // (self.batch - 1) for index in range(self.batch)]

    @property
    def input_bytes(self) -> int:
        """Of queries and keys as they are made, in fp32."""
        rows = self.batch * self.seq_len_q * self.num_heads + sum(self.kv_lens)
        return 4 * HEAD_DIM * rows

    @property
    def query_lens(self) -> list[int] | None:
        """Query tokens per request, from `seq_len_q` down to 0 and again, where the query is ragged."""
        if self.mode != "ragged":
            return None
        return [self.seq_len_q - index % (self.seq_len_q + 1) for index in range(self.batch)]

    def problem(self, seed: int) -> MlaProblem:
        problem = make_problem(
            self.batch, self.num_heads, self.seq_len_q, self.kv_lens, page_size=self.page_size,
            dtype=TORCH_DTYPES[self.dtype], is_causal=self.is_causal, seed=seed,
            softmax_scale=self.logit_sigma * DEFAULT_SCALE, value_mean=self.value_mean,
            query_lens=self.query_lens, tree=self.mode == "tree", visible_lens=self.mode == "lens",
            window_left=max(self.seq_len_q - 1, self.kv_len // 2) if self.mode == "window" else None,
        )  # fmt: skip
        if self.mode == "dcp":
            return shard(problem, *DCP, page_size=self.page_size)
        if self.mode == "scales":
            scale = torch.tensor([problem.softmax_scale])
            return replace(problem, softmax_scale=scale, output_scale=torch.tensor([0.5]))
        return problem


def mask_name(case: Case | Row) -> str:
    mask = "causal" if case.is_causal else "dense"
    return {"plain": mask, "tree": "tree", "lens": "lens"}.get(case.mode, f"{mask} {case.mode}")


def default_cases(dtype: str) -> list[Case]:
    """The fixed set, on both operand paths: B=10, H=16, K=2048, then one shape per further property. A mode is on one
    path for fp8 and on the other for bf16 and fp16.
    """
    modes = [Case(dtype, seq_len_q=6, kv_len=300, batch=4, mode=mode) for mode in MODES[1:]]
    modes = modes if dtype == "fp8" else modes[::-1]
    either = [
        Case(dtype),
        Case(dtype, num_heads=40, seq_len_q=5, kv_len=777, batch=3, page_size=16, is_ragged=True),
        Case(dtype, seq_len_q=4, kv_len=600, batch=4, page_size=128, is_causal=False),
    ]
    narrow = [
        *either,
        *modes[:3],
        Case(dtype, seq_len_q=1),
        Case(dtype, num_heads=3, seq_len_q=2, kv_len=1300, batch=6, page_size=32, is_ragged=True),
    ]
    wide = [
        *either,
        *modes[3:],
        Case(dtype, num_heads=128, seq_len_q=1, kv_len=1024, batch=2),
        Case(dtype, num_heads=7, seq_len_q=11, kv_len=1300, batch=4, page_size=32, is_ragged=True),
    ]
    if dtype == "fp8":
        peaked = Case(dtype, num_heads=8, seq_len_q=1, kv_len=4096, batch=1, value_mean=1.0)
        narrow += [replace(peaked, logit_sigma=sigma) for sigma in (2.0, 3.0)]
        wide += [replace(peaked, logit_sigma=3.0, seq_len_q=9)]
    return [replace(case, path=path) for path, cases in (("narrow", narrow), ("wide", wide)) for case in cases]


@dataclass(frozen=True)
class Row:
    """One row's answer. dB, absolute errors, seconds; `faults` says in words what is wrong, empty where passed."""

    dtype: str
    num_heads: int
    seq_len_q: int
    kv_len: int
    batch: int
    page_size: int
    is_causal: bool
    is_ragged: bool
    logit_sigma: float
    value_mean: float
    path: str
    mode: str
    backend: str
    arch: str
    snr_db: float
    baseline_snr_db: float
    max_abs_err: float
    lse_max_abs_err: float
    passed: bool
    mutation: str | None
    compile_seconds: float
    run_seconds: float
    faults: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    cases = list(cases_of(options))
    to_stdout = options.json == "-"
    rows, is_interrupted = [], False
    with Progress(len(cases)) as progress:
        try:
            for case in cases:
                row = run_case(case, options, progress)
                rows.append(row)
                progress.finish(f"{case}: {row.snr_db:.2f} dB, {'passed' if row.passed else 'FAILED'}")
        except KeyboardInterrupt:
            is_interrupted = True
    print(table(rows), file=sys.stderr if to_stdout else sys.stdout)
    for row in rows:
        for fault in row.faults:
            case = f"{row.dtype} {row.path} H={row.num_heads} Q={row.seq_len_q} K={row.kv_len}"
            print(f"{case}: {fault}", file=sys.stderr)
    if options.json:
        text = json.dumps([json_row(row) for row in rows], indent=2, allow_nan=False)
        if to_stdout:
            print(text)
        else:
            Path(options.json).write_text(text + "\n")
    if is_interrupted:
        print(f"interrupted: {len(rows)} of {len(cases)} rows", file=sys.stderr)
        return command_line.INTERRUPTED
    return 0 if all(row.passed for row in rows) else 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m scripts.validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dtype", type=list_of(choice(TORCH_DTYPES)), default=list(TORCH_DTYPES), help=",".join(TORCH_DTYPES)
    )
    parser.add_argument("--num-heads", type=list_of(integer(1, MAX_HEADS)))
    parser.add_argument("--seq-len-q", type=list_of(integer(1)))
    parser.add_argument("--kv-len", type=list_of(integer(0, validate.MAX_KV_LEN)))
    parser.add_argument("--batch", type=list_of(integer(1)))
    parser.add_argument("--page-size", type=list_of(integer(1)))
    parser.add_argument("--causal", action=argparse.BooleanOptionalAction)
    parser.add_argument("--ragged", action=argparse.BooleanOptionalAction,
                        help="lengths from 0 to --kv-len over the batch")  # fmt: skip
    parser.add_argument("--logit-sigma", type=list_of(number), help="standard deviation of the scores")
    parser.add_argument("--value-mean", type=list_of(number))
    parser.add_argument("--mode", type=list_of(choice(dict.fromkeys(MODES))), help=", ".join(MODES))
    parser.add_argument("--path", type=list_of(choice(PATHS)), help=",".join(PATHS))
    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto", help="auto: cute on an SM100/SM103 GPU, else emulator"
    )
    parser.add_argument("--arch", choices=sorted(backends.KERNEL_ARCHS.values()), default=backends.EMULATED_ARCH,
                        help="what the emulated kernel is compiled for")  # fmt: skip
    parser.add_argument("--order", choices=ORDERS, default="in_order",
                        help="when the emulator lets asynchronous work complete")  # fmt: skip
    parser.add_argument("--mutate", metavar="NAME", help="run a deliberately wrong kernel, which must fail")
    parser.add_argument("--seed", type=integer(0, 2**63 - 1), default=0)
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the rows there too; - is stdout (then no table there)"
    )
    options = parser.parse_args(arguments)
    try:
        options.backend = pick_backend(options.backend)
        check_options(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def check_options(options: argparse.Namespace) -> None:
    """ValueError for what argparse cannot know: the problem's limits and the names of the mutants."""
    for case in cases_of(options):
        if case.mode == "tree" and not case.is_causal:
            raise ValueError("--mode tree: not with --no-causal, which has every query token see every key")
        if case.mode == "tree" and case.seq_len_q > validate.MAX_TREE_TOKENS:
            limit = validate.MAX_TREE_TOKENS
            raise ValueError(f"--seq-len-q {case.seq_len_q}: must be at most {limit} with --mode tree")
        if case.input_bytes > machine_bytes():
            raise ValueError(
                f"{case}: its inputs take {case.input_bytes / 2**30:.0f} GiB, this machine has "
                f"{machine_bytes() / 2**30:.0f}: make --batch, --seq-len-q or --kv-len smaller"
            )
        if case.page_size not in PAGE_SIZES:
            raise ValueError(f"--page-size {case.page_size}: must be one of {validate.list_text(PAGE_SIZES)}")
    if options.mutate is None:
        return
    if options.backend == "torch":
        raise ValueError("--mutate changes the kernel: it needs --backend cute or emulator")
    from scripts.mutants import MUTANTS

    if options.mutate not in MUTANTS:
        raise ValueError(f"--mutate {options.mutate}: must be one of {validate.list_text(MUTANTS)}")


def machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def pick_backend(asked: str) -> str:
    """The backend to run; ValueError where cute is asked for and no GPU can run it."""
    if asked not in ("auto", "cute"):
        return asked
    try:
        backends.device_arch(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    except ValueError:
        if asked == "cute":
            raise
        return "emulator"
    return "cute"


def cases_of(options: argparse.Namespace) -> list[Case]:
    causal, ragged = ([value] if value is not None else None for value in (options.causal, options.ragged))
    lists = {
        "num_heads": options.num_heads, "seq_len_q": options.seq_len_q, "kv_len": options.kv_len,
        "batch": options.batch, "page_size": options.page_size, "is_causal": causal, "is_ragged": ragged,
        "logit_sigma": options.logit_sigma, "value_mean": options.value_mean, "path": options.path,
        "mode": options.mode,
    }  # fmt: skip
    given = {name: values for name, values in lists.items() if values is not None}
    if not given:
        return [case for dtype in options.dtype for case in default_cases(dtype)]
    given = {"seq_len_q": [1, 4, 8], **given}
    return [
        Case(dtype, **dict(zip(given, values))) for dtype, *values in itertools.product(options.dtype, *given.values())
    ]


def run_case(case: Case, options: argparse.Namespace, progress: Progress) -> Row:
    progress.begin(f"{case}: inputs")
    problem = case.problem(options.seed)
    out = torch.full(problem.out_shape, math.nan, dtype=problem.out_dtype)
    lse = torch.full(problem.out_shape[:-1], math.nan)
    arch, path, faults, seconds = run_backend(
        problem, case.path, out, lse, options, lambda text: progress.begin(f"{case}: {text}")
    )
    progress.begin(f"{case}: reference")
    result = compare(problem, out, lse)
    faults += result.faults
    if not result.snr_db >= result.baseline_snr_db - SNR_MARGIN_DB:
        faults += (f"out: {result.snr_db:.2f} dB, more than {SNR_MARGIN_DB} dB below {result.baseline_snr_db:.2f}",)
    return Row(
        **{**asdict(case), "path": path}, backend=options.backend, arch=arch, snr_db=result.snr_db,
        baseline_snr_db=result.baseline_snr_db, max_abs_err=result.max_abs_err,
        lse_max_abs_err=result.lse_max_abs_err, passed=not faults, mutation=options.mutate,
        compile_seconds=seconds[0], run_seconds=seconds[1], faults=faults,
    )  # fmt: skip


def run_backend(
    problem: MlaProblem,
    path: str,
    out: torch.Tensor,
    lse: torch.Tensor,
    options: argparse.Namespace,
    say: Callable[[str], None],
) -> tuple[str, str, tuple[str, ...], tuple[float, float]]:
    """Fills `out` and `lse`. Returns the architecture, the operand path, faults (an emulation that stopped), and
    seconds of (compile, run).
    """
    if options.backend == "torch":
        say("torch")
        started = time.monotonic()
        result = decode.mla_decode(*problem.tensors, **problem.options, return_lse=True, backend="torch")
        out.copy_(result[0])
        lse.copy_(result[1])
        return "cpu", "none", (), (0.0, time.monotonic() - started)
    device = torch.device("cuda" if options.backend == "cute" else "cpu")
    arch = backends.device_arch(device) if options.backend == "cute" else options.arch
    call = problem.to(device).decode_call()
    say("compile")
    started = time.monotonic()
    kernel = compile_kernel(call, arch, path, options.mutate)
    compiled = time.monotonic()
    say("emulate" if options.backend == "emulator" else "run")
    faults = (emulate if options.backend == "emulator" else run_on_device)(kernel, call, options)
    out.copy_(call.out)
    lse.copy_(call.lse)
    taken = "wide" if kernel.config.is_wide else "narrow"
    return arch, taken, faults, (compiled - started, time.monotonic() - compiled)


def compile_kernel(call: DecodeCall, arch: str, path: str, mutation: str | None) -> Any:
    from wrappers import kernel

    if mutation is None:
        return kernel.compiled(call, arch, path)
    from scripts.mutants import compile_mutant

    return compile_mutant(kernel.decode_config(call, arch, path), mutation)


def emulate(kernel: Any, call: DecodeCall, options: argparse.Namespace) -> tuple[str, ...]:
    from ptx_emulator.errors import EmulationError
    from wrappers import emulated

    try:
        emulated.launch(kernel, call, order=options.order, seed=options.seed)
    except EmulationError as error:
        return (f"emulation stopped: {error}",)
    return ()


def run_on_device(kernel: Any, call: DecodeCall, options: argparse.Namespace) -> tuple[str, ...]:
    from wrappers.kernel import launch

    launch(kernel, call)
    return ()


def table(rows: list[Row]) -> str:
    """Aligned text, one line per row under a header."""
    header = ("dtype", "B", "H", "Q", "K", "page", "mask", "sigma", "mean", "path", "backend", "arch",
              "SNR dB", "baseline", "max err", "lse err", "compile s", "run s", "")  # fmt: skip
    lines = [header]
    for row in rows:
        lines.append((
            row.dtype, str(row.batch), str(row.num_heads), str(row.seq_len_q),
            f"0..{row.kv_len}" if row.is_ragged else str(row.kv_len), str(row.page_size),
            mask_name(row), f"{row.logit_sigma:g}", f"{row.value_mean:g}", row.path, row.backend,
            row.arch, f"{row.snr_db:.2f}",
            f"{row.baseline_snr_db:.2f}", f"{row.max_abs_err:.2e}", f"{row.lse_max_abs_err:.1e}",
            f"{row.compile_seconds:.1f}", f"{row.run_seconds:.1f}", "passed" if row.passed else "FAILED",
        ))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def json_row(row: Row) -> dict[str, Any]:
    """The row as JSON has it: what is not finite (an exact output's SNR, a NaN error) is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(row).items()
    }


if __name__ == "__main__":
    command_line.run(main)
