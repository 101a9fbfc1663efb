"""Writes what the compiler makes of one configuration (decode and merge kernel), PTX, IR and cubin, and reports on it.

python -m scripts.dump_ptx --dtype bf16 --num-heads 16 --seq-len-q 8 --page-size 64 [--arch sm_103a] [--out dumps]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mla.arch import ARCHS
from mla.compile import CompiledDecode, check_arch, compile_decode
from mla.config import DTYPES, LSE_BASES, PAGE_SIZES, PATHS, MlaDecodeConfig
from scripts.cubin_report import report_cubin
from wrappers import command_line
from wrappers.command_line import integer, output_folder


def main(arguments: Sequence[str] | None = None) -> int:
    options, config = parse_arguments(arguments)
    compiled = compile_decode(config)
    for file in write_files(compiled, options.out):
        print(file)
    for kernel in report_cubin(compiled.cubin):
        print(
            f"{kernel.name[:40]}: {kernel.registers} registers, {kernel.stack_bytes} stack bytes, "
            f"{kernel.local_stores} STL, {kernel.local_loads} LDL, {kernel.instructions} instructions"
        )
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, MlaDecodeConfig]:
    parser = command_line.Parser(
        prog="python -m scripts.dump_ptx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--num-heads", type=integer(1, 128), default=16)
    parser.add_argument("--seq-len-q", type=integer(1, 2**20), default=8)
    parser.add_argument("--page-size", type=int, choices=PAGE_SIZES, default=64)
    parser.add_argument("--causal", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--lse-base", choices=LSE_BASES, help="with log-sum-exp output; none by default")
    parser.add_argument("--path", choices=PATHS, default="auto", help="operand path")
    parser.add_argument("--arch", choices=ARCHS, default=ARCHS[0])
    parser.add_argument("--out", type=output_folder, default=Path("dumps"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        check_arch(options.arch)
        return options, MlaDecodeConfig(
            dtype=options.dtype, num_heads=options.num_heads, seq_len_q=options.seq_len_q, is_causal=options.causal,
            page_size=options.page_size, lse_base=options.lse_base, arch=options.arch, path=options.path,
        )  # fmt: skip
    except ValueError as error:
        parser.error(str(error))


def write_files(compiled: CompiledDecode, folder: Path) -> list[Path]:
    """Writes NAME.ptx, NAME.mlir and NAME.cubin, named after the configuration; returns their paths."""
    config = compiled.config
    mask = "causal" if config.is_causal else "dense"
    path = "wide" if config.is_wide else "narrow"
    lse = f"_lse{config.lse_base}" if config.lse_base else ""
    name = (
        f"mla_decode_{config.dtype}_h{config.num_heads}_q{config.seq_len_q}_p{config.page_size}_{mask}{lse}_{path}"
        f"_{config.arch}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    contents = {".ptx": compiled.ptx.encode(), ".mlir": compiled.ir.encode(), ".cubin": compiled.cubin}
    files = [folder / (name + suffix) for suffix in contents]
    for file, content in zip(files, contents.values()):
        file.write_bytes(content)
    return files


if __name__ == "__main__":
    command_line.run(main)
