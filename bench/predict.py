"""What decode calls would cost on a B200, modelled from the PTX of their kernels (ptx_emulator/timing). Runs anywhere.

    python -m bench.predict [--only TEXT] [--clock 1.93] [--json FILE] [--against FILE] [--jobs 2]
    python -m bench.predict --dtype fp8 --num-heads 16 --seq-len-q 4 --kv-len 81920 --batch 4 --waits

Nothing here is measured: every figure is modelled. Compare figures of one run, as ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass, field
from functools import partial
from pathlib import Path

import torch

from bench.counts import cuts, roles_of, work_items
from bench.workloads import HEAD_DIM, LATENT_DIM, WORKLOADS, Workload
from mla import split_kv
from mla.compile import compile_decode
from mla.config import PATHS, MlaDecodeConfig
from mla.decode import MlaDecode
from ptx_emulator.timing import CONSTANTS, Constants, CtaTiming, time_host_function
from wrappers.kernel import EMULATED_CTAS

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}
OUTPUT_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
POOL_PAGES = 3072  # distinct pages that tables walk through in a circle; more than one cluster reads
MMA_FLOP = {"bf16": 8192, "fp16": 8192, "fp8": 16384}  # per cycle and SM (performance.md, section 2)
TARGET_FACTOR, TARGET_MICROSECONDS = 1.05, 8.0
DECODE, MERGE = 0, 1  # launches of the host function


@dataclass(frozen=True)
class Prediction:
    """Modelled microseconds. hbm, mma, port: what each takes by itself. waits: of the longest cluster, (role, edge,
    what ended the wait) -> share of its time. busy: unit -> share."""

    workload: str
    path: str
    clock: float
    hbm: float
    mma: float
    port: float
    decode: float
    merge: float
    total: float
    target: float
    busy: dict[str, float] = field(default_factory=dict)
    waits: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def bound(self) -> float:
        return max(self.hbm, self.mma)


def config_of(workload: Workload, path: str = "auto") -> MlaDecodeConfig:
    return MlaDecodeConfig(
        workload.dtype, workload.num_heads, workload.seq_len_q, True, workload.page_size, path=path
    )


def write_cuts(workspace: torch.Tensor, config: MlaDecodeConfig, kv_lens: Sequence[int]) -> None:
    """What every unit tells the merge, of which only some are executed."""
    plan = MlaDecode(config).plan
    of_units = [astuple(cut) for cut in cuts(config, kv_lens, EMULATED_CTAS)]
    begin = split_kv.num_slots(len(of_units)) * plan.tile_rows * (LATENT_DIM + 1)
    table = workspace[begin : begin + len(of_units) * split_kv.CUT_INTS].view(torch.int32)
    fields = torch.tensor(of_units, dtype=torch.int32)
    table.view(-1, split_kv.CUT_INTS)[:, : fields.shape[1]] = fields


def host_arguments(workload: Workload, config: MlaDecodeConfig, seed: int = 0) -> tuple[object, ...]:
    """Normal data; block tables walk through a pool of pages in a circle, so that no cluster reads a page twice."""
    generator = torch.Generator().manual_seed(seed)
    width = -(-max(workload.kv_lens) // workload.page_size)
    pages = min(POOL_PAGES * 64 // workload.page_size, width * workload.batch)
    dtype = DTYPES[workload.dtype]
    cache = torch.randn(pages, workload.page_size, HEAD_DIM, generator=generator).to(dtype)
    shape = (workload.batch, workload.seq_len_q, workload.num_heads)
    query = torch.randn(*shape, HEAD_DIM, generator=generator).to(dtype)
    tables = (torch.arange(workload.batch * width, dtype=torch.int32) % pages).reshape(workload.batch, width)
    out = torch.zeros(*shape, LATENT_DIM, dtype=OUTPUT_DTYPES[workload.dtype])
    workspace = torch.zeros(split_kv.workspace_bytes(EMULATED_CTAS, 64, LATENT_DIM) // 4)
    write_cuts(workspace, config, workload.kv_lens)
    seq_lens = torch.tensor(workload.kv_lens, dtype=torch.int32)
    scale = HEAD_DIM**-0.5
    return query, cache, tables, seq_lens, out, None, workspace, EMULATED_CTAS, scale, 1.0, None, None, None


def units_to_execute(config: MlaDecodeConfig, kv_lens: Sequence[int]) -> tuple[list[int], int]:
    """(units that stand for all: the first, the last with work, the one with most key tiles, the one with most work
    items, of these the most tiles), and how many have work."""
    tiles: dict[int, list[int]] = {}
    for item in work_items(config, kv_lens, EMULATED_CTAS):
        count = tiles.setdefault(item.unit, [0, 0])
        count[0] += item.phases.num_tiles
        count[1] += 1
    longest = max(tiles, key=lambda unit: (tiles[unit][0], tiles[unit][1]))
    most_items = max(tiles, key=lambda unit: (tiles[unit][1], tiles[unit][0]))
    return sorted({0, max(tiles), longest, most_items}), len(tiles)


def predict(workload: Workload, constants: Constants, path: str = "auto", seed: int = 0) -> Prediction:
    began = time.perf_counter()
    config = config_of(workload, path)
    kernel, description = compile_decode(config), MlaDecode(config)
    plan = description.plan
    units, active = units_to_execute(config, workload.kv_lens)
    options = [{"clusters": units, "busy_sms": active * plan.cluster_size}, {"cached": True}]
    decode, merge = time_host_function(
        kernel.ir, kernel.ptx, host_arguments(workload, config, seed), constants, options=options
    )
    us = constants.microseconds
    hand_over = constants["next_launch_pdl" if merge.dependent else "next_launch"] * 1e6
    hbm = workload.kv_bytes / constants["hbm"] * 1e6
    per_second = constants.cycles_per_second * constants["sms"]
    mma = workload.flop(plan.tile_rows) / MMA_FLOP[workload.dtype] / per_second * 1e6
    tiles = sum(item.phases.num_tiles for item in work_items(config, workload.kv_lens, EMULATED_CTAS))
    port = us(plan.traffic_cycles(plan.tile_tokens) * tiles / (EMULATED_CTAS // plan.cluster_size))
    longest = max(decode.clusters, key=lambda cluster: cluster.cycles)
    return Prediction(
        workload=workload.name,
        path="wide" if config.is_wide else "narrow",
        clock=constants["clock"],
        hbm=hbm,
        mma=mma,
        port=port,
        decode=us(decode.cycles),
        merge=us(merge.cycles) + hand_over,
        total=constants["launch"] * 1e6 + us(decode.cycles) + us(merge.cycles) + hand_over,
        target=TARGET_FACTOR * max(hbm, mma) + TARGET_MICROSECONDS,
        busy={name: cycles / longest.cycles for name, cycles in longest.busy.items()},
        waits=named_waits(description, longest),
        seconds=time.perf_counter() - began,
    )


def named_waits(description: MlaDecode, cluster: CtaTiming) -> dict[str, float]:
    """Waits by role, edge and what completed it; the mean over the role's warps."""
    plan = description.plan
    roles = roles_of(plan.warps)
    role_of = {warp: role for role, warps in roles.items() for warp in warps}
    members = plan.cluster_size
    shared: dict[str, float] = {}
    start = 1024  # of dynamic shared memory
    for (warp, offset, by), cycles in cluster.waits.items():
        role = role_of[warp % plan.warps.num_warps]
        key = f"{role} <- {edge_at(plan, offset - start)} ({by})"
        shared[key] = shared.get(key, 0.0) + cycles / cluster.cycles / len(roles[role]) / members
    for (warp, kind), cycles in cluster.blocked.items():
        role = role_of[warp % plan.warps.num_warps]
        key = f"{role} <- {kind} barrier"
        shared[key] = shared.get(key, 0.0) + cycles / cluster.cycles / len(roles[role]) / members
    return dict(sorted(shared.items(), key=lambda item: (item[0].split(" ")[0], -item[1])))


