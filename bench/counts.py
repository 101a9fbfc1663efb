"""What the kernel does for a workload, counted in an emulated launch. Runs anywhere; not a timing.

    python -m bench.counts --batch 2 --num-heads 16 --seq-len-q 8 --kv-len 2048 --dtype bf16 [--page-size 64]

        [--num-ctas 148] [--json]

Per role: PTX instructions, each counted once per warp. For the launch: tcgen05.mma, bytes that TMA brought in per key
token, and key tiles that were masked, read without a mask, and never read.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.workloads import Workload, add_workload_arguments, workload_of
from mla import split_kv
from mla.arch import SMEM_PORT_BYTES
from mla.causal_mask import TilePhases
from mla.config import PAGE_SIZES, PATHS, MlaDecodeConfig
from mla.decode import MlaDecode
from mla.warp_schedule import WarpSchedule
from wrappers import command_line, emulated, kernel
from wrappers.emulated import DecodeReports
from wrappers.kernel import EMULATED_CTAS, TORCH_DTYPES
from wrappers.testing import make_problem

ARCH = "sm_100a"
CYCLES_KEYS = 128
PROBS_MOVES, PROBS_MOVE_BYTES = ("st.shared.v4.b32", "ld.shared.v4.b32"), 32 * 16  # of one warp


@dataclass(frozen=True)
class TileCounts:
    """Key tiles over all row tiles: read without mask code, read and masked, above every bound and never read."""

    unmasked: int
    masked: int
    skipped: int

    @property
    def read(self) -> int:
        return self.unmasked + self.masked


@dataclass(frozen=True)
class WorkItem:
    """What one unit, a CTA or a pair of them, computes of one row tile of request `batch`: key tiles [begin, end) in three
    phases, and the keys in them.
    """

    batch: int
    unit: int
    phases: TilePhases
    keys: int


@dataclass(frozen=True)
class Counts:
    """One call. Instructions and MMAs are the decode kernel's, `merge_instructions` those of the merge of split tiles.

    `makespan_tiles` is the largest number of key tiles that one unit reads. `kv_bytes_per_token` is what TMA wrote to
    shared memory of the cache per key token and row tile that reads it, in both CTAs of a pair.
    `shared_cycles`: what one SM's shared-memory port is busy with per 128 keys and row tile, from the operands of the
    tensor core, TMA writes of the cache and stores of P; `planned_shared_cycles` is the memory plan's, of whole tiles.
    """

    row_tiles: int
    work_items: int
    busy_units: int
    makespan_tiles: int
    tiles: TileCounts
    warp_instructions: dict[str, int]
    merge_instructions: int
    tcgen05_mma: int
    tma_load_bytes: int
    kv_bytes_per_token: float
    shared_cycles: float
    planned_shared_cycles: float


def roles_of(warps: WarpSchedule) -> dict[str, list[int]]:
    """Warp indices per role."""
    return {
        "softmax": list(warps.softmax),
        "correction": list(warps.correction),
        "scores": [warps.scores],
        "output": [warps.output],
        "load": [warps.load],
        "scheduler": [warps.scheduler],
    }


def work_items(config: MlaDecodeConfig, seq_lens: Sequence[int], num_ctas: int) -> list[WorkItem]:
    """The cut of the batch into ranges, from the kernel's own scheduler evaluated on the host."""
    kernel = MlaDecode(config)
    scheduler = kernel.scheduler
    total = sum(scheduler.request_cost(keys) for keys in seq_lens)
    num_units, gap = num_ctas // kernel.plan.tile.cluster_size, scheduler.gap
    row_tiles = len(seq_lens) * scheduler.row_tiles
    partition = split_kv.Partition.of(total, num_units, row_tiles, gap, scheduler.uncut_tiles)
    items, first = [], 0
    for batch, keys in enumerate(seq_lens):
        for row_tile in range(scheduler.row_tiles):
            cost = scheduler.cost(row_tile, keys)
            first_unit, parts = partition.units_of(first + gap, cost - gap)
            for unit in range(first_unit, first_unit + parts):
                taken = split_kv.take(first + gap, cost - gap, partition.begin(unit), partition.begin(unit + 1))
                phases = scheduler.phases(scheduler.seen_keys(row_tile, keys), taken.begin, taken.end)
                below_end, below_begin = (
                    min(tile * scheduler.tile_tokens, phases.keys) for tile in (phases.end, phases.begin)
                )
                items.append(WorkItem(batch, unit, phases, below_end - below_begin))
            first += cost
    return items


def cuts(config: MlaDecodeConfig, seq_lens: Sequence[int], num_ctas: int) -> list[split_kv.Cut]:
    """What each unit tells the merge; requests have the config's query tokens each."""
    kernel = MlaDecode(config)
    scheduler = kernel.scheduler
    num_units, total = num_ctas // kernel.plan.tile.cluster_size, sum(map(scheduler.request_cost, seq_lens))
    gap = scheduler.gap
    row_tiles = len(seq_lens) * scheduler.row_tiles
    partition = split_kv.Partition.of(total, num_units, row_tiles, gap, scheduler.uncut_tiles)
    found, first = [split_kv.Cut(0, 0, 0, 0, 0, 0)] * num_units, 0
    for batch, keys in enumerate(seq_lens):
        for row_tile in range(scheduler.row_tiles):
            cost = scheduler.cost(row_tile, keys)
            first_unit, parts = partition.units_of(first + gap, cost - gap)
            rows = min(scheduler.mask.num_rows - row_tile * scheduler.tile_rows, scheduler.tile_rows)
            for unit in range(first_unit + 1, first_unit + parts):
                query_begin = batch * config.seq_len_q if config.ragged_query else 0
                found[unit] = split_kv.Cut(batch, row_tile, query_begin, rows, first_unit, parts)
            first += cost
    return found


