"""Makes the accuracy page and its plot from the rows that `scripts.validate` has written.

python -m scripts.validate --dtype bf16,fp16,fp8 --num-heads 16 --seq-len-q 1,4,8 --kv-len 128,512,2048 --batch 2 \\
    --json docs/accuracy.json
python -m bench.rescale_threshold --json docs/rescale-threshold.json
python -m bench.accuracy docs/accuracy.json --thresholds docs/rescale-threshold.json --out docs
                                                                # needs matplotlib: pip install -e '.[docs]'
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.rescale_threshold import table
from wrappers import command_line

PAGE, PLOT = "accuracy.md", "accuracy.svg"
COLORS = {"bf16": "tab:blue", "fp16": "tab:green", "fp8": "tab:red"}
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m bench.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, help="what scripts.validate --json FILE wrote")
    parser.add_argument("--thresholds", type=Path, help="what bench.rescale_threshold --json FILE wrote")
    parser.add_argument("--out", type=command_line.output_folder, default=Path("docs"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        rows = read_rows(options.rows)
        thresholds = json.loads(options.thresholds.read_text()) if options.thresholds else []
    except (OSError, ValueError) as error:
        print(f"error: {options.rows}, {options.thresholds}: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / PAGE).write_text(page(rows) + threshold_section(thresholds))
    plot(rows, options.out / PLOT)
    return 0


def read_rows(file: Path) -> list[Row]:
    """The rows that can be compared with each other: one backend, no mutation. Raises ValueError."""
    rows = json.loads(file.read_text())
    if not isinstance(rows, list) or not rows:
        raise ValueError("holds no rows")
    if any(row["mutation"] for row in rows):
        raise ValueError("holds rows of a mutated kernel, whose accuracy says nothing")
    if len({row["backend"] for row in rows}) > 1:
        raise ValueError("holds rows of more than one backend")
    return rows


def page(rows: list[Row]) -> str:
    """The page as Markdown: what was run, the plot, a table."""
    how = {"emulator": "executed by the emulator", "cute": "on the GPU", "torch": "by the torch backend"}
    lines = [
        "# Accuracy",
        "",
        "Signal-to-noise ratio (dB) of `mla_decode` against the fp64 reference, over all rows that see a key,",
        f"{how[rows[0]['backend']]}; beside it what torch reaches with the kernel's roundings and no others (scores",
        "and sums in fp32, probabilities rounded to the input's dtype, one rounding of the output). A row passes",
        "within 0.5 dB of that. The kernel's partial results of split rows are fp32, of fp8 inputs fp16.",
        "",
        "Made by the two commands at the top of [bench/accuracy.py](../bench/accuracy.py).",
        "",
        f"![SNR by dtype, query tokens and keys]({PLOT})",
        "",
        "| dtype | B | H | Q | K | path | arch | SNR dB | torch dB | max abs err | lse err | |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (list(COLORS).index(row["dtype"]), row["seq_len_q"], row["kv_len"])):
        cells = [
            row["dtype"], row["batch"], row["num_heads"], row["seq_len_q"], row["kv_len"], row["path"], row["arch"],
            decibels(row["snr_db"]), decibels(row["baseline_snr_db"]), error(row["max_abs_err"]),
            error(row["lse_max_abs_err"]), "passed" if row["passed"] else "**FAILED**",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def threshold_section(rows: list[Row]) -> str:
    """The table of rescale thresholds as a section; nothing where there are no rows."""
    if not rows:
        return ""
    shape = f"H = {rows[0]['num_heads']}, Q = {rows[0]['seq_len_q']}, K = {rows[0]['kv_len']}"
    lines = [
        "",
        "## Rescale threshold",
        "",
        "`MlaDecodeConfig.rescale_threshold` (log2) lets a row's maximum grow by so much before O is rescaled; then the",
        "largest probabilities are no longer exactly 1, and e4m3 keeps room for them: P is stored times a smaller power",
        f"of two. SNR in dB by threshold, one request of normal data, {shape}, one share, executed by the emulator; in",
        "brackets what the threshold costs. It is 0 in every kernel that `mla_decode` compiles: in the timing model a",
        "threshold of 2 changes the fp8 and bf16 rows of docs/performance.md by -2 to +1 %, which is noise.",
        "",
    ]
    return "\n".join(lines + table(rows)) + "\n"


def decibels(value: float | None) -> str:
    """JSON has null for what is not finite, such as an exact output's ratio."""
    return "-" if value is None else f"{value:.2f}"


def error(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def plot(rows: list[Row], file: Path) -> None:
    """SNR over keys, a panel per number of query tokens, a colour per dtype; torch's roundings dashed."""
    import matplotlib

    matplotlib.use("svg")
    # The same rows give the same file, byte for byte.
    matplotlib.rcParams.update({"svg.hashsalt": "accuracy", "svg.fonttype": "none"})
    from matplotlib import pyplot

    tokens = sorted({row["seq_len_q"] for row in rows})
    figure, panels = pyplot.subplots(1, len(tokens), sharey=True, squeeze=False, figsize=(3.2 * len(tokens) + 0.8, 3.2))
    for panel, seq_len_q in zip(panels[0], tokens):
        for dtype, color in COLORS.items():
            chosen = [row for row in rows if (row["dtype"], row["seq_len_q"]) == (dtype, seq_len_q)]
            chosen.sort(key=lambda row: row["kv_len"])
            keys = [row["kv_len"] for row in chosen]
            if keys:
                panel.plot(keys, [row["snr_db"] for row in chosen], "o-", color=color, label=dtype)
                panel.plot(keys, [row["baseline_snr_db"] for row in chosen], "x--", color=color, alpha=0.6)
        panel.set(title=f"Q = {seq_len_q}", xlabel="keys")
        panel.set_xscale("log", base=2)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("SNR, dB (dashed: torch)")
    panels[0][0].legend(loc="center right")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    command_line.run(main)
