"""The whole grid of shapes, kernel by kernel in the emulator: some hours, of which none is lost when it is stopped.

    python -m scripts.slow_grid --out docs/slow-grid.json [--shard I/N] [--write docs/slow-grid.md]

An item is a path, dtype, number of heads and of query tokens; it passes where all page sizes, causal and dense, match
the fp64 reference (as in `pytest -m slow tests/mla/test_decode.py`, which has its axes and problems from here). Each
item is a line of JSON, written as soon as it is done; items that the file has of the same kernel sources and compiler
are not run again, so the same command goes on where it was stopped. `--shard 2/3` runs every third item, from the
second. `--write` keeps a table of all that the file has of these sources in a Markdown document.
Exit status: 0 nothing failed, 1 something did, 2 wrong arguments, 130 interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mla.compile import compile_kernel
from mla.config import PAGE_SIZES
from mla.decode import MlaDecode
from mla.store import fingerprint
from ptx_emulator.tool.progress import Progress
from wrappers import command_line, emulated, kernel
from wrappers.backends import EMULATED_ARCH
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import MlaProblem, compare, make_problem

# Around one and two key tiles, of 64 keys or 128, primes, and lengths shorter than the query; 0 is a padded request.
KV_LENS = {
    "bf16": (1, 63, 64, 65, 127, 128, 129, 200, 513, 0),
    "fp16": (1, 63, 64, 65, 127, 128, 129, 200, 513, 0),
    "fp8": (1, 3, 63, 64, 127, 128, 129, 257, 513, 0),
}
PATHS = ("narrow", "wide")
HEADS = (1, 3, 16, 40, 64, 128)
QUERY_LENS = (1, 2, 4, 5, 8)
# Page size and causal: all of them are one item.
VARIANTS = tuple(itertools.product(PAGE_SIZES, (True, False)))
NUM_CTAS = 13  # few enough that shares straddle requests, and prime so that they straddle row tiles
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Item:
    path: str
    dtype: str
    num_heads: int
    seq_len_q: int

    def __str__(self) -> str:
        return f"{self.path} {self.dtype} H={self.num_heads} Q={self.seq_len_q}"


ITEMS = tuple(itertools.starmap(Item, itertools.product(PATHS, TORCH_DTYPES, HEADS, QUERY_LENS)))


@dataclass(frozen=True)
class Result:
    """A line of the file. seconds: of wall time, compiling included; is_clean: `commit` is all that ran, git has no
    changes besides; faults: what is wrong, in words, empty where the item passed.
    """

    path: str
    dtype: str
    num_heads: int
    seq_len_q: int
    fingerprint: str
    commit: str
    is_clean: bool
    seconds: float
    comparisons: int
    faults: tuple[str, ...]

    @property
    def item(self) -> Item:
        return Item(self.path, self.dtype, self.num_heads, self.seq_len_q)


def grid_problem(num_heads: int, seq_len_q: int, page_size: int, dtype: str, is_causal: bool) -> MlaProblem:
    """All key lengths of the grid in one hostile batch."""
    lengths = KV_LENS[dtype]
    return make_problem(
        len(lengths), num_heads, seq_len_q, lengths, page_size=page_size, dtype=TORCH_DTYPES[dtype],
        is_causal=is_causal, seed=num_heads * seq_len_q,
    )  # fmt: skip


def check(item: Item) -> tuple[int, list[str]]:
    """(comparisons made, faults): each variant compiled, emulated and compared; nothing of it is kept."""
    faults = []
    for page_size, is_causal in VARIANTS:
        problem = grid_problem(item.num_heads, item.seq_len_q, page_size, item.dtype, is_causal)
        call = problem.decode_call()
        try:
            compiled = compile_kernel(MlaDecode(kernel.decode_config(call, EMULATED_ARCH, item.path)))
            emulated.launch(compiled, call, num_ctas=NUM_CTAS)
            found = compare(problem, call.out, call.lse).faults
        except Exception as error:  # of compiler, emulator or tensors: a fault of this variant, the next may be right
            found = (f"{type(error).__name__}: {error}",)
        mask = "causal" if is_causal else "dense"
        faults += [f"pages of {page_size}, {mask}: {fault}" for fault in found]
    return len(VARIANTS), faults


def main(arguments: Sequence[str] | None = None, check: Callable[[Item], tuple[int, list[str]]] = check) -> int:
    options = parse_arguments(arguments)
    torch.set_num_threads(1)
    part, parts = options.shard
    done = read(options.out)
    waiting = [item for item in ITEMS[part - 1 :: parts] if item not in done]
    commit, is_clean = state_of_tree()
    write(options.write, done)
    with Progress(len(waiting)) as progress:
        for left, item in zip(range(len(waiting) - 1, -1, -1), waiting, strict=True):
            progress.begin(str(item))
            started = time.monotonic()
            comparisons, faults = check(item)
            seconds = round(time.monotonic() - started, 1)
            result = Result(**asdict(item), fingerprint=fingerprint(), commit=commit, is_clean=is_clean,
                            seconds=seconds, comparisons=comparisons, faults=tuple(faults))  # fmt: skip
            append(options.out, result)
            done[item] = result
            write(options.write, done)
            minutes = left * sum(result.seconds for result in done.values()) / len(done) / 60
            verdict = "FAILED: " + "; ".join(faults) if faults else "passed"
            progress.finish(f"{item}: {verdict}, {seconds} s; about {minutes:.0f} min left")
    failed = [str(result.item) for result in done.values() if result.faults]
    print(f"{len(done)} of {len(ITEMS)} items run, {len(failed)} failed{': ' * bool(failed)}{', '.join(failed)}")
    return 1 if failed else 0


def read(file: str) -> dict[Item, Result]:
    """What the file has of these sources. A line that was cut short counts as not run."""
    results = {}
    lines = Path(file).read_text().splitlines() if Path(file).exists() else []
    for line in lines:
        try:
            fields = json.loads(line)
            result = Result(**fields | {"faults": tuple(fields["faults"])})
        except (ValueError, TypeError, KeyError):
            continue
        if result.fingerprint == fingerprint() and result.item in ITEMS:
            results[result.item] = result
    return results


def append(file: str, result: Result) -> None:
    """One write of a whole line, so that shards may share a file; it begins anew behind a line that was cut short."""
    path = Path(file)
    is_cut = path.exists() and not path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a") as lines:
        lines.write("\n" * is_cut + json.dumps(asdict(result)) + "\n")


def write(file: str | None, done: dict[Item, Result]) -> None:
    """The table as it stands, where one is asked for."""
    if file is not None:
        Path(file).write_text(document(done.values()))


def state_of_tree() -> tuple[str, bool]:
    """The commit, and whether git sees no changes to it; ("unknown", False) outside a repository."""
    try:
        outputs = [
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short=10", "HEAD"), ("status", "--porcelain"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False
    return outputs[0], not outputs[1]


def document(results: Iterable[Result]) -> str:
    """Markdown: what ran, a row per path, dtype and number of heads, and what failed."""
    done = {result.item: result for result in results}
    commits = sorted({result.commit + ", changed" * (not result.is_clean) for result in done.values()})
    failed = [result for result in done.values() if result.faults]
    lines = [
        "# The whole grid of shapes", "",
        f"Written by `python -m scripts.slow_grid`: {len(done)} of {len(ITEMS)} items run in the emulator, "
        f"{len(failed)} failed; {sum(result.comparisons for result in done.values())} kernels compiled, emulated and "
        f"compared with the fp64 reference, {sum(result.seconds for result in done.values()) / 3600:.1f} hours; kernel "
        f"sources and compiler {fingerprint()}, commit {'; '.join(commits) or 'none'}. An item has pages of "
        f"{', '.join(map(str, PAGE_SIZES))} keys, causal and dense, requests of 0 to {max(KV_LENS['bf16'])} keys.", "",
        "| path | dtype | heads | " + " | ".join(f"Q = {q}" for q in QUERY_LENS) + " |",
        "|---|---|---:|" + "---|" * len(QUERY_LENS),
    ]  # fmt: skip
    for path, dtype, heads in itertools.product(PATHS, TORCH_DTYPES, HEADS):
        cells = (verdict(done.get(Item(path, dtype, heads, q))) for q in QUERY_LENS)
        lines.append(f"| {path} | {dtype} | {heads} | {' | '.join(cells)} |")
    if failed:
        lines += ["", *(f"- {result.item}: {fault}" for result in failed for fault in result.faults)]
    return "\n".join(lines) + "\n"


def verdict(result: Result | None) -> str:
    if result is None:
        return "not run"
    return "**failed**" if result.faults else "passed"


def shard(text: str) -> tuple[int, int]:
    """(I, N) of I/N."""
    part, slash, parts = text.partition("/")
    read_integer = command_line.integer(1, len(ITEMS))
    if not slash:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be I/N, e.g. 2/3")
    shard = read_integer(part), read_integer(parts)
    if shard[0] > shard[1]:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: must be I/N with I of 1..N")
    return shard


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m scripts.slow_grid", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=command_line.output_file, required=True, metavar="FILE", help="lines of JSON")
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N")
    parser.add_argument("--write", type=command_line.output_file, metavar="FILE", help="the table, in Markdown")
    options = parser.parse_args(arguments)
    for name in ("out", "write"):
        if getattr(options, name) == "-":
            parser.error(f"--{name} -: must be a file")
    return options


if __name__ == "__main__":
    command_line.run(main)