def count_tiles(config: MlaDecodeConfig, seq_lens: Sequence[int], num_ctas: int = EMULATED_CTAS) -> TileCounts:
    """Key tiles of a call by what happens to them."""
    scheduler = MlaDecode(config).scheduler
    unmasked = masked = 0
    for item in work_items(config, seq_lens, num_ctas):
        unmasked += item.phases.num_unmasked
        masked += item.phases.num_tiles - item.phases.num_unmasked
    in_cache = scheduler.row_tiles * sum(-(-keys // scheduler.tile_tokens) for keys in seq_lens)
    return TileCounts(unmasked, masked, in_cache - unmasked - masked)


def summarise(config: MlaDecodeConfig, seq_lens: Sequence[int], reports: DecodeReports, num_ctas: int) -> Counts:
    """Counts of an emulated call of the kernel that `config` describes on requests of these lengths."""
    description, report = MlaDecode(config), reports.decode
    items = work_items(config, seq_lens, num_ctas)
    tiles_of_unit = Counter()
    for item in items:
        tiles_of_unit[item.unit] += item.phases.num_tiles
    plan = description.plan
    tokens = sum(item.keys for item in items)
    loaded = (
        report.counters["tma_load_bytes"]
        - sum(item.phases.num_tiles > 0 for item in items) * plan.tile.cluster_size * plan.tile.query_bytes
    )
    by_opcode = report.by_opcode(list(plan.warps.softmax))
    probs = sum(by_opcode[opcode] for opcode in PROBS_MOVES) * PROBS_MOVE_BYTES
    shared = (report.counters["tcgen05_shared_bytes"] + loaded + probs) / SMEM_PORT_BYTES / plan.tile.cluster_size
    return Counts(
        row_tiles=description.scheduler.row_tiles * len(seq_lens),
        work_items=len(items),
        busy_units=len(tiles_of_unit),
        makespan_tiles=max(tiles_of_unit.values()),
        tiles=count_tiles(config, seq_lens, num_ctas),
        warp_instructions={role: sum(report.by_opcode(warps).values()) for role, warps in roles_of(plan.warps).items()},
        merge_instructions=reports.merge.warp_instructions,
        tcgen05_mma=report.counters["tcgen05_mma"],
        tma_load_bytes=report.counters["tma_load_bytes"],
        kv_bytes_per_token=loaded / tokens if tokens else 0.0,
        shared_cycles=shared * CYCLES_KEYS / tokens if tokens else 0.0,
        planned_shared_cycles=plan.traffic_cycles(CYCLES_KEYS),
    )


def count(workload: Workload, is_causal: bool, num_ctas: int = EMULATED_CTAS, path: str = "auto") -> Counts:
    """Emulates one call of `workload` on `num_ctas` CTAs, on an operand path of MlaDecodeConfig, and counts."""
    problem = make_problem(
        workload.batch, workload.num_heads, workload.seq_len_q, workload.kv_len, page_size=workload.page_size,
        dtype=TORCH_DTYPES[workload.dtype], is_causal=is_causal,
    )  # fmt: skip
    call = problem.decode_call(return_lse=False)
    reports = emulated.launch(kernel.compiled(call, ARCH, path), call, num_ctas=num_ctas)
    return summarise(kernel.decode_config(call, ARCH, path), problem.seq_lens.tolist(), reports, num_ctas)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m bench.counts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_workload_arguments(parser)
    parser.set_defaults(batch=2)
    parser.add_argument("--dtype", choices=sorted(TORCH_DTYPES), default="bf16")
    parser.add_argument("--page-size", type=int, choices=PAGE_SIZES, default=64)
    parser.add_argument("--num-ctas", type=command_line.integer(1), default=EMULATED_CTAS, help="SMs of the GPU")
    parser.add_argument("--path", choices=PATHS, default="auto", help="operand path")
    parser.add_argument("--causal", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", action="store_true", help="as JSON instead of text")
    options = parser.parse_args(arguments)
    workload = workload_of(options)
    counts = count(workload, options.causal, options.num_ctas, options.path)
    print(json.dumps(asdict(counts), indent=2) if options.json else text_of(counts))
    return 0


def text_of(counts: Counts) -> str:
    tiles = counts.tiles
    lines = [
        f"{counts.row_tiles} row tiles in {counts.work_items} work items on {counts.busy_units} CTAs or pairs, "
        f"at most {counts.makespan_tiles} key tiles each"
    ]
    lines.append(f"key tiles: {tiles.unmasked} unmasked, {tiles.masked} masked, {tiles.skipped} never read")
    for role, instructions in counts.warp_instructions.items():
        per_tile = instructions / max(1, tiles.read)
        lines.append(f"{role:11s} {instructions:10d} warp instructions, {per_tile:.0f} per tile")
    lines.append(f"merge       {counts.merge_instructions:10d} warp instructions")
    lines.append(f"tcgen05.mma {counts.tcgen05_mma:10d}, {counts.tcgen05_mma / max(1, tiles.read):.1f} per tile")
    lines.append(f"TMA loads   {counts.tma_load_bytes:10d} bytes")
    lines.append(f"KV          {counts.kv_bytes_per_token:10.1f} bytes per key token and row tile")
    lines.append(
        f"shared memory {counts.shared_cycles:8.0f} cycles of an SM's port per {CYCLES_KEYS} keys and row tile "
        f"(planned for whole tiles: {counts.planned_shared_cycles:.0f})"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    command_line.run(main)
