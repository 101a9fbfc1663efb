"""Lower bounds on the time of one MLA decode call: memory, tensor core, exponentials. Runs anywhere.

    python -m bench.roofline --batch 64 --num-heads 16 --seq-len-q 8 --kv-len 2048 --dtype bf16 [--gpu b200]

Bounds leave out launch, ramp-up and any reduction, at least 5 us on a real GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from bench.hardware import GPUS, Gpu
from bench.workloads import Workload, add_workload_arguments, workload_of
from mla.config import DTYPES, NARROW_ROWS
from wrappers import command_line

# A partly empty tile costs as much as a full one.
TILE_ROWS = NARROW_ROWS


@dataclass(frozen=True)
class Roofline:
    """Seconds that each resource needs by itself; the largest bounds the call."""

    hbm: float
    mma: float
    exp2: float

    @property
    def bound(self) -> float:
        return max(self.hbm, self.mma, self.exp2)

    @property
    def limiter(self) -> str:
        return max(("hbm", self.hbm), ("mma", self.mma), ("exp2", self.exp2), key=lambda item: item[1])[0]


def roofline(workload: Workload, gpu: Gpu) -> Roofline:
    clocks = gpu.num_sms * gpu.clock_hz
    return Roofline(
        hbm=(workload.kv_bytes + workload.row_bytes) / gpu.hbm_bytes_per_second,
        mma=workload.flop(TILE_ROWS) / (gpu.mma_flop_per_clock[workload.dtype] * clocks),
        exp2=workload.scores(TILE_ROWS) / (gpu.exp2_per_clock * clocks),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m bench.roofline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_workload_arguments(parser)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--gpu", choices=sorted(GPUS), default="b200")
    options = parser.parse_args(arguments)
    workload = workload_of(options)
    gpu = GPUS[options.gpu]
    times = roofline(workload, gpu)
    print(f"{gpu.name}: {gpu.num_sms} SMs at {gpu.clock_hz / 1e9:.2f} GHz, {gpu.hbm_bytes_per_second / 1e12:.2f} TB/s")
    print(f"HBM    {times.hbm * 1e6:8.1f} us  {(workload.kv_bytes + workload.row_bytes) / 1e6:.1f} MB, cache read once")
    print(f"MMA    {times.mma * 1e6:8.1f} us  {workload.flop(TILE_ROWS) / 1e9:.1f} GFLOP in tiles of {TILE_ROWS} rows")
    print(f"EX2    {times.exp2 * 1e6:8.1f} us  {workload.scores(TILE_ROWS) / 1e6:.1f} million exponentials")
    print(f"bound  {times.bound * 1e6:8.1f} us  ({times.limiter})")
    return 0


if __name__ == "__main__":
    command_line.run(main)
