"""Time of one decode call on a GPU, L2 cold, medians. Without a GPU it says so and does nothing.

    python -m bench.decode --batch 64 --num-heads 16 --seq-len-q 8 --kv-len 2048 --dtype bf16 [--backend cute|torch]

Protocol: before every timed call a buffer larger than any L2 is written, on the same stream, so that neither cache nor
queries are in L2; CUDA events stand right around the call; the median of `--repeats` calls is reported after
`--warmup` of them. The graph figure replays a captured call, which takes the host's launch work out of it. Clocks are
left as they are: lock them (nvidia-smi -lgc) before comparing two numbers.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bench.hardware import B200, B300
from bench.roofline import roofline
from bench.workloads import Workload, add_workload_arguments, workload_of
from mla.config import PAGE_SIZES
from wrappers import command_line
from wrappers.backends import KERNEL_ARCHS
from wrappers.decode import mla_decode, workspace_bytes
from wrappers.kernel import TORCH_DTYPES
from wrappers.testing import MlaProblem, make_problem

GPU_OF_ARCH = {"sm_100a": B200, "sm_103a": B300}
# Twice the largest L2 of these GPUs (B200: 126 MB).
FLUSH_BYTES = 256 << 20


@dataclass(frozen=True)
class Timing:
    """Seconds: median, and the 10th and 90th percentile as the spread."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median * 1e6:.1f} us (10-90 %: {self.low * 1e6:.1f}-{self.high * 1e6:.1f})"


def summarise(seconds: Sequence[float]) -> Timing:
    """The timing of at least two measurements."""
    deciles = statistics.quantiles(seconds, n=10, method="inclusive")
    return Timing(statistics.median(seconds), deciles[0], deciles[-1])


def skip_reason(backend: str) -> str | None:
    """Why `backend` cannot be timed on this machine, or None."""
    if not torch.cuda.is_available():
        return "no CUDA GPU"
    capability = torch.cuda.get_device_capability()
    if backend == "cute" and capability not in KERNEL_ARCHS:
        return f"GPU of compute capability {capability[0]}.{capability[1]}: the kernel needs 10.0, 10.3 or 10.7"
    return None


def time_cold(run: Callable[[], object], warmup: int, repeats: int) -> Timing:
    """Times `run` on the current stream with L2 flushed before every call."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    seconds = []
    for index in range(warmup + repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        if index >= warmup:
            seconds.append(start.elapsed_time(stop) * 1e-3)
    return summarise(seconds)


def capture(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of one `run`, which must have run before (compiled, its memory allocated)."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def problem_of(workload: Workload) -> MlaProblem:
    """Random tensors that any decode kernel takes: no page id that is none, no NaN."""
    return make_problem(
        workload.batch, workload.num_heads, workload.seq_len_q, list(workload.kv_lens), page_size=workload.page_size,
        dtype=TORCH_DTYPES[workload.dtype], hostile=False,
    )  # fmt: skip


def bench(workload: Workload, backend: str, warmup: int, repeats: int) -> dict[str, Timing]:
    """Timings by name: "events" for all backends, "graph" for cute (the torch backend reads lengths on the host)."""
    problem = problem_of(workload).to("cuda")
    out = torch.empty(problem.out_shape, dtype=problem.out_dtype, device="cuda")
    workspace = torch.empty(workspace_bytes("cuda"), dtype=torch.uint8, device="cuda") if backend == "cute" else None

    def run() -> object:
        return mla_decode(*problem.tensors, **problem.options, out=out, workspace=workspace, backend=backend)

    timings = {"events": time_cold(run, warmup, repeats)}
    if backend == "cute":
        timings["graph"] = time_cold(capture(run).replay, warmup, repeats)
    return timings


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser(
        prog="python -m bench.decode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_workload_arguments(parser)
    parser.add_argument("--dtype", choices=sorted(TORCH_DTYPES), default="bf16")
    parser.add_argument("--page-size", type=int, choices=PAGE_SIZES, default=64)
    parser.add_argument("--backend", choices=("cute", "torch"), default="cute")
    parser.add_argument("--warmup", type=command_line.integer(0), default=10)
    parser.add_argument("--repeats", type=command_line.integer(2), default=50)
    options = parser.parse_args(arguments)
    workload = workload_of(options)
    if reason := skip_reason(options.backend):
        print(f"skipped: {reason}")
        return 0
    print(torch.cuda.get_device_name(), workload)
    timings = bench(workload, options.backend, options.warmup, options.repeats)
    for name, timing in timings.items():
        print(f"{name:7s} {timing}  {workload.kv_bytes / timing.median / 1e12:.2f} TB/s of KV")
    gpu = GPU_OF_ARCH.get(KERNEL_ARCHS.get(torch.cuda.get_device_capability()))
    if gpu:
        bound = roofline(workload, gpu).bound
        best = min(timing.median for timing in timings.values())
        print(f"roofline of {gpu.name}: {bound * 1e6:.1f} us, {best / bound:.2f} times that")
    return 0


if __name__ == "__main__":
    command_line.run(main)
