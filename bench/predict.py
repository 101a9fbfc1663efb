"""What decode calls would cost on a B200, modelled from the PTX of their kernels (ptx_emulator/timing). Runs anywhere.

    python -m bench.predict [--only TEXT] [--clock 1.93] [--json FILE] [--against FILE] [--jobs 2]
    python -m bench.predict --dtype fp8 --num-heads 16 --seq-len-q 4 --kv-len 81920 --batch 4 --waits
    python -m bench.predict --only 'h16 q4 80K b4' --relax --sensitivity --trace trace.json --timeline start.svg:0:12000

Nothing here is measured: every figure is modelled. Compare figures of one run, as ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from bench import timeline
from bench.prediction import Prediction, predict
from bench.variants import table_of_variants
from bench.workloads import USER_WORKLOADS, WORKLOADS, Workload
from mla.config import AVOIDABLE, PATHS, UNCUT_TILES
from ptx_emulator.timing import CONSTANTS, Constants
from ptx_emulator.timing.variants import RELAXED, disputed
from wrappers.kernel import TORCH_DTYPES


def table_of(predictions: Sequence[Prediction], before: dict[str, float]) -> str:
    head = f"{'modelled, us':34s} {'path':6s} {'GHz':>5s} {'hbm':>6s} {'mma':>6s} {'port':>6s} {'decode':>7s} {'merge':>6s}"
    lines = [f"{head} {'total':>7s} {'target':>7s} {'/bound':>7s}" + ("  before/after" if before else "")]
    for p in predictions:
        lines.append(
            f"{p.workload:34s} {p.path:6s} {p.clock:5.2f} {p.hbm:6.1f} {p.mma:6.1f} {p.port:6.1f} {p.decode:7.1f} "
            f"{p.merge:6.1f} {p.total:7.1f} {p.target:7.1f} {p.total / p.bound:7.2f}"
            + (f"  {before[_key(p)] / p.total:.2f}" if _key(p) in before else "")
        )
    return "\n".join(lines)


def _key(prediction: Prediction) -> str:
    return f"{prediction.workload} @ {prediction.clock}"


def read_totals(path: str) -> dict[str, float]:
    """Totals by workload and clock of a file that --json wrote."""
    rows = json.loads(Path(path).read_text())["predictions"]
    return {f"{row['workload']} @ {row['clock']}": row["total"] for row in rows}


def details(p: Prediction) -> str:
    lines = [f"  {p.workload} at {p.clock} GHz"]
    lines += [
        f"    busy {share:6.1%}  {name}" for name, share in sorted(p.busy.items(), key=lambda i: -i[1]) if share > 0.02
    ]
    lines += [
        f"    {'works' if name.endswith('works') else 'waits'} {share:6.1%}  {name}"
        for name, share in p.waits.items()
        if share > 0.02
    ]
    return "\n".join(lines)


def predict_all(workload: Workload, tables: Sequence[Constants], path: str) -> list[Prediction]:
    """One workload with every table of constants."""
    return [predict(workload, constants, path) for constants in tables]


def run_all(workloads: Sequence[Workload], tables: Sequence[Constants], path: str, jobs: int) -> list[list[Prediction]]:
    """Every workload with every table: [table][workload]. Progress on stderr."""
    began = time.perf_counter()
    rows = []

    def progress(found: list[Prediction]) -> None:
        rows.append(found)
        print(
            f"[{len(rows)}/{len(workloads)}] {found[0].workload}: {found[0].total:.1f} us "
            f"({len(tables)} in {time.perf_counter() - began:.0f} s)",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    run = partial(predict_all, tables=tables, path=path)
    if jobs == 1:
        for workload in workloads:
            progress(run(workload))
    else:
        with ProcessPoolExecutor(jobs) as pool:
            for found in pool.map(run, workloads):
                progress(found)
    return [list(column) for column in zip(*rows, strict=True)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="workloads of this name, or whose names contain this text; several with commas")
    parser.add_argument("--users", action="store_true", help="shapes that servers have, in place of the fifteen")
    parser.add_argument("--dtype", choices=sorted(TORCH_DTYPES), help="one workload of your own, with the four below")
    parser.add_argument("--num-heads", type=int, default=16)
    parser.add_argument("--seq-len-q", type=int, default=4)
    parser.add_argument("--kv-len", default="8192", help="keys of every request, or of each: 81920,2048,2048")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--page-size", type=int, default=64)
    parser.add_argument("--path", choices=PATHS, default="auto")
    parser.add_argument("--rescale-threshold", type=float, default=0.0, help="the kernels of this threshold, log2")
    parser.add_argument("--isolate-drafts", action="store_true", help="the kernels of this option of mla_decode")
    parser.add_argument("--ragged", action="store_true", help="the kernels of ragged queries, all requests alike")
    parser.add_argument("--avoid", default="", help=f"the kernels that do without: a list of {', '.join(AVOIDABLE)}")
    parser.add_argument("--uncut-tiles", type=int, default=UNCUT_TILES, help="the kernels of this minimum share")
    parser.add_argument("--stages", default="", help="the kernels with so many stages, as mla/plan/paths.py lists them")
    parser.add_argument("--clock", default="1.93", help="GHz, one or several with commas")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a constant of the model")
    parser.add_argument("--constants", help="JSON file of constants, e.g. measured")
    parser.add_argument("--waits", action="store_true", help="who waits where, and what is busy")
    parser.add_argument("--json", help="write here, - for standard output")
    parser.add_argument("--against", help="a file that --json wrote: print the ratio of its totals to these")
    parser.add_argument("--relax", action="store_true", help="the change of the total with each resource twice as fast")
    parser.add_argument("--sensitivity", action="store_true", help="totals at both ends of each disputed constant")
    parser.add_argument("--trace", help="write a Chrome/Perfetto trace of the first workload's longest cluster here")
    parser.add_argument(
        "--timeline", action="append", default=[], metavar="FILE.svg:BEGIN:END", help="draw these cycles of it"
    )
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        base = Constants.given(options.set, options.constants)
        options.table = [base.replace(clock=float(clock)) for clock in options.clock.split(",")]
        kernel = {
            "isolate_drafts": options.isolate_drafts, "rescale_threshold": options.rescale_threshold,
            "ragged_query": options.ragged,
            "avoid": tuple(name for name in options.avoid.split(",") if name), "uncut_tiles": options.uncut_tiles,
            "stages": tuple(int(number) for number in options.stages.split(",") if number),
        }  # fmt: skip
        options.workloads = [replace(w, **kernel) for w in _workloads(options)]
        options.before = read_totals(options.against) if options.against else {}
        options.timeline = [timeline.Window.parse(text) for text in options.timeline]
        for path in (options.json, options.trace, *(w.path for w in options.timeline)):
            if path and path != "-" and not Path(path).resolve().parent.is_dir():
                raise ValueError(f"{path}: its folder does not exist")
    except (ValueError, OSError, KeyError) as error:
        parser.error(str(error))
    return options


def _workloads(options: argparse.Namespace) -> list[Workload]:
    if options.dtype:
        lengths = [int(text) for text in options.kv_len.split(",")]
        lengths = lengths * options.batch if len(lengths) == 1 else lengths
        return [Workload(options.dtype, options.num_heads, options.seq_len_q, tuple(lengths), options.page_size)]
    known = USER_WORKLOADS if options.users else WORKLOADS
    if not options.only:
        return list(known)
    chosen = []
    for text in options.only.split(","):
        named = [w for w in known if w.name == text] or [w for w in known if text in w.name]
        if not named:
            raise ValueError(f"--only {text!r}: no workload's name contains it")
        chosen += [w for w in named if w not in chosen]
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.trace or options.timeline:
        timeline.write(options.workloads[0], options.table[0], options.path, options.trace, options.timeline)
        return 0
    base = options.table[0]
    asked = (("relaxed", options.relax, RELAXED), ("disputed", options.sensitivity, disputed()))
    variants = [
        (kind, name, base.replace(**changes(base))) for kind, given, of in asked if given for name, changes in of
    ]
    tables = [*options.table, *(constants for _, _, constants in variants)]
    found = run_all(options.workloads, tables, options.path, options.jobs)
    clocks, others = found[: len(options.table)], found[len(options.table) :]
    predictions = [prediction for row in clocks for prediction in row]
    if options.json != "-":
        print(table_of(predictions, options.before))
        if options.waits:
            print("\n".join(details(p) for p in predictions))
        for kind, title in (("relaxed", "twice as fast"), ("disputed", "disputed constants")):
            chosen = [i for i, variant in enumerate(variants) if variant[0] == kind]
            if chosen:
                names = [variants[i][1] for i in chosen]
                print(table_of_variants(title, clocks[0], names, [others[i] for i in chosen]))
    if options.json:
        text = json_of(base, predictions, [(kind, name, row) for (kind, name, _), row in zip(variants, others, strict=True)],
                       options.waits)  # fmt: skip
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    return 0


def json_of(
    base: Constants,
    predictions: Sequence[Prediction],
    variants: Sequence[tuple[str, str, Sequence[Prediction]]],
    waits: bool,
) -> str:
    """What --json writes, a line for each row: predictions at the clocks (busy and waits only if asked), totals of the
    variants, (kind, name, their predictions), at the first clock."""
    left_out = set() if waits else {"busy", "waits"}

    def row(prediction: Prediction) -> str:
        return json.dumps({key: _rounded(value) for key, value in asdict(prediction).items() if key not in left_out})

    changed = {name: value for name, value in base.values.items() if value != CONSTANTS[name].value and name != "clock"}
    totals = [
        json.dumps({"kind": kind, "name": name, "workload": p.workload, "clock": p.clock, "total": _rounded(p.total)})
        for kind, name, found in variants
        for p in found
    ]
    parts = [f'"changed": {json.dumps(changed)}']
    for name, rows in (("predictions", [row(p) for p in predictions]), ("variants", totals)):
        parts.append(f'"{name}": [' + ",".join(f"\n  {text}" for text in rows) + "]")
    return "{" + ",\n ".join(parts) + "}"


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: round(share, 4) for key, share in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
