"""What the kernel does for a workload, counted in an emulated launch. Runs anywhere; not a timing.

    python -m bench.counts --batch 2 --num-heads 16 --seq-len-q 8 --kv-len 2048 --dtype bf16 [--page-size 64] [--json]

Per role: PTX instructions, each counted once per warp. For the launch: tcgen05.mma, bytes that TMA brought in per key
token, and key tiles that were masked, read without a mask, and never read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from bench.roofline import Workload, add_workload_arguments, workload_of
from mla.config import MlaDecodeConfig
from mla.decode import MlaDecode
from mla.warp_schedule import WarpSchedule
from ptx_emulator import Report
from wrappers import emulated, kernel, validate
from wrappers.testing import make_problem

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
ARCH = "sm_100a"


@dataclass(frozen=True)
class TileCounts:
    """Key tiles over all work units: read without mask code, read and masked, above every bound and never read."""

    unmasked: int
    masked: int
    skipped: int

    @property
    def read(self) -> int:
        return self.unmasked + self.masked


@dataclass(frozen=True)
class Counts:
    """One launch. `kv_bytes_per_token` is what TMA brought in of the cache per key token and row tile that reads it."""

    work_units: int
    tiles: TileCounts
    warp_instructions: dict[str, int]
    tcgen05_mma: int
    tma_load_bytes: int
    kv_bytes_per_token: float


def roles_of(warps: WarpSchedule) -> dict[str, list[int]]:
    """Warp indices per role; idle warps, where there are any, are left out."""
    return {
        "softmax": list(warps.softmax),
        "correction": list(warps.correction),
        "mma": [warps.mma],
        "load": [warps.load],
        "page_table": [warps.page_table],
    }


def count_tiles(config: MlaDecodeConfig, seq_lens: Sequence[int]) -> TileCounts:
    """From the kernel's own scheduler, evaluated on the host."""
    description = MlaDecode(config)
    scheduler = description.scheduler
    unmasked = masked = skipped = 0
    for unit in range(scheduler.num_units(len(seq_lens))):
        keys = seq_lens[scheduler.batch_of(unit)]
        phases = scheduler.work_unit(unit, keys).phases
        straddling = phases.num_tiles - phases.bulk_end
        if phases.num_tiles and not phases.final_straddles:
            straddling -= 1
        unmasked += phases.num_tiles - straddling
        masked += straddling
        skipped += -(-keys // scheduler.tile_tokens) - phases.num_tiles
    return TileCounts(unmasked, masked, skipped)


def tokens_read(config: MlaDecodeConfig, seq_lens: Sequence[int]) -> tuple[int, int]:
    """(key tokens that work units read, summed over the units; work units that read any)."""
    scheduler = MlaDecode(config).scheduler
    keys = [
        scheduler.work_unit(unit, seq_lens[scheduler.batch_of(unit)]).phases.keys
        for unit in range(scheduler.num_units(len(seq_lens)))
    ]
    return sum(keys), sum(count > 0 for count in keys)


def summarise(config: MlaDecodeConfig, seq_lens: Sequence[int], report: Report) -> Counts:
    """Counts of a launch of the kernel that `config` describes on requests of these lengths."""
    description = MlaDecode(config)
    tokens, active_units = tokens_read(config, seq_lens)
    loaded = report.counters["tma_load_bytes"]
    return Counts(
        work_units=description.scheduler.num_units(len(seq_lens)),
        tiles=count_tiles(config, seq_lens),
        warp_instructions={
            role: sum(report.by_opcode(warps).values()) for role, warps in roles_of(description.warps).items()
        },
        tcgen05_mma=report.counters["tcgen05_mma"],
        tma_load_bytes=loaded,
        kv_bytes_per_token=(loaded - active_units * description.plan.query_bytes) / tokens if tokens else 0.0,
    )


def count(workload: Workload, page_size: int, is_causal: bool) -> Counts:
    """Emulates one call of `workload` and counts."""
    problem = make_problem(
        workload.batch, workload.num_heads, workload.seq_len_q, workload.kv_len, page_size=page_size,
        dtype=DTYPES[workload.dtype], is_causal=is_causal,
    )  # fmt: skip
    call = validate.check_decode_call(
        *problem.tensors, **problem.options, out=None, return_lse=False, lse_base="e", workspace=None
    )
    out = torch.empty(problem.out_shape, dtype=problem.query.dtype)
    report = emulated.launch(kernel.compiled(call, ARCH), call, out, None)
    return summarise(kernel.decode_config(call, ARCH), problem.seq_lens.tolist(), report)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.counts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_workload_arguments(parser)
    parser.set_defaults(batch=2)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--page-size", type=int, choices=validate.PAGE_SIZES, default=64)
    parser.add_argument("--causal", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", action="store_true", help="as JSON instead of text")
    options = parser.parse_args(arguments)
    try:
        workload = workload_of(options)
    except ValueError as error:
        parser.error(str(error))
    counts = count(workload, options.page_size, options.causal)
    print(json.dumps(asdict(counts), indent=2) if options.json else text_of(counts))
    return 0


def text_of(counts: Counts) -> str:
    tiles = counts.tiles
    lines = [f"{counts.work_units} work units"]
    lines.append(f"key tiles: {tiles.unmasked} unmasked, {tiles.masked} masked, {tiles.skipped} never read")
    for role, instructions in counts.warp_instructions.items():
        lines.append(f"{role:11s} {instructions:10d} warp instructions, {instructions / max(1, tiles.read):.0f} per tile")
    lines.append(f"tcgen05.mma {counts.tcgen05_mma:10d}, {counts.tcgen05_mma / max(1, tiles.read):.1f} per tile")
    lines.append(f"TMA loads   {counts.tma_load_bytes:10d} bytes")
    lines.append(f"KV          {counts.kv_bytes_per_token:10.1f} bytes per key token and row tile")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
