"""Registers, shared memory and Tensor Memory of every kernel variant: dtype x operand path x architecture; "isolated"
is the wide path with `isolate_drafts`.

    python -m scripts.resources [--dtype bf16,fp8] [--path wide] [--arch sm_100a] [--json FILE] [--require-clean]

Registers, stack and local-memory instructions are read from the compiled cubin, shared and Tensor Memory from the
memory plan that the kernel is launched with. Every variant has causal masking, pages of 64 and a log-sum-exp output.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mla.arch import ARCHS, SMEM_BYTES_PER_CTA, TMEM_COLUMNS
from mla.compile import check_arch, compilable_archs, compile_decode
from mla.config import DTYPES, MlaDecodeConfig
from mla.plan.paths import plan_of
from ptx_emulator.tool.progress import Progress
from scripts.cubin_report import report_cubin
from wrappers import command_line

PATHS = ("narrow", "wide", "isolated")
NUM_HEADS, SEQ_LEN_Q, PAGE_SIZE = 16, 8, 64


@dataclass(frozen=True)
class Resources:
    """One variant's decode kernel, per CTA (bytes, columns) and per thread (registers); `merge_registers` is the
    merge kernel's. `shared_cycles` is the planned shared-memory traffic per 128 keys, in cycles of one SM's port.
    """

    dtype: str
    path: str
    arch: str
    threads: int
    registers: int
    merge_registers: int
    spilled_bytes: int
    local_instructions: int
    shared_bytes: int
    tmem_columns: int
    shared_cycles: float

    @property
    def is_clean(self) -> bool:
        return self.spilled_bytes == 0 and self.local_instructions == 0


def measure(dtype: str, path: str, arch: str) -> Resources:
    """Compiles one variant and reads what it takes."""
    is_isolated = path == "isolated"
    config = MlaDecodeConfig(
        dtype, NUM_HEADS, SEQ_LEN_Q, True, PAGE_SIZE, lse_base="e", arch=arch, path="wide" if is_isolated else path,
        isolate_drafts=is_isolated,
    )  # fmt: skip
    kernels = report_cubin(compile_decode(config).cubin)
    names = ("kernel_MlaDecode", "kernel_MergePartials")
    decode, merge = (next(kernel for kernel in kernels if name in kernel.name) for name in names)
    plan = plan_of(config)
    return Resources(
        dtype, path, arch, plan.warps.threads, decode.registers, merge.registers,
        spilled_bytes=sum(kernel.stack_bytes for kernel in kernels),
        local_instructions=sum(kernel.local_stores + kernel.local_loads for kernel in kernels),
        shared_bytes=plan.smem_bytes, tmem_columns=plan.tmem.columns_used, shared_cycles=plan.traffic_cycles(128),
    )  # fmt: skip


def table(rows: list[Resources]) -> str:
    lines = [("dtype", "path", "arch", "threads", "regs", "merge regs", "spilled B", "LDL+STL", "shared B", "TMEM cols",
              "port cycles/128 keys")]  # fmt: skip
    for row in rows:
        lines.append((
            row.dtype, row.path, row.arch, str(row.threads), str(row.registers), str(row.merge_registers),
            str(row.spilled_bytes), str(row.local_instructions), f"{row.shared_bytes}/{SMEM_BYTES_PER_CTA}",
            f"{row.tmem_columns}/{TMEM_COLUMNS}", f"{row.shared_cycles:.0f}",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m scripts.resources", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, allowed in (("dtype", DTYPES), ("path", PATHS), ("arch", ARCHS)):
        usual = compilable_archs() if name == "arch" else allowed
        parser.add_argument(f"--{name}", default=",".join(usual), help=f"of {','.join(allowed)}")
    parser.add_argument("--json", type=command_line.output_file, metavar="FILE")
    parser.add_argument("--require-clean", action="store_true", help="exit status 1 if a variant spills")
    options = parser.parse_args(arguments)
    lists = {"dtype": DTYPES, "path": PATHS, "arch": ARCHS}
    chosen = {name: getattr(options, name).split(",") for name in lists}
    for name, values in chosen.items():
        for value in values:
            if value not in lists[name]:
                parser.error(f"--{name} {value}: must be one of {', '.join(lists[name])}")
    try:
        for arch in chosen["arch"]:
            check_arch(arch)
    except ValueError as error:
        parser.error(str(error))
    variants = list(itertools.product(*chosen.values()))
    rows, is_interrupted = [], False
    with Progress(len(variants)) as progress:
        try:
            for variant in variants:
                progress.begin(" ".join(variant))
                rows.append(measure(*variant))
                progress.finish(" ".join(variant))
        except KeyboardInterrupt:
            is_interrupted = True
    if options.json != "-":
        print(table(rows))
    if options.json:
        text = json.dumps([asdict(row) for row in rows], indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    if is_interrupted:
        print(f"interrupted: {len(rows)} of {len(variants)} variants", file=sys.stderr)
        return command_line.INTERRUPTED
    return 1 if options.require_clean and not all(row.is_clean for row in rows) else 0


if __name__ == "__main__":
    command_line.run(main)