def edge_at(plan, offset: int) -> str:
    """The edge, and which of its barriers, at an offset of dynamic shared memory."""
    position = (offset - plan.barrier_offset) // 8
    for edge in plan.barriers.edges:
        first = plan.barriers.offset(edge.name) // 8
        if first <= position < first + edge.num_barriers:
            return f"{edge.name} {'full' if position - first < edge.stages else 'empty'}"
    return f"barrier +{offset}"


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
    lines += [f"    busy {share:6.1%}  {name}" for name, share in sorted(p.busy.items(), key=lambda i: -i[1]) if share > 0.02]
    lines += [f"    waits {share:6.1%}  {name}" for name, share in p.waits.items() if share > 0.02]
    return "\n".join(lines)


def run_all(workloads: Iterable[Workload], constants: Sequence[Constants], path: str, jobs: int) -> list[Prediction]:
    """Every workload at every set of constants, in this order; progress on stderr."""
    tasks = [(workload, c) for c in constants for workload in workloads]
    done = []

    def progress(number: int, prediction: Prediction) -> None:
        print(f"[{number}/{len(tasks)}] {prediction.workload}: {prediction.total:.1f} us", file=sys.stderr, flush=True)
        done.append(prediction)

    if jobs == 1:
        for number, (workload, c) in enumerate(tasks, 1):
            progress(number, predict(workload, c, path))
        return done
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(partial(predict, path=path), workload, c) for workload, c in tasks]
        for number, future in enumerate(futures, 1):
            progress(number, future.result())
    return done


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="workloads whose name contains this text")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="one workload of your own, with the four below")
    parser.add_argument("--num-heads", type=int, default=16)
    parser.add_argument("--seq-len-q", type=int, default=4)
    parser.add_argument("--kv-len", default="8192", help="keys of every request, or of each: 81920,2048,2048")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--page-size", type=int, default=64)
    parser.add_argument("--path", choices=PATHS, default="auto")
    parser.add_argument("--clock", default="1.93", help="GHz, one or several with commas")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a constant of the model")
    parser.add_argument("--constants", help="JSON file of constants, e.g. measured")
    parser.add_argument("--waits", action="store_true", help="who waits where, and what is busy")
    parser.add_argument("--json", help="write here, - for standard output")
    parser.add_argument("--against", help="a file that --json wrote: print the ratio of its totals to these")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        changed = {name: float(value) for name, _, value in (item.partition("=") for item in options.set)}
        base = Constants.read(options.constants, **changed) if options.constants else Constants.of(**changed)
        options.table = [base.replace(clock=float(clock)) for clock in options.clock.split(",")]
        options.workloads = _workloads(options)
        options.before = read_totals(options.against) if options.against else {}
    except (ValueError, OSError, KeyError) as error:
        parser.error(str(error))
    return options


def _workloads(options: argparse.Namespace) -> list[Workload]:
    if options.dtype:
        lengths = [int(text) for text in options.kv_len.split(",")]
        lengths = lengths * options.batch if len(lengths) == 1 else lengths
        return [Workload(options.dtype, options.num_heads, options.seq_len_q, tuple(lengths), options.page_size)]
    chosen = [w for w in WORKLOADS if not options.only or options.only in w.name]
    if not chosen:
        raise ValueError(f"--only {options.only!r}: no workload's name contains it")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    predictions = run_all(options.workloads, options.table, options.path, options.jobs)
    if options.json != "-":
        print(table_of(predictions, options.before))
        if options.waits:
            print("\n".join(details(p) for p in predictions))
    if options.json:
        changed = {n: v for n, v in options.table[0].values.items() if v != CONSTANTS[n].value and n != "clock"}
        text = json.dumps({"changed": changed, "predictions": [asdict(p) for p in predictions]}, indent=1)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
