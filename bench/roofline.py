"""Lower bounds on the time of one MLA decode call: memory, tensor core, exponentials. Runs anywhere.

    python -m bench.roofline --batch 64 --num-heads 16 --seq-len-q 8 --kv-len 2048 --dtype bf16 [--gpu b200]

Bounds leave out launch, ramp-up and any reduction, at least 5 us on a real GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from bench.hardware import GPUS, Gpu
from wrappers import command_line
from wrappers.command_line import integer

LATENT_DIM = 512
HEAD_DIM = 576
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp8": 1}
OUTPUT_BYTES = 2
# Rows (query token x head) of one tensor-core tile; a partly empty tile costs as much as a full one.
TILE_ROWS = 64


@dataclass(frozen=True)
class Workload:
    """`batch` requests of `kv_len` keys, `seq_len_q` query tokens and `num_heads` heads each."""

    batch: int
    num_heads: int
    seq_len_q: int
    kv_len: int
    dtype: str

    @property
    def rows(self) -> int:
        """Rows of one request."""
        return self.num_heads * self.seq_len_q

    @property
    def kv_bytes(self) -> int:
        """The cache read once."""
        return self.batch * self.kv_len * HEAD_DIM * ELEMENT_BYTES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Query read once, output written once."""
        return self.batch * self.rows * (HEAD_DIM * ELEMENT_BYTES[self.dtype] + LATENT_DIM * OUTPUT_BYTES)

    @property
    def tile_rows(self) -> int:
        """Rows of one request as the tensor core sees them: whole tiles."""
        return -(-self.rows // TILE_ROWS) * TILE_ROWS

    @property
    def flop(self) -> int:
        """Multiplications and additions of Q K^T and P V, whole row tiles."""
        return 2 * self.batch * self.tile_rows * self.kv_len * (HEAD_DIM + LATENT_DIM)

    @property
    def exponentials(self) -> int:
        return self.batch * self.tile_rows * self.kv_len


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
        mma=workload.flop / (gpu.mma_flop_per_clock[workload.dtype] * clocks),
        exp2=workload.exponentials / (gpu.exp2_per_clock * clocks),
    )


def add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=integer(1), default=64)
    parser.add_argument("--num-heads", type=integer(1, 128), default=16)
    parser.add_argument("--seq-len-q", type=integer(1, 2**20), default=8)
    parser.add_argument("--kv-len", type=integer(1), default=2048)


def workload_of(options: argparse.Namespace) -> Workload:
    return Workload(options.batch, options.num_heads, options.seq_len_q, options.kv_len, options.dtype)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m bench.roofline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_workload_arguments(parser)
    parser.add_argument("--dtype", choices=sorted(ELEMENT_BYTES), default="bf16")
    parser.add_argument("--gpu", choices=sorted(GPUS), default="b200")
    options = parser.parse_args(arguments)
    workload = workload_of(options)
    gpu = GPUS[options.gpu]
    times = roofline(workload, gpu)
    print(f"{gpu.name}: {gpu.num_sms} SMs at {gpu.clock_hz / 1e9:.2f} GHz, {gpu.hbm_bytes_per_second / 1e12:.2f} TB/s")
    print(f"HBM    {times.hbm * 1e6:8.1f} us  {(workload.kv_bytes + workload.row_bytes) / 1e6:.1f} MB, cache read once")
    print(f"MMA    {times.mma * 1e6:8.1f} us  {workload.flop / 1e9:.1f} GFLOP in tiles of {TILE_ROWS} rows")
    print(f"EX2    {times.exp2 * 1e6:8.1f} us  {workload.exponentials / 1e6:.1f} million exponentials")
    print(f"bound  {times.bound * 1e6:8.1f} us  ({times.limiter})")
    return 0


if __name__ == "__main__":
    command_line.run(main)
