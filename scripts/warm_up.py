"""Makes a server's kernels ready and says how long that took; the second run takes them from the compile cache.

python -m scripts.warm_up --dtype bf16 --num-heads 16 --page-size 64 --seq-len-q 1,4
python -m scripts.warm_up --dtype bf16 --num-heads 16 --page-size 64 --seq-len-q 1,4 --export kernels --arch sm_100a
python -m scripts.warm_up --load kernels

Where the cache is: the folder blackwell-mla in `MLA_COMPILE_CACHE` (or none: "off"), by default in ~/.cache.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mla import store
from mla.arch import ARCHS
from mla.config import LSE_BASES, MAX_HEADS, PAGE_SIZES
from ptx_emulator.tool.progress import Progress
from wrappers import command_line
from wrappers.command_line import integer, list_of, output_folder
from wrappers.kernel import TORCH_DTYPES
from wrappers.warm_up import Report, ServerShapes, export_kernels, load_kernels, warm_up


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    shapes = ServerShapes(
        TORCH_DTYPES[options.dtype], options.num_heads, options.page_size, tuple(options.seq_len_q), (options.causal,),
        (options.lse_base,),
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    started = time.monotonic()
    try:
        if options.load is not None:
            count, done = load_kernels(options.load), f"loaded from {options.load}"
        elif options.export is not None:
            count = with_progress(lambda report: export_kernels(shapes, options.export, options.arch, report))
            done = f"compiled for {options.arch} and written to {options.export}"
        else:
            count = with_progress(lambda report: warm_up(shapes, device, report))
            done = f"ready (compile cache: {store.cache_folder() or 'off'})"
    except ValueError as error:
        print(f"python -m scripts.warm_up: error: {error}", file=sys.stderr)
        return command_line.WRONG_ARGUMENTS
    print(f"{count} kernels {done} in {time.monotonic() - started:.2f} s")
    return 0


def with_progress(work: Callable[[Report], int]) -> int:
    """Runs `work`, drawing what it reports."""
    with Progress(0) as progress:
        running = ""

        def report(done: int, total: int, label: str) -> None:
            nonlocal running
            progress.total = total
            if running:
                progress.finish(f"{running}: {time.monotonic() - progress.step_started:.2f} s")
            running = label
            progress.begin(label)

        return work(report)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m scripts.warm_up", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=TORCH_DTYPES, default="bf16")
    parser.add_argument("--num-heads", type=integer(1, MAX_HEADS), default=16)
    parser.add_argument("--page-size", type=int, choices=PAGE_SIZES, default=64)
    parser.add_argument("--seq-len-q", type=list_of(integer(1, 2**20)), default=[1])
    parser.add_argument("--causal", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--lse-base", choices=LSE_BASES, help="with log-sum-exp output; none by default")
    parser.add_argument("--arch", choices=ARCHS, default=ARCHS[0], help="with --export")
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--export", type=output_folder, metavar="FOLDER", help="write the kernels there")
    files.add_argument("--load", type=Path, metavar="FOLDER", help="load kernels that --export has written")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    command_line.run(main)
