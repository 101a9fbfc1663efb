"""What a rescale threshold costs in accuracy: the kernels of `MlaDecodeConfig.rescale_threshold`, executed in the emulator.

python -m bench.rescale_threshold --json docs/rescale-threshold.json      # about 5 minutes; then bench.accuracy

Normal data, one request of many key tiles, so that maxima grow in most of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mla.compile import compile_decode
from ptx_emulator.tool.progress import Progress
from wrappers import command_line, emulated, kernel
from wrappers.backends import EMULATED_ARCH
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import MlaProblem, compare, make_problem

THRESHOLDS = (0.0, 0.8, 2.0, 4.0, 8.0)
NUM_HEADS, SEQ_LEN_Q, KV_LEN = 16, 4, 2048


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m bench.rescale_threshold",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dtype", type=command_line.list_of(command_line.choice(TORCH_DTYPES)), default=list(TORCH_DTYPES)
    )
    parser.add_argument("--thresholds", type=command_line.list_of(command_line.number), default=list(THRESHOLDS))
    parser.add_argument("--kv-len", type=command_line.integer(1), default=KV_LEN)
    parser.add_argument("--json", type=command_line.output_file, metavar="FILE")
    options = parser.parse_args(arguments)
    rows = []
    with Progress(len(options.dtype) * len(options.thresholds)) as progress:
        for dtype in options.dtype:
            problem = make_problem(1, NUM_HEADS, SEQ_LEN_Q, (options.kv_len,), dtype=TORCH_DTYPES[dtype], page_size=64)
            for threshold in options.thresholds:
                progress.begin(f"{dtype} threshold {threshold:g}")
                rows.append(measure(problem, dtype, threshold))
                progress.finish(f"{dtype} threshold {threshold:g}: {rows[-1]['snr_db']:.2f} dB")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(table(rows)))
    return 0


def measure(problem: MlaProblem, dtype: str, threshold: float) -> dict[str, Any]:
    """Signal-to-noise ratio of the kernel with this threshold, on a GPU of one SM: a single share, no merge."""
    call = problem.decode_call()
    config = replace(kernel.decode_config(call, EMULATED_ARCH), rescale_threshold=threshold)
    emulated.launch(compile_decode(config), call, num_ctas=1)
    found = compare(problem, call.out, call.lse)
    return {
        "dtype": dtype, "threshold": threshold, "num_heads": NUM_HEADS, "seq_len_q": SEQ_LEN_Q,
        "kv_len": int(problem.seq_lens.max()), "snr_db": found.snr_db, "lse_max_abs_err": found.lse_max_abs_err,
        "probs_scale_log2": config.probs_scale_log2,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: a line per dtype, a column per threshold, SNR and what of it the threshold costs."""
    thresholds = sorted({row["threshold"] for row in rows})
    lines = ["| dtype | " + " | ".join(f"{t:g}" for t in thresholds) + " |", "|---" * (len(thresholds) + 1) + "|"]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        found = {row["threshold"]: row["snr_db"] for row in rows if row["dtype"] == dtype}
        first = found[thresholds[0]]
        cells = [f"{found[t]:.2f}" + ("" if t == thresholds[0] else f" ({found[t] - first:+.2f})") for t in thresholds]
        lines.append(f"| {dtype} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    command_line.run(main)
